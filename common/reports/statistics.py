"""Intervals around figures: over resampled recordings for one model, over seeds for a method."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[Any]


class Interval(NamedTuple):
    """A figure with the limits of its interval; the limits are NaN where there was nothing to estimate them from."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """Mean of second - first over the pairs, limits of its interval, and the p-value of the paired t-test."""

    value: float
    low: float
    high: float
    p_value: float
    pairs: int


def bootstrap_interval(
    statistic: Callable[[Array], Array],
    values: ArrayLike,
    groups: ArrayLike,
    generator: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap of a figure that is a function of sums over clips; whole groups are drawn.

    Args:
        statistic: sums (..., k) to figures (...); the ratio of two columns makes a mean.
        values: (clips, k), what is summed; (clips,) is taken as one column.
        groups: (clips,), name or number of the group of each clip. Pieces of one recording belong in one group: they
            are no independent observations.
        generator: source of the random numbers.
        resamples: how many times the groups are drawn again.
        level: share of the resampled figures within the interval.

    Returns:
        The figure on all clips, and its interval. The limits are NaN when there are fewer than two groups.
    """
    sums = sums_by_group(values, groups)
    figure = float(statistic(sums.sum(axis=0)))
    if len(sums) < 2:
        return Interval(figure, np.nan, np.nan)
    resampled = statistic(resample_sums(sums, generator, resamples))
    return Interval(figure, *percentile_limits(resampled, level))


def bootstrap_by_index(
    statistic: Callable[[Array], float],
    groups: ArrayLike,
    generator: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """As `bootstrap_interval`, for a figure that is no function of sums.

    Args:
        statistic: indices of clips, with repetitions, to the figure; called once per resample.
        groups: (clips,).
        generator: source of the random numbers.
        resamples: how many times the groups are drawn again.
        level: share of the resampled figures within the interval.
    """
    group_of_clip = np.unique(np.asarray(groups), return_inverse=True)[1]
    order = np.argsort(group_of_clip, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(group_of_clip[order])) + 1)
    figure = float(statistic(np.arange(len(group_of_clip))))
    if len(members) < 2:
        return Interval(figure, np.nan, np.nan)
    resampled = np.empty(resamples)
    for number in range(resamples):
        drawn = generator.integers(len(members), size=len(members))
        resampled[number] = statistic(np.concatenate([members[group] for group in drawn]))
    return Interval(figure, *percentile_limits(resampled, level))


def sums_by_group(values: ArrayLike, groups: ArrayLike) -> Array:
    """Sums (groups, k) of values (clips, k) or (clips,), groups in sorted order."""
    values = np.asarray(values, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    names, group_of_clip = np.unique(np.asarray(groups), return_inverse=True)
    if len(group_of_clip) != len(values):
        raise ValueError(f"{len(values)} rows of values and {len(group_of_clip)} groups")
    return np.stack([np.bincount(group_of_clip, column, len(names)) for column in values.T], axis=1)


def resample_sums(sums: Array, generator: np.random.Generator, resamples: int) -> Array:
    """Sums (resamples, k) when as many groups as there are rows in sums (groups, k) are drawn with replacement."""
    num_groups = len(sums)
    resampled = np.empty((resamples, sums.shape[1]))
    for number in range(resamples):
        times_drawn = np.bincount(generator.integers(num_groups, size=num_groups), minlength=num_groups)
        resampled[number] = times_drawn @ sums
    return resampled


def percentile_limits(resampled: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Limits between which `level` of the figures lie; figures that are NaN (a class was not drawn) do not count."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(np.asarray(resampled, dtype=np.float64), [tail, 1 - tail])
    return float(low), float(high)


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean over runs that differ in their seed, with Student's t interval; one run gives NaN limits."""
    if len(values) == 0:
        raise ValueError("no values to average")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, np.nan, np.nan)
    half = _half_width(values, level)
    return Interval(mean, mean - half, mean + half)


def paired_difference(first: Mapping[int, float], second: Mapping[int, float], level: float = 0.95) -> Difference:
    """How much better `second` is than `first`, run by run with the same seed.

    Args:
        first: seed to figure.
        second: seed to figure, same seeds.
        level: of the t interval around the mean difference.

    Raises:
        ValueError: if the seeds differ, or there are fewer than two.
    """
    if set(first) != set(second):
        raise ValueError(f"seeds {sorted(first)} and {sorted(second)} do not pair")
    if len(first) < 2:
        raise ValueError("a paired comparison needs at least two seeds")
    differences = [second[seed] - first[seed] for seed in sorted(first)]
    mean = float(np.mean(differences))
    half = _half_width(differences, level)
    error = _standard_error(differences)
    if error > 0:
        p_value = float(2 * stats.t.sf(abs(mean) / error, len(differences) - 1))
    else:
        p_value = 1.0 if mean == 0 else 0.0
    return Difference(mean, mean - half, mean + half, p_value, len(differences))


def _half_width(values: Sequence[float], level: float) -> float:
    return float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * _standard_error(values)


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))
