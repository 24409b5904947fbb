"""Hierarchical precision, recall and F of DCASE 2026 Task 1, with intervals.

For a clip, m is 1 for the right class, 0.375 for another class of the same top level, else 0. hP of a class is the mean
of m over the clips predicted as it, hR over the clips of it; hF is their harmonic mean. hP, hR, hF are the means over
the classes of the truth; hF ranks.

A class that is never predicted has no hP. Here it counts as hP = hF = 0, as in the winner's code. The official code
leaves it out of all three means, so that a system gains by ignoring a class; `official` holds that reading. Which one
the organisers' evaluation takes is not known.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.reports.statistics import Interval, draw_groups, percentile_limits
from task1_asc.broad_sounds.taxonomy import CODES, TOP_OF, as_indices

Array = NDArray[Any]
NAMES = ("hP", "hR", "hF")
SAME_TOP = TOP_OF[:, None] == TOP_OF[None]
CREDIT = np.where(np.eye(len(CODES), dtype=bool), 1.0, 0.375 * SAME_TOP)
"""m for (truth, prediction): the share of common ancestors, times 0.75 where the class is wrong."""
HALF_CREDIT = np.where(np.eye(len(CODES), dtype=bool), 1.0, 0.5 * SAME_TOP)
RESAMPLES = 1000
FEW = 4  # classes that a message names


def hierarchical_scores(truth: Sequence[str], predicted: Sequence[str]) -> dict[str, Any]:
    """Hierarchical scores of codes, one of each per clip; 0..1.

    Returns:
        "hP", "hR", "hF"; "per_class": those of each class of the truth by code; "official": the reading that leaves
        out the classes "never_predicted".

    Raises:
        UserError: for an unknown code, lists of different lengths, or no clip.
    """
    counts = count_pairs(truth, predicted)
    per_class = class_scores(counts)
    present, found = counts.sum(axis=1) > 0, counts.sum(axis=0) > 0
    official = {name: float(values[present & found].mean()) if (present & found).any() else 0.0
                for name, values in zip(NAMES, per_class)}  # fmt: skip
    return {
        **{name: float(values[present].mean()) for name, values in zip(NAMES, per_class)},
        "per_class": {
            CODES[index]: {name: float(values[index]) for name, values in zip(NAMES, per_class)}
            for index in np.flatnonzero(present)
        },
        "official": official,
        "never_predicted": [CODES[index] for index in np.flatnonzero(present & ~found)],
    }


def all_scores(truth: Sequence[str], predicted: Sequence[str]) -> dict[str, Any]:
    """`hierarchical_scores`, and accuracies on both levels, over clips and as means over the 23 classes (macro)."""
    counts = count_pairs(truth, predicted)
    return {**hierarchical_scores(truth, predicted), **{name: float(rule(counts)) for name, rule in ACCURACIES.items()}}


def count_pairs(truth: Sequence[str], predicted: Sequence[str]) -> Array:
    """(23, 23) clips by truth and prediction, in the order of the taxonomy; see `hierarchical_scores`."""
    if len(truth) != len(predicted) or not len(truth):
        raise UserError(f"{len(truth)} true classes and {len(predicted)} predictions: give one of each for every clip.")
    return count_indices(as_indices(truth, "true class"), as_indices(predicted, "predicted class"))


def count_indices(truth: Array, predicted: Array) -> Array:
    """`count_pairs` of indices in the taxonomy."""
    size = len(CODES)
    return np.bincount(truth * size + predicted, minlength=size * size).reshape(size, size)


def spell_missed(codes: Sequence[str], evaluation: Path | None) -> str:
    """Classes that are never predicted, shortened where a run's evaluation.json has the whole list."""
    if evaluation is None or len(codes) <= FEW:
        return ", ".join(codes)
    return (
        f"{len(codes)} of {len(CODES)} classes ({', '.join(codes[:FEW])}, ...; all in never_predicted of {evaluation})"
    )


