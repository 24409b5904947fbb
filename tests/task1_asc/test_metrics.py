import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix
from sklearn.metrics import log_loss as sklearn_log_loss

from task1_asc.data.tau2022 import CLASSES, DEVICES
from task1_asc.evaluate import write_predictions
from task1_asc.metrics import log_loss, macro_accuracy, percent, rank_score, read_published, score_scenes


def random(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def clips():
    """Logits, targets, devices and segments of 900 clips: 90 segments of ten, classes of different size."""
    generator = random(1)
    target = np.repeat(np.minimum(generator.integers(0, 13, 90), 9), 10)
    logits = generator.normal(size=(900, 10)).astype(np.float32)
    logits[np.arange(900), target] += 1.5
    return logits, target, np.repeat(np.resize(DEVICES, 90), 10), np.repeat(np.arange(90), 10)


@pytest.fixture(scope="module")
def scores(clips):
    return score_scenes(*clips, random(0), resamples=200)


def test_macro_accuracy_is_the_mean_over_classes():
    """Class 0: 3 of 4 right, class 1: 0 of 1."""
    assert macro_accuracy([0, 0, 0, 1, 0], [0, 0, 0, 0, 1]) == (3 / 4 + 0) / 2


def test_macro_accuracy_is_scikit_learns_balanced_accuracy(clips):
    logits, target, *_ = clips
    assert macro_accuracy(logits, target) == pytest.approx(balanced_accuracy_score(target, logits.argmax(axis=1)))


def test_macro_accuracy_takes_logits_or_classes(clips):
    logits, target, *_ = clips
    assert macro_accuracy(logits, target) == macro_accuracy(logits.argmax(axis=1), target)


def test_nothing_has_no_accuracy():
    with pytest.raises(ValueError, match="predictions"):
        macro_accuracy([], [])
    with pytest.raises(ValueError, match="predictions"):
        macro_accuracy([1, 2], [1])


def test_log_loss_is_scikit_learns(clips):
    logits, target, *_ = clips
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert log_loss(logits, target) == pytest.approx(
        sklearn_log_loss(target, probabilities, labels=range(10)), rel=1e-5
    )


def test_log_loss_of_half_precision_logits_is_finite():
    assert log_loss(np.array([[0, 60], [0, 60]], dtype=np.float16), [0, 1]) == pytest.approx(30)


def test_the_rank_score_is_the_mean_of_five_subsets():
    """The baseline's row of the challenge: 50.73."""
    published = read_published()["evaluation_set"]
    assert rank_score(published["macro_accuracy"]) == pytest.approx(published["rank_score"], abs=0.005)
    with pytest.raises(ValueError, match=r"\[100\] are missing"):
        rank_score({5: 0.1, 10: 0.2, 25: 0.3, 50: 0.4})


def test_the_figures_are_those_of_plain_code(clips, scores):
    logits, target, devices, _ = clips
    right = logits.argmax(axis=1) == target
    assert scores["macro_accuracy"]["value"] == pytest.approx(macro_accuracy(logits, target))
    assert scores["accuracy"]["value"] == pytest.approx(right.mean())
    assert scores["log_loss"]["value"] == pytest.approx(log_loss(logits, target))
    for number, name in enumerate(CLASSES):
        assert scores["class_wise"][name]["accuracy"] == pytest.approx(right[target == number].mean())
    for name in DEVICES:
        figures = scores["device_wise"][name]
        assert figures["accuracy"] == pytest.approx(right[devices == name].mean())
        assert figures["log_loss"] == pytest.approx(log_loss(logits[devices == name], target[devices == name]))
    unseen = np.isin(devices, ["s4", "s5", "s6"])
    assert scores["groups"]["unseen"]["accuracy"] == pytest.approx(right[unseen].mean())
    assert scores["groups"]["unseen"]["clips"] == unseen.sum()
    assert scores["confusion"] == confusion_matrix(target, logits.argmax(axis=1), labels=range(10)).tolist()


def test_every_figure_lies_within_its_interval(scores):
    for part in [*scores["class_wise"].values(), *scores["device_wise"].values(), *scores["groups"].values()]:
        assert part["accuracy_low"] <= part["accuracy"] <= part["accuracy_high"]
        assert part["log_loss_low"] <= part["log_loss"] <= part["log_loss_high"]
    for name in ("macro_accuracy", "accuracy", "log_loss"):
        assert scores[name]["low"] < scores[name]["value"] < scores[name]["high"]


def test_pieces_of_a_segment_stay_together_in_the_bootstrap():
    """Ten equal pieces per segment tell no more than one piece."""
    target = np.arange(60) % 10
    logits = random(3).normal(size=(60, 10))
    logits[np.arange(60), target] += 1
    devices = np.resize(DEVICES, 60)
    once = score_scenes(logits, target, devices, np.arange(60), random(0))["accuracy"]
    pieces = [np.repeat(values, 10, axis=0) for values in (logits, target, devices, np.arange(60))]
    assert score_scenes(*pieces, random(0))["accuracy"] == pytest.approx(once)


def test_a_device_without_clips_has_no_figures():
    target = np.arange(20) % 10
    scores = score_scenes(np.eye(10)[target], target, ["a"] * 20, np.arange(20) // 2, random(0), resamples=20)
    assert scores["device_wise"]["s6"]["accuracy"] is None
    assert scores["device_wise"]["s6"]["clips"] == 0
    assert scores["groups"]["unseen"]["log_loss_low"] is None
    assert scores["device_wise"]["a"]["accuracy"] == 1


def test_the_same_seed_gives_the_same_intervals(clips):
    first, second = (score_scenes(*clips, random(5), resamples=50) for _ in range(2))
    assert first == second


def test_the_published_tables_agree_with_each_other():
    """The macro accuracy is the mean of the class accuracies, to the two digits that were published."""
    published = read_published()
    for subset, accuracies in published["class_wise"].items():
        assert len(accuracies) == 10
        assert np.mean(accuracies) == pytest.approx(published["macro_accuracy"][subset], abs=0.02)
        assert len(published["device_wise"][subset]) == len(DEVICES)


def test_the_table_of_predictions_is_of_the_official_form(tmp_path):
    logits = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 0, 0], [30, 0, 0, 0, 0, 0, 0, 0, 0, 0]], dtype=np.float16)
    write_predictions(tmp_path / "output.csv", ["audio/17.wav", "audio/3.wav"], logits)
    header, *rows = [line.split("\t") for line in (tmp_path / "output.csv").read_text().splitlines()]
    assert header == ["filename", "scene_label", *CLASSES]
    assert [row[:2] for row in rows] == [["17.wav", "bus"], ["3.wav", "airport"]]
    for row in rows:
        assert sum(map(float, row[2:])) == pytest.approx(1, abs=1e-7)
    assert float(rows[0][3]) == pytest.approx(np.e / (np.e + 9))


def test_a_figure_is_shown_in_per_cent_with_its_limits():
    assert percent({"value": 0.424, "low": 0.41, "high": 0.438}) == "42.4 [41.0, 43.8]"
    assert percent({"value": None, "low": None, "high": None}) == ""
