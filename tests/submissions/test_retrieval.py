"""Checking and damaging retrieval packages of 2024 (ten names) and 2025 (full matrix)."""

import shutil
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from submissions.checks.retrieval import matrix_rows_vary
from submissions.package import check_package, make_zip
from tests.support.damage import assert_found, broken, drop, edit_line, put
from tests.support.packages import RETRIEVAL_FILES, edit_declaration, edit_meta, write_retrieval


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("valid")
    return {name: write_retrieval(folder, name) for name in ("task8_2024", "task6_2025")}


def output(package: Path) -> Path:
    return next(package.rglob("*.output.csv"))


def edit_table(package: Path, change) -> None:
    table = pd.read_csv(output(package), keep_default_na=False)
    table = change(table)
    table.to_csv(output(package), index=False)


def cell(row: int, column: int, value):
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table = table.astype(object)
        table.iat[row, column] = value
        return table

    return change


def twice_ranked(table: pd.DataFrame) -> pd.DataFrame:
    return cell(1, 5, table.iat[1, 2])(table)


def equal_answers(table: pd.DataFrame) -> pd.DataFrame:
    table.iloc[:, 1:] = table.iloc[0, 1:].to_numpy()
    return table


def equal_row(table: pd.DataFrame) -> pd.DataFrame:
    table.iloc[1, 1:] = 0.5
    return table


def renamed(old: str, new: str):
    return lambda p: output(p).write_text(output(p).read_text().replace(old, new))


def swap_queries(table: pd.DataFrame) -> pd.DataFrame:
    return table.iloc[[1, 0, 2, 3]]


def unquote(package: Path) -> None:
    output(package).write_text(
        output(package).read_text().replace('"a man says ""hello"", twice"', "a man says, twice")
    )


