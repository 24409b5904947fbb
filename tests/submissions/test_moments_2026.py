"""Checking and damaging packages of Task 6 of 2026."""

import json
import shutil
from pathlib import Path

import pytest

from submissions.package import check_package, make_zip, pack
from tests.support.damage import assert_found, broken, drop, edit_line, meta, named, put, warnings
from tests.support.packages import MOMENT_QUERIES, edit_meta, report, write_moments

FIGURES = ("results", "development_testing")


def output(package: Path) -> Path:
    return named(package, "*.output.jsonl")


def edit_answer(line: int, **values):
    """A damage of one line; the windows are called `windows`."""
    values = {"pred_relevant_windows" if key == "windows" else key: value for key, value in values.items()}
    return lambda package: edit_line(output(package), line, lambda row: json.dumps(json.loads(row) | values))


def edit_every(change):
    def damage(package: Path) -> None:
        rows = [json.loads(row) for row in output(package).read_text().splitlines()]
        output(package).write_text("".join(f"{json.dumps(change(row))}\n" for row in rows))

    return damage


def edit_text(line: int, change):
    return lambda package: edit_line(output(package), line, change)


def set_meta(*address, value):
    return lambda package: edit_meta(package, put(*address, value=value))


def remove_line(package: Path) -> None:
    rows = output(package).read_text().splitlines(keepends=True)
    output(package).write_text("".join(rows[:2] + rows[3:]))


def fifth_system(package: Path) -> None:
    for number in (2, 3, 4, 5):
        write_moments(package.parent, number) if number < 5 else shutil.copytree(
            package / "task6" / "Lastname_INST_task6_1", package / "task6" / "Lastname_INST_task6_5"
        )


FIRST, LAST = MOMENT_QUERIES[0], MOMENT_QUERIES[7]
DAMAGES = {
    "a query missing": (
        remove_line,
        "moment_queries",
        f"1 of 8 queries are missing, the first is {MOMENT_QUERIES[2]['qid']}",
    ),
    "a qid twice": (
        edit_answer(3, **{name: FIRST[name] for name in ("qid", "query", "vid")}),
        "moment_queries",
        ":3 the qid",
    ),
    "an unknown qid": (
        edit_answer(3, qid="q3"),
        "moment_queries",
        ".output.jsonl:3 q3 is no qid of the evaluation set",
    ),
    "the vid of another query": (edit_answer(1, vid=LAST["vid"]), "moment_queries", ".output.jsonl:1 the vid of "),
    "the text of another query": (edit_answer(1, query="Birds"), "moment_queries", ".output.jsonl:1 the query of "),
    "no window": (
        edit_answer(2, windows=[]),
        "windows",
        ".output.jsonl:2 dcase2026_evaluation_q001: there is no window",
    ),
    "scores left in": (
        edit_answer(2, windows=[[1, 2, 0.9]]),
        "windows",
        ":2 dcase2026_evaluation_q001: [1, 2, 0.9] is not",
    ),
    "a single number": (
        edit_answer(2, windows=[5, 6]),
        "windows",
        ":2 dcase2026_evaluation_q001: 5 is not [start, end]",
    ),
    "numbers as text": (edit_answer(2, windows=[["1", "2"]]), "windows", 'q001: ["1", "2"] is not [start, end]'),
    "true as a number": (edit_answer(2, windows=[[True, 3]]), "windows", "q001: [true, 3] is not [start, end]"),
    "an end before its start": (edit_answer(2, windows=[[1, 5], [9, 3]]), "windows", "[9, 3] starts after its end"),
    "a start before 0 s": (edit_answer(2, windows=[[-1, 5]]), "windows", "[-1, 5] starts before 0 s"),
    "an end after the recording": (
        edit_answer(1, windows=[[50, 62]]),
        "windows",
        "[50, 62] ends after the recording of 60 s",
    ),
    "an endless window": (edit_text(1, lambda row: row.replace("[[", "[[0, 1e999], [", 1)), "windows", "is not finite"),
    "a NaN": (
        edit_text(1, lambda row: row.replace("[[", "[[NaN, 3], [", 1)),
        "jsonl_form",
        ":1 is not JSON: NaN is no number",
    ),
    "a line cut off": (edit_text(4, lambda row: row[:40]), "jsonl_form", ".output.jsonl:4 is not JSON"),
    "a list in place of an object": (
        edit_text(4, lambda row: f"[{row}]"),
        "jsonl_form",
        ".output.jsonl:4 is no object with qid",
    ),
    "a line without vid": (
        edit_text(4, lambda row: row.replace('"vid"', '"video"')),
        "jsonl_form",
        ".output.jsonl:4 vid is missing",
    ),
    "a number as qid": (edit_answer(4, qid=4), "jsonl_form", ".output.jsonl:4 qid is no text"),
    "a blank line": (edit_text(2, lambda row: f"{row}\n"), "jsonl_form", ".output.jsonl:3 is blank"),
    "a byte order mark": (
        lambda p: output(p).write_bytes(b"\xef\xbb\xbf" + output(p).read_bytes()),
        "jsonl_form",
        ".output.jsonl:1 starts with a byte order mark",
    ),
    "one array in place of lines": (
        lambda p: output(p).write_text(json.dumps([json.loads(row) for row in output(p).read_text().splitlines()])),
        "jsonl_form",
        ".output.jsonl:1 is no object",
    ),
    "an empty output": (lambda p: output(p).write_text(""), "files", ".output.jsonl is empty"),
    "no output": (lambda p: output(p).unlink(), "files", ".output.jsonl is missing"),
    "no meta file": (lambda p: meta(p).unlink(), "files", ".meta.yaml is missing"),
    "no report": (lambda p: named(p, "*.pdf").unlink(), "technical_report", "there is no technical report"),
    "another label in the meta file": (
        set_meta("submission", "label", value="Lastname_INST_task6_2"),
        "meta_label",
        ".meta.yaml:2 submission.label is Lastname_INST_task6_2",
    ),
    "a label of another task": (
        lambda p: (p / "task6" / "Lastname_INST_task6_1").rename(p / "task6" / "Lastname_INST_task1_1"),
        "label",
        "Lastname_INST_task1_1 is not a label",
    ),
    "five systems": (fifth_system, "systems", "5 systems, at most 4"),
    "figures as fractions": (
        set_meta(*FIGURES, value={"Recall1@0.7": 0.1359, "Recall1@0.5": 0.24}),
        "moment_figures",
        "every figure is 0.24 or less: give per cent",
    ),
    "R1@0.7 above R1@0.5": (
        set_meta(*FIGURES, "Recall1@0.7", value=30.0),
        "moment_figures",
        "Recall1@0.7 is 30, more than Recall1@0.5 with 22.74",
    ),
    "a long abbreviation": (
        set_meta("submission", "abbreviation", value="more_than_ten"),
        "meta_form",
        "submission.abbreviation must be text of at most 10",
    ),
}
WARNINGS = {
    "more than ten windows": (
        edit_answer(1, windows=[[start, start + 2] for start in range(11)]),
        "windows_plausible",
        ".output.jsonl:1 dcase2026_evaluation_q000 has 11 windows; only the first 10 count",
    ),
    "a window twice": (
        edit_answer(1, windows=[[1, 2], [3, 4], [1, 2]]),
        "windows_plausible",
        ":1 dcase2026_evaluation_q000 has a",
    ),
    "a window of 0 s": (edit_answer(1, windows=[[3, 3]]), "windows_plausible", "q000 has a window of 0 s"),
    "the same windows for every query": (
        edit_every(lambda row: row | {"pred_relevant_windows": [[0, 10]]}),
        "windows_differ",
        "every query has the same windows",
    ),
    "a saliency": (
        edit_answer(1, pred_saliency_scores=[0.1]),
        "jsonl_form",
        ":1 the key 'pred_saliency_scores' is none",
    ),
    "figures not given": (
        lambda p: edit_meta(p, drop(*FIGURES, "Recall1@0.5")),
        "moment_figures",
        "Recall1@0.5 on the CASTELLA test are not given",
    ),
    "a form of the system that is not verified": (
        set_meta("system", "ensemble", value="no"),
        "meta_form",
        "system.ensemble must be true or false",
    ),
}


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> Path:
    return write_moments(tmp_path_factory.mktemp("valid"))


