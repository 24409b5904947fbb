"""Recall1 and mAP of moments against the official evaluation code, and by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from retrieval.moments.metrics import (
    THRESHOLDS,
    intersection_over_union,
    mean_average_precision,
    of_length,
    recall_at_1,
    score,
)
from tests.support.places import GOLDEN, SHARED

COPIED = GOLDEN / "moments"
WHOLE = SHARED / "reference" / "metrics" / "moments"
SETS = json.loads((COPIED / "expected.json").read_text())["sets"]


def read(path: Path) -> dict:
    rows = map(json.loads, path.read_text().splitlines())
    return {row["qid"]: row["pred_relevant_windows"] for row in rows}


def assert_official(predictions, truth, expected):
    assert recall_at_1(predictions, truth) == pytest.approx(list(expected["R1"].values()), rel=1e-9, abs=1e-12)
    precision = mean_average_precision(predictions, truth, THRESHOLDS)
    assert precision == pytest.approx(list(expected["AP"].values()), rel=1e-9, abs=1e-12)
    assert precision.mean() == pytest.approx(expected["mAP"], rel=1e-9)


@pytest.mark.parametrize("name", SETS)
def test_the_figures_are_the_official_ones(name):
    predictions, truth = read(COPIED / f"{name}.jsonl"), json.loads((COPIED / "truth.json").read_text())
    queries = SETS[name].get("truth_qids", predictions)
    assert_official(predictions, {qid: truth[qid] for qid in queries}, SETS[name])


def test_the_figures_of_all_reference_sets_are_the_official_ones(shared):
    annotations = (shared / "data" / "castella" / "castella_val_release.jsonl").read_text()
    truth = {row["qid"]: row["relevant_windows"] for row in map(json.loads, annotations.splitlines())}
    for name, expected in json.loads((WHOLE / "expected.json").read_text())["sets"].items():
        predictions = read(WHOLE / f"{name}.jsonl")
        queries = expected.get("truth_qids", predictions)
        assert_official(predictions, {qid: truth[qid] for qid in queries}, expected.get("expected", expected))


def test_the_first_listed_window_decides_recall_whatever_its_score():
    truth = {"a": [[0, 10]], "b": [[0, 10]]}
    predictions = {"a": [[0, 10, 0.1], [20, 30, 0.9]], "b": [[20, 30, 0.1], [0, 10, 0.9]]}
    assert recall_at_1(predictions, truth, [0.5]).tolist() == [0.5]
    # a: wrong one first (precision 1/2); b: right one first
    assert mean_average_precision(predictions, truth, [0.5]).tolist() == [0.75]


def test_a_query_without_prediction_counts_as_a_miss():
    truth = {"a": [[0, 10]], "b": [[0, 10]], "c": [[0, 10]]}
    assert recall_at_1({"a": [[0, 10]], "b": []}, truth, [0.5]).tolist() == pytest.approx([1 / 3])
    assert mean_average_precision({"a": [[0, 10]], "b": []}, truth, [0.5]).tolist() == pytest.approx([1 / 3])


def test_two_empty_windows_do_not_overlap():
    windows = np.array([[3.0, 3.0], [2.0, 4.0]])
    assert intersection_over_union(windows, windows).tolist() == [[0, 0], [0, 1]]


def test_recall_by_length_asks_only_for_windows_of_that_length():
    truth = {"a": [[0, 4], [10, 40]], "b": [[0, 20]]}
    figures = score({"a": [[10, 40]], "b": [[0, 20]]}, truth, ["x", "y"])
    by_length = {name: figure.value for name, figure in figures.items() if "R1@0.7 " in name}
    assert by_length == {"R1@0.7 under 5 s": 0, "R1@0.7 5 to 20 s": 1, "R1@0.7 over 20 s": 1}
    assert [of_length([[0, 5]], name).shape[0] for name in ("under 5 s", "5 to 20 s")] == [0, 1]


def test_intervals_draw_recordings_not_queries():
    truth = {str(number): [[0, 10]] for number in range(40)}
    predictions = {str(number): [[0, 10]] for number in range(20)}
    own = score(predictions, truth, [str(number) for number in range(40)])["R1@0.7"]
    two = score(predictions, truth, ["first"] * 20 + ["second"] * 20)["R1@0.7"]
    assert own.value == two.value == 0.5
    assert (two.low, two.high) == (0, 1) and 0.3 < own.low < own.high < 0.7


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ([[5, 3]], "ends before it starts"),
        ([[0, float("nan")]], "NaN"),
        ([[0, 1, 2, 3]], "2 or 3 numbers"),
        ([[0, "x"]], "2 or 3 numbers"),
    ],
)
def test_windows_that_are_none_are_refused_with_their_query(windows, message):
    with pytest.raises(UserError, match=f"query a .*{message}"):
        recall_at_1({"a": windows}, {"a": [[0, 1]]}, [0.5])
    with pytest.raises(UserError, match="no true window"):
        recall_at_1({}, {"a": []}, [0.5])
