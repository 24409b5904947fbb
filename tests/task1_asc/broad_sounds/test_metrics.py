import json
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from task1_asc.broad_sounds.metrics import (
    all_scores,
    class_draws,
    draw_counts,
    hierarchical_scores,
    interval_of,
    mean_draws,
    spell_missed,
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


def halves(truth, predicted):
    return [(truth[:500], predicted[:500]), (truth[500:], predicted[500:])]


def test_figures_are_means_over_folds(pairs):
    truth, first, _ = pairs
    codes, counts = np.array(CODES), draw_counts(halves(truth, first))
    folds = [all_scores(codes[one], codes[other]) for one, other in halves(truth, first)]
    for name, draws in mean_draws(counts).items():
        assert draws[0] == pytest.approx(np.mean([fold[name] for fold in folds]))
    for code, figures in class_draws(counts).items():
        for name, draws in figures.items():
            assert draws[0] == pytest.approx(np.mean([fold["per_class"][code][name] for fold in folds]))


def test_an_interval_has_the_width_of_a_binomial_one(pairs):
    truth, first, _ = pairs
    accuracy = interval_of(mean_draws(draw_counts([(truth, first)]))["accuracy"])
    expected = 1.96 * np.sqrt(accuracy.value * (1 - accuracy.value) / 1000)
    assert accuracy.high - accuracy.value == pytest.approx(expected, rel=0.15)
    assert accuracy.value - accuracy.low == pytest.approx(expected, rel=0.15)


def test_a_better_system_is_better_on_the_same_clips(pairs):
    truth, first, second = pairs
    draws = [mean_draws(draw_counts([(truth, system)]))["hF"] for system in (first, second)]
    paired = interval_of(draws[1] - draws[0])
    assert paired.low > 0.05
    assert paired.high - paired.low < np.ptp(draws[0][1:]) + np.ptp(draws[1][1:])
    assert np.ptp(mean_draws(draw_counts([(truth, first)]))["hF"] - draws[0]) == 0


def test_a_long_list_of_missed_classes_is_shortened():
    where = Path("run/test/evaluation.json")
    assert spell_missed(CODES[:4], where) == "m-sp, m-si, m-m, is-p"
    told = spell_missed(CODES[:13], where)
    assert told == f"13 of 23 classes (m-sp, m-si, m-m, is-p, ...; all in never_predicted of {where})"
    assert spell_missed(CODES[:13], None) == ", ".join(CODES[:13])
