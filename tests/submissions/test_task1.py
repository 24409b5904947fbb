"""Checking, packing and damaging Task 1 packages."""

import json
import shutil
import time
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from common.errors import CheckFailed, UserError
from submissions.package import check_package, make_zip, new_system, pack, place_of_system
from submissions.participant import placeholder_report, write_template
from submissions.reading import open_package
from submissions.report import as_data, lines
from submissions.rules import load_rules, rule_names
from tests.support.damage import assert_found, broken, drop, edit_line, put
from tests.support.packages import SPLITS, edit_declaration, edit_meta, task1_table, write_task1

LABEL = "Lastname_INST_task1_1"


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> Path:
    return write_task1(tmp_path_factory.mktemp("valid"))


def output(package: Path, split: int = 25) -> Path:
    return package / "task1" / LABEL / f"{LABEL}.output.split_{split}.csv"


def meta(package: Path) -> Path:
    return package / "task1" / LABEL / f"{LABEL}.meta.yaml"


def edit_table(package: Path, change, split: int = 25) -> None:
    table = pd.read_csv(output(package, split), sep="\t", dtype=str)
    table = change(table)
    table.to_csv(output(package, split), sep="\t", index=False)


def set_cell(row: int, column: str, value: str):
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[row, column] = value
        return table

    return change


