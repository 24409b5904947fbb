"""PSDS, the polyphonic sound detection score, over all thresholds.

Equal to `sed_scores_eval.intersection_based.psds` 0.0.4, the reference of the tests. Change points of the counts in
place of frames at every threshold make it fast; one class after another is reduced to its curve, so hundreds fit.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.inference.compiled import compiled
from task4_sed.data.annotations import DurationsSource, GroundTruthSource
from task4_sed.metrics.count_kernels import FALSE_POSITIVE, TRUE_POSITIVE
from task4_sed.metrics.detections import IntersectionCriteria, Runs, class_runs, intersection_changes
from task4_sed.metrics.evaluation_set import EvaluationSet, Scores, evaluation_set
from task4_sed.metrics.resampling import DRAWS, Interval, affordable_draws, interval, recording_weights

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class PsdsParameters:
    """What a PSDS measures.

    dtc, gtc, cttc: intersection criteria. alpha_ct: weight of cross triggers in the effective false positive rate.
    alpha_st: weight of the standard deviation over classes. max_efpr: per hour, end of the curve.
    non_oracle: true positive rate at the threshold of each false positive rate; the standard curve takes the best of
    all stricter rates.
    """

    dtc: float
    gtc: float
    cttc: float | None = None
    alpha_ct: float = 0.0
    alpha_st: float = 1.0
    max_efpr: float = 100.0
    non_oracle: bool = False

    @property
    def criteria(self) -> IntersectionCriteria:
        """The part that decides which detections count."""
        return IntersectionCriteria(self.dtc, self.gtc, self.cttc)


PSDS1 = PsdsParameters(dtc=0.7, gtc=0.7)
PSDS2 = PsdsParameters(dtc=0.1, gtc=0.1, cttc=0.3, alpha_ct=0.5)
PSDS1_MACRO = PsdsParameters(dtc=0.7, gtc=0.7, alpha_st=0.0)
"""Mean of the single-class scores, as published for AudioSet strong, where the variance over classes is no aim."""


class Curve(NamedTuple):
    """Steps of a PSD-ROC: from `rate` false positives per hour on, the true positive rate is `recall`."""

    recall: np.ndarray
    rate: np.ndarray


class Psds(NamedTuple):
    """A score with its parts, the first four as in sed_scores_eval.

    value 0..1; per_class by name; curve: effective true positive rate over effective false positive rate;
    class_curves; interval: 95 %, by recording; samples: values of the draws behind it; class_samples (classes, draws).
    """

    value: float
    per_class: dict[str, float]
    curve: Curve
    class_curves: dict[str, Curve]
    interval: Interval | None
    samples: np.ndarray
    class_samples: np.ndarray


def psds(
    scores: Scores,
    ground_truth: GroundTruthSource | None = None,
    audio_durations: DurationsSource | None = None,
    *,
    dtc_threshold: float = 0.7,
    gtc_threshold: float = 0.7,
    cttc_threshold: float | None = None,
    alpha_ct: float = 0.0,
    alpha_st: float = 1.0,
    max_efpr: float = 100.0,
    non_oracle: bool = False,
    classes: Sequence[str] | None = None,
    draws: int = DRAWS,
    jobs: int = 1,
) -> Psds:
    """PSDS of score tables; the defaults are PSDS1.

    >>> import pandas as pd
    >>> frames = pd.DataFrame({"onset": [0.0, 2.0, 4.0], "offset": [2.0, 4.0, 10.0], "Dog": [0.1, 0.9, 0.2]})
    >>> psds({"a": frames}, {"a": [(2.0, 4.0, "Dog")]}, {"a": 10.0}).value
    1.0

    Args:
        scores: see `task4_sed.metrics.evaluation_set.Scores`.
        ground_truth: events, table or mapping. audio_durations: seconds per clip, table or mapping.
        dtc_threshold, gtc_threshold, cttc_threshold, alpha_ct, alpha_st, max_efpr: as in sed_scores_eval.
        non_oracle: see `PsdsParameters`.
        classes: score only these.
        draws: resamplings of the recordings behind the intervals; 0 for none.
        jobs: threads, one class each.
    """
    parameters = PsdsParameters(dtc_threshold, gtc_threshold, cttc_threshold, alpha_ct, alpha_st, max_efpr, non_oracle)
    evaluation = evaluation_set(scores, ground_truth, audio_durations, classes=classes, jobs=jobs)
    return polyphonic_scores(evaluation, [parameters], draws=draws, jobs=jobs)[0]


def polyphonic_scores(
    evaluation: EvaluationSet,
    parameters: Sequence[PsdsParameters],
    *,
    draws: int = DRAWS,
    jobs: int = 1,
) -> list[Psds]:
    """One `Psds` per set of parameters; the detections of a class are found once for all of them."""
    for wanted in parameters:
        if (wanted.cttc is None) != (wanted.alpha_ct == 0):
            raise UserError("alpha_ct and cttc belong together: give both, or leave alpha_ct 0 and cttc away.")
    if any(wanted.alpha_st for wanted in parameters):
        draws = affordable_draws(draws, len(evaluation.onsets) * len(parameters))
    weights = recording_weights(len(evaluation.clips), draws)
    reference = ReferenceTotals(evaluation, weights)

    def of_class(index: int) -> list[ClassLevels]:
        runs = class_runs(evaluation, index)
        return [class_levels(evaluation, reference, wanted, index, runs) for wanted in parameters]

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        levels = list(pool.map(of_class, range(len(evaluation.classes))))
    return [_combine(evaluation.classes, found, wanted) for found, wanted in zip(zip(*levels), parameters)]


class ReferenceTotals:
    """Totals of the reference in each draw: seconds of audio, events and seconds of events per class."""

    def __init__(self, evaluation: EvaluationSet, weights: np.ndarray):
        self.weights = weights
        self.seconds = evaluation.durations @ weights
        self.event_counts = (evaluation.event_counts().T @ weights).round().astype(np.int64)
        self.event_seconds = evaluation.event_seconds().T @ weights


class ClassLevels(NamedTuple):
    """A class reduced to its curves.

    areas: (1 + draws,) single-class scores. rates: (1 + draws, events) lowest rate at which k + 1 events are found,
    None when only the mean over classes is needed. curve: of all recordings.
    """

    areas: np.ndarray
    rates: np.ndarray | None
    events: np.ndarray
    curve: Curve


def class_levels(
    evaluation: EvaluationSet, reference: ReferenceTotals, wanted: PsdsParameters, index: int, runs: Runs
) -> ClassLevels:
    """Single-class score and curve of the detections `runs` of the class with this index."""
    changes = intersection_changes(evaluation, index, runs, wanted.criteria)
    events = reference.event_counts[index]
    scale = _cross_trigger_scale(reference, index, wanted)
    arguments = (*changes, reference.weights, reference.seconds, scale)
    if wanted.non_oracle:
        return _reduce_non_oracle(arguments, events, wanted)
    rates = _lowest_rates(*arguments, int(events.max()))
    rates = np.minimum.accumulate(rates[:, ::-1], axis=1)[:, ::-1]  # k events are also found where k + 1 are
    levels = rates[:, 1:]
    with np.errstate(invalid="ignore"):
        areas = np.clip(wanted.max_efpr - levels, 0, None).sum(axis=1) / (events * wanted.max_efpr)
    reached = rates[0] <= wanted.max_efpr
    rate, first = np.unique(rates[0][reached][::-1], return_index=True)
    curve = Curve(np.flatnonzero(reached)[::-1][first] / max(int(events[0]), 1), rate)
    return ClassLevels(areas, None if wanted.alpha_st == 0 else levels, events, curve)


def _cross_trigger_scale(reference: ReferenceTotals, index: int, wanted: PsdsParameters) -> np.ndarray:
    """(classes, 1 + draws) rate per hour that one cross trigger on each class adds to the false positive rate."""
    seconds = reference.event_seconds
    if wanted.cttc is None or len(seconds) < 2:
        return np.zeros((1, 1))
    scale = wanted.alpha_ct * SECONDS_PER_HOUR / (len(seconds) - 1) / np.maximum(seconds, 1e-12)
    scale[index] = 0
    return scale


@compiled
def _lowest_rates(
    score: np.ndarray, clip: np.ndarray, kind: np.ndarray, change: np.ndarray,
    weights: np.ndarray, seconds: np.ndarray, scale: np.ndarray, most_events: int,
) -> np.ndarray:  # fmt: skip
    """(draws, 1 + events) lowest effective rate per hour at which exactly k events are found, inf where never."""
    num_draws = weights.shape[1]
    lowest = np.full((num_draws, most_events + 1), np.inf)
    found = np.zeros(num_draws)
    false = np.zeros(num_draws)
    crossed = np.zeros(num_draws)
    best = np.zeros(num_draws)
    per_hour = SECONDS_PER_HOUR / seconds
    entry = 0
    while entry < len(score):
        end = entry
        changes_found = False
        while end < len(score) and score[end] == score[entry]:
            changes_found |= kind[end] == TRUE_POSITIVE
            end += 1
        if changes_found:
            for draw in range(num_draws):
                level = int(found[draw])
                lowest[draw, level] = min(lowest[draw, level], best[draw])
        for step in range(entry, end):
            weight = weights[clip[step]]
            if kind[step] == TRUE_POSITIVE:
                for draw in range(num_draws):
                    found[draw] += weight[draw] * change[step]
            elif kind[step] == FALSE_POSITIVE:
                for draw in range(num_draws):
                    false[draw] += weight[draw] * change[step]
            else:
                factor = scale[kind[step]]
                for draw in range(num_draws):
                    crossed[draw] += weight[draw] * change[step] * factor[draw]
        if changes_found:
            for draw in range(num_draws):
                best[draw] = false[draw] * per_hour[draw] + crossed[draw]
        else:
            for draw in range(num_draws):
                best[draw] = min(best[draw], false[draw] * per_hour[draw] + crossed[draw])
        entry = end
    for draw in range(num_draws):
        level = int(found[draw])
        lowest[draw, level] = min(lowest[draw, level], best[draw])
    return lowest


def _combine(classes: tuple[str, ...], levels: Sequence[ClassLevels], wanted: PsdsParameters) -> Psds:
    areas = np.stack([of_class.areas for of_class in levels])
    curves = {name: of_class.curve for name, of_class in zip(classes, levels)}
    curve = _mean_curve(list(curves.values()), wanted)
    if wanted.alpha_st == 0 or wanted.non_oracle:
        values = np.nanmean(areas, axis=0)
    else:
        values = np.array([area_over_classes(levels, draw, wanted) for draw in range(areas.shape[1])])
    values[0] = _area(curve, wanted.max_efpr)
    return Psds(
        value=float(values[0]),
        per_class=dict(zip(classes, areas[:, 0].tolist())),
        curve=curve,
        class_curves=curves,
        interval=interval(values),
        samples=values[1:],
        class_samples=areas[:, 1:],
    )


def area_over_classes(levels: Sequence[ClassLevels], draw: int, wanted: PsdsParameters) -> float:
    """PSDS of one draw; classes that have no event in it are left out."""
    rates, labels, steps = [], [], []
    present = [of_class for of_class in levels if of_class.events[draw] > 0]
    for label, of_class in enumerate(present):
        assert of_class.rates is not None
        reached = of_class.rates[draw]
        reached = reached[reached <= wanted.max_efpr]
        rates.append(reached)
        labels.append(np.full(len(reached), label))
        steps.append(np.full(len(reached), 1 / of_class.events[draw]))
    rate = np.concatenate(rates)
    order = np.argsort(rate, kind="stable")
    return _penalised_area(
        rate[order], np.concatenate(labels)[order], np.concatenate(steps)[order],
        len(present), wanted.alpha_st, wanted.max_efpr,
    )  # fmt: skip


@compiled
def _penalised_area(
    rate: np.ndarray, label: np.ndarray, step: np.ndarray, num_classes: int, alpha_st: float, max_efpr: float
) -> float:
    """Area under max(mean - alpha_st * std over classes, 0) while the classes rise step by step, over max_efpr."""
    recall = np.zeros(num_classes)
    total, squares = 0.0, 0.0
    area = 0.0
    height, last = 0.0, 0.0
    for i in range(len(rate)):
        area += height * (rate[i] - last)
        last = rate[i]
        before = recall[label[i]]
        after = before + step[i]
        recall[label[i]] = after
        total += step[i]
        squares += after * after - before * before
        mean = total / num_classes
        height = max(mean - alpha_st * np.sqrt(max(squares / num_classes - mean * mean, 0.0)), 0.0)
    return (area + height * (max_efpr - last)) / max_efpr


def _mean_curve(curves: list[Curve], wanted: PsdsParameters) -> Curve:
    """Mean minus alpha_st standard deviations over classes, at every rate where one of them changes."""
    rate = np.unique(np.concatenate([curve.rate for curve in curves]))
    mean, squares = np.zeros(len(rate)), np.zeros(len(rate))
    held = []
    for curve in curves:
        place = np.searchsorted(curve.rate, rate, side="right") - 1
        recall = np.where(place >= 0, curve.recall[place], 0.0)
        mean += recall / len(curves)
        held.append((curve, place))
    for curve, place in held:
        squares += (np.where(place >= 0, curve.recall[place], 0.0) - mean) ** 2 / len(curves)
    recall = np.maximum(mean - wanted.alpha_st * np.sqrt(squares), 0)
    return Curve(np.append(recall, recall[-1]), np.append(rate, wanted.max_efpr))


def _area(curve: Curve, max_efpr: float) -> float:
    return float((curve.recall[:-1] * np.diff(curve.rate)).sum() / max_efpr)


def _reduce_non_oracle(arguments: tuple, events: np.ndarray, wanted: PsdsParameters) -> ClassLevels:
    """Without the running maximum there are no levels; the value only, for all recordings."""
    score, _, kind, change, _, seconds, scale = arguments
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True)) if len(score) else np.empty(0, int)
    found = np.cumsum(np.where(kind == TRUE_POSITIVE, change, 0))[last]
    false = np.cumsum(np.where(kind == FALSE_POSITIVE, change, 0))[last]
    factor = np.append(scale[:, 0], 0.0)[np.where(kind >= 0, kind, -1)]
    rate = false * SECONDS_PER_HOUR / seconds[0] + np.cumsum(np.where(kind >= 0, change * factor, 0.0))[last]
    recall = np.append(0.0, found / max(events[0], 1))
    rate = np.append(0.0, rate)
    order = np.lexsort((recall, rate))
    rate, first = np.unique(rate[order][::-1], return_index=True)
    recall = recall[order][::-1][first]
    inside = rate <= wanted.max_efpr
    curve = Curve(recall[inside], rate[inside])
    area = _area(Curve(np.append(curve.recall, 0), np.append(curve.rate, wanted.max_efpr)), wanted.max_efpr)
    return ClassLevels(np.array([area]), None, events[:1], curve)
