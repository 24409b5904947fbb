"""All detections of a class at all thresholds, and how their counts change from threshold to threshold.

A detection at threshold t is a run of frames with score >= t. Over all thresholds a clip has at most as many different
runs as frames, and each exists for one interval of thresholds, low < t <= high. Whether a run is a false positive or
touches another class depends on the run alone; only true positives depend on the runs that exist together.
sed_scores_eval visits all frames for each threshold instead: the same counts (tests/task4_sed/metrics/test_metrics.py)
for some hundred times the work.

Definitions: Bilen et al. 2020 (PSDS), Ebbers et al. 2022 (all thresholds), sed_eval (collars).
"""

from typing import NamedTuple

import numpy as np

from task4_sed.metrics.count_kernels import collar_entries, find_runs, intersection_entries
from task4_sed.metrics.evaluation_set import EvaluationSet


class Runs(NamedTuple):
    """Detections of one class; run i exists for thresholds low[i] < t <= high[i]; runs are grouped by clip.

    starts: (clips + 1,). onsets, offsets: seconds. gain: how many detections more there are once t falls to high[i].
    """

    starts: np.ndarray
    onsets: np.ndarray
    offsets: np.ndarray
    high: np.ndarray
    low: np.ndarray
    gain: np.ndarray


class CountChanges(NamedTuple):
    """Changes of counts as the threshold falls, sorted by score, highest first.

    At threshold t a count is the sum of `change` over all entries of its kind with score >= t.
    score (entries,); clip, kind, change (entries,) integers.
    """

    score: np.ndarray
    clip: np.ndarray
    kind: np.ndarray
    change: np.ndarray

    def at(self, threshold: float, kind: int, num_clips: int) -> np.ndarray:
        """(clips,) counts of the detections with score > threshold."""
        chosen = (self.kind == kind) & (self.score > threshold)
        return np.bincount(self.clip[chosen], weights=self.change[chosen], minlength=num_clips)


class IntersectionCriteria(NamedTuple):
    """When a detection counts.

    A detection is relevant if a share `dtc` of it lies inside events of its class, otherwise a false positive. An
    event is found if a share `gtc` of it is covered by relevant detections. A false positive with a share `cttc`
    inside events of another class is a cross trigger on that class; None: these are not counted.
    """

    dtc: float
    gtc: float
    cttc: float | None = None


class Collars(NamedTuple):
    """Allowed deviation in seconds: onset, and the larger of offset and offset_rate times the event's length."""

    onset: float = 0.2
    offset: float = 0.2
    offset_rate: float = 0.2


def class_runs(evaluation: EvaluationSet, index: int) -> Runs:
    """All detections of the class with this index in `evaluation.classes`."""
    tables = evaluation.scores
    return Runs(*find_runs(tables.column(evaluation.classes[index]), tables.starts, tables.borders))


def intersection_changes(
    evaluation: EvaluationSet, index: int, runs: Runs, criteria: IntersectionCriteria
) -> CountChanges:
    """True positives, false positives and cross triggers of one class by intersection with the reference."""
    cttc = -1.0 if criteria.cttc is None else float(criteria.cttc)
    events = (evaluation.event_starts, evaluation.onsets, evaluation.offsets, evaluation.labels)
    entries = intersection_entries(*runs, *events, index, float(criteria.dtc), float(criteria.gtc), cttc)
    return _sorted(entries, np.diff(evaluation.events_of_class(index)[0]) > 0)


def collar_changes(evaluation: EvaluationSet, index: int, runs: Runs, collars: Collars) -> CountChanges:
    """True and false positives of one class by onset and offset collars, with the largest one-to-one matching."""
    limits = (float(collars.onset), float(collars.offset), float(collars.offset_rate))
    events = evaluation.events_of_class(index)
    return _sorted(collar_entries(*runs, *events, *limits), np.diff(events[0]) > 0)


def _sorted(entries: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], has_events: np.ndarray) -> CountChanges:
    """Entries by falling score; in clips with events, equal ones are added up and sums of 0 dropped."""
    mixed = has_events[entries[1]]
    score, clip, kind, change = (values[mixed] for values in entries)
    order = np.lexsort((kind, clip, score))
    score, clip, kind, change = score[order], clip[order], kind[order], change[order]
    different = (score[1:] != score[:-1]) | (clip[1:] != clip[:-1]) | (kind[1:] != kind[:-1])
    first = np.flatnonzero(np.append(True, different)[: len(score)])
    change = np.add.reduceat(change, first) if len(first) else change
    first, change = first[change != 0], change[change != 0]
    netted = (score[first], clip[first], kind[first], change)
    joined = [np.concatenate((own, values[~mixed])) for own, values in zip(netted, entries)]
    order = np.argsort(-joined[0], kind="stable")
    return CountChanges(*(values[order] for values in joined))