def class_scores(counts: Array) -> tuple[Array, Array, Array]:
    """hP, hR, hF (..., 23) of each class, out of counts (..., 23, 23); 0 where there is no clip."""
    credit = counts * CREDIT
    precision = _divide(credit.sum(axis=-2), counts.sum(axis=-2))
    recall = _divide(credit.sum(axis=-1), counts.sum(axis=-1))
    return precision, recall, _divide(2 * precision * recall, precision + recall)


def hierarchical_f(counts: Array) -> Array:
    """hF (...) of counts (..., 23, 23)."""
    return _over_truth(class_scores(counts)[2], counts)


def _divide(first: Array, second: Array) -> Array:
    return np.divide(first, second, out=np.zeros(np.broadcast(first, second).shape), where=second > 0)


def _over_truth(values: Array, counts: Array) -> Array:
    """Mean of values (..., classes) over the classes of the truth in counts (..., classes, classes)."""
    present = counts.sum(axis=-1) > 0
    return (values * present).sum(axis=-1) / present.sum(axis=-1)


def _share(credit: Array, macro: bool) -> Callable[[Array], Array]:
    """A function of counts: the mean of a credit over clips, or over the classes of the truth."""

    def score(counts: Array) -> Array:
        gained, clips = (counts * credit).sum(axis=-1), counts.sum(axis=-1)
        return _over_truth(_divide(gained, clips), counts) if macro else gained.sum(axis=-1) / clips.sum(axis=-1)

    return score


_EXACT = np.eye(len(CODES))
ACCURACIES: Mapping[str, Callable[[Array], Array]] = {
    "accuracy": _share(_EXACT, False),
    "macro_accuracy": _share(_EXACT, True),
    "top_accuracy": _share(SAME_TOP.astype(np.float64), False),
    "macro_top_accuracy": _share(SAME_TOP.astype(np.float64), True),
    "hierarchical_accuracy": _share(HALF_CREDIT, True),
}


def draw_counts(folds: Sequence[tuple[Array, Array]], seed: int = 0) -> Array:
    """Counts (1 + resamples, folds, 23, 23): of all clips, then of clips that are drawn with replacement in each fold.

    Equal numbers of clips and seeds are drawn alike, so that differences of two systems are paired.

    Args:
        folds: indices of truth and prediction for the clips of each fold.
    """
    size, every = len(CODES), []
    for number, (truth, predicted) in enumerate(folds):
        cells, random = truth * size + predicted, np.random.default_rng((seed, number))
        weights = [np.ones(len(cells)), *draw_groups(len(cells), random, RESAMPLES)]
        every.append([np.bincount(cells, weight, size * size) for weight in weights])
    return np.stack(every, axis=1).reshape(-1, len(folds), size, size)


def mean_draws(counts: Array) -> dict[str, Array]:
    """Each figure (draws,) of counts (draws, folds, 23, 23), the mean over folds."""
    classes = dict(zip(NAMES, class_scores(counts)))
    figures = {name: _over_truth(values, counts) for name, values in classes.items()}
    figures |= {name: rule(counts) for name, rule in ACCURACIES.items()}
    return {name: values.mean(axis=1) for name, values in figures.items()}


def class_draws(counts: Array) -> dict[str, dict[str, Array]]:
    """hP, hR, hF (draws,) of each class of the truth by code, the mean over the folds that have it."""
    present = counts.sum(axis=-1) > 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class that is in no drawn fold
        means = {name: np.nanmean(np.where(present, values, np.nan), axis=1)
                 for name, values in zip(NAMES, class_scores(counts))}  # fmt: skip
    kept = np.flatnonzero(present[0].any(axis=0))
    return {CODES[place]: {name: values[:, place] for name, values in means.items()} for place in kept}


def interval_of(draws: Array) -> Interval:
    """The figure, and its 95 % interval from the resamples behind it."""
    low, high = percentile_limits(draws[1:])
    return Interval(float(draws[0]), float(low), float(high))
