"""Outputs of clips by name: what counts of a name, and which data set of a file is read."""

import errno
import shutil

import h5py
import numpy as np
import pytest

from common.data.keyed_outputs import KeyedOutputs, KeyIndex, OutputWriter, clip_key
from common.errors import UserError


def write(path, **data_sets):
    with h5py.File(path, "w") as file:
        for name, values in data_sets.items():
            if values is None:
                file.create_group(name)
            else:
                file.create_dataset(name, data=values)
    return path


NAMES = np.array([b"a.mp3", b"b.mp3"])
ROWS = np.arange(4, dtype=np.float32).reshape(2, 2)


def test_only_endings_of_audio_do_not_count():
    assert [clip_key(name) for name in ("07/Y-abc.mp3", "x.WAV", "a.webm", "clip.v2", "Mr. X", "plain")] == [
        "Y-abc", "x", "a", "clip.v2", "Mr. X", "plain",
    ]  # fmt: skip


def test_an_index_without_names_finds_nothing():
    index = KeyIndex([], "An empty list")
    assert index.rows(["a", "b"], allow_missing=True).tolist() == [-1, -1]
    with pytest.raises(UserError, match="An empty list lacks 2 of 2 clips"):
        index.rows(["a", "b"])


def test_a_row_needs_values(tmp_path):
    path = write(tmp_path / "flat.h5", filenames=NAMES, logits=ROWS[:, 0])
    with pytest.raises(UserError, match=r"its logits have the shape \(2,\)"):
        KeyedOutputs(path, "logits")
    path = write(tmp_path / "short.h5", filenames=NAMES, logits=ROWS[:1])
    with pytest.raises(UserError, match=r"names 2 clips but its logits have the shape \(1, 2\)"):
        KeyedOutputs(path)


def test_groups_are_no_data_sets(tmp_path):
    path = write(tmp_path / "group.h5", filenames=NAMES, logits=None, frames=ROWS)
    assert KeyedOutputs(path).kind == "frames"
    with pytest.raises(UserError, match=r"has no logits beside filenames; it has frames\."):
        KeyedOutputs(path, "logits")
    path = write(tmp_path / "names.h5", filenames=NAMES)
    with pytest.raises(UserError, match=r"has no one data set of outputs beside filenames; it has nothing else\."):
        KeyedOutputs(path)


def test_one_of_several_data_sets_must_be_named(tmp_path):
    path = write(tmp_path / "both.h5", filenames=NAMES, logits=ROWS, frames=ROWS + 1)
    with pytest.raises(UserError, match="has no one data set of outputs beside filenames; it has frames, logits"):
        KeyedOutputs(path)
    assert KeyedOutputs(path, ("strong_logits", "frames")).read([0]).tolist() == [[1, 2]]
    with pytest.raises(UserError, match="has no strong_logits or weak_logits beside"):
        KeyedOutputs(path, ("strong_logits", "weak_logits"))


def test_a_full_disk_is_met_before_rows_are_written_and_the_writer_goes_on_later(tmp_path, monkeypatch):
    rows, usage = np.ones((2, 3), np.float16), shutil.disk_usage(tmp_path)
    with OutputWriter(tmp_path / "o.h5", ["a.wav", "b.wav"], kind="frames", resume=True) as writer:
        writer.write(["a.wav"], rows[:1])
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
        with pytest.raises(OSError, match="No space left") as told:
            writer.write(["b.wav"], rows[1:])
        assert (told.value.errno, told.value.filename) == (errno.ENOSPC, str(tmp_path / ".o.h5.part"))
        monkeypatch.undo()
        assert writer.missing.tolist() == [1]
        writer.write(["b.wav"], rows[1:])
    assert KeyedOutputs(tmp_path / "o.h5").read([0, 1]).tolist() == rows.tolist()
