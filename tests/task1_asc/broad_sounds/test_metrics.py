import json

import numpy as np
import pytest

from common.errors import UserError
from task1_asc.broad_sounds.metrics import (
    all_scores,
    class_intervals,
    count_indices,
    count_pairs,
    hierarchical_f,
    hierarchical_scores,
    intervals,
    paired_interval,
)
from task1_asc.broad_sounds.taxonomy import CODES
from tests.support.places import GOLDEN, SHARED

FOLDERS = [GOLDEN / "broad_sounds", SHARED / "reference" / "metrics" / "task1_2026"]
FILES = sorted(path for folder in FOLDERS for path in folder.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_scores_are_those_of_the_official_code_and_of_the_winners(path):
    case = json.loads(path.read_text())
    expected, found = case["expected"], all_scores(case["truth"], case["predicted"])
    names = ("hP", "hR", "hF")
    assert [found[name] for name in names] == pytest.approx([expected["zero"][name] for name in names], abs=1e-9)
    assert found["official"] == pytest.approx(expected["left_out"], abs=1e-9)
    assert set(found["never_predicted"]) == set(expected["never_predicted"])
    for name in ("accuracy", "top_accuracy", "macro_accuracy", "macro_top_accuracy", "hierarchical_accuracy"):
        assert found[name] == pytest.approx(expected[name], abs=1e-9)
    for code, figures in expected["per_class"].items():
        assert found["per_class"][code] == pytest.approx({key: value or 0.0 for key, value in figures.items()})
    assert found["per_class"].keys() == expected["per_class"].keys()


def test_a_sibling_counts_three_eighths():
    scores = hierarchical_scores(["m-sp", "m-si"], ["m-si", "m-si"])
    assert scores["per_class"]["m-si"] == pytest.approx({"hP": 1.375 / 2, "hR": 1.0, "hF": 2 * 0.6875 / 1.6875})
    assert scores["never_predicted"] == ["m-sp"]
    assert scores["hR"] == pytest.approx(1.375 / 2) and scores["official"]["hR"] == 1.0


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        (["m-sp"], ["sp-other"], "sp-other is no valid predicted class"),
        (["m-sp"], ["m-ps"], "No predicted class named m-ps. Near it: m-sp"),
        (["sp"], ["m-sp"], "No true class named sp"),
        (["m-sp"], ["m-sp", "m-si"], "1 true classes and 2 predictions"),
        ([], [], "0 true classes"),
    ],
)
def test_codes_that_are_none_are_named(truth, predicted, message):
    with pytest.raises(UserError, match=message):
        hierarchical_scores(truth, predicted)


@pytest.fixture(scope="module")
def pairs():
    """1,000 clips: a system that is right at 70 %, and one at 85 %."""
    random = np.random.default_rng(0)
    truth, noise = random.integers(0, len(CODES), (2, 1000))
    return truth, *(np.where(random.random(1000) < share, truth, noise) for share in (0.7, 0.85))


def test_an_interval_is_that_of_drawn_clips(pairs):
    truth, first, _ = pairs
    interval = intervals(count_indices(truth, first))["hF"]
    random = np.random.default_rng(1)
    drawn = [random.integers(0, 1000, 1000) for _ in range(400)]
    values = [hierarchical_f(count_indices(truth[clips], first[clips])) for clips in drawn]
    assert [interval.low, interval.high] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.008)
    assert interval.low < interval.value < interval.high


def test_class_intervals_hold_the_figures_of_the_classes(pairs):
    truth, first, _ = pairs
    codes = np.array(CODES)
    expected = hierarchical_scores(codes[truth], codes[first])["per_class"]
    found = class_intervals(count_pairs(codes[truth], codes[first]))
    assert {code: interval.value for code, interval in found.items()} == pytest.approx(
        {code: figures["hF"] for code, figures in expected.items()}
    )
    assert all(interval.low < interval.value < interval.high for interval in found.values())


def test_a_better_system_is_better_on_the_same_clips(pairs):
    truth, first, second = pairs
    difference = paired_interval(truth, first, second)
    own = [hierarchical_f(count_indices(truth, system)) for system in (first, second)]
    assert difference.value == pytest.approx(own[1] - own[0]) and difference.low > 0.05
    assert paired_interval(truth, first, first)[:] == (0, 0, 0)
