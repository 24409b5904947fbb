"""F1 of detections: by collars (event based) and by intersection, at a fixed threshold or at the best one per class.

Equal to `fscore` and `best_fscore` of sed_scores_eval 0.0.4: a detection is a run of frames with score > threshold,
precision is 1 where nothing is detected, macro averages count every class with reference events.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from task4_sed.data.annotations import DurationsSource, GroundTruthSource
from task4_sed.metrics.count_kernels import FALSE_POSITIVE, TRUE_POSITIVE
from task4_sed.metrics.detections import (
    Collars,
    CountChanges,
    IntersectionCriteria,
    Runs,
    class_runs,
    collar_changes,
    intersection_changes,
)
from task4_sed.metrics.evaluation_set import EvaluationSet, Scores, evaluation_set
from task4_sed.metrics.resampling import DRAWS, Interval, interval, recording_weights

Count = Callable[[EvaluationSet, int, Runs], CountChanges]


class Counts(NamedTuple):
    """Numbers of true positives, false positives and reference events of a class."""

    true_positives: int
    false_positives: int
    references: int


class F1(NamedTuple):
    """value: macro average. per_class, precision, recall, counts, thresholds by class name.

    micro: F1 of the summed counts. interval: 95 %, by recording, with these thresholds. samples, class_samples: as of
    `Psds`.
    """

    value: float
    per_class: dict[str, float]
    interval: Interval | None
    micro: float
    precision: dict[str, float]
    recall: dict[str, float]
    counts: dict[str, Counts]
    thresholds: dict[str, float]
    samples: np.ndarray
    class_samples: np.ndarray


def collar_f1(
    scores: Scores,
    ground_truth: GroundTruthSource | None = None,
    audio_durations: DurationsSource | None = None,
    *,
    threshold: float | str = 0.5,
    collars: Collars = Collars(),  # noqa: B008 - frozen
    classes: Sequence[str] | None = None,
    draws: int = DRAWS,
    jobs: int = 1,
) -> F1:
    """Event-based F1: onset within 0.2 s, offset within the larger of 0.2 s and 20 % of the event.

    >>> import pandas as pd
    >>> frames = pd.DataFrame({"onset": [0.0, 2.0, 4.0], "offset": [2.0, 4.0, 10.0], "Dog": [0.1, 0.9, 0.2]})
    >>> collar_f1({"a": frames}, {"a": [(2.1, 4.1, "Dog"), (6.0, 7.0, "Dog")]}, {"a": 10.0}).value
    0.6666666666666666

    Args:
        scores, ground_truth, audio_durations, classes: as for `psds`.
        threshold: one number, or "best" for the best threshold of each class on these same clips.
        collars: allowed deviations. draws: resamplings behind the intervals. jobs: threads, one class each.
    """
    evaluation = evaluation_set(scores, ground_truth, audio_durations, classes=classes, jobs=jobs)
    return _f1(evaluation, partial(collar_changes, collars=collars), threshold, draws, jobs)


def intersection_f1(
    scores: Scores,
    ground_truth: GroundTruthSource | None = None,
    audio_durations: DurationsSource | None = None,
    *,
    threshold: float | str = 0.5,
    dtc_threshold: float = 0.5,
    gtc_threshold: float = 0.5,
    classes: Sequence[str] | None = None,
    draws: int = DRAWS,
    jobs: int = 1,
) -> F1:
    """Intersection-based F1; arguments as for `collar_f1`, criteria as for `psds`."""
    evaluation = evaluation_set(scores, ground_truth, audio_durations, classes=classes, jobs=jobs)
    criteria = IntersectionCriteria(dtc_threshold, gtc_threshold)
    return _f1(evaluation, partial(intersection_changes, criteria=criteria), threshold, draws, jobs)


def _f1(evaluation: EvaluationSet, count: Count, threshold: float | str, draws: int, jobs: int) -> F1:
    weights = recording_weights(len(evaluation.clips), draws)
    references = evaluation.event_counts().astype(float)

    def of_class(index: int) -> ClassCounts:
        changes = count(evaluation, index, class_runs(evaluation, index))
        return count_class(changes, references[:, index], threshold, weights)

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        return f1_of_counts(evaluation.classes, list(pool.map(of_class, range(len(evaluation.classes)))))


class ClassCounts(NamedTuple):
    """Counts of a class at a threshold; (1 + draws,) each, column 0 of all recordings."""

    found: np.ndarray
    false: np.ndarray
    references: np.ndarray
    threshold: float


def count_class(
    changes: CountChanges, references: np.ndarray, threshold: float | str, weights: np.ndarray
) -> ClassCounts:
    """Counts at a threshold, or at the "best" one; references (recordings,), weights (recordings, 1 + draws)."""
    at = best_threshold(changes, references.sum()) if threshold == "best" else float(threshold)
    found, false = (changes.at(at, kind, len(references)) @ weights for kind in (TRUE_POSITIVE, FALSE_POSITIVE))
    return ClassCounts(found, false, references @ weights, at)


def f1_of_counts(classes: Sequence[str], rows: Sequence[ClassCounts]) -> F1:
    """F1 with all its parts."""
    found, false, references = (np.stack([row[part] for row in rows]) for part in range(3))
    precision, recall, score = _precision_recall_f1(found, false, references)
    with np.errstate(invalid="ignore"):
        macro = np.nanmean(np.where(references > 0, score, np.nan), axis=0)
    _, _, micro = _precision_recall_f1(found[:, 0].sum(), false[:, 0].sum(), references[:, 0].sum())
    whole = zip(*(np.rint(counts[:, 0]).astype(int).tolist() for counts in (found, false, references)))
    return F1(
        value=float(macro[0]),
        per_class=dict(zip(classes, score[:, 0].tolist())),
        interval=interval(macro),
        micro=float(micro),
        precision=dict(zip(classes, precision[:, 0].tolist())),
        recall=dict(zip(classes, recall[:, 0].tolist())),
        counts={name: Counts(*counts) for name, counts in zip(classes, whole)},
        thresholds={name: row.threshold for name, row in zip(classes, rows)},
        samples=macro[1:],
        class_samples=score[:, 1:],
    )


def best_threshold(changes: CountChanges, references: float) -> float:
    """The highest threshold with the best F1, midway between the score it must fall below and the next change."""
    if not len(changes.score):
        return float("inf")
    ends = np.flatnonzero(np.append(changes.score[1:] != changes.score[:-1], True))
    found = np.cumsum(np.where(changes.kind == TRUE_POSITIVE, changes.change, 0))[ends]
    false = np.cumsum(np.where(changes.kind == FALSE_POSITIVE, changes.change, 0))[ends]
    _, _, score = _precision_recall_f1(found, false, np.full(len(ends), references))
    best = int(np.argmax(score))
    if score[best] <= 0:
        return float("inf")
    values = changes.score[ends]
    return float((values[best] + values[best + 1]) / 2) if best + 1 < len(values) else float("-inf")


def _precision_recall_f1(
    found: np.ndarray, false: np.ndarray, references: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    detected = found + false
    precision = np.where(detected > 0, found / np.maximum(detected, 1), 1.0)
    recall = found / np.maximum(references, 1)
    return precision, recall, 2 * precision * recall / np.maximum(precision + recall, 1e-15)
