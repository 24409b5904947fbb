"""Files with tabs, line breaks, escapes or undecodable bytes in their names are tagged, or named in a sentence."""

import csv
import os

import numpy as np
import pytest
import soundfile
import torch

from common.registry import create_audio_model
from tests.support.verbs import verb

NAMES = (b"a\tb.wav", b"new\nline.wav", b"\x1b[31mred.wav")


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    torch.save(create_audio_model("mn04").network.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "odd").mkdir()
    for name in NAMES:
        soundfile.write(tmp_path / "t.wav", np.random.default_rng(0).normal(0, 0.1, 32000), 32000)
        (tmp_path / "t.wav").rename(tmp_path / "odd" / os.fsdecode(name))
    return tmp_path / "odd"


def test_a_table_of_events_has_five_columns_in_each_row(folder):
    words = ["--model", "mn04", "--weights", folder.parent / "weights.pt", "--threshold", "0.01"]
    assert verb("tag", folder, *words, "--events", folder.parent / "e.tsv") == 0
    lines = (folder.parent / "e.tsv").read_text().splitlines()
    rows = list(csv.reader(lines, delimiter="\t"))
    assert len(rows) > 3 and {len(row) for row in rows} == {5}
    shown = (r"a\tb.wav", r"new\nline.wav", r"\x1b[31mred.wav")
    assert {row[0] for row in rows[1:]} == {f"{folder}/{name}" for name in shown}


def test_a_name_that_is_no_utf8_is_told_and_the_others_are_tagged(folder, capsys):
    (folder / os.fsdecode(NAMES[0])).rename(folder / os.fsdecode(b"bad\xff.wav"))
    words = ["--model", "mn04", "--weights", folder.parent / "weights.pt"]
    assert verb("tag", folder, *words, "--json") == 2
    told = capsys.readouterr()
    assert rf"The name of {folder}/bad\udcff.wav is no UTF-8; rename the file." in told.err
    assert told.out.count('"filename"') == 2
    assert verb("embed", folder, *words, "--out", folder.parent / "e.npz") == 2
    assert "is no UTF-8; rename the file." in capsys.readouterr().err
