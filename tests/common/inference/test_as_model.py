"""Which package makes a model of a run, and runs that are none."""

import pytest
import torch

from common.data.files import write_json
from common.errors import UserError
from common.inference.as_model import load_run, run_module
from common.inference.embedding import load_embedder
from common.inference.tagging import load_tagger
from common.runs.run import open_run
from common.training.checkpoints import save_checkpoint
from task1_asc.networks.build import make_network
from task1_asc.settings import Task1Settings
from tests.support.finished_runs import write_task1_run
from tests.support.places import ROOT


def write_run(folder, record, settings="seed: 0\n"):
    folder.mkdir()
    (folder / "settings.yaml").write_text(settings)
    if record is not None:
        write_json(folder / "train" / "stage.json", {"settings": {}, **record})
    return folder


@pytest.mark.parametrize(
    ("package", "module"),
    [
        ("common.audioset", "common.audioset.as_model"),
        ("task4_sed.baseline", "task4_sed.baseline.as_model"),
        ("retrieval.imitation", "retrieval.as_model"),
    ],
)
def test_the_package_of_the_settings_or_one_above_it_makes_the_model(tmp_path, package, module):
    folder = write_run(tmp_path / "run", {"package": package})
    assert run_module(folder).__name__ == run_module(folder / "train" / "fold_1").__name__ == module


@pytest.mark.parametrize(
    ("config", "module"),
    [
        ("common/audioset/configs/esc50.yaml", "common.audioset.as_model"),
        ("retrieval/configs/imitation_small.yaml", "retrieval.as_model"),
        ("task1_asc/configs/small.yaml", "task1_asc.as_model"),
        ("task4_sed/configs/small.yaml", "task4_sed.baseline.as_model"),
        ("task4_sed/configs/two_iterations_small.yaml", "task4_sed.iterations.as_model"),
    ],
)
def test_a_run_of_an_earlier_version_is_known_by_its_settings(tmp_path, config, module):
    folder = write_run(tmp_path / "run", {}, (ROOT / config).read_text())
    assert run_module(folder).__name__ == module


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, r"is not trained yet; finish it with `train --resume .*run`"),
        ({"package": "task1_asc.broad_sounds"}, "use `python -m task1_asc sounds predict .*run --root DIR`"),
        ({"package": "retrieval.moments"}, "use `python -m retrieval moments predict .*run --root DIR`"),
        ({}, "settings.yaml fits no task of this version of the kit; train it under another name"),
        ({"package": "os"}, "was trained by os, which is no task of this kit"),
        ({"package": "../../etc"}, "no task of this kit"),
        ({"package": ["task1_asc"]}, "no task of this kit"),
    ],
)
def test_a_run_without_a_model_of_sound_is_refused_in_a_sentence(tmp_path, record, message):
    with pytest.raises(UserError, match=message):
        load_run(write_run(tmp_path / "run", record))


def test_a_folder_without_settings_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"is no run: there is no settings.yaml"):
        load_run(tmp_path)


def test_a_run_with_the_accelerator_cpu_stays_off_the_gpu(tmp_path, monkeypatch):
    folder = write_task1_run(tmp_path / "run", 5, 0)
    settings = (folder / "settings.yaml").read_text()
    (folder / "settings.yaml").write_text(settings.replace("accelerator: auto", "accelerator: cpu"))
    network = make_network(open_run(folder, Task1Settings).settings.model)
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    save_checkpoint({"state_dict": weights}, folder / "train" / "last.ckpt")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # nothing here can be moved to it
    assert {value.device.type for value in load_tagger(str(folder)).parameters()} == {"cpu"}
    load_embedder(str(folder))
