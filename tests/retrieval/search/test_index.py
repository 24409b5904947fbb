"""An index grows, forgets what is gone, goes on after a kill, and holds windows of long files."""

import json
import resource

import numpy as np
import pytest

from common.data.audio import write_wav
from common.errors import UserError
from retrieval.search.answer import search
from retrieval.search.index import Index, Windows, build_index
from tests.retrieval.search.conftest import HERTZ, LABELS, RATE, tone


def alive(index):
    """Vector of each file that can be found."""
    return {
        index.files[number]: index.vectors[row].tolist()
        for row, number in enumerate(index.rows["file"].tolist())
        if index.files[number] is not None
    }


def test_a_repeated_command_adds_new_files_and_forgets_those_that_are_gone(searcher, sounds, tmp_path, monkeypatch):
    assert build_index(searcher, None, sounds, tmp_path / "index") == 24
    embedded = []
    embed = type(searcher).embed_rows
    monkeypatch.setattr(
        type(searcher), "embed_rows", lambda self, paths: embedded.extend(p.name for p in paths) or embed(self, paths)
    )
    write_wav(sounds / "new.wav", tone(HERTZ["low"], 2), RATE)
    write_wav(sounds / "low_0.wav", tone(HERTZ["high"], 3), RATE)  # another size: it has changed
    (sounds / "low_1.wav").unlink()
    assert build_index(searcher, None, sounds, tmp_path / "index") == 24
    assert sorted(embedded) == ["low_0.wav", "new.wav"]
    build_index(searcher, None, sounds, tmp_path / "fresh")
    index, fresh = Index.read(tmp_path / "index"), Index.read(tmp_path / "fresh")
    assert alive(index) == alive(fresh) and len(index.rows) == 26
    found = [[hit["file"] for hit in search(each, text=["low", "high"], top=24)] for each in (index, fresh)]
    assert sorted(found[0]) == sorted(found[1]) and "low_1.wav" not in found[0]


def test_an_index_goes_on_where_a_kill_left_its_files(searcher, sounds, tmp_path):
    out = tmp_path / "index"
    build_index(searcher, None, sounds, out)
    whole = alive(Index.read(out))
    # As after a kill: the journal ends within a line, arrays have rows that no line names, headers are old.
    lines = (out / "files.jsonl").read_bytes().splitlines(keepends=True)
    (out / "files.jsonl").write_bytes(b"".join(lines[:9]) + lines[9][:5])
    with (out / "vectors.npy").open("r+b") as file:
        file.write(np.lib.format.magic(1, 0))
    (out / "index.json").unlink()
    assert build_index(searcher, None, sounds, out) == 24
    assert alive(Index.read(out)) == whole and len(Index.read(out).rows) == 24


@pytest.mark.parametrize("limit", [290, 400])  # bytes: within a row, within a line of the journal
def test_an_index_goes_on_after_writes_of_which_the_disk_took_a_part(searcher, sounds, tmp_path, limit, capsys):
    out, rest = tmp_path / "index", sorted(sounds.iterdir())[2:]
    for path in rest:
        path.rename(tmp_path / path.name)
    assert build_index(searcher, None, sounds, out) == 2
    for path in rest:
        (tmp_path / path.name).rename(path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # as on a full disk: first a part, then an error
    try:
        with pytest.raises(OSError, match="File too large"):
            build_index(searcher, None, sounds, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert build_index(searcher, None, sounds, out) == 24
    build_index(searcher, None, sounds, tmp_path / "fresh")
    assert alive(Index.read(out)) == alive(Index.read(tmp_path / "fresh"))


def test_an_array_with_rows_missing_is_refused(searcher, sounds, tmp_path):
    build_index(searcher, None, sounds, tmp_path / "index")
    path = tmp_path / "index" / "vectors.npy"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"vectors\.npy is .*cut off"):
        build_index(searcher, None, sounds, tmp_path / "index")


def test_vectors_in_half_precision_take_half_the_space(searcher, sounds, tmp_path):
    for half, dtype in ((False, np.float32), (True, np.float16)):
        build_index(searcher, None, sounds, tmp_path / str(half), half=half)
        assert Index.read(tmp_path / str(half)).vectors.dtype == dtype
    with pytest.raises(UserError, match="another half"):
        build_index(searcher, None, sounds, tmp_path / "True")


def test_windows_end_with_the_file_and_are_what_the_model_hears(searcher, tmp_path):
    write_wav(tmp_path / "sounds" / "long.wav", np.concatenate([tone(HERTZ[k], 4) for k in HERTZ]), RATE)
    write_wav(tmp_path / "sounds" / "short.wav", tone(HERTZ["high"], 1.5), RATE)
    build_index(searcher, None, tmp_path / "sounds", tmp_path / "index", windows=Windows(5, 2))
    index = Index.read(tmp_path / "index")
    times = list(zip(index.rows["onset"].tolist(), index.rows["offset"].tolist(), strict=True))
    assert times == [(0, 5), (2, 7), (4, 9), (6, 11), (7, 12), (0, 1.5)]
    assert np.asarray(index.vectors[-1]).argmax() == 2
    np.testing.assert_allclose(index.vectors[1], np.array([2, 3, 0]) / 13**0.5, atol=0.01)  # 2 s low, 3 s middle
    assert index.tags.shape == (6, len(LABELS)) and index.tags.dtype == np.float16


@pytest.mark.parametrize(("length", "hop"), [(0.1, 0.05), (5, 0), (5, 6), (5, -1), (float("nan"), 1)])
def test_windows_that_leave_gaps_or_are_too_short_are_refused(length, hop):
    with pytest.raises(UserError, match=r"--(windows|hop) is"):
        Windows(length, hop)


def test_a_damaged_file_leaves_no_rows(searcher, tmp_path, capsys):
    write_wav(tmp_path / "sounds" / "a.wav", tone(HERTZ["low"], 3), RATE)
    (tmp_path / "sounds" / "b.wav").write_bytes(b"no audio")
    write_wav(tmp_path / "sounds" / "c.wav", tone(HERTZ["low"], 3), RATE)
    for windows in (None, Windows(1, 1)):
        out = tmp_path / str(windows)
        with pytest.raises(UserError, match=r"b\.wav"):
            build_index(searcher, None, tmp_path / "sounds", out, windows=windows)
        assert build_index(searcher, None, tmp_path / "sounds", out, skip_unreadable=True, windows=windows) == 2
        assert set(alive(Index.read(out))) == {"a.wav", "c.wav"} and "left out b.wav" in capsys.readouterr().err
        assert json.loads((out / "index.json").read_text())["unreadable"].keys() == {"b.wav"}