EVALUATION = ("results", "development_evaluation")
META_DAMAGES = {
    "a meta file missing": (lambda p: next(p.rglob("*.meta.yaml")).unlink(), "files", ".meta.yaml is missing"),
    "an output missing": (lambda p: output(p).unlink(), "files", ".output.csv is missing"),
    "another label in the meta file": (
        lambda p: edit_meta(p, put("submission", "label", value="Other_TU_task8_1")),
        "meta_label",
        ".meta.yaml:2 submission.label is Other_TU_task8_1",
    ),
    "a long abbreviation": (
        lambda p: edit_meta(p, put("submission", "abbreviation", value="more_than_ten")),
        "meta_form",
        "submission.abbreviation must be text of at most 10",
    ),
    "no parameter count": (
        lambda p: edit_meta(p, put("system", "complexity", "total_parameters", value=None)),
        "meta_form",
        "system.complexity.total_parameters must be a whole number, 1 or more, found nothing",
    ),
    "a figure missing": (
        lambda p: edit_meta(p, drop(*EVALUATION, "mAP@10")),
        "meta_form",
        "results.development_evaluation.mAP@10 is missing",
    ),
    "figures in per cent": (
        lambda p: edit_meta(p, put(*EVALUATION, "R@10", value=60.0)),
        "meta_form",
        "development_evaluation.R@10 must be a number from 0 to 1, found 60",
    ),
    "R@5 above R@10": (
        lambda p: edit_meta(p, put(*EVALUATION, "R@5", value=0.7)),
        "recall_plausible",
        "R@5 is 0.7, more than R@10 with 0.6",
    ),
    "mAP@10 above R@10": (
        lambda p: edit_meta(p, put(*EVALUATION, "mAP@10", value=0.65)),
        "recall_plausible",
        "mAP@10 is 0.65, more than R@10",
    ),
    "no corresponding author": (
        lambda p: edit_meta(p, put("submission", "authors", 0, "corresponding", value=False)),
        "authors",
        "0 authors are corresponding",
    ),
    "a file too many": (lambda p: (p / "audio.wav").write_text("x"), "no_other_files", "audio.wav"),
}
RANKED_DAMAGES = {
    **META_DAMAGES,
    "a query missing": (
        lambda p: edit_table(p, lambda table: table.drop(index=0)),
        "queries",
        ".output.csv 3 queries, expected 4; 'rain falls' is missing",
    ),
    "a query changed": (
        lambda p: edit_table(p, cell(0, 0, "Rain falls.")),
        "queries",
        ".output.csv:2 the query is 'Rain falls.', expected 'rain falls'",
    ),
    "queries in another order": (lambda p: edit_table(p, swap_queries), "queries", "(the order differs)"),
    "a query twice": (
        lambda p: edit_table(p, cell(3, 0, "rain falls")),
        "queries",
        ".output.csv:6 the query is 'rain falls', expected 'a door opens'",
    ),
    "an empty query": (lambda p: edit_table(p, cell(3, 0, "")), "queries", ".output.csv:6 the query is empty"),
    "a query with a comma that is not quoted": (unquote, "table_form", ".output.csv:3 12 fields, the header has 11"),
    "a header of numbers": (
        lambda p: edit_line(output(p), 1, lambda row: ",".join(map(str, range(11)))),
        "table_form",
        ".output.csv:1 column 1 is '0', expected 'caption'",
    ),
    "only nine names": (
        lambda p: edit_table(p, lambda table: table.drop(columns="file_name_10")),
        "table_form",
        "the last ['file_name_10'] are missing",
    ),
    "a name twice in a row": (lambda p: edit_table(p, twice_ranked), "distinct_files", ".output.csv:3 "),
    "an empty name": (
        lambda p: edit_table(p, cell(3, 4, "")),
        "distinct_files",
        ".output.csv:6 file_name_4 is empty",
    ),
    "a name that is not in the set": (
        lambda p: edit_table(p, cell(2, 1, "thunder.wav")),
        "ranked_names",
        ".output.csv:4 'thunder.wav' is no file of the set",
    ),
    "a leading blank lost": (
        renamed(" birds.wav", "birds.wav"),
        "ranked_names",
        "'birds.wav' is no file of the set; ' birds.wav' is, with its blanks",
    ),
    "a colon turned into a low line": (
        renamed("Tür: auf.wav", "Tür_ auf.wav"),
        "ranked_names",
        "'Tür: auf.wav' is",
    ),
    "letters composed in another way": (
        renamed("Tür: auf.wav", unicodedata.normalize("NFD", "Tür: auf.wav")),
        "ranked_names",
        "composed differently (Unicode form)",
    ),
    "the same answer for every query": (
        lambda p: edit_table(p, equal_answers),
        "not_collapsed",
        "every row has the same answer",
    ),
}
MATRIX_DAMAGES = {
    **META_DAMAGES,
    "a query missing": (
        lambda p: edit_table(p, lambda table: table.drop(index=0)),
        "queries",
        "3 queries, expected 4; 'rain falls' is missing",
    ),
    "a query changed": (lambda p: edit_table(p, cell(3, 0, "doors")), "queries", ".output.csv:6 the query is 'doors'"),
    "a file missing": (
        lambda p: edit_table(p, lambda table: table.drop(columns="3 rain.wav")),
        "matrix_names",
        ".output.csv:1 1 of 12 files have no column, the first is '3 rain.wav'",
    ),
    "a file too many": (
        lambda p: edit_table(p, lambda table: table.assign(**{"new.wav": 0.1})),
        "matrix_names",
        ".output.csv:1 'new.wav' is no file of the set",
    ),
    "a file twice": (
        renamed("3 rain.wav", "4 rain.wav"),
        "matrix_names",
        ".output.csv:1 two columns are called '4 rain.wav'",
    ),
    "a leading blank lost": (renamed(" birds.wav", "birds.wav"), "matrix_names", "with its blanks"),
    "no name over the queries": (
        renamed("index,", "query,"),
        "matrix_names",
        ".output.csv:1 the first column is 'query', expected 'index'",
    ),
    "a NaN": (
        lambda p: edit_table(p, cell(1, 3, "nan")),
        "numbers",
        ".output.csv:3 2 rain.wav is nan, not a finite number",
    ),
    "an infinite value": (
        lambda p: edit_table(p, cell(3, 3, "inf")),
        "numbers",
        ".output.csv:6 2 rain.wav is inf, not a finite number",
    ),
    "an empty cell": (lambda p: edit_table(p, cell(1, 3, "")), "numbers", ".output.csv:3 "),
    "a row that is equal throughout": (
        lambda p: edit_table(p, equal_row),
        "rows_vary",
        ".output.csv:3 every file has the same similarity",
    ),
    "the same answer for every query": (lambda p: edit_table(p, equal_answers), "not_collapsed", "the same answer"),
    "a row cut off": (
        lambda p: edit_line(output(p), 2, lambda row: row.rsplit(",", 2)[0]),
        "table_form",
        ".output.csv:2 11 fields, the header has 13",
    ),
}
CASES = [("task8_2024", name) for name in RANKED_DAMAGES] + [("task6_2025", name) for name in MATRIX_DAMAGES]


