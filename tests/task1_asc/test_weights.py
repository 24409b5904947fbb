"""`evaluate --weights`: networks that others trained, scored on labelled clips."""

import json
import shutil

import pytest
import torch

from common.cli import run
from common.registry import create_model
from task1_asc.__main__ import VERBS
from task1_asc.data.tau2022 import development_folder, read_named_clips, read_split


def call(*words):
    return run("python -m task1_asc", VERBS, ["evaluate", *map(str, words)])


@pytest.fixture
def checkpoint(tmp_path):
    """A Lightning checkpoint of the baseline of 2025, with random weights."""
    torch.manual_seed(0)
    network = create_model("task1_baseline")
    state = {f"multi_device_model.base_model.{key}": value for key, value in network.state_dict().items()}
    state["mel.0.window"] = torch.zeros(3)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_a_checkpoint_of_others_is_scored_on_the_test_split_and_on_a_folder_of_its_clips(
    checkpoint, tiny_task1, tmp_path, capsys, caplog
):
    words = "--weights", checkpoint, "--model", "task1_baseline", "--json"
    assert call(*words, "--root", tiny_task1) == 0
    scores = json.loads(capsys.readouterr().out)
    assert "weights below multi_device_model.base_model. are read; 1 other tensors are not" in caplog.text
    clips = read_split(tiny_task1, "test")
    assert scores["float32"]["clips"] == len(clips) and scores["made_up"]
    (tmp_path / "clips").mkdir()
    for name in clips["filename"]:
        shutil.copy(development_folder(tiny_task1) / name, tmp_path / "clips")
    named = read_named_clips(tmp_path / "clips")
    assert set(named["segment"]) == set(clips["segment"]) and len(named) == len(clips)
    assert call(*words, "--root", tmp_path / "clips") == 0
    same = json.loads(capsys.readouterr().out)
    for precision in ("float32", "float16"):
        assert same[precision]["macro_accuracy"]["value"] == pytest.approx(scores[precision]["macro_accuracy"]["value"])
    assert call(*words[:4], "--root", tiny_task1) == 0
    assert "macro accuracy in %" in capsys.readouterr().out


def test_mistakes_of_the_call_are_reported_in_one_sentence(checkpoint, tiny_task1, tmp_path, capsys):
    assert call() == 2
    assert call("--weights", checkpoint) == 2
    assert "Give a run folder, or --weights FILE --model NAME --root DIR." in capsys.readouterr().err
    assert call("--weights", checkpoint, "--root", tiny_task1) == 2  # cp_mobile
    assert "does not fit cp_mobile" in capsys.readouterr().err
    name = next(development_folder(tiny_task1).rglob("*.wav"))
    shutil.copy(name, tmp_path / "bus.wav")
    assert call("--weights", checkpoint, "--model", "task1_baseline", "--root", tmp_path) == 2
    assert "bus.wav is not named <scene>" in capsys.readouterr().err
