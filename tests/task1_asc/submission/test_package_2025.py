"""The edition of 2025: copies for recording devices, and the inference package with its own scripts."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from common.errors import CheckFailed, UserError
from common.models.network import ModelOutput
from common.runs.run import Run
from common.settings import load_settings
from submissions.package import check_package
from task1_asc.data.tau2022 import TRAINING_DEVICES, read_evaluation, read_split
from task1_asc.evaluate import predict
from task1_asc.networks.build import load_run_networks
from task1_asc.networks.classify import DeviceNetworks, GeneralOnly, InHalf
from task1_asc.recipe import RECIPE
from task1_asc.settings import QuantizationSettings, Task1Settings
from task1_asc.submission import package_2025 as inference_package
from task1_asc.submission.package_2025 import choose_run, modules_needed, package
from tests.support.places import ROOT

CONFIG = ROOT / "task1_asc" / "configs" / "device_aware_small.yaml"
LABEL = "Lastname_INST_task1_1"
QUICK = {
    "subset": 25,
    "loader.batch_size": 32,
    "front_end.n_mels": 32,
    "front_end.n_fft": 1024,
    "front_end.win_length": 1024,
    "front_end.hop_length": 2000,
    "model.base_channels": 8,
    "trainer.epochs": 2,
    "trainer.accelerator": "cpu",
    "trainer.measure_energy": False,
    "device_tuning.epochs": 1,
}


def quick(root, runs, **overrides):
    """Settings of a run whose networks take milliseconds."""
    overrides = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_settings(
        Task1Settings, CONFIG, {**QUICK, "data.root": str(root), "runs": str(runs), "name": "quick", **overrides}
    )


@pytest.fixture(scope="module")
def finished(tiny_task1, tmp_path_factory):
    """A device-aware run, handed in as float16."""
    return RECIPE.run(quick(tiny_task1, tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def packed(finished, tmp_path_factory):
    """The zip of its inference package; its folder lies beside it."""
    return package([finished.folder], LABEL, tmp_path_factory.mktemp("out"))


class Says(nn.Module):
    """A network that always says one class."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, spectrogram):
        logits = torch.zeros(len(spectrogram), 10)
        logits[:, self.number] = spectrogram[:, 0, 0, 0]
        return ModelOutput(logits, logits)


def test_each_clip_goes_to_its_devices_copy_and_unknown_devices_to_the_general_network():
    networks = DeviceNetworks(Says(0), {"a": Says(1), "s2": Says(2)})
    values = torch.arange(1.0, 7.0).view(6, 1, 1, 1)
    logits = networks(values, ["a", "s2", "unknown", "a", "b", "s2"])
    assert logits.argmax(dim=1).tolist() == [1, 2, 0, 1, 0, 2]
    assert logits.max(dim=1).values.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert networks(values).argmax(dim=1).tolist() == [0] * 6
    assert GeneralOnly(networks)(values, ["a"] * 6).argmax(dim=1).tolist() == [0] * 6
    assert InHalf(networks)(values, ["a"] * 6).dtype == torch.float32  # these networks make their own tensors
    assert networks.model_for("s7") is networks.base_model


def test_a_copy_is_trained_for_each_device_of_the_subset_and_differs_from_the_general_network(finished, tiny_task1):
    own = set(read_split(tiny_task1, 25)["source_label"])
    _, networks = load_run_networks(finished, 32000)
    assert set(networks.device_models) == own <= set(TRAINING_DEVICES)
    general = networks.base_model.state_dict()
    for copied in networks.device_models.values():
        assert any(not torch.equal(value, general[name]) for name, value in copied.state_dict().items())
    assert [stage.name for stage in RECIPE.stages(finished.settings)] == ["train", "devices", "test"]