def swap_labels(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[4, "scene_label"] = "bus" if table.loc[4, "scene_label"] != "bus" else "tram"
    return table


def scale_row(table: pd.DataFrame) -> pd.DataFrame:
    columns = table.columns[2:]
    table.loc[3, columns] = (table.loc[3, columns].astype(float) * 0.5).astype(str)
    return table


def same_rows(table: pd.DataFrame) -> pd.DataFrame:
    table.iloc[:, 1:] = table.iloc[0, 1:].to_numpy()
    return table


def rename_system(package: Path, label: str) -> None:
    (package / "task1" / LABEL).rename(package / "task1" / label)


def add_systems(package: Path) -> None:
    for number in (2, 3, 4, 5):
        shutil.copytree(package / "task1" / LABEL, package / "task1" / f"Lastname_INST_task1_{number}")


RESULTS = ("results", "development_dataset")
# what is done to the package, the rule that must find it, what its place and sentence must name
DAMAGES = {
    "an output file is missing": (lambda p: output(p, 50).unlink(), "files", f"{LABEL}.output.split_50.csv is missing"),
    "the meta file is missing": (lambda p: meta(p).unlink(), "files", ".meta.yaml is missing"),
    "an output file is empty": (lambda p: output(p).write_text(""), "files", "split_25.csv is empty"),
    "a file too many": (lambda p: (p / "task1" / "notes.txt").write_text("x"), "no_other_files", "task1/notes.txt"),
    "a file too many in the system": (
        lambda p: (p / "task1" / LABEL / "model.pt").write_text("x"),
        "no_other_files",
        f"{LABEL}/model.pt",
    ),
    "a wrong label": (lambda p: rename_system(p, "Lastname_task1_1"), "label", "Lastname_task1_1 is not a label"),
    "a label number of 7": (lambda p: rename_system(p, "Lastname_INST_task1_7"), "label", "Lastname_INST_task1_7"),
    "five systems": (add_systems, "systems", "5 systems, at most 4"),
    "another label in the meta file": (
        lambda p: edit_meta(p, put("submission", "label", value="Lastname_INST_task1_2")),
        "meta_label",
        ".meta.yaml:2 submission.label is Lastname_INST_task1_2",
    ),
    "a long abbreviation": (
        lambda p: edit_meta(p, put("submission", "abbreviation", value="abbreviation")),
        "meta_form",
        ".meta.yaml:4 submission.abbreviation must be text of at most 10 characters",
    ),
    "no corresponding author": (
        lambda p: edit_meta(p, put("submission", "authors", 0, "corresponding", value=False)),
        "authors",
        ".meta.yaml:5 0 authors",
    ),
    "two corresponding authors": (
        lambda p: edit_meta(p, put("submission", "authors", 1, "corresponding", value=True)),
        "authors",
        ".meta.yaml:14 2 authors",
    ),
    "an author without e-mail": (
        lambda p: edit_meta(p, put("submission", "authors", 1, "email", value="mia at example")),
        "meta_form",
        ".meta.yaml:16 submission.authors[1].email must be an e-mail address",
    ),
    "a misspelled key": (
        lambda p: meta(p).write_text(meta(p).read_text().replace("abbreviation: small", "abreviation: small")),
        "meta_form",
        ".meta.yaml:4 submission.abreviation is not a key of this file. Did you mean abbreviation?",
    ),
    "a figure of the 200 missing": (
        lambda p: edit_meta(p, drop(*RESULTS, "split_10", "device_wise", "s4")),
        "meta_form",
        "split_10.device_wise.s4 is missing",
    ),
    "a whole split missing": (
        lambda p: edit_meta(p, drop(*RESULTS, "split_100")),
        "meta_form",
        "results.development_dataset.split_100 is missing",
    ),
    "an accuracy above 100": (
        lambda p: edit_meta(p, put(*RESULTS, "split_5", "class_wise", "bus", "accuracy", value=142.0)),
        "meta_form",
        "split_5.class_wise.bus.accuracy must be a number from 0 to 100, found 142",
    ),
    "an accuracy that is text": (
        lambda p: edit_meta(p, put(*RESULTS, "split_5", "overall", "accuracy", value="about 40")),
        "meta_form",
        "split_5.overall.accuracy must be a number from 0 to 100, found 'about 40'",
    ),
    "an infinite log loss": (
        lambda p: edit_meta(p, put(*RESULTS, "split_5", "overall", "logloss", value=float("inf"))),
        "meta_form",
        "split_5.overall.logloss must be a number, 0 or more or null, found inf",
    ),
    "an overall accuracy that is not the mean": (
        lambda p: edit_meta(p, put(*RESULTS, "split_50", "overall", "accuracy", value=55.5)),
        "figures_consistent",
        "split_50 overall accuracy is 55.5, but the mean of its classes is",
    ),
    "figures of two splits alike": (
        lambda p: edit_meta(
            p, lambda data: put(*RESULTS, "split_50", value=data["results"]["development_dataset"]["split_5"])(data)
        ),
        "figures_plausible",
        "split_50 has the same figures as split_5",
    ),
    "a key doubled": (
        lambda p: edit_line(meta(p), 3, lambda row: f"{row}\n{row}"),
        "meta_readable",
        ".meta.yaml:4 submission.name is given twice",
    ),
    "broken YAML": (lambda p: edit_line(meta(p), 3, lambda row: "  name: [x"), "meta_readable", ".meta.yaml:4 "),
    "something left to fill in": (
        lambda p: edit_meta(p, put("submission", "name", value="FILL IN (name)")),
        "meta_filled_in",
        ".meta.yaml:3 submission.name still says",
    ),
    "too many bytes": (
        lambda p: edit_meta(p, put("system", "complexity", "total_model_size", value=130_000)),
        "limits",
        "total_model_size is 130,000: 2,000 over the limit of 128,000",
    ),
    "too many bytes, with a unit": (
        lambda p: edit_meta(p, put("system", "complexity", "total_model_size", value="244.6 kB")),
        "limits",
        "total_model_size is 244,600",
    ),
    "too many MACs": (
        lambda p: edit_meta(p, put("system", "complexity", "macs", value=31_000_000)),
        "limits",
        "macs is 31,000,000: 1,000,000 over",
    ),
    "MACs in millions": (
        lambda p: edit_meta(p, put("system", "complexity", "macs", value=29.4)),
        "complexity_plausible",
        "macs is 29.4, fewer than parameters",
    ),
    "a size in kilobytes": (
        lambda p: edit_meta(p, put("system", "complexity", "total_model_size", value=122)),
        "complexity_plausible",
        "total_model_size is 122 bytes for 61,148 parameters",
    ),
    "a header in another order": (
        lambda p: edit_line(output(p), 1, lambda row: row.replace("airport\tbus", "bus\tairport")),
        "table_form",
        "split_25.csv:1 column 3 is 'bus', expected 'airport'",
    ),
    "commas instead of tabs": (
        lambda p: output(p).write_text(output(p).read_text().replace("\t", ",")),
        "table_form",
        "split_25.csv:1 column 1 is",
    ),
    "a class column missing": (
        lambda p: edit_table(p, lambda table: table.drop(columns="tram")),
        "table_form",
        "split_25.csv:1 11 columns, the last ['tram'] are missing",
    ),
    "a row cut off": (
        lambda p: edit_line(output(p), 7, lambda row: row.rsplit("\t", 3)[0]),
        "table_form",
        "split_25.csv:7 9 fields, the header has 12",
    ),
    "a row with a field too many": (
        lambda p: edit_line(output(p), 6, lambda row: row + "\t0"),
        "table_form",
        "split_25.csv:6 13 fields, the header has 12",
    ),
    "a blank line": (lambda p: edit_line(output(p), 5, lambda row: row + "\n"), "table_form", "split_25.csv:6 "),
    "a file missing in one output": (
        lambda p: edit_table(p, lambda table: table.drop(index=2)),
        "evaluation_files",
        "split_25.csv 1 of 12 files are missing, the first is 2.wav",
    ),
    "files that differ between outputs": (
        lambda p: edit_table(p, set_cell(2, "filename", "77.wav")),
        "same_files",
        "split_25.csv:4 '77.wav' is not in",
    ),
    "a file that is not in the set": (
        lambda p: edit_table(p, set_cell(2, "filename", "77.wav")),
        "evaluation_files",
        "split_25.csv:4 '77.wav' is not a file of made_up_evaluation_set.json",
    ),
    "a file twice": (
        lambda p: edit_table(p, lambda table: pd.concat([table, table.iloc[[3]]])),
        "evaluation_files",
        "split_25.csv:14 '3.wav' is listed twice",
    ),
    "an unknown label": (
        lambda p: edit_table(p, set_cell(5, "scene_label", "beach")),
        "labels_known",
        "split_25.csv:7 'beach' is not a class",
    ),
    "a label that is not the most probable": (
        lambda p: edit_table(p, swap_labels),
        "argmax",
        "split_25.csv:6 scene_label is",
    ),
    "a probability above 1": (
        lambda p: edit_table(p, set_cell(1, "park", "1.5")),
        "probabilities",
        "split_25.csv:3 park is 1.5, not from 0 to 1",
    ),
    "a negative probability": (
        lambda p: edit_table(p, set_cell(1, "park", "-0.1")),
        "probabilities",
        "split_25.csv:3 park is -0.1",
    ),
    "probabilities that sum to a half": (
        lambda p: edit_table(p, scale_row),
        "sum",
        "split_25.csv:5 probabilities sum to 0.5, expected 1",
    ),
    "a NaN": (
        lambda p: edit_table(p, set_cell(0, "tram", "nan")),
        "numbers",
        "split_25.csv:2 tram is nan, not a finite",
    ),
    "text for a probability": (
        lambda p: edit_table(p, set_cell(9, "tram", "high")),
        "numbers",
        "split_25.csv:11 tram is high, not a finite number",
    ),
    "an empty cell": (lambda p: edit_table(p, set_cell(9, "bus", "")), "numbers", "split_25.csv:11 bus"),
    "one output copied to another": (
        lambda p: shutil.copy(output(p, 5), output(p, 10)),
        "tables_differ",
        "split_10.csv holds the same scores as",
    ),
    "every row alike": (
        lambda p: edit_table(p, same_rows),
        "not_collapsed",
        "split_25.csv every row has the same answer",
    ),
    "an output that is not UTF-8": (
        lambda p: output(p).write_bytes(output(p).read_bytes().replace(b"3.wav", b"\xff.wav", 1)),
        "table_form",
        "split_25.csv:5 is not UTF-8",
    ),
    "a report that is no PDF": (
        lambda p: (p / "task1" / "Lastname_INST_task1.technical_report.pdf").write_text("my report"),
        "technical_report",
        "technical_report.pdf is not a PDF",
    ),
    "a file twice in the declared set": (
        lambda p: edit_declaration(p, lambda data: data["files"].append("0.wav")),
        "evaluation_list",
        "made_up_evaluation_set.json lists 0.wav twice",
    ),
    "no declaration of the made-up set": (
        lambda p: (p / "made_up_evaluation_set.json").unlink(),
        "evaluation_files",
        "135,718 of 135,730 files are missing, the first is 12.wav",
    ),
}


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
