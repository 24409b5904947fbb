"""Checking and damaging packages of Task 1 of 2026."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from submissions.package import check_package, make_zip, pack
from tests.support.damage import assert_found, broken, drop, edit_line, meta, named, put, rewrite, warnings
from tests.support.packages import SOUND_IDS, edit_declaration, edit_meta, replace, report, write_sounds

BASE = ("results", "development_datasets", "bsd10k-v1.2")
CODE, SCORE = "predicted_bst_second_level_class", "prediction_score"


def output(package: Path) -> Path:
    return named(package, "*.output.csv")


def change_output(change):
    return rewrite("*.output.csv", change, ",")


def set_cell(row: int, column: str, value: str):
    return change_output(lambda table: table.map(str).assign(**{
        column: [value if at == row else old for at, old in enumerate(table[column])]
    }))  # fmt: skip


def set_meta(*address, value):
    return lambda package: edit_meta(package, put(*address, value=value))


def name_report(package: Path) -> None:
    named(package, "*.pdf").write_bytes(report())


def rename_folder(package: Path) -> None:
    folder = package / "task1" / "Lastname_INST_task1_1"
    folder.rename(folder.with_name("Lastname_INST_task1_2"))


def fifth_system(package: Path) -> None:
    for number in (2, 3, 4, 5):
        label = f"Lastname_INST_task1_{number}"
        folder = shutil.copytree(package / "task1" / "Lastname_INST_task1_1", package / "task1" / label)
        for path in folder.iterdir():
            path.rename(folder / path.name.replace("task1_1", f"task1_{number}"))


DAMAGES = {
    "a clip missing": (
        change_output(lambda table: table.drop(index=4)),
        "evaluation_files",
        f"1 of 30 files are missing, the first is {SOUND_IDS[4]}",
    ),
    "an id empty": (set_cell(3, "id", ""), "ids", ".output.csv:5 the id is empty"),
    "an id twice": (set_cell(3, "id", SOUND_IDS[0]), "ids", f".output.csv:5 the id '{SOUND_IDS[0]}' is listed twice"),
    "an id of another set": (set_cell(3, "id", "12345"), "evaluation_files", ".output.csv:5 '12345' is not a file"),
    "ids cut to 8 characters": (
        change_output(lambda table: table.assign(id=table["id"].str[:8])),
        "ids",
        ".output.csv:2 the id '00000000' is cut: give the whole id",
    ),
    "a class of the training alone": (
        set_cell(1, CODE, "fx-other"),
        "codes",
        "csv:3 'fx-other' is not a class: it only",
    ),
    "a top level alone": (set_cell(1, CODE, "fx"), "codes", ".output.csv:3 'fx' is a top level"),
    "an index": (set_cell(1, CODE, "12"), "codes", ".output.csv:3 '12' is a number; give the code"),
    "a code in capitals": (set_cell(1, CODE, "FX-O"), "codes", ".output.csv:3 'FX-O' is not a class; fx-o is"),
    "no class": (set_cell(1, CODE, ""), "codes", ".output.csv:3 '' is not a class"),
    "a score empty": (set_cell(2, SCORE, ""), "numbers", f".output.csv:4 {SCORE} is"),
    "a score in words": (set_cell(2, SCORE, "high"), "numbers", f".output.csv:4 {SCORE} is high, not a finite number"),
    "a score in per cent": (
        set_cell(2, SCORE, "97.1"),
        "probabilities",
        f".output.csv:4 {SCORE} is 97.1, not from 0 to 1",
    ),
    "a negative score": (set_cell(2, SCORE, "-0.1"), "probabilities", ".output.csv:4 "),
    "no column of classes": (
        change_output(lambda table: table.drop(columns=CODE)),
        "table_form",
        f".output.csv:1 column 2 is '{SCORE}', expected '{CODE}'",
    ),
    "a column of another name": (
        change_output(lambda table: table.rename(columns={"id": "anonymous_id"})),
        "table_form",
        ".output.csv:1 column 1 is 'anonymous_id', expected 'id'",
    ),
    "columns in another order": (
        change_output(lambda table: table[["id", SCORE, CODE]]),
        "table_form",
        "csv:1 column 2",
    ),
    "tabs in place of commas": (
        lambda p: output(p).write_text(output(p).read_text().replace(",", "\t")),
        "table_form",
        ".output.csv:1 column 1 is 'id\\t",
    ),
    "a byte order mark": (
        lambda p: output(p).write_bytes(b"\xef\xbb\xbf" + output(p).read_bytes()),
        "table_form",
        ".output.csv:1 starts with a byte order mark",
    ),
    "a row cut off": (
        lambda p: edit_line(output(p), 4, lambda row: row[:36]),
        "table_form",
        "csv:4 1 fields, the header",
    ),
    "another label in the meta file": (
        set_meta("submission", "label", value="Lastname_INST_task1_2"),
        "meta_label",
        ".meta.yaml:2 submission.label is Lastname_INST_task1_2",
    ),
    "another label of the folder": (rename_folder, "files", "Lastname_INST_task1_2.meta.yaml is missing"),
    "an output of another label": (
        lambda p: output(p).rename(output(p).with_name("Lastname_INST_task1_2.output.csv")),
        "files",
        "Lastname_INST_task1_1.output.csv is missing",
    ),
    "five systems": (fifth_system, "systems", "5 systems, at most 4"),
    "a number of five": (
        lambda p: (p / "task1" / "Lastname_INST_task1_1").rename(p / "task1" / "Lastname_INST_task1_5"),
        "label",
        "Lastname_INST_task1_5 is not a label",
    ),
    "no meta file": (lambda p: meta(p).unlink(), "files", ".meta.yaml is missing"),
    "no report": (lambda p: named(p, "*.pdf").unlink(), "technical_report", "there is no technical report"),
    "a class missing": (
        lambda p: edit_meta(p, drop(*BASE, "class_wise", "fx-el")),
        "meta_form",
        "bsd10k-v1.2.class_wise.fx-el is missing",
    ),
    "hF in per cent": (
        set_meta(*BASE, "overall", "hF", value=78.76),
        "meta_form",
        "overall.hF must be a number from 0 to 1, found 78.76",
    ),
    "a figure of a class in per cent": (
        set_meta(*BASE, "class_wise", "m-m", "hP", value=61.2),
        "meta_form",
        "m-m.hP must",
    ),
    "two corresponding authors": (
        set_meta("submission", "authors", 1, "corresponding", value=True),
        "authors",
        "2 authors are corresponding",
    ),
    "a file too many": (lambda p: (p / "task1" / "notes.txt").write_text("x"), "no_other_files", "task1/notes.txt"),
}
WARNINGS = {
    "one class for most rows": (
        change_output(lambda table: table.assign(**{CODE: ["m-m"] * 20 + ["fx-o"] * 10})),
        "answers_plausible",
        "20 of 30 rows are m-m",
    ),
    "all scores equal": (change_output(lambda table: table.assign(**{SCORE: "0.5"})), "answers_plausible", "is 0.5"),
    "a row of a failed inference": (
        set_cell(6, SCORE, "0.0435"),
        "answers_plausible",
        ".output.csv:8 prediction_score is 1/23",
    ),
    "no scores": (change_output(lambda table: table.drop(columns=SCORE)), "table_form", ".output.csv:1 has no column"),
    "a long abbreviation": (
        set_meta("submission", "abbreviation", value="more_than_ten"),
        "meta_form",
        "at most 10 characters",
    ),
    "a key of the system missing": (
        lambda p: edit_meta(p, drop("system", "description", "audio_representation")),
        "meta_form",
        "system.description.audio_representation is missing (the form is not verified)",
    ),
    "an overall figure of another run": (
        set_meta(*BASE, "overall", "hF", value=0.9),
        "class_figures",
        "overall hF is 0.9, but the mean of its classes is",
    ),
    "an hF that no folds give": (
        set_meta(*BASE, "class_wise", "m-m", value={"hP": 0.5, "hR": 0.6, "hF": 0.7}),
        "class_figures",
        "hF of m-m is above the mean of its hP and hR",
    ),
    "the placeholder of the report": (lambda p: None, "technical_report", "is the placeholder"),
}


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> Path:
    return write_sounds(tmp_path_factory.mktemp("valid"))


def test_a_valid_package_of_one_system_breaks_no_rule(package):
    name_report(package)
    opened, results = check_package(make_zip(package))
    assert opened.rules.name == "task1_2026" and all(result.holds for result in results)
    assert not any(warnings(package).values())


def test_a_valid_package_of_four_systems_breaks_no_rule(tmp_path):
    for number in (1, 2, 3, 4):
        package = write_sounds(tmp_path, number)
    name_report(package)
    opened, _ = check_package(pack(package))
    assert len(opened.systems) == 4 and not any(warnings(package).values())


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_found_and_its_place_is_named(package, name):
    assert_found(package, DAMAGES[name])


@pytest.mark.parametrize("name", WARNINGS)
def test_what_is_odd_or_not_verified_is_a_warning(package, name):
    assert_found(package, WARNINGS[name], warnings)


def test_two_systems_with_the_same_classes_are_named(tmp_path):
    write_sounds(tmp_path, 1)
    package = write_sounds(tmp_path, 2)
    first, second = (named(package, f"*task1_{number}.output.csv") for number in (1, 2))
    same = pd.read_csv(first).assign(prediction_score=0.3).sample(frac=1, random_state=1)
    same.to_csv(second, index=False)
    (finding,) = warnings(package)["systems_differ"]
    assert (
        finding.place.endswith("task1_2.output.csv")
        and "the same class as task1/Lastname_INST_task1_1" in finding.sentence
    )


def test_the_table_of_bsd2k_is_the_list(package, tmp_path):
    (package / "made_up_evaluation_set.json").unlink()
    texts = pd.DataFrame({"anonymous_id": SOUND_IDS, "title": 'a, "b"\nc', "tags": "", "description": ""})
    texts.to_csv(tmp_path / "BSD2k_metadata.csv", index=False)
    results = check_package(package, evaluation_set=tmp_path / "BSD2k_metadata.csv")[1]
    assert all(result.holds for result in results)
    without = {one.name: one.needs for one in check_package(package)[1] if not one.holds}
    assert set(without) == {"evaluation_list", "evaluation_files"}
    assert "give --evaluation_set" in without["evaluation_files"][0]


def test_ids_are_looked_at_without_a_list_too(package):
    (package / "made_up_evaluation_set.json").unlink()
    DAMAGES["ids cut to 8 characters"][0](package)
    assert "is cut" in broken(package)["ids"][0].sentence


def test_another_evaluation_set_is_named(package):
    edit_declaration(package, lambda data: data["files"].append("a-new-one"))
    assert "1 of 31 files are missing, the first is a-new-one" in broken(package)["evaluation_files"][0].sentence


def test_a_class_that_is_never_predicted_may_be_left_out_of_the_mean(package):
    def change(data: dict) -> None:
        figures = data["results"]["development_datasets"]["bsd10k-v1.2"]
        figures["class_wise"]["m-m"] = {"hP": 0.0, "hR": 0.2, "hF": 0.0}
        others = [one for code, one in figures["class_wise"].items() if code != "m-m"]
        figures["overall"] = {name: sum(one[name] for one in others) / len(others) for name in ("hP", "hR", "hF")}

    edit_meta(package, change)
    assert not warnings(package)["class_figures"]


def test_null_of_a_data_set_that_was_not_tested_is_fine(package):
    replace(meta(package), "hP: null", "hP: !!null")
    assert broken(package) == {}


def test_there_are_at_least_20_damages():
    assert len(DAMAGES) >= 20
