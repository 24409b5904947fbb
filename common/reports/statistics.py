"""Intervals around figures: over resampled recordings for one model, over seeds for a method."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


class Interval(NamedTuple):
    """A figure with the limits of its interval; NaN limits where nothing can estimate them."""

    value: float
    low: float
    high: float


def with_interval(
    value: float | None, low: float | None = None, high: float | None = None, *, scale: float = 1.0
) -> str:
    """Text 42.4 [41.2, 43.6]; without limits only the value, without a value a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return f"{scale * value:.1f}"
    return f"{scale * value:.1f} [{scale * low:.1f}, {scale * high:.1f}]"


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

    Not scipy.stats.bootstrap, which draws clips, not groups.

    Args:
        statistic: sums (..., k) to figures (...), such as `ratio`.
        values: (clips, k), what is summed; (clips,) is taken as one column.
        groups: (clips,); pieces of one recording belong in one group: they are no independent observations.

    Returns:
        The figure on all clips, and its interval. The limits are NaN when there are fewer than two groups.
    """
    sums = sums_by_group(values, groups)
    figure = float(statistic(sums.sum(axis=0)))
    if len(sums) < 2:
        return Interval(figure, np.nan, np.nan)
    low, high = percentile_limits(statistic(resample_sums(sums, generator, resamples)), level)
    return Interval(figure, float(low), float(high))


def bootstrap_mean(
    values: ArrayLike, groups: ArrayLike, generator: np.random.Generator, resamples: int = 1000
) -> Interval:
    """`bootstrap_interval` of the mean of values (clips,)."""
    values = np.asarray(values, dtype=np.float64)
    return bootstrap_interval(ratio, np.stack([values, np.ones_like(values)], axis=1), groups, generator, resamples)


def ratio(sums: Array) -> Array:
    """First of two sums (..., 2) divided by the second; the mean where the second counts."""
    return sums[..., 0] / sums[..., 1]


def sums_by_group(values: ArrayLike, groups: ArrayLike) -> Array:
    """Sums (groups, k) of values (clips, k) or (clips,), groups in sorted order."""
    values = np.asarray(values)
    values = values[:, None] if values.ndim == 1 else values  # bincount sums in float64
    names, group_of_clip = np.unique(np.asarray(groups), return_inverse=True)
    if len(group_of_clip) != len(values):
        raise ValueError(f"{len(values)} rows of values and {len(group_of_clip)} groups")
    return np.stack([np.bincount(group_of_clip, column, len(names)) for column in values.T], axis=1)


def draw_groups(num_groups: int, generator: np.random.Generator, resamples: int) -> Iterator[Array]:
    """How often each group (groups,) is in a draw of as many groups with replacement, one draw after another."""
    for _ in range(resamples):
        yield np.bincount(generator.integers(num_groups, size=num_groups), minlength=num_groups)


def resample_sums(sums: Array, generator: np.random.Generator, resamples: int) -> Array:
    """Sums (resamples, k) when as many groups as there are rows in sums (groups, k) are drawn with replacement."""
    return np.stack([drawn @ sums for drawn in draw_groups(len(sums), generator, resamples)])


def draws_of_mean(values: ArrayLike, groups: ArrayLike, resamples: int = 1000, seed: int = 0) -> Array:
    """Mean of values (clips,), then of resampled groups: (1 + resamples,). Equal groups and seeds are drawn alike."""
    values = np.asarray(values, dtype=np.float64)
    sums = sums_by_group(np.stack([values, np.ones_like(values)], axis=1), groups)
    return ratio(np.vstack([sums.sum(axis=0), resample_sums(sums, np.random.default_rng(seed), resamples)]))


def percentile_limits(resampled: ArrayLike, level: float = 0.95) -> Array:
    """Limits (2, ...) that `level` of the figures (resamples, ...) lie between; NaN, a class not drawn, is ignored."""
    tail = (1 - level) / 2
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice encountered")
        return np.nanquantile(np.asarray(resampled, dtype=np.float64), [tail, 1 - tail], axis=0)


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean over runs that differ in their seed, with Student's t interval; one run gives NaN limits."""
    if len(values) == 0:
        raise ValueError("no values to average")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, np.nan, np.nan)
    from scipy import stats  # half a second

    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values))
    return Interval(mean, mean - half, mean + half)


def paired_difference(first: Mapping[int, float], second: Mapping[int, float], level: float = 0.95) -> Difference:
    """How much better `second` is than `first`, seed to figure, with the t interval of the mean difference."""
    if set(first) != set(second):
        raise ValueError(f"seeds {sorted(first)} and {sorted(second)} do not pair")
    if len(first) < 2:
        raise ValueError("a paired comparison needs at least two seeds")
    differences = [second[seed] - first[seed] for seed in sorted(first)]
    if np.ptp(differences) < 1e-12:  # the t-test would divide by 0
        mean = float(differences[0])
        return Difference(mean, mean, mean, float(mean == 0), len(differences))
    from scipy import stats  # half a second

    found = stats.ttest_1samp(differences, 0.0)
    low, high = found.confidence_interval(level)
    return Difference(float(np.mean(differences)), float(low), float(high), float(found.pvalue), len(differences))


def difference_over_seeds(
    first_seeds: Sequence[int], first: Sequence[float], second_seeds: Sequence[int], second: Sequence[float]
) -> Difference | None:
    """Mean of second - mean of first over runs: paired where both have the same seeds, else Welch's t (pairs 0).

    None where one has a single run.
    """
    if min(len(first), len(second)) < 2:
        return None
    if set(first_seeds) == set(second_seeds) and len(set(first_seeds)) == len(first) == len(second):
        return paired_difference(dict(zip(first_seeds, first)), dict(zip(second_seeds, second)))
    mean = float(np.mean(second) - np.mean(first))
    if max(np.ptp(first), np.ptp(second)) < 1e-12:  # the t-test would divide by 0
        return Difference(mean, mean, mean, float(mean == 0), 0)
    from scipy import stats  # half a second

    found = stats.ttest_ind(second, first, equal_var=False)
    low, high = found.confidence_interval()
    return Difference(mean, float(low), float(high), float(found.pvalue), 0)


SEEDS_FOR_T = 5
"""Runs from which on the scatter over seeds is estimated well enough for an interval."""


def over_runs(figures: Sequence[Interval], highest: float = 1.0) -> Interval:
    """The mean over runs; its interval is over seeds from five runs on, else the mean of the runs' own intervals."""
    values, lows, highs = zip(*figures)
    if len(figures) >= SEEDS_FOR_T:
        mean, low, high = mean_interval(values)
        return Interval(mean, max(low, 0.0), min(high, highest))
    return Interval(float(np.mean(values)), float(np.mean(lows)), float(np.mean(highs)))
