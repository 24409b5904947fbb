"""Figures of the pre-training and of its downstream task, against the kit's tables and independent implementations."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from task4_sed.metrics import mean_partial_auc, psds
from task4_sed.pretraining.office.data import Recordings
from task4_sed.pretraining.office.recipe import find_events, office_figures
from task4_sed.pretraining.scoring import FIGURES, EvaluationScores, median_filter
from task4_sed.pretraining.settings import OfficeEventSettings
from task4_sed.pretraining.tables import StrongEvents

CLASSES = ("Dog", "Cat", "Speech", "Rain")
TRAINED = ("Rain", "Speech", "Cat", "Dog", "Wind")  # columns of the network, in another order


@pytest.fixture(scope="module")
def evaluation():
    """Events of 12 clips (the last one has only a class that is not scored), durations, and logits."""
    random = np.random.default_rng(0)
    rows = [(clip, int(k), a, a + d) for clip in range(11) for k in (0, 1, 2)
            for a, d in [(random.uniform(0, 6), random.uniform(0.5, 3.5))]]  # fmt: skip
    rows.append((11, 3, 1.0, 2.0))
    clip, label, onset, offset = (np.array(column) for column in zip(*rows))
    events = StrongEvents(
        tuple(f"Y{n:02d}" for n in range(12)), CLASSES, np.searchsorted(clip, np.arange(13)), label, onset, offset
    )
    durations = {name: 10.0 if n % 3 else 9.4 for n, name in enumerate(events.clips)}
    logits = torch.tensor(random.normal(0, 1.5, (12, 250, len(TRAINED))), dtype=torch.float32)
    for c, k, a, b in rows:
        logits[c, int(a * 25) : int(b * 25) + 1, TRAINED.index(CLASSES[k])] += 3
    return events, durations, logits


@pytest.fixture(scope="module")
def scores(evaluation):
    events, durations, logits = evaluation
    scores = EvaluationScores(events, durations, TRAINED, CLASSES[:3], 9)
    for first in (8, 0, 4):  # in any order
        rows = torch.arange(first, first + 4)
        scores.add(rows, scores.prepare(logits[rows]))
    return scores


def test_the_median_filter_is_scipys():
    values = torch.randn(3, 4, 30, generator=torch.Generator().manual_seed(0))
    for length in (1, 3, 9):
        expected = ndimage.median_filter(values.numpy(), size=(1, 1, length))
        np.testing.assert_array_equal(median_filter(values, length).numpy(), expected)


def test_figures_equal_those_of_filtered_score_tables(evaluation, scores):
    events, durations, logits = evaluation
    tables, truth = {}, {}
    edges = np.round(np.arange(251) * 0.04, 6)
    for n, name in enumerate(events.clips[:11]):
        filtered = ndimage.median_filter(logits[n].numpy(), size=(9, 1))
        columns = {label: filtered[:, TRAINED.index(label)] for label in CLASSES[:3]}
        tables[name] = pd.DataFrame({"onset": edges[:-1], "offset": edges[1:], **columns})
        chosen = slice(*events.starts[n : n + 2])
        truth[name] = [(float(a), float(b), CLASSES[k]) for a, b, k in
                       zip(events.onset[chosen], events.offset[chosen], events.label[chosen])]  # fmt: skip
    seconds = {name: durations[name] for name in tables}
    figures = scores.figures()
    macro = psds(tables, truth, seconds, alpha_st=0, draws=0)
    assert 0.1 < macro.value < 0.9
    assert figures["psds1_macro"]["value"] == pytest.approx(macro.value, abs=1e-9)
    assert figures["psds1_macro"]["value"] == pytest.approx(np.mean(list(macro.per_class.values())), abs=1e-9)
    assert figures["psds1"]["value"] == pytest.approx(psds(tables, truth, seconds, draws=0).value, abs=1e-9)
    auc = mean_partial_auc(tables, truth, seconds, max_fpr=0.1, draws=0)
    assert figures["pauroc"]["value"] == pytest.approx(auc.value, abs=1e-9)


def test_clips_without_scored_events_are_dropped_and_classes_without_events_left_out(evaluation):
    events, durations, logits = evaluation
    scores = EvaluationScores(events, durations, TRAINED, (*CLASSES[:3], "Wind"), 9, missing=("Ygone",))
    scores.add(torch.arange(12), scores.prepare(logits))
    figures = scores.figures(with_segments=False)
    clips = figures["clips"]
    assert (clips["expected"], clips["scored"], clips["evaluated"]) == (13, 12, 11)
    assert clips["missing"] == ["Ygone"] and not clips["comparable"]
    assert clips["classes_without_reference"] == ["Wind"]
    assert set(figures["psds1_macro"]["per_class"]) == set(CLASSES[:3])


def test_only_clips_that_were_added_are_scored(evaluation):
    events, durations, logits = evaluation
    scores = EvaluationScores(events, durations, TRAINED, CLASSES[:3], 9)
    rows = torch.arange(3, 7)
    prepared = scores.prepare(logits[rows])
    scores.add(rows, prepared)
    found = scores.evaluation_set()
    assert found.scores.clips == events.clips[3:7] and found.durations.tolist() == [9.4, 10.0, 10.0, 9.4]
    assert found.event_starts.tolist() == [0, 3, 6, 9, 12] and found.report.evaluated == 4
    assert (found.scores.values == prepared.mT.numpy().transpose(2, 0, 1).reshape(3, -1)).all()


def test_scores_of_a_large_set_lie_on_disk(evaluation, monkeypatch):
    events, durations, logits = evaluation
    monkeypatch.setattr("task4_sed.scores.tables.LARGEST_IN_MEMORY", 1000)
    scores = EvaluationScores(events, durations, TRAINED, CLASSES[:3], 9)
    scores.add(torch.arange(12), scores.prepare(logits))
    assert isinstance(scores._values, np.memmap) and scores._values.dtype == np.float32
    assert 0 < scores.figures(with_segments=False)["psds1_macro"]["value"] < 1


def test_intervals_come_with_draws(scores):
    low, high = scores.figures(draws=50)["psds1_macro"]["interval"]
    without = scores.figures()
    assert low < without["psds1_macro"]["value"] < high
    assert [without[name]["interval"] for name in FIGURES] == [None, None, None]


# Downstream: events of HEAR


def frames(runs, count=40, classes=2, on=4.0):
    logits = np.full((count, classes), -4.0, dtype=np.float32)
    for first, last, label in runs:
        logits[first:last, label] = on
    return logits


def test_events_run_from_the_first_to_the_last_frame_or_between_their_centres():
    logits = frames([(10, 20, 1)])
    right = OfficeEventSettings(median_ms=0)
    published = right.model_copy(update={"borders": "centres"})
    assert find_events(logits, ("a", "b"), right) == [(pytest.approx(0.4), pytest.approx(0.8), "b")]
    assert find_events(logits, ("a", "b"), published) == [(pytest.approx(0.42), pytest.approx(0.78), "b")]


def test_short_events_are_dropped():
    logits = frames([(0, 3, 0), (10, 14, 0), (36, 40, 1)])
    found = find_events(logits, ("a", "b"), OfficeEventSettings(median_ms=0))
    assert [(round(a, 2), round(b, 2)) for a, b, _ in found] == [(0.4, 0.56), (1.44, 1.6)]  # 120 ms are too short
    published = OfficeEventSettings(median_ms=0, borders="centres")
    assert find_events(logits, ("a", "b"), published) == []  # 4 frames are 120 ms between their centres


def test_a_threshold_on_logits_is_a_probability_of_62_per_cent():
    logits = frames([(10, 20, 0)], on=0.4)
    assert len(find_events(logits, ("a", "b"), OfficeEventSettings(scores="probabilities"))) == 1
    assert find_events(logits, ("a", "b"), OfficeEventSettings(scores="logits")) == []
    assert 1 / (1 + np.exp(-0.5)) == pytest.approx(0.62, abs=0.003)


def test_gaps_within_the_median_filter_are_closed():
    logits = frames([(5, 12, 0), (14, 22, 0)])
    assert len(find_events(logits, ("a", "b"), OfficeEventSettings(median_ms=250))) == 1
    assert len(find_events(logits, ("a", "b"), OfficeEventSettings(median_ms=0))) == 2


@pytest.fixture(scope="module")
def office():
    """Random events of four recordings, and what a system found of them."""
    random = np.random.default_rng(1)
    classes = ("cough", "keys", "phone")
    right, found = [], []
    for _ in range(4):
        events = sorted((round(a, 3), round(a + random.uniform(0.2, 2.5), 3), str(random.choice(classes)))
                        for a in random.uniform(0, 115, 30))  # fmt: skip
        right.append(tuple(events))
        moved = [(a + random.normal(0, 0.12), b + random.normal(0, 0.3), c) for a, b, c in events if random.random() < 0.8]  # fmt: skip # noqa: E501
        extra = [(a, a + 0.7, str(random.choice(classes))) for a in random.uniform(0, 115, 8)]
        found.append(sorted((round(max(0, a), 3), round(max(b, a + 0.1), 3), c) for a, b, c in [*moved, *extra]))
    return Recordings(tuple(range(4)), tuple(right), classes, (120.0,) * 4), found


def test_figures_equal_those_of_sed_eval(office):
    sed_eval = pytest.importorskip("sed_eval")
    containers = pytest.importorskip("dcase_util.containers")
    recordings, found = office
    labels = list(recordings.classes)
    metrics = {
        "onset_f1": sed_eval.sound_event.EventBasedMetrics(labels, evaluate_offset=False, t_collar=0.2),
        "onset_f1_50ms": sed_eval.sound_event.EventBasedMetrics(labels, evaluate_offset=False, t_collar=0.05),
        "segment_error_rate": sed_eval.sound_event.SegmentBasedMetrics(labels, time_resolution=1.0),
    }
    for number, (own, right) in enumerate(zip(found, recordings.events)):
        lists = [
            containers.MetaDataContainer(
                [{"event_label": c, "onset": a, "offset": b, "filename": f"{number}.wav"} for a, b, c in events]
            )
            for events in (right, own)
        ]
        for metric in metrics.values():
            metric.evaluate(reference_event_list=lists[0], estimated_event_list=lists[1])
    expected = {
        name: metric.results_overall_metrics()["error_rate"]["error_rate"]
        if name.startswith("segment")
        else metric.results_overall_metrics()["f_measure"]["f_measure"]
        for name, metric in metrics.items()
    }
    figures = office_figures(found, recordings, draws=0)
    assert {name: figure["value"] for name, figure in figures.items()} == pytest.approx(expected)
    assert 0.2 < expected["onset_f1_50ms"] < expected["onset_f1"] < 0.9


def test_the_right_events_give_full_marks(office):
    recordings, _ = office
    figures = office_figures(recordings.events, recordings, draws=20)
    assert [figures[name]["value"] for name in ("onset_f1", "onset_f1_50ms", "segment_error_rate")] == [1, 1, 0]
    assert figures["onset_f1"]["interval"] == (1, 1)


def test_nothing_found_scores_nothing(office):
    recordings, _ = office
    figures = office_figures([[]] * 4, recordings, draws=0)
    assert figures["onset_f1"]["value"] == 0 and figures["segment_error_rate"]["value"] == 1
