"""A Task 1 run where `common` takes a model."""

import json

import numpy as np
import pytest
import torch

from common.__main__ import VERBS
from common.cli import run
from common.data.audio import write_wav
from common.settings import load_settings
from common.training.checkpoints import save_checkpoint
from task1_asc.as_model import load_run
from task1_asc.data.tau2022 import CLASSES
from task1_asc.networks.build import make_model
from task1_asc.settings import Task1Settings
from tests.support.finished_runs import write_task1_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with random weights, and a recording of 2 s."""
    folder = write_task1_run(tmp_path_factory.mktemp("runs") / "small", 25, 0)
    torch.manual_seed(0)
    network = make_model(load_settings(Task1Settings, folder / "settings.yaml"), 32000).network
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    save_checkpoint({"state_dict": weights}, folder / "train" / "last.ckpt")
    sound = 0.1 * np.random.default_rng(0).standard_normal(64000, dtype=np.float32)
    write_wav(folder.parent / "sounds" / "clip.wav", sound, 32000, subtype="FLOAT")
    return folder, torch.from_numpy(sound)


def test_tags_are_the_mean_over_seconds_of_shares_that_sum_to_one(finished, capsys):
    folder, sound = finished
    assert run("python -m common", VERBS, ["tag", str(folder.parent / "sounds"), "--model", str(folder), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    tags = {tag["label"]: tag["score"] for tag in row["tags"]}
    with torch.inference_mode():
        shares = load_run(folder).run(sound.reshape(2, 32000)).logits.softmax(dim=1).mean(dim=0)
    assert tags == pytest.approx(dict(zip(CLASSES, shares.tolist())), abs=1e-5) and sum(tags.values()) == pytest.approx(
        1
    )


@pytest.mark.slow
def test_it_embeds_and_is_written_as_onnx(finished, tmp_path, capsys):
    folder, _ = finished
    words = ["embed", str(folder.parent / "sounds"), "--model", str(folder), "--out", str(tmp_path / "e.npz")]
    assert run("python -m common", VERBS, words) == 0
    assert np.load(tmp_path / "e.npz")["embedding"].shape[0] == 1
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    assert run("python -m common", VERBS, ["export", str(folder), "--out", str(tmp_path / "m.onnx")]) == 0
    assert "waveform (batch, 32000) at 32000 Hz" in capsys.readouterr().out