def test_a_valid_package_of_one_system_breaks_no_rule(package):
    named(package, "*.pdf").write_bytes(report())
    opened, results = check_package(make_zip(package))
    assert opened.rules.name == "task6_2026" and all(result.holds for result in results)
    assert not any(warnings(package).values())


def test_a_valid_package_of_four_systems_breaks_no_rule(tmp_path):
    for number in (1, 2, 3, 4):
        package = write_moments(tmp_path, number)
    named(package, "*.pdf").write_bytes(report())
    opened, _ = check_package(pack(package))
    assert len(opened.systems) == 4 and not any(warnings(package).values())


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_found_and_its_place_is_named(package, name):
    assert_found(package, DAMAGES[name])


@pytest.mark.parametrize("name", WARNINGS)
def test_what_is_odd_or_not_verified_is_a_warning(package, name):
    assert_found(package, WARNINGS[name], warnings)


def test_ends_within_a_second_after_the_recording_and_a_duration_are_fine(package):
    edit_answer(1, windows=[[50, 61]], duration=60)(package)
    edit_answer(3, windows=[[50, 62]], duration=61)(package)
    assert broken(package) == {}


def test_two_systems_with_the_same_windows_are_named(tmp_path):
    write_moments(tmp_path, 1)
    package = write_moments(tmp_path, 2)
    first, second = (named(package, f"*task6_{number}.output.jsonl") for number in (1, 2))
    second.write_bytes(first.read_bytes())
    (finding,) = warnings(package)["windows_differ"]
    assert finding.place.endswith("task6_2.output.jsonl") and "the same windows as task6/" in finding.sentence


def test_the_official_jsonl_is_the_list(package, tmp_path):
    (package / "made_up_evaluation_set.json").unlink()
    official = tmp_path / "dcase2026_evaluation.jsonl"
    official.write_text("".join(f"{json.dumps(query)}\n" for query in MOMENT_QUERIES))
    assert all(result.holds for result in check_package(package, evaluation_set=official)[1])
    without = {one.name: one.needs for one in check_package(package)[1] if not one.holds}
    assert set(without) == {"evaluation_list", "moment_queries", "windows"}


def test_without_a_list_windows_and_doubled_qids_are_looked_at(package):
    (package / "made_up_evaluation_set.json").unlink()
    edit_answer(3, qid=FIRST["qid"], duration=60, windows=[[1, 70]])(package)
    found = broken(package)
    assert ":3 the qid" in f"{found['moment_queries'][0].place} {found['moment_queries'][0].sentence}"
    assert "ends after the recording of 60 s" in found["windows"][0].sentence


def test_packages_of_2025_and_2026_without_their_outputs_are_told_apart(package, tmp_path):
    from tests.support.packages import write_retrieval

    output(package).unlink()
    assert check_package(package)[0].rules.name == "task6_2026"
    earlier = write_retrieval(tmp_path / "earlier", "task6_2025")
    named(earlier, "*.output.csv").unlink()
    for path in (earlier, make_zip(earlier)):
        assert check_package(path)[0].rules.name == "task6_2025"


def test_there_are_at_least_15_damages():
    assert len(DAMAGES) >= 15
