"""Figures of tagging against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from common.audioset.metrics import average_precisions, mean_average_precision, score_labels, score_tags


def made_up(clips=80, classes=6, seed=0, steps=None):
    random = np.random.default_rng(seed)
    target = random.random((clips, classes)) < np.linspace(0.1, 0.6, classes)
    target[0] = True
    scores = random.normal(size=(clips, classes)) + target
    return (np.round(scores * steps) / steps if steps else scores), target.astype(float)


@pytest.mark.parametrize("steps", [None, 2])  # with steps, many scores are equal
def test_average_precision_is_scikit_learns(steps):
    scores, target = made_up(steps=steps)
    expected = [average_precision_score(target[:, column], scores[:, column]) for column in range(6)]
    assert average_precisions(scores, target) == pytest.approx(expected, abs=1e-12)
    assert mean_average_precision(scores, target) == pytest.approx(np.mean(expected), abs=1e-12)


def test_average_precision_by_hand():
    # Ranked 1 0 1: precision 1 at the first positive, 2/3 at the second.
    assert mean_average_precision([[0.9], [0.8], [0.1]], [[1], [0], [1]]) == pytest.approx((1 + 2 / 3) / 2)


def test_unknown_labels_do_not_count():
    scores, target = made_up()
    weight = (np.random.default_rng(1).random(target.shape) < 0.5).astype(float)
    weight[0] = 1
    expected = [average_precision_score(target[:, c], scores[:, c], sample_weight=weight[:, c]) for c in range(6)]
    assert average_precisions(scores, target, weight) == pytest.approx(expected, abs=1e-12)


def test_classes_without_a_positive_clip_are_left_out():
    scores, target = made_up()
    target[:, 2] = 0
    assert np.isnan(average_precisions(scores, target)[2])
    figures = score_tags(scores, target, range(80), np.random.default_rng(0), resamples=20)
    assert figures["classes"] == 5 and figures["class_wise"][2] is None
    with pytest.raises(ValueError, match="no class has a positive clip"):
        mean_average_precision(scores, np.zeros_like(target))


def test_the_interval_is_that_of_drawing_recordings():
    scores, target = made_up(clips=60)
    groups = np.repeat(np.arange(20), 3)
    figures = score_tags(scores, target, groups, np.random.default_rng(0), resamples=300)
    random = np.random.default_rng(5)
    drawn = []
    for _ in range(300):
        clips = np.concatenate([np.flatnonzero(groups == group) for group in random.integers(20, size=20)])
        each = average_precisions(scores[clips], target[clips])
        drawn.append(np.nanmean(each))
    assert figures["mAP"]["low"] == pytest.approx(np.quantile(drawn, 0.025), abs=0.015)
    assert figures["mAP"]["high"] == pytest.approx(np.quantile(drawn, 0.975), abs=0.015)
    assert figures["roc_auc"] == pytest.approx(roc_auc_score(target, scores, average="macro"))


def test_accuracy_has_an_interval_over_recordings():
    target = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    logits = np.eye(3)[[0, 1, 2, 0, 2, 1]]
    figures = score_labels(logits, target, [0, 0, 0, 1, 1, 1], np.random.default_rng(0))
    assert figures["accuracy"]["value"] == pytest.approx(4 / 6)
    assert figures["accuracy"]["low"] == pytest.approx(1 / 3)
    assert figures["accuracy"]["high"] == pytest.approx(1.0)
    assert figures["class_wise"] == [1.0, 0.5, 0.5]


def test_one_recording_gives_no_interval():
    scores, target = made_up(clips=4)
    assert np.isnan(score_tags(scores, target, [0] * 4, np.random.default_rng(0))["mAP"]["low"])
