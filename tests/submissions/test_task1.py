"""Checking, packing and damaging Task 1 packages."""

import json
import time
import zipfile
from pathlib import Path

import pytest

from common.errors import CheckFailed, UserError
from submissions.package import check_package, make_zip, new_system, pack, place_of_system
from submissions.participant import placeholder_report, write_template
from submissions.reading import open_package
from submissions.report import as_data, lines
from submissions.rules import load_rules, rule_names
from tests.support.damage import assert_found, broken
from tests.support.damages.task1_2024 import DAMAGES, LABEL, output
from tests.support.packages import SPLITS, edit_declaration, task1_table, write_task1


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> Path:
    return write_task1(tmp_path_factory.mktemp("valid"))


def test_a_valid_package_breaks_no_rule(valid):
    assert broken(valid) == {}
    assert all(result.holds for result in check_package(valid)[1])


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_found_and_its_place_is_named(package, name):
    assert_found(package, DAMAGES[name])


def test_there_are_at_least_25_damages():
    assert len(DAMAGES) >= 25


def test_the_official_set_is_checked_in_seconds(package):
    (package / "made_up_evaluation_set.json").unlink()
    for split in SPLITS:
        rows = task1_table(["x"] * 1000, split).drop(columns="filename").to_csv(sep="\t", index=False).splitlines()
        lines_out = ["filename\t" + rows[0], *(f"{number}.wav\t{rows[1 + number % 1000]}" for number in range(135_730))]
        output(package, split).write_text("\n".join(lines_out) + "\n")
    start = time.process_time()
    results = check_package(package)[1]
    seconds = time.process_time() - start
    assert all(result.holds for result in results)
    assert not any(finding.kind == "note" for result in results for finding in result.findings)
    print(f"{seconds:.1f} s")
    assert seconds < 30  # processor time; 5 s where no other process uses the cores


def test_a_package_cannot_declare_its_own_set_official(package):
    edit_declaration(package, lambda data: data.update(made_up=False))
    opened, results = check_package(package)
    assert as_data(opened, results)["made_up"] is True
    assert "not fit for the challenge" in lines(opened, results)[-1]


def test_a_missing_report_is_a_warning(package):
    opened, results = check_package(package)
    shown = "\n".join(lines(opened, results))
    assert "technical_report.pdf is the placeholder: the technical report is missing" in shown
    (package / "task1" / "Lastname_INST_task1.technical_report.pdf").unlink()
    assert broken(package) == {}
    assert "there is no technical report" in "\n".join(lines(*check_package(package)))


def test_the_placeholder_is_a_pdf_that_says_what_it_is():
    content = placeholder_report("Lastname_INST_task1")
    assert content.startswith(b"%PDF-1.4") and content.endswith(b"%%EOF\n")
    start = int(content.split(b"startxref\n")[1].split(b"\n")[0])
    assert content[start:].startswith(b"xref")


def test_folder_task_folder_system_folder_and_zip_are_checked_alike(package):
    for path in (package, package / "task1", make_zip(package)):
        assert broken(path, evaluation_set=package / "made_up_evaluation_set.json") == {}
    system = package / "task1" / LABEL
    assert broken(system, evaluation_set=package / "made_up_evaluation_set.json") == {}


def test_an_equal_package_gives_an_equal_zip(package):
    first = make_zip(package, package.parent / "a.zip").read_bytes()
    for path in package.rglob("*"):
        path.touch()
    assert make_zip(package, package.parent / "b.zip").read_bytes() == first


def test_pack_makes_no_zip_of_a_broken_package(package):
    output(package).unlink()
    with pytest.raises(CheckFailed, match="files"):
        pack(package)
    assert not list(package.parent.glob("*.zip"))


def test_pack_refuses_a_part_of_a_package(package):
    with pytest.raises(UserError, match="not a complete package"):
        pack(package / "task1" / LABEL)


@pytest.mark.parametrize("member", ["../evil.txt", "/etc/evil", "task1/../../evil", "C:/evil", "a\\..\\evil"])
def test_a_zip_that_climbs_out_of_its_folder_is_refused(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(member), "x")
    with pytest.raises(UserError, match=r"would leave the folder|has an absolute name"):
        check_package(tmp_path / "bad.zip")


def test_a_zip_with_a_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("task1/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="is a link"):
        check_package(tmp_path / "bad.zip")


def test_a_cut_off_zip_is_refused(package, tmp_path):
    whole = make_zip(package).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a whole zip"):
        check_package(tmp_path / "cut.zip")


def test_an_unfinished_system_leaves_nothing_behind(tmp_path):
    with pytest.raises(ZeroDivisionError), new_system(LABEL, load_rules("task1_2024"), tmp_path) as folder:
        (folder / "half").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_call_left_behind_is_cleared_away(tmp_path):
    (tmp_path / f".{LABEL}.part").mkdir()
    (tmp_path / f".{LABEL}.part" / "half.csv").write_text("filename")
    assert broken(write_task1(tmp_path)) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["Lastname_INST_task1"]


def test_a_package_is_not_overwritten(package):
    with pytest.raises(UserError, match="exists"), new_system(LABEL, load_rules("task1_2024"), package.parent):
        pass


def test_a_repeat_after_a_kill_says_what_is_whole_and_how_to_go_on(package):
    zip_path = pack(package)  # the call was killed after this
    evaluation_set = package.with_name(f"{package.name}.evaluation_set.json")
    evaluation_set.write_text("{}")
    with pytest.raises(UserError) as told:
        place_of_system(LABEL, load_rules("task1_2024"), package.parent)
    assert f"{LABEL} exists, and so does {zip_path}." in str(told.value)
    assert f"`python -m submissions pack {package} --evaluation_set {evaluation_set}`" in str(told.value)


def test_a_wrong_label_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="four parts"), new_system("Lastname_task1", load_rules("task1_2024"), tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_package_of_unknown_kind_asks_for_its_rules(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(UserError, match="--rules: task1_2024"), open_package(tmp_path):
        pass


@pytest.mark.parametrize("name", rule_names())
def test_every_rules_file_loads_and_names_known_checks(name):
    from submissions.checks import CHECKS

    rules = load_rules(name)
    assert set(rules.checks) <= set(CHECKS)
    assert f"task{rules.task}_{rules.year}" == name


def test_the_template_is_filled_in_or_refused(package, tmp_path):
    write_template("task1_2024", tmp_path / "META.yaml")
    with pytest.raises(UserError, match="exists"):
        write_template("task1_2024", tmp_path / "META.yaml")
    with pytest.raises(UserError, match="task1_2024"):
        write_template("task1_2023", tmp_path / "other.yaml")


def test_findings_as_json_name_place_and_rule(package):
    output(package, 5).unlink()
    data = json.loads(json.dumps(as_data(*check_package(package))))
    files = next(check for check in data["checks"] if check["name"] == "files")
    assert data["holds"] is False and files["holds"] is False
    assert files["findings"][0]["place"].endswith(f"{LABEL}.output.split_5.csv")


def test_made_up_tables_keep_the_official_columns():
    assert list(task1_table(["0.wav"], 0).columns) == load_rules("task1_2024").tables.columns
    assert len(SPLITS) == 5
