import numpy as np
import pytest
from scipy import stats

from common.reports.statistics import (
    Interval,
    bootstrap_interval,
    bootstrap_mean,
    difference_over_seeds,
    draws_of_mean,
    mean_interval,
    over_runs,
    paired_difference,
    percentile_limits,
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


def test_draws_of_means_are_alike_for_equal_seeds_and_begin_with_the_mean():
    values = random(3).normal(size=50)
    drawn = draws_of_mean(values, range(50), 20)
    assert drawn.shape == (21,) and drawn[0] == pytest.approx(values.mean())
    assert (drawn == draws_of_mean(values, range(50), 20, seed=0)).all()
    assert (drawn != draws_of_mean(values, range(50), 20, seed=1))[1:].any()


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


def test_equal_figures_of_other_seeds_need_no_test_either():
    assert difference_over_seeds([1, 2], [0.25, 0.25], [3, 4], [0.5, 0.5]) == (0.25, 0.25, 0.25, 0.0, 0)
    assert difference_over_seeds([1, 2], [0.5, 0.5], [3, 4], [0.5, 0.5]) == (0.0, 0.0, 0.0, 1.0, 0)


def test_small_integers_and_truths_are_summed_without_overflow():
    assert sums_by_group(np.full((300, 1), 200, np.uint8), [0] * 300).tolist() == [[60000.0]]
    assert sums_by_group(np.array([True, True, False]), ["a", "a", "b"]).tolist() == [[2.0], [0.0]]


def test_values_and_groups_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="3 rows of values and 2 groups"):
        sums_by_group([1, 2, 3], [0, 1])


def test_two_groups_have_an_interval():
    interval = bootstrap_mean([0.0, 0.0, 1.0, 1.0], [0, 0, 1, 1], random())
    assert (interval.low, interval.value, interval.high) == (0.0, 0.5, 1.0)


def test_a_lower_level_gives_a_narrower_interval():
    values = np.stack([random(1).normal(size=400), np.ones(400)], axis=1)
    wide, narrow = (bootstrap_interval(ratio, values, range(400), random(), level=level) for level in (0.95, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high
    # Quantiles of a normal distribution: 1.96 and 0.674.
    assert (narrow.high - narrow.low) / (wide.high - wide.low) == pytest.approx(0.674 / 1.96, abs=0.05)


def test_limits_lie_at_the_quantiles_and_leave_nan_out():
    resampled = np.append(np.arange(101.0), np.nan)
    assert percentile_limits(resampled) == pytest.approx([2.5, 97.5])
    assert percentile_limits(resampled, level=0.5) == pytest.approx([25, 75])
    assert np.isnan(percentile_limits([np.nan, np.nan])).all()


def test_seeds_with_another_level_and_none_at_all():
    low, high = mean_interval([1.0, 2.0, 3.0], level=0.5)[1:]
    assert high - 2 == 2 - low == pytest.approx(stats.t.ppf(0.75, 2) / np.sqrt(3))
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


@pytest.mark.parametrize("figures", [{}, {3: 0.5}])
def test_fewer_than_two_seeds_are_not_compared(figures):
    with pytest.raises(ValueError, match="at least two seeds"):
        paired_difference(figures, figures)


def test_two_seeds_are_compared():
    difference = paired_difference({1: 0.0, 2: 0.0}, {1: 0.1, 2: 0.3})
    expected = stats.ttest_1samp([0.1, 0.3], 0)
    assert difference.pairs == 2 and difference.p_value == pytest.approx(expected.pvalue)
    narrow = paired_difference({1: 0.0, 2: 0.0}, {1: 0.1, 2: 0.3}, level=0.5)
    assert difference.low < narrow.low < 0.2 < narrow.high < difference.high


def test_fewer_than_five_runs_keep_intervals_over_clips_and_five_get_one_over_seeds():
    one = bootstrap_mean([0.0, 1.0, 1.0], [0, 1, 2], random())
    assert over_runs([one]) == one
    assert over_runs([Interval(0.4, 0.3, 0.5), Interval(0.6, 0.4, 0.8)]) == pytest.approx((0.5, 0.35, 0.65))
    values = [0.4, 0.5, 0.6, 0.5, 0.5]
    assert over_runs([one._replace(value=value) for value in values]) == mean_interval(values)


def test_limits_over_seeds_stay_within_the_range_of_the_figure():
    found = over_runs([Interval(value, 0, 1) for value in (0.0, 0.0, 0.9, 1.0, 1.0)])
    assert (found.low, found.high) == (0.0, 1.0)
    assert over_runs([Interval(value, 0, 1) for value in (0.0, 0.0, 0.1, 0.0, 0.0)]).low == 0
