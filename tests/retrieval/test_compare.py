"""`compare` of retrieval, on similarities as the stage test writes them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.cli import run
from retrieval.__main__ import VERBS

CLIPS = [f"clip{number}.wav" for number in range(30)]
CAPTIONS = [f"caption {number} of {clip}" for clip in CLIPS for number in range(2)]


def write_similarity(folder: Path, signal: float, captions=CAPTIONS) -> Path:
    folder.mkdir()
    owner = np.repeat(np.arange(len(CLIPS)), 2)
    similarity = np.random.default_rng(0).normal(size=(60, 30)) + signal * np.eye(30)[owner]
    pd.DataFrame({"caption": captions, "file_name": np.array(CLIPS)[owner]}).to_csv(folder / "queries.csv", index=False)
    np.savez(folder / "model.npz", similarity=similarity, captions=np.array(captions), file_names=np.array(CLIPS))
    return folder


def call(capsys, *words) -> tuple[int, str, str]:
    code = run("python -m retrieval", VERBS, ["compare", *map(str, words)])
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.fixture
def folders(tmp_path):
    return write_similarity(tmp_path / "weak", 1.0), write_similarity(tmp_path / "strong", 3.0)


def test_systems_are_compared_over_clips(capsys, folders):
    code, out, _ = call(capsys, *folders, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["counted"] == "30 clips"
    gain = found["systems"][1]["figures"]["mAP@10"]["difference"]
    assert gain["interval"][0] > 0 and "audio to text mAP@10" in found["systems"][1]["figures"]
    code, out, _ = call(capsys, *folders)
    assert code == 0 and "strong is better than weak: +" in out


def test_mistakes_are_one_sentence(capsys, folders, tmp_path):
    other = write_similarity(tmp_path / "other", 1.0, [f"not {caption}" for caption in CAPTIONS])
    (tmp_path / "empty").mkdir()
    for words, sentence in (
        ((folders[0], other), "have different test sets"),
        ((folders[0], tmp_path / "empty"), "empty has 0 files *.npz beside queries.csv"),
    ):
        code, out, err = call(capsys, *words)
        assert (code, out) == (2, "") and sentence in err and err.count("\n") == 1
