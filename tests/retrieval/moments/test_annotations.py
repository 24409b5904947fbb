"""Queries of CASTELLA: counts, oddities, and what a damaged file is told."""

import json

import numpy as np
import pytest

from common.errors import UserError
from retrieval.moments.annotations import (
    Query,
    check_annotations,
    cut_windows,
    read_predictions,
    read_queries,
    write_predictions,
)

LINE = {"qid": "a_1", "query": "A dog barks", "duration": 20, "vid": "a", "relevant_windows": [[4, 9], [12, 15]]}


def write(path, *lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_the_published_files_have_their_counts_and_named_oddities(shared):
    report = check_annotations(shared / "data" / "castella")
    assert report.problems == []
    found = {row["file"].split("_")[1]: (row["queries"], row["recordings"], row["end late"]) for row in report.rows}
    assert found == {"train": (2182, 876, 162), "val": (352, 178, 12)}
    assert any("67AE9ZKvECs_1 is [299.0, 4800.0]" in note for note in report.notes)
    assert any("2,208" in note for note in report.notes)


def test_a_shorter_file_and_a_recording_in_two_splits_are_problems(tmp_path):
    write(tmp_path / "castella_train_release.jsonl", LINE)
    write(tmp_path / "castella_val_release.jsonl", LINE)
    problems = " ".join(check_annotations(tmp_path).problems)
    assert "castella_train_release.jsonl has 1 queries, officially 2,182" in problems
    assert "1 recordings are in castella_train_release.jsonl and castella_val_release.jsonl" in problems


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": "  "}, "the query a_1 is empty"),
        ({"relevant_windows": [[9, 4]]}, "ends before it starts"),
        ({"relevant_windows": [[float("nan"), 4]]}, "NaN"),
        ({"relevant_windows": [[3, 3]]}, "is empty"),
        ({"relevant_windows": [[-1, 3]]}, "before 0 s"),
        ({"relevant_windows": []}, "no relevant_windows"),
        ({"relevant_windows": [[1, 2, 3]]}, "is not 2 numbers"),
        ({"duration": float("inf")}, "duration"),
        ({"duration": "20"}, 'duration is "20"'),
        ({"vid": None}, "vid is null"),
    ],
)
def test_a_damaged_line_is_told_with_file_and_line(tmp_path, change, message):
    path = write(tmp_path / "q.jsonl", {**LINE, "qid": "b_1"}, LINE | change)
    with pytest.raises(UserError, match=message) as told:
        read_queries(path)
    assert f"{path}:2" in str(told.value)


def test_doubled_qids_and_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"q.jsonl:2 has the qid a_1 again"):
        read_queries(write(tmp_path / "q.jsonl", LINE, LINE))
    with pytest.raises(UserError, match=r"q.jsonl:1 is not JSON"):
        read_queries(write(tmp_path / "q.jsonl", "{"))
    with pytest.raises(UserError, match="holds a list"):
        read_queries(write(tmp_path / "q.jsonl", [LINE]))
    with pytest.raises(UserError, match="is empty"):
        read_queries(write(tmp_path / "q.jsonl", "\n"))
    with pytest.raises(UserError, match="does not exist"):
        read_queries(tmp_path / "none.jsonl")


def test_windows_beyond_the_recording_are_cut_for_training_alone():
    query = Query("q", "x", "v", 20.0, np.array([[18.0, 21.0], [20.0, 4800.0], [1.0, 2.0]]))
    assert cut_windows(query).tolist() == [[18, 20], [19, 20], [1, 2]]
    assert cut_windows(query, 10).tolist() == [[1, 2]]
    with pytest.raises(UserError, match=r"raise data\.max_seconds"):
        cut_windows(query, 1)


def test_predictions_come_back_as_they_were_written(tmp_path):
    queries = [Query("a_1", "Ein Büro", "a", 20.0, np.empty((0, 2))), Query("a_2", "x", "a", 20.0, np.empty((0, 2)))]
    windows = {"a_1": np.array([[0.0, 5.0, 0.75], [3.0, 4.0, 0.5]]), "a_2": np.empty((0, 3))}
    write_predictions(tmp_path / "p.jsonl", queries, windows)
    found = read_predictions(tmp_path / "p.jsonl")
    assert found["a_1"].tolist() == windows["a_1"].tolist() and not len(found["a_2"])
