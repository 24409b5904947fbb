"""A recording of hours is tagged and embedded with progress on stderr, and nothing but results on stdout."""

import json

import numpy as np
import pytest
import soundfile
import torch

from common.registry import create_audio_model
from tests.support.verbs import verb


@pytest.fixture
def folder(tmp_path, monkeypatch):
    torch.manual_seed(0)
    torch.save(create_audio_model("mn04").network.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "long").mkdir()
    soundfile.write(tmp_path / "long" / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16000 * 35), 16000)
    monkeypatch.setattr("common.output.SECONDS_BETWEEN_LINES", 0)
    return tmp_path / "long"


def test_tag_with_events_tells_how_far_it_is(folder, capsys):
    words = ["--model", "mn04", "--weights", folder.parent / "weights.pt", "--hop", "5", "--json"]
    assert verb("tag", folder / "a.wav", *words, "--events", folder.parent / "e.tsv") == 0
    told = capsys.readouterr()
    assert "Tagging: 0 of 1 files  (a.wav: 10 of 35 s)" in told.err and "(a.wav: 35 of 35 s)" in told.err
    assert json.loads(told.out)[0]["duration"] == 35


def test_embed_tells_how_far_it_is(folder, capsys):
    words = ["--model", "mn04", "--weights", folder.parent / "weights.pt", "--out", folder.parent / "e.npz"]
    assert verb("embed", folder, *words) == 0
    told = capsys.readouterr()
    assert "Embedding: 0 of 1 files  (a.wav: 20 of 35 s)" in told.err and not told.out
