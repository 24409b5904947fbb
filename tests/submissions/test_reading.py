"""Lists of evaluation sets, output tables and the systems of a package, as they are read."""

import json
from pathlib import Path

import pandas as pd
import pytest

from common.errors import UserError
from submissions.reading import (
    MAX_LINE,
    EvaluationFiles,
    NeedsOption,
    System,
    Unreadable,
    open_package,
    read_evaluation_set,
    read_table,
)
from submissions.rules import load_rules
from tests.support.packages import write_task1

FILES = ["a.wav", "b.wav"]
LINES = [{"qid": 1, "query": "a bell", "vid": "a.wav", "duration": 10.5},
         {"qid": 2, "query": "a dog", "vid": "b.wav", "duration": 3}]  # fmt: skip
LISTS = {
    "set.json": (json.dumps({"files": FILES, "durations": {"a.wav": 10.5}, "made_up": True}), {"a.wav": 10.5}, []),
    "set.csv": ("filename,duration\na.wav,10.5\nb.wav,3\n", {"a.wav": 10.5, "b.wav": 3}, []),
    "ids.csv": ("anonymous_id\na.wav\nb.wav\n", {}, []),
    "set.tsv": ("file_name\tcaption\na.wav\ta bell\nb.wav\tNA\na.wav\ta dog\n", {}, ["a bell", "NA", "a dog"]),
    "set.jsonl": ("\n".join(map(json.dumps, LINES)) + "\n\n", {"a.wav": 10.5, "b.wav": 3}, []),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_an_evaluation_set_is_read_in_every_form(tmp_path, name):
    text, durations, queries = LISTS[name]
    (tmp_path / name).write_text(text)
    found = read_evaluation_set(tmp_path / name)
    assert (found.files, found.durations, found.queries) == (FILES, durations, queries)
    assert found.source == str(tmp_path / name) and found.made_up == (name == "set.json")
    assert read_evaluation_set(tmp_path / name, "the list").source == "the list"
    assert found.qids == ({"1": ("a bell", "a.wav"), "2": ("a dog", "b.wav")} if name == "set.jsonl" else {})


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv", "file\na.wav\n"), ("a.tsv", "filename,duration\na.wav,1\n"),
     ("a.csv", "filename,duration\na.wav,long\n"), ("a.json", '{"files": [1]}'), ("a.jsonl", "{}"),
     ("a.jsonl", "\n".join([json.dumps(LINES[0])] * 2))],
)  # fmt: skip
def test_what_is_no_list_is_refused_with_the_forms_that_are(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=rf"{name} is not the list of an evaluation set \(.+\)\. It needs"):
        read_evaluation_set(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        read_evaluation_set(tmp_path / "absent.csv")


def test_a_rule_that_needs_what_the_list_has_not_asks_for_it():
    rules = load_rules("task1_2024")
    known = System("a", "task1/a", {}, rules, EvaluationFiles(files=FILES, durations={"a.wav": 1.0}))
    assert known.evaluation().files == FILES and known.evaluation("durations").durations == {"a.wav": 1.0}
    with pytest.raises(NeedsOption, match=r"the queries of .* are not known; give --evaluation_set"):
        known.evaluation("queries")
    with pytest.raises(NeedsOption, match="the files of"):
        System("a", "task1/a", {}, rules, None).evaluation()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("", "is not a table"), ("a\tb\n1\t2\t3\n4\t5\t6\n", "rows longer than its header"),
     ("a\tb\n1\t2\n3\t4\t5\n", "is not a table"),
     ("a\tb\n" + "1" * (MAX_LINE + 1) + "\t2\n", "a line of more than 2,000")],
    ids=["empty", "longer", "ragged", "huge"],
)  # fmt: skip
def test_a_table_with_other_rows_than_its_header_is_unreadable(tmp_path, text, sentence):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(Unreadable, match=sentence):
        read_table(tmp_path / "t.csv", "\t")


def test_cells_stay_what_they_are(tmp_path):
    text = 'filename\tx\ty\tz\n001.wav\t0.5\tTrue\tNA\nNA\t1\tFalse\t"q\n'
    (tmp_path / "t.csv").write_text(text)
    table = read_table(tmp_path / "t.csv", "\t")
    assert table["filename"].tolist() == ["001.wav", "NA"] and table["x"].tolist() == [0.5, 1]
    assert table["y"].tolist() == ["True", "False"] and table["z"].tolist() == ["NA", '"q']
    (tmp_path / "t.csv").write_text('filename,x\na.wav,"1\n2"\n\nb.wav,3\n')
    rows = read_table(tmp_path / "t.csv", ",")
    assert len(rows) == 3 and rows["x"].tolist()[0] == "1\n2"  # a blank line is a row: lines are counted


def test_a_text_at_the_end_of_a_long_column_makes_all_of_it_text(tmp_path):
    """Read piece by piece, the column would hold numbers and texts."""
    (tmp_path / "t.csv").write_text("filename,x\n" + "a.wav,1\n" * 300_000 + "b.wav,loud\n")
    assert {type(value) for value in read_table(tmp_path / "t.csv", ",")["x"]} == {str}


def test_lines_of_a_table_count_line_breaks_in_cells():
    system = System("a", "task1/a", {}, load_rules("task1_2024"), None)
    system._tables["t.csv"] = pd.DataFrame({"filename": ["a\nb", "c", "d"], "x": [1, 2, 3]})
    assert [system.row_place("t.csv", row) for row in range(3)] == [
        "task1/a/t.csv:2", "task1/a/t.csv:4", "task1/a/t.csv:5"
    ]  # fmt: skip
    assert system.place("t.csv") == "task1/a/t.csv"


def test_systems_are_the_folders_below_the_task_and_other_files_belong_to_none(tmp_path):
    package = write_task1(tmp_path)
    label = next(path.name for path in (package / "task1").iterdir() if path.is_dir())
    with open_package(package) as opened:
        (system,) = opened.systems
        assert (system.label, system.prefix, system.package) == (label, f"task1/{label}", "Lastname_INST_task1")
        assert f"{label}.meta.yaml" in system.files and system.meta.data is not None
        assert len(system.table_names) == 5 and [name.rpartition("_")[2] for name in system.table_names] == [
            "5.csv", "10.csv", "25.csv", "50.csv", "100.csv"
        ]  # fmt: skip
        assert all(name.count("/") < 2 for name in opened.shared_files) and len(opened.shared_files) >= 2
        assert opened.evaluation is not None and opened.evaluation.made_up
        table = Path(system.files[system.table_names[0]])
        assert table.is_file()
    given = EvaluationFiles(files=FILES)
    with open_package(package, evaluation_set=given) as opened:
        assert opened.evaluation is given
