"""`compare` of Task 1, on logits as the stage test writes them."""

import json
from pathlib import Path

import numpy as np
import pytest

from common.cli import run
from common.reports.statistics import percentile_limits
from task1_asc.__main__ import VERBS
from task1_asc.data.tau2022 import CLASSES, DEVICES
from task1_asc.metrics import accuracy_draws, score_scenes

NAMES = [
    f"audio/{scene}-city-{location}-0-{piece}-{device}.wav"
    for scene in CLASSES for location in range(3) for piece in range(2) for device in DEVICES
]  # fmt: skip
TARGET = np.repeat(np.arange(len(CLASSES)), 6 * len(DEVICES))


def write_logits(folder: Path, signal: float, names=NAMES) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    logits = random.normal(size=(len(names), len(CLASSES))) + signal * np.eye(len(CLASSES))[TARGET[: len(names)]]
    np.savez(folder / "logits.npz", float32=logits, target=TARGET[: len(names)], filename=np.array(names))
    return folder


def call(capsys, *words) -> tuple[int, str, str]:
    code = run("python -m task1_asc", VERBS, ["compare", *map(str, words)])
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.fixture
def folders(tmp_path):
    return write_logits(tmp_path / "weak", 1.0), write_logits(tmp_path / "strong", 2.0)


def test_the_draws_hold_the_figures_of_the_test():
    devices = [name.rpartition("-")[2].removesuffix(".wav") for name in NAMES]
    segments = [name.rpartition("-")[0].rpartition("-")[0] for name in NAMES]
    logits = np.random.default_rng(1).normal(size=(len(NAMES), 10)) + 1.5 * np.eye(10)[TARGET]
    scores = score_scenes(logits, TARGET, devices, segments, np.random.default_rng(0))
    draws = accuracy_draws(logits.argmax(axis=1), TARGET, devices, segments)
    assert draws["macro accuracy"][0] == scores["macro_accuracy"]["value"]
    assert draws["group unseen"][0] == pytest.approx(scores["groups"]["unseen"]["accuracy"])
    limits = percentile_limits(draws["class bus"][1:])
    assert limits == pytest.approx([scores["class_wise"]["bus"][f"accuracy_{end}"] for end in ("low", "high")])


def test_folders_of_scores_are_compared_on_their_recordings(capsys, folders):
    code, out, _ = call(capsys, *folders)
    assert code == 0
    assert "strong is better than weak: +" in out and "30 recordings" in out
    assert "street traffic" in out and "s6" in out
    code, out, _ = call(capsys, *folders, "--json")
    second = json.loads(out)["systems"][1]
    assert set(second["parts"]) == {"accuracy of each class", "accuracy on each device"}
    assert second["figures"]["macro accuracy"]["difference"]["interval"][0] > 0


def test_mistakes_are_one_sentence(capsys, folders, tmp_path):
    shorter = write_logits(tmp_path / "shorter", 1.0, NAMES[:-1])
    for words, sentence in (
        ((folders[0], shorter), "different test sets: audio/tram-city-2-0-1-s6.wav is in one of them only"),
        ((folders[0],), "needs two systems or more"),
        ((*folders, "--precision", "int8"), "has no int8"),
        ((folders[0], tmp_path), "has no logits.npz"),
        ((folders[0], tmp_path / "none"), "none does not exist"),
    ):
        code, out, err = call(capsys, *words)
        assert (code, out) == (2, "") and sentence in err and err.count("\n") == 1