@pytest.mark.parametrize("rules", ["task8_2024", "task6_2025"])
def test_a_valid_package_breaks_no_rule(valid, rules):
    assert broken(valid[rules]) == {}
    opened, results = check_package(make_zip(valid[rules]))
    assert opened.rules.name == rules and all(result.holds for result in results)


@pytest.mark.parametrize(("rules", "name"), CASES)
def test_every_damage_is_found_and_its_place_is_named(valid, tmp_path, rules, name):
    package = shutil.copytree(valid[rules], tmp_path / valid[rules].name)
    assert_found(package, (RANKED_DAMAGES if rules == "task8_2024" else MATRIX_DAMAGES)[name])


def test_there_are_at_least_20_damages_of_each_year():
    assert len(RANKED_DAMAGES) >= 20 and len(MATRIX_DAMAGES) >= 20


def test_without_the_official_list_a_doubled_query_is_a_warning(valid, tmp_path):
    package = shutil.copytree(valid["task8_2024"], tmp_path / "package")
    (package / "made_up_evaluation_set.json").unlink()
    edit_table(package, cell(3, 0, "rain falls"))
    results = {result.name: result for result in check_package(package)[1]}
    assert [finding.kind for finding in results["queries"].findings] == ["warning"]
    unchecked = {name: result.needs for name, result in results.items() if not result.holds}
    assert set(unchecked) == {"evaluation_list", "queries", "ranked_names"}
    assert all("give --evaluation_set" in needs[0] for needs in unchecked.values())


def test_a_query_may_stand_twice_where_the_official_list_has_it_twice(valid, tmp_path):
    package = shutil.copytree(valid["task8_2024"], tmp_path / "package")
    first = pd.read_csv(output(package))["caption"][0]
    edit_table(package, cell(3, 0, first))
    edit_declaration(package, lambda data: data["queries"].__setitem__(3, first))
    results = {result.name: result for result in check_package(package)[1]}
    assert results["queries"].holds and not results["queries"].findings


def test_a_matrix_of_two_files_needs_rows_that_vary():
    table = pd.DataFrame({"caption": ["x", "y"], "a.wav": ["0.5", "0.5"], "b.wav": ["0.5", "0.6"]})
    system = SimpleNamespace(
        tables=lambda: [("t.csv", table)], row_place=lambda name, row: f"{name}:{row + 2}", place=lambda name: name
    )
    findings = list(matrix_rows_vary(system, column="caption"))
    assert [finding.place for finding in findings] == ["t.csv:2"]


def test_queries_with_line_breaks_do_not_shift_the_lines(valid, tmp_path):
    package = shutil.copytree(valid["task8_2024"], tmp_path / "package")
    edit_declaration(package, lambda data: data["queries"].__setitem__(3, "a window opens"))
    place = broken(package)["queries"][0].place
    assert place.endswith(":6")
    assert output(package).read_text().splitlines()[5].startswith("a door opens")


def test_the_files_of_the_fixture_hold_the_known_traps():
    assert any(name.startswith(" ") for name in RETRIEVAL_FILES) and any(":" in name for name in RETRIEVAL_FILES)