def test_figures_are_those_of_the_copies_with_the_general_network_beside(finished):
    scores = finished.read_evaluation()
    saved = np.load(finished.folder / "test" / "logits.npz")
    assert not np.array_equal(saved["float32"], saved["general_float32"])
    row = RECIPE.result_row(finished)
    assert row["macro_accuracy_general"] == scores["general"]["float32"]["macro_accuracy"]["value"]
    unseen = scores["float32"]["groups"]["unseen"]
    assert unseen["accuracy"] == scores["general"]["float32"]["groups"]["unseen"]["accuracy"]


def test_the_published_fine_tuning_is_the_fact_sheets():
    """CPJKU/dcase2025_task1_baseline: AdamW 5e-4, 200 steps of warm-up, 50 epochs, no Freq-MixStyle."""
    settings = load_settings(Task1Settings, CONFIG.with_name("device_aware.yaml"))
    baseline = load_settings(Task1Settings, CONFIG.with_name("baseline.yaml"))
    for group in ("data", "loader", "front_end", "model", "augment", "optim", "trainer"):
        assert getattr(settings, group) == getattr(baseline, group)
    tuning = settings.device_tuning
    assert (tuning.epochs, tuning.batch_size) == (50, 256)
    assert (tuning.optim.lr, tuning.optim.weight_decay, tuning.optim.warmup_steps) == (5e-4, 1e-4, 200)
    assert (tuning.augment.roll_seconds, tuning.augment.frequency_mask) == (0.1, 48)
    assert tuning.augment.freq_mixstyle is None
    assert settings.subset == 25


def test_predictions_of_2025_use_the_devices_and_keep_the_folder(finished, tiny_task1):
    table = pd.read_csv(predict(finished, tiny_task1, year=2025), sep="\t")
    listed = read_evaluation(tiny_task1, 2025)
    assert table["filename"].tolist() == listed["filename"].tolist()
    assert "unknown" in set(listed["device_id"])
    general = Run(finished.folder, finished.settings.model_copy(update={"device_tuning": None}))
    without = pd.read_csv(predict(general, tiny_task1, year=2025), sep="\t")
    known = listed["device_id"].isin(set(read_split(tiny_task1, 25)["source_label"])).to_numpy()
    same = np.isclose(table.iloc[:, 2:], without.iloc[:, 2:], atol=1e-6).all(axis=1)
    assert same[~known].all() and not same[known].all()


def test_the_package_breaks_no_rule_and_runs(packed, finished):
    _, results = check_package(packed, run_code=True)
    assert [result.name for result in results if not result.holds] == []
    folder = packed.with_suffix("")
    told = json.loads((folder / "predictions" / LABEL / "test_accuracy.json").read_text())["Test Accuracy"]
    assert told == pytest.approx(100 * finished.read_evaluation()["float16"]["accuracy"]["value"], abs=1.01)


def test_the_package_says_what_the_run_says(packed, finished, tiny_task1):
    ours = pd.read_csv(predict(finished, tiny_task1, year=2025), sep="\t")
    theirs = pd.read_csv(packed.with_suffix("") / "predictions" / LABEL / "output.csv", sep="\t")
    assert ours["filename"].tolist() == theirs["filename"].tolist()
    # The evaluation set is read at 44.1 kHz by both; the run resamples it to the front end's rate in one piece too.
    np.testing.assert_allclose(ours.iloc[:, 2:], theirs.iloc[:, 2:], atol=0.01)


