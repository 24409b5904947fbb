"""What a verb imports before it works: nothing heavy for helps and refusals, no Lightning where nothing trains."""

import importlib
import json
import subprocess
import sys

import pytest

from common.cli import run
from tests.support.places import ROOT

TRAINING_ONLY = ("lightning", "torchmetrics", "transformers", "matplotlib", "torch._dynamo", "scipy.stats")
VERBS = {
    "common": (
        "common.inference.tagging", "common.inference.embedding", "common.inference.probe", "common.audioset.evaluate",
        "common.audioset.teachers",
    ),
    "task1_asc": (
        "task1_asc.recipe", "task1_asc.evaluate", "task1_asc.report", "task1_asc.submission.package_2024",
        "task1_asc.submission.package_2025", "task1_asc.networks.limits",
    ),
    "task4_sed": (
        "task4_sed.baseline.recipe", "task4_sed.iterations.recipe", "task4_sed.evaluate", "task4_sed.reports.report",
        "task4_sed.submission", "task4_sed.metrics.command",
    ),
    "retrieval": ("retrieval.recipe", "retrieval.search", "retrieval.report", "retrieval.submission"),
}  # fmt: skip
"""Modules that verbs without training import; a recipe imports Lightning where a stage trains."""
MOST_MODULES = 3000
MOST_MODULES_OF_A_REFUSAL = 900

REFUSALS = {
    "common": ["tag nothing.wav --model mn99", "embed nothing --model mn04.as --out x.npz",
               "probe nothing --model mn04.as",
               "complexity mn99", "export mn99 --out x.onnx", "audioset evaluate nothing",
               "audioset check --root nothing", "audioset logits mn04.as --root nothing --out x.hdf5",
               "serve --model mn99", "finetune", "finetune LICENSE", "data check nothing",
               "tag --help", "pretrain --help", "--help"],
    "task1_asc": ["evaluate nothing", "evaluate", "predict nothing --root x", "report nothing", "export nothing",
                  "package nothing --label A_B_task1_1", "train nothing.yaml", "data check --root nothing",
                  "data pack --root nothing", "compare nothing x", "evaluate --weights nothing --root x",
                  "sounds data check --root nothing", "sounds evaluate nothing", "sounds predict nothing --root x",
                  "sounds report nothing", "sounds compare nothing x",
                  "data check --root LICENSE", "system task1_asc/configs/small.yaml", "train --help", "report --help"],
    "task4_sed": ["evaluate nothing", "predict nothing --root x", "report nothing", "train --help",
                  "package nothing --label A_B_task4_1 --meta x --reference y", "compare nothing x",
                  "psds nothing --ground_truth x --durations y", "pretrain_evaluate nothing"],
    "retrieval": ["evaluate nothing", "predict nothing --root x", "report nothing", "index --help",
                  "package nothing --label A_B_task8_1 --meta x", "compare nothing x", "data check --root nothing",
                  "search rain --index nothing", "answer nothing", "index nothing --model mn04.as --out x",
                  "index nothing --model mn99 --out x", "moments evaluate nothing", "moments compare nothing x",
                  "moments predict nothing --root x", "moments report nothing"],
    "submissions": ["check nothing", "pack nothing", "template nothing", "check --help"],
}  # fmt: skip

STARTS = [
    "common pretrain common/audioset/configs/small.yaml",
    "common finetune common/audioset/configs/esc50.yaml",
    "task1_asc train task1_asc/configs/small.yaml",
    "task1_asc sounds train task1_asc/broad_sounds/configs/small.yaml",
    "task4_sed train task4_sed/configs/small.yaml",
    "task4_sed train task4_sed/configs/own.yaml",
    "task4_sed train task4_sed/configs/two_iterations_small.yaml",
    "task4_sed pretrain task4_sed/configs/pretrain_small.yaml",
    "task4_sed finetune_dcase2016 task4_sed/configs/finetune_dcase2016_small.yaml",
    "retrieval train retrieval/configs/small.yaml",
    "retrieval train_imitation retrieval/configs/imitation_small.yaml",
    "retrieval moments train retrieval/moments/configs/small.yaml",
    "retrieval moments train retrieval/moments/configs/similarity_small.yaml",
]

CALL = """
import contextlib, importlib, io, json, sys
from common.cli import run
verbs = importlib.import_module(f"{sys.argv[1]}.__main__").VERBS
codes = []
for words in json.loads(sys.argv[2]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        codes.append(run("program", verbs, words.split()))
print(json.dumps([codes, sorted(sys.modules)]))
"""


def modules(program: str, *arguments: str):
    """The JSON that a fresh interpreter prints."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout)


@pytest.mark.parametrize("package", REFUSALS)
def test_helps_and_refusals_do_without_torch(package):
    codes, loaded = modules(CALL, package, json.dumps(REFUSALS[package]))
    assert codes == [0 if "--help" in words else 2 for words in REFUSALS[package]]
    assert {"torch", "pandas", "scipy"} & set(loaded) == set()
    assert len(loaded) < MOST_MODULES_OF_A_REFUSAL


@pytest.mark.parametrize("package", VERBS)
def test_verbs_that_do_not_train_import_neither_lightning_nor_what_it_imports(package):
    imports = "".join(f"import {name}\n" for name in VERBS[package])
    loaded = modules(f"import json, sys\n{imports}print(json.dumps(sorted(sys.modules)))")
    assert set(TRAINING_ONLY) & set(loaded) == set()
    assert len(loaded) < MOST_MODULES


def test_a_network_without_values_is_made_without_the_compiler():
    loaded = modules("""
import json, sys
from common.models.network import without_values
from common.registry.models import create_model
with without_values():
    networks = [create_model(name) for name in ("mn04", "dymn04", "passt_s_swa", "atst_frame", "task1_baseline")]
assert all(value.is_meta for network in networks for value in network.parameters())
print(json.dumps(sorted(sys.modules)))
""")
    assert "torch._dynamo" not in loaded


@pytest.mark.parametrize("words", STARTS)
def test_a_training_without_its_data_is_refused_before_anything_is_written(words, tmp_path, monkeypatch, capsys):
    package, *rest, config = words.split()
    monkeypatch.chdir(tmp_path)
    verbs = importlib.import_module(f"{package}.__main__").VERBS
    assert run(f"python -m {package}", verbs, [*rest, str(ROOT / config)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
