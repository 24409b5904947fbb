"""Files of packages: links, sizes, macOS, names that a terminal would obey."""

import io
import os
import zipfile
from pathlib import Path

import pytest

from common.cli import run
from common.errors import CheckFailed, UserError
from submissions.__main__ import VERBS
from submissions.files import list_folder
from submissions.package import check_package, make_zip, new_system, pack
from submissions.report import lines
from submissions.rules import load_rules, matches
from tests.support.damage import broken, edit_line
from tests.support.packages import write_task1


@pytest.fixture
def package(tmp_path) -> Path:
    return write_task1(tmp_path / "out")


def report(package: Path) -> Path:
    return next(package.rglob("*.pdf"))


@pytest.mark.parametrize("verb", ["check", "pack"])
@pytest.mark.parametrize("target", ["outside.pdf", "../../outside.pdf", "missing.pdf", "/etc/hostname", "."])
def test_a_link_that_is_broken_leaves_the_package_or_runs_in_a_circle(package, tmp_path, capsys, target, verb):
    (tmp_path / "out" / "outside.pdf").write_bytes(report(package).read_bytes())
    report(package).unlink()
    (package / "task1" / "Lastname_INST_task1.technical_report.pdf").symlink_to(target)
    code = run("python -m submissions", VERBS, [verb, str(package)])
    told = capsys.readouterr().err
    assert code == 2 and "technical_report.pdf is a" in told and "link" in told
    assert not (tmp_path / "out" / "Lastname_INST_task1.zip").exists()


def test_a_linked_folder_outside_is_refused(package, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (package / "task1" / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="more is a link that leaves the package"):
        make_zip(package)


def test_links_within_the_package_are_followed(package):
    system = package / "task1" / "Lastname_INST_task1_1"
    (package / "task1" / "more").symlink_to(system)
    (package / "task1" / "again.pdf").symlink_to(report(package))
    names = list_folder(package)
    assert "task1/more/Lastname_INST_task1_1.meta.yaml" in names and "task1/again.pdf" in names
    with zipfile.ZipFile(make_zip(package)) as archive:
        assert archive.read("task1/again.pdf") == report(package).read_bytes()


def test_a_package_may_itself_be_a_link(package, tmp_path):
    (tmp_path / "linked").symlink_to(package)
    assert broken(tmp_path / "linked") == {}


def test_a_pipe_is_refused(package):
    os.mkfifo(package / "task1" / "pipe.pdf")
    with pytest.raises(UserError, match=r"pipe\.pdf is neither a file nor a folder"):
        check_package(package)


def test_a_file_larger_than_the_challenge_needs_is_refused_unread(package, tmp_path):
    path = package / "task1" / "Lastname_INST_task1_1" / "Lastname_INST_task1_1.output.split_5.csv"
    os.truncate(path, 3 * 2**30)  # a hole: takes no room on the disk
    with pytest.raises(UserError, match=r"split_5\.csv has 3\.0 GiB; such a file of task1_2024 has at most 100 MB"):
        check_package(package)


def test_a_zip_of_a_large_file_is_refused_before_it_is_unpacked(package, tmp_path):
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (path for path in package.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(package))
        with archive.open("task1/Lastname_INST_task1_1/zeros.pdf", "w", force_zip64=True) as file:
            for _ in range(150):
                file.write(bytes(2**20))
    assert bomb.stat().st_size < 2**20
    with pytest.raises(UserError, match=r"zeros\.pdf has 150\.0 MiB"):
        check_package(bomb)


@pytest.mark.parametrize("name", ["Lastname_INST_task1_1.meta.yaml", "notes.json", "x.py"])
def test_a_text_that_takes_long_to_parse_is_refused_unread(package, name):
    os.truncate(package / "task1" / "Lastname_INST_task1_1" / "Lastname_INST_task1_1.meta.yaml", 10)
    path = package / "task1" / "Lastname_INST_task1_1" / name
    path.touch()
    os.truncate(path, 11_000_000)
    with pytest.raises(UserError, match=r"has 10\.5 MiB; such a file of task1_2024 has at most 10? MB"):
        check_package(package)


@pytest.mark.parametrize("line", [1, 4])
def test_a_row_of_a_million_cells_is_not_read(package, line):
    path = package / "task1" / "Lastname_INST_task1_1" / "Lastname_INST_task1_1.output.split_5.csv"
    edit_line(path, line, lambda row: row + "\t" * 3_000_000)
    results = {result.name: result for result in check_package(package)[1]}
    assert "split_5.csv has a line of more than 2,000,000 bytes" in broken(package)["table_form"][0].place + " " + (
        broken(package)["table_form"][0].sentence
    )
    assert results["numbers"].state == "not checked"


def test_a_package_larger_than_the_challenge_needs_is_refused(package):
    for number in range(25):
        path = package / "task1" / f"{number}.pdf"
        path.touch()
        os.truncate(path, 99_000_000)
    with pytest.raises(UserError, match="a package of task1_2024 has at most 2,000 MB"):
        check_package(package)


def test_files_of_macos_are_named_in_one_line_and_left_out(package, tmp_path):
    (package / ".DS_Store").write_bytes(b"Bud1")
    (package / "task1" / "._Lastname_INST_task1_1").write_bytes(b"x")
    told = [line for line in lines(*check_package(package)) if "macOS" in line]
    assert len(told) == 1 and ".DS_Store one of 2 files that macOS added" in told[0]
    with zipfile.ZipFile(pack(package)) as archive:
        assert not [name for name in archive.namelist() if "._" in name or ".DS" in name]


def test_everybody_may_read_what_is_unpacked_and_equal_packages_give_equal_zips(package, tmp_path):
    with zipfile.ZipFile(make_zip(package, tmp_path / "one.zip")) as archive:
        assert {member.external_attr >> 16 for member in archive.infolist()} == {0o644}
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_DEFLATED}
    os.utime(report(package), (0, 0))
    assert make_zip(package, tmp_path / "two.zip").read_bytes() == (tmp_path / "one.zip").read_bytes()


