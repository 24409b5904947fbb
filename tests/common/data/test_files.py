"""Files are there whole or not at all."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from common.data import files
from common.data.files import (
    atomic_path,
    atomic_write,
    compute_sha256,
    digest_files,
    human_size,
    new_folder,
    write_json,
)
from common.errors import UserError, nearest, unknown


def test_a_file_appears_only_when_its_block_ends(tmp_path):
    path = tmp_path / "deep" / "scores.csv"
    with atomic_write(path) as file:
        file.write("a\n")
        file.flush()
        assert not path.exists()
    assert path.read_text() == "a\n"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_not_written_over_a_folder_or_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    for place, message in ((tmp_path, "is a folder; name a file"), (tmp_path / "file" / "a" / "b", "file is a file")):
        with pytest.raises(UserError, match=message), atomic_write(place):
            pytest.fail("the block runs")


def test_a_file_is_not_written_where_nothing_may_be_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=r"a\.tsv cannot be written: nothing may be changed in"):
        atomic_write(tmp_path / "new" / "a.tsv").__enter__()


def test_an_atomic_path_is_renamed_with_what_was_written_to_it(tmp_path):
    path = tmp_path / "weights.ckpt"
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"weights")
    assert path.read_bytes() == b"weights"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_the_permissions_of_an_ordinary_one(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    with atomic_write(tmp_path / "file", "wb") as file:
        file.write(b"")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


def test_line_ends_are_written_as_given(tmp_path):
    with atomic_write(tmp_path / "a.csv") as file:
        file.write("a\r\nb\n")
    assert (tmp_path / "a.csv").read_bytes() == b"a\r\nb\n"


def test_json_is_written_readable_and_in_utf8(tmp_path):
    write_json(tmp_path / "a.json", {"city": "Zürich"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "city": "Zürich"\n}\n'


def test_json_that_cannot_be_written_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"path": Path()})
    assert list(tmp_path.iterdir()) == []


def test_the_digest_is_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4, example "abc"
    assert compute_sha256(tmp_path / "abc") == expected


def test_sizes_are_told_in_powers_of_1024():
    assert [human_size(n) for n in (5, 1536, 2**20, 3 * 2**40)] == ["5 B", "1.5 KiB", "1.0 MiB", "3.0 TiB"]


def test_an_unknown_name_gets_the_nearest_ones_or_all():
    assert str(unknown("model", "mn11", ["mn10", "mn01", "passt"])) == "No model named mn11. Near it: mn10, mn01."
    assert str(unknown("model", "xyz", ["b", "a"])) == "No model named xyz. There are: a, b."
    assert nearest("trian", ["train", "data"]) == ["train"]


def test_two_calls_never_get_one_folder(tmp_path):
    assert [new_folder(tmp_path / "a" / "psds").name for _ in range(3)] == ["psds", "psds_2", "psds_3"]


def test_digests_are_of_the_content_and_remembered(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("same")
    shutil.copyfile(tmp_path / "a", tmp_path / "b")
    os.utime(tmp_path / "b", (0, 0))
    first, second = digest_files([tmp_path / "a", tmp_path / "b"], tmp_path / "memory.json")
    assert first == second == compute_sha256(tmp_path / "a")
    monkeypatch.setattr(files, "compute_sha256", None)
    assert digest_files([tmp_path / "b"], tmp_path / "memory.json") == [first]
