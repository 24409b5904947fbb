"""Segment scores and areas under their ROC: mpAUC, the measure of MAESTRO Real.

The score of a segment is the highest score of the frames that touch it; it is active if an event touches it. Equal to
`sed_scores_eval.segment_based` 0.0.4. MAESTRO clips are windows of longer files; `segment_evaluation_set` first
moves scores and soft labels to the time of the file.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.inference.compiled import compiled
from task4_sed.data.annotations import (
    Annotations,
    DurationsSource,
    GroundTruthSource,
    merge_overlapping,
    read_durations,
    read_events,
)
from task4_sed.metrics.count_kernels import FALSE_POSITIVE, TRUE_POSITIVE
from task4_sed.metrics.detections import CountChanges
from task4_sed.metrics.evaluation_set import EvaluationSet, Scores, evaluation_set
from task4_sed.metrics.f1 import F1, count_class, f1_of_counts
from task4_sed.metrics.polyphonic import Psds
from task4_sed.metrics.resampling import DRAWS, Interval, interval, recording_weights
from task4_sed.scores.store import read_score_tables
from task4_sed.scores.tables import ScoreTables, make_tables

WINDOW_NAME = re.compile(r"(?P<file>.+)-(?P<start>\d+)-(?P<end>\d+)$")
"""`cafe_restaurant_13-020500-021149`: file, then start and end in hundredths of a second."""

INTERPOLATIONS = ("staircase", "linear")
"""staircase: sed_scores_eval 0.0.4. linear: its later versions, from 2024-06-20 on. They differ where segments share a
score: staircase is the lower bound."""


class SegmentAuc(NamedTuple):
    """value: mean over classes, 0..1. per_class by name. interval: 95 %, by recording.

    interpolation: between points of the ROC, see `INTERPOLATIONS`. samples, class_samples: as of `Psds`.
    """

    value: float
    per_class: dict[str, float]
    interval: Interval | None
    interpolation: str
    samples: np.ndarray
    class_samples: np.ndarray


def mean_partial_auc(
    scores: Scores,
    ground_truth: GroundTruthSource | None = None,
    audio_durations: DurationsSource | None = None,
    *,
    max_fpr: float | None = 0.1,
    segment_length: float = 1.0,
    interpolation: str = "staircase",
    classes: Sequence[str] | None = None,
    draws: int = DRAWS,
) -> SegmentAuc:
    """mpAUC: area under the segment ROC up to a false positive rate of `max_fpr`, divided by it, mean over classes.

    >>> import pandas as pd
    >>> frames = pd.DataFrame({"onset": [0.0, 1.0, 2.0], "offset": [1.0, 2.0, 3.0], "car": [0.1, 0.9, 0.2]})
    >>> mean_partial_auc({"a": frames}, {"a": [(1.0, 2.0, "car")]}, {"a": 3.0}).value
    1.0

    Args:
        scores: score tables of whole files, or of MAESTRO windows, which are joined first; or an `EvaluationSet`.
        ground_truth: events of the files, or soft labels of the windows (active where confidence > 0.5).
        audio_durations: seconds of the files.
        max_fpr: None for the whole area.
        segment_length: seconds.
        interpolation: "staircase" or "linear", see `INTERPOLATIONS`.
        classes: score only these. draws: resamplings of the files behind the intervals.
    """
    if interpolation not in INTERPOLATIONS:
        raise UserError(f"No interpolation named {interpolation}. There are: {', '.join(INTERPOLATIONS)}.")
    evaluation = segment_evaluation_set(scores, ground_truth, audio_durations, classes, segment_length)
    weights = recording_weights(len(evaluation.clips), draws)
    segments = _Segments(evaluation, segment_length)
    limit = 1.0 if max_fpr is None else max_fpr
    areas = {}
    for index, name in enumerate(evaluation.classes):
        maxima, active = segments.of_class(index)
        order = np.argsort(-maxima, kind="stable")
        ranked = maxima[order], active[order], segments.clips[order]
        areas[name] = _roc_areas(*ranked, weights, limit, interpolation == "linear") / limit
    every = np.stack(list(areas.values()))
    with np.errstate(invalid="ignore"):
        means = np.nanmean(every, axis=0)
    per_class = {name: float(area[0]) for name, area in areas.items()}
    return SegmentAuc(float(means[0]), per_class, interval(means), interpolation, means[1:], every[:, 1:])


def segment_f1(
    scores: Scores,
    ground_truth: GroundTruthSource | None = None,
    audio_durations: DurationsSource | None = None,
    *,
    threshold: float | str = "best",
    segment_length: float = 1.0,
    classes: Sequence[str] | None = None,
    draws: int = DRAWS,
) -> F1:
    """Segment-based F1 at a threshold, or at the best one of each class; arguments as for `mean_partial_auc`."""
    evaluation = segment_evaluation_set(scores, ground_truth, audio_durations, classes, segment_length)
    weights = recording_weights(len(evaluation.clips), draws)
    segments = _Segments(evaluation, segment_length)
    rows = []
    for index in range(len(evaluation.classes)):
        maxima, active = segments.of_class(index)
        order = np.argsort(-maxima, kind="stable")
        kind = np.where(active, TRUE_POSITIVE, FALSE_POSITIVE)
        changes = CountChanges(maxima[order], segments.clips[order], kind[order], np.ones(len(order), dtype=np.int64))
        references = np.bincount(segments.clips, weights=active, minlength=len(evaluation.clips))
        rows.append(count_class(changes, references, threshold, weights))
    return f1_of_counts(evaluation.classes, rows)


def segment_evaluation_set(
    scores: Scores,
    ground_truth: GroundTruthSource,
    audio_durations: DurationsSource | None,
    classes: Sequence[str] | None = None,
    segment_length: float = 1.0,
) -> EvaluationSet:
    """`evaluation_set`, with windows of longer files joined first."""
    if isinstance(scores, EvaluationSet):
        return scores
    if audio_durations is None:
        raise UserError("The durations of the recordings are missing; segments need them.")
    tables, annotations, seconds = read_score_tables(scores), read_events(ground_truth), read_durations(audio_durations)
    windows = [WINDOW_NAME.match(clip) for clip in tables.clips]
    if all(window is not None and window["file"] in seconds for window in windows):
        tables, annotations = segment_tables(tables, seconds, segment_length), file_events(annotations)
    elif "confidence" in annotations.events.columns:
        annotations = _hard_labels(annotations)
    return evaluation_set(tables, annotations, seconds, classes=classes)


def file_events(annotations: Annotations) -> Annotations:
    """Events of files from soft labels of their windows: active where confidence > 0.5, joined where they touch.

    A window starts at the whole second of its name, as in the official evaluation.
    """
    hard = _hard_labels(annotations)
    file, start = {}, {}
    for clip in hard.clips:
        match = WINDOW_NAME.match(clip)
        if match is None:
            raise UserError(f"{annotations.source}: {clip} is not named file-start-end, so its file is unknown.")
        file[clip], start[clip] = match["file"], int(match["start"]) // 100
    events, shift = hard.events, hard.events["clip"].map(start).astype(float)
    onset, offset = events["onset"] + shift, events["offset"] + shift
    merged, _ = merge_overlapping(events.assign(clip=events["clip"].map(file), onset=onset, offset=offset))
    return Annotations(merged, tuple(dict.fromkeys(file.values())), annotations.source)


def segment_tables(scores: ScoreTables, durations: Mapping[str, float], segment_length: float = 1.0) -> ScoreTables:
    """Scores of files, one per segment, from scores of overlapping windows.

    Within a window the frames of a segment are averaged by time; windows that cover the same segment are averaged.
    """
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}
    for index, clip in enumerate(scores.clips):
        match = WINDOW_NAME.match(clip)
        if match is None or match["file"] not in durations:
            raise UserError(f"{clip} is no window file-start-end of a file with a known duration.")
        file = match["file"]
        num = math.ceil(durations[file] / segment_length)
        total = sums.setdefault(file, np.zeros((num, len(scores.classes))))
        count = counts.setdefault(file, np.zeros(num))
        start, end = float(match["start"]) / 100, float(match["end"]) / 100
        means = segment_means(scores.borders_of(index), scores.scores_of(index), end - start, segment_length)
        first = int(start // segment_length)
        means = means[: num - first]
        total[first : first + len(means)] += means
        count[first : first + len(means)] += 1
    files = sorted(sums)
    borders = [np.minimum(np.arange(len(sums[file]) + 1) * segment_length, durations[file]) for file in files]
    values = [sums[file] / np.maximum(counts[file], 1)[:, None] for file in files]
    return make_tables(files, scores.classes, borders, values)


def rank_score(psds1: float, mpauc: float) -> float:
    """The sum that DCASE 2024 Task 4 ranks by: PSDS1 on DESED plus mpAUC on MAESTRO Real."""
    return psds1 + mpauc


def rank_interval(psds1: Psds, mpauc: SegmentAuc) -> Interval | None:
    """95 % interval of the rank score; the two sets are drawn independently."""
    draws = min(len(psds1.samples), len(mpauc.samples))
    value = rank_score(psds1.value, mpauc.value)
    return interval(np.append(value, psds1.samples[:draws] + mpauc.samples[:draws]), highest=2.0)


def _hard_labels(annotations: Annotations) -> Annotations:
    events = annotations.events
    if "confidence" in events.columns:
        events = events[events["confidence"] > 0.5].drop(columns="confidence").reset_index(drop=True)
    return Annotations(events, annotations.clips, annotations.source)


def segment_means(borders: np.ndarray, scores: np.ndarray, length: float, segment_length: float) -> np.ndarray:
    """(segments, classes) time-weighted means; frames past the end of a window count, as in the official code."""
    onsets = np.arange(0.0, length, segment_length)
    shared = np.minimum(borders[1:], onsets[:, None] + segment_length) - np.maximum(borders[:-1], onsets[:, None])
    weights = np.maximum(shared, 0)
    covered = weights.sum(axis=1, keepdims=True)
    return weights @ scores / np.where(covered > 0, covered, 1)


class _Segments:
    """Segments of all clips, and their scores and activity per class."""

    def __init__(self, evaluation: EvaluationSet, segment_length: float):
        self.evaluation = evaluation
        tables = evaluation.scores
        counts = np.ceil(evaluation.durations / segment_length).astype(np.int64)
        self.clips = np.repeat(np.arange(len(counts)), counts)
        self.starts = np.concatenate(([0], np.cumsum(counts)))
        self.borders = np.round(np.arange(counts.max() + 1) * segment_length, 6)
        first, last = [], []
        for clip, count in enumerate(counts):
            borders = np.round(tables.borders_of(clip), 6)
            begin = np.maximum(np.searchsorted(borders, self.borders[:count], side="right") - 1, 0)
            end = np.minimum(np.searchsorted(borders, self.borders[1 : count + 1], side="left"), len(borders) - 1)
            first.append(begin + tables.starts[clip])
            last.append(end + tables.starts[clip])
        self.first, self.last = np.concatenate(first), np.concatenate(last)

    def of_class(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(segments,) highest score of the frames that touch it, 0 past the last frame; and whether it is active."""
        maxima = _maxima(self.evaluation.scores.column(self.evaluation.classes[index]), self.first, self.last)
        active = np.zeros(len(maxima), dtype=bool)
        starts, onsets, offsets = self.evaluation.events_of_class(index)
        begin = np.searchsorted(self.borders[1:], onsets, side="right")
        end = np.searchsorted(self.borders[:-1], offsets, side="left")
        for clip in np.flatnonzero(np.diff(starts)):
            room = self.starts[clip + 1] - self.starts[clip]
            for event in range(starts[clip], starts[clip + 1]):
                active[self.starts[clip] + begin[event] : self.starts[clip] + min(end[event], room)] = True
        return maxima, active