def test_systems_of_different_evaluation_sets_do_not_share_a_package(tmp_path):
    rules = load_rules("task8_2024")
    for number, files in ((1, ["a.wav"]), (2, ["a.wav"])):
        with new_system(f"Lastname_INST_task8_{number}", rules, tmp_path, {"files": files}):
            pass
    with (
        pytest.raises(UserError, match=r"lists another evaluation set\. Put systems of different sets in different"),
        new_system("Lastname_INST_task8_3", rules, tmp_path, {"files": ["b.wav"]}),
    ):
        pass
    assert not (tmp_path / "Lastname_INST_task8" / "task8" / "Lastname_INST_task8_3").exists()


def test_names_with_control_characters_are_shown_escaped(package):
    (package / "task1" / "a\x1b[2J\nnotes.txt").write_text("x")
    shown = "\n".join(lines(*check_package(package)))
    assert "\\x1b[2J\\nnotes.txt" in shown and "\x1b" not in shown
    with pytest.raises(CheckFailed):
        pack(package)


def test_a_zip_whose_data_are_damaged_is_refused(package, tmp_path):
    content = bytearray(make_zip(package).read_bytes())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        member = max(archive.infolist(), key=lambda member: member.compress_size)
        start = member.header_offset + 200
    content[start : start + 60] = bytes(60)
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(UserError, match="is not a whole zip file"):
        check_package(tmp_path / "bad.zip")


@pytest.mark.parametrize(
    ("name", "pattern", "fits"),
    [
        ("a_run1.output/b.tsv", "a_run*.output/*.tsv", True),
        ("a_run1.output/sub/b.tsv", "a_run*.output/*.tsv", False),
        ("sub/a.pdf", "*.pdf", False),
        ("sub/sub/a.pdf", "**/*.pdf", True),
        ("a.pdf", "**/*.pdf", True),
    ],
)
def test_patterns_stop_at_a_folder(name, pattern, fits):
    assert matches(name, pattern) is fits
