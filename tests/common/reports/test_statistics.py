import numpy as np
import pytest
from scipy import stats

from common.reports.statistics import (
    bootstrap_interval,
    bootstrap_mean,
    mean_interval,
    paired_difference,
    ratio,
    resample_sums,
    sums_by_group,
)


def random(seed=0):
    return np.random.default_rng(seed)


def test_values_are_summed_within_their_group():
    sums = sums_by_group([[1, 10], [2, 20], [4, 40]], ["b", "a", "b"])
    assert sums.tolist() == [[2, 20], [5, 50]]


def test_the_figure_itself_is_computed_on_all_clips():
    values = np.stack([np.array([1.0, 0, 1, 1]), np.ones(4)], axis=1)
    assert bootstrap_interval(ratio, values, range(4), random()).value == 0.75


def test_a_bootstrap_interval_is_about_as_wide_as_theory_says():
    """The mean of n independent clips has the standard error s / sqrt(n)."""
    clips = random(1).normal(size=2000)
    values = np.stack([clips, np.ones(2000)], axis=1)
    interval = bootstrap_interval(ratio, values, np.arange(2000), random(), resamples=2000)
    half = 1.96 * clips.std() / np.sqrt(2000)
    assert interval.low == pytest.approx(clips.mean() - half, abs=0.15 * half)
    assert interval.high == pytest.approx(clips.mean() + half, abs=0.15 * half)


def test_ten_copies_of_a_clip_in_one_group_do_not_narrow_the_interval():
    segments = random(2).normal(size=200)
    alone = np.stack([segments, np.ones(200)], axis=1)
    copied = np.repeat(alone, 10, axis=0)
    once = bootstrap_interval(ratio, alone, np.arange(200), random())
    grouped = bootstrap_interval(ratio, copied, np.repeat(np.arange(200), 10), random())
    pretended = bootstrap_interval(ratio, copied, np.arange(2000), random())
    assert (grouped.low, grouped.high) == pytest.approx((once.low, once.high))
    assert pretended.high - pretended.low < 0.5 * (once.high - once.low)


def test_the_mean_of_some_values_is_a_ratio_of_sums():
    clips, groups = random(3).normal(size=90), np.arange(90) // 3
    by_sums = bootstrap_interval(ratio, np.stack([clips, np.ones(90)], axis=1), groups, random(7), resamples=300)
    assert bootstrap_mean(clips, groups, random(7), resamples=300) == by_sums
    assert by_sums.value == pytest.approx(clips.mean())


def test_the_same_seed_gives_the_same_interval():
    values = np.stack([random(3).normal(size=50), np.ones(50)], axis=1)
    first, second, other = (bootstrap_interval(ratio, values, range(50), random(seed)) for seed in (4, 4, 5))
    assert first == second
    assert first != other


def test_each_draw_takes_as_many_groups_as_there_are():
    assert (resample_sums(np.ones((13, 1)), random(), 50) == 13).all()


def test_one_group_has_no_interval():
    interval = bootstrap_interval(ratio, [[1, 1], [0, 1]], ["one", "one"], random())
    assert interval.value == 0.5
    assert np.isnan([interval.low, interval.high]).all()


def test_the_interval_over_seeds_is_students():
    """Hand-made: mean 2, standard deviation 1, n 3, t(0.975, 2) = 4.3027."""
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval == pytest.approx((2.0, 2 - 4.30265 / np.sqrt(3), 2 + 4.30265 / np.sqrt(3)), rel=1e-5)


def test_one_seed_has_a_mean_and_no_interval():
    interval = mean_interval([0.4])
    assert interval.value == 0.4
    assert np.isnan(interval.low)


def test_the_paired_comparison_is_scipys_paired_t_test():
    first = dict(enumerate([0.50, 0.52, 0.47, 0.55, 0.51]))
    second = dict(enumerate([0.53, 0.56, 0.49, 0.55, 0.55]))
    difference = paired_difference(first, second)
    expected = stats.ttest_rel(list(second.values()), list(first.values()))
    assert difference.value == pytest.approx(0.026)
    assert difference.p_value == pytest.approx(expected.pvalue)
    assert (difference.low, difference.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_runs_pair_by_seed_and_not_by_order():
    assert paired_difference({1: 0.1, 2: 0.9}, {2: 0.95, 1: 0.15}).value == pytest.approx(0.05)


def test_runs_with_other_seeds_do_not_pair():
    with pytest.raises(ValueError, match="do not pair"):
        paired_difference({1: 0.1, 2: 0.2}, {1: 0.1, 3: 0.2})


def test_the_same_difference_in_every_pair_needs_no_test():
    assert paired_difference({1: 0.25, 2: 0.5}, {1: 0.5, 2: 0.75}) == (0.25, 0.25, 0.25, 0.0, 2)
    assert paired_difference({1: 0.25, 2: 0.5}, {1: 0.25, 2: 0.5}).p_value == 1