@compiled
def _maxima(column: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    maxima = np.zeros(len(first))
    for segment in range(len(first)):
        if last[segment] > first[segment]:
            highest = column[first[segment]]
            for frame in range(first[segment] + 1, last[segment]):
                highest = max(highest, column[frame])
            maxima[segment] = highest
    return maxima


@compiled
def _roc_areas(
    score: np.ndarray, active: np.ndarray, clip: np.ndarray, weights: np.ndarray, limit: float, linear: bool
) -> np.ndarray:
    """(draws,) area under the ROC from 0 to limit, of segments by falling score; nan where one kind is absent."""
    num_draws = weights.shape[1]
    positives, negatives = np.zeros(num_draws), np.zeros(num_draws)
    for segment in range(len(score)):
        totals = positives if active[segment] else negatives
        for draw in range(num_draws):
            totals[draw] += weights[clip[segment], draw]
    found, false, area = np.zeros(num_draws), np.zeros(num_draws), np.zeros(num_draws)
    new_found, new_false = np.zeros(num_draws), np.zeros(num_draws)
    for segment in range(len(score)):
        counts = new_found if active[segment] else new_false
        for draw in range(num_draws):
            counts[draw] += weights[clip[segment], draw]
        if segment + 1 < len(score) and score[segment + 1] == score[segment]:
            continue  # one point of the curve for all segments that share a score
        for draw in range(num_draws):
            inside = max(min(new_false[draw], limit * negatives[draw]) - false[draw], 0.0)
            area[draw] += found[draw] * inside
            if linear and inside > 0:
                rise = (new_found[draw] - found[draw]) / (new_false[draw] - false[draw])
                area[draw] += rise * inside * inside / 2
            found[draw], false[draw] = new_found[draw], new_false[draw]
    for draw in range(num_draws):
        pairs = positives[draw] * negatives[draw]
        area[draw] = area[draw] / pairs if pairs > 0 else np.nan
    return area