def test_the_package_needs_nothing_of_the_kit(packed, tmp_path):
    folder = Path(shutil.copytree(packed.with_suffix(""), tmp_path / "elsewhere"))
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] not in ("common", "task1_asc", "submissions"), path
    lines = "import sys, Lastname_INST_task1.Lastname_INST_task1_1 as system; model = system.load_model(); "
    lines += "print([name for name in sys.modules if name.split('.')[0] in ('common', 'task1_asc', 'lightning')])"
    done = subprocess.run([sys.executable, "-c", lines], cwd=folder, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_stated_complexity_is_that_of_each_devices_network(packed):
    stated = json.loads((packed.with_suffix("") / "predictions" / LABEL / "complexity.json").read_text())
    assert len(stated["per_device"]) == 13
    # base 8: 5,722 parameters in two bytes each.
    assert {figures["Params"] for figures in stated["per_device"].values()} == {2 * 5722}


def test_a_package_that_states_fewer_bytes_than_it_has_is_found_when_it_runs(packed, tmp_path):
    folder = Path(shutil.copytree(packed.with_suffix(""), tmp_path / packed.stem))
    path = folder / "predictions" / LABEL / "complexity.json"
    path.write_text(path.read_text().replace(str(2 * 5722), "5722"))
    _, results = check_package(folder, run_code=True)
    (broken,) = [result for result in results if not result.holds]
    assert broken.name == "runs"
    assert "has 11,444 bytes, complexity.json says 5,722" in broken.findings[0].sentence


@pytest.mark.slow
def test_an_8_bit_system_joins_the_package_and_its_packed_weights_are_counted(packed, finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(packed.parent, out)
    run = Run(tmp_path / "run", finished.settings)
    shutil.copytree(finished.folder, run.folder)
    settings = finished.settings.model_copy(
        update={"quantization": QuantizationSettings(calibration_clips=32), "name": "run", "runs": tmp_path}
    )
    shutil.rmtree(run.folder / "test")
    RECIPE.run(settings, run.folder)
    second = package([run.folder], LABEL.replace("_1", "_2").replace("task2", "task1"), out)
    stated = json.loads(
        (second.with_suffix("") / "predictions" / "Lastname_INST_task1_2" / "complexity.json").read_text()
    )
    from common.inference.quantize import int8_bytes
    from task1_asc.networks.build import make_network

    expected = int8_bytes(make_network(settings.model))
    assert {figures["Params"] for figures in stated["per_device"].values()} == {expected}
    assert expected < 2 * 5722
    _, results = check_package(second, run_code=True)
    assert all(result.holds for result in results)


def test_a_system_is_not_written_over_and_a_repeat_says_how_to_go_on(packed, finished):
    with pytest.raises(UserError, match=rf"{LABEL}.py exists, and so does .*\.zip. Check and zip it with") as told:
        package([finished.folder], LABEL, packed.parent)
    assert f"`python -m submissions pack {packed.with_suffix('')} --run_code`" in str(told.value)


def test_a_kill_while_a_package_is_replaced_loses_no_system(packed, tmp_path):
    replaced = tmp_path / f".{packed.stem}.replaced"
    shutil.copytree(packed.with_suffix(""), replaced)
    place = inference_package.place_of_package("Lastname_INST_task1_2", tmp_path)
    assert (place / "Lastname_INST_task1" / f"{LABEL}.py").is_file() and not replaced.exists()


def test_only_the_subset_that_2025_allows_is_packed(finished, tmp_path):
    run = Run(tmp_path / "run", finished.settings)
    run.folder.mkdir()
    text = (finished.folder / "settings.yaml").read_text().replace("subset: 25", "subset: 100")
    (run.folder / "settings.yaml").write_text(text)
    with pytest.raises(UserError, match="no run of subset 25"):
        choose_run([run.folder])
    with pytest.raises(UserError, match="not a label"):
        package([finished.folder], "Lastname_1", tmp_path)


def test_a_package_that_says_something_else_than_the_run_is_refused(packed, finished, tmp_path):
    folder = tmp_path / "predictions"
    shutil.copytree(packed.with_suffix("") / "predictions" / LABEL, folder)
    (folder / "test_accuracy.json").write_text('{"Test Accuracy": 99.0}')
    with pytest.raises(CheckFailed, match=r"accuracy of 99\.00 %"):
        inference_package.compare_with_run(folder, finished)


def test_the_modules_of_a_package_are_few():
    modules = modules_needed(("task1_asc.submission.packaged",))
    assert "common.features.front_ends" in modules and "task1_asc.networks.classify" in modules
    assert not any(
        name.startswith(("common.registry", "common.training.trainer", "task1_asc.train")) for name in modules
    )
