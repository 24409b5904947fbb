"""Hierarchical precision, recall and F of DCASE 2026 Task 1, with intervals.

For a clip, m is 1 for the right class, 0.375 for another class of the same top level, else 0. hP of a class is the mean
of m over the clips predicted as it, hR over the clips of it; hF is their harmonic mean. hP, hR, hF are the means over
the classes of the truth; hF ranks.

A class that is never predicted has no hP. Here it counts as hP = hF = 0, as in the winner's code. The official code
leaves it out of all three means, so that a system gains by ignoring a class; `official` holds that reading. Which one
the organisers' evaluation takes is not known.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.reports.statistics import Interval, percentile_limits
from task1_asc.broad_sounds.taxonomy import CODES, TOP_OF, as_indices

Array = NDArray[Any]
NAMES = ("hP", "hR", "hF")
SAME_TOP = TOP_OF[:, None] == TOP_OF[None]
CREDIT = np.where(np.eye(len(CODES), dtype=bool), 1.0, 0.375 * SAME_TOP)
"""m for (truth, prediction): the share of common ancestors, times 0.75 where the class is wrong."""
HALF_CREDIT = np.where(np.eye(len(CODES), dtype=bool), 1.0, 0.5 * SAME_TOP)
RESAMPLES = 1000


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


def intervals(counts: Array, seed: int = 0) -> dict[str, Interval]:
    """hP, hR, hF and hierarchical accuracy with 95 % intervals, by bootstrap over clips.

    Drawing clips with replacement is drawing cells of the counts (23, 23) from a multinomial distribution.
    """
    drawn = _resample(counts, np.random.default_rng(seed))
    figures: dict[str, Interval] = {}
    for number, name in enumerate(NAMES):
        value = _over_truth(class_scores(counts)[number], counts)
        figures[name] = _interval(value, _over_truth(class_scores(drawn)[number], drawn))
    accuracy = ACCURACIES["hierarchical_accuracy"]
    return figures | {"hierarchical_accuracy": _interval(accuracy(counts), accuracy(drawn))}


def class_intervals(counts: Array, seed: int = 0) -> dict[str, Interval]:
    """hF of each class of the truth, with 95 % intervals by bootstrap over clips."""
    values, drawn = class_scores(counts)[2], _resample(counts, np.random.default_rng(seed))
    resampled = np.where(drawn.sum(axis=-1) > 0, class_scores(drawn)[2], np.nan)
    present = np.flatnonzero(counts.sum(axis=1))
    return {CODES[index]: _interval(values[index], resampled[:, index]) for index in present}


def paired_interval(truth: Array, first: Array, second: Array, seed: int = 0) -> Interval:
    """hF of a second system minus that of a first, for indices of the same clips; clips are drawn in pairs."""
    size = len(CODES)
    triples, counts = np.unique((truth * size + first) * size + second, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(truth), counts / len(truth), RESAMPLES)
    sums = []
    for other in (triples // size, triples // size**2 * size + triples % size):
        cells = np.zeros((RESAMPLES, size * size))
        for column, cell in enumerate(other):
            cells[:, cell] += drawn[:, column]
        sums.append(hierarchical_f(cells.reshape(-1, size, size)))
    value = hierarchical_f(count_indices(truth, second)) - hierarchical_f(count_indices(truth, first))
    return _interval(value, sums[1] - sums[0])


def _resample(counts: Array, generator: np.random.Generator) -> Array:
    clips = counts.sum()
    return generator.multinomial(clips, counts.ravel() / clips, RESAMPLES).reshape(-1, *counts.shape)


def _interval(value: Any, resampled: Array) -> Interval:
    low, high = percentile_limits(resampled)
    return Interval(float(value), float(low), float(high))
