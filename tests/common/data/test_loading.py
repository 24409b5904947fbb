"""Draws of an epoch: which clips, how often, and what is refused."""

from collections import Counter

import numpy as np
import pytest

from common.data.loading import EpochDraws, EpochSampler
from common.errors import UserError


def drawn(draws, epochs):
    """How often each clip comes over some epochs."""
    counts = Counter(clip for epoch in range(epochs) for clip in draws.order(5, epoch).tolist())
    return np.array([counts[clip] for clip in range(draws.num_clips)])


@pytest.mark.parametrize("weights", [None, np.array([1.0, 3.0, 2.0, 4.0])])
def test_an_epoch_of_all_clips_holds_each_once(weights):
    order = EpochDraws(4, 4, weights).order(0, 0)
    assert sorted(order.tolist()) == [0, 1, 2, 3] and order.dtype == np.int64


def test_without_weights_each_clip_is_drawn_equally_often():
    """The first and the last, too: 4,000 draws of 1 in 5 are 800, give or take 25."""
    assert drawn(EpochDraws(5, 1), 4000) == pytest.approx(800, abs=100)
    assert drawn(EpochDraws(5, 2), 2000) == pytest.approx(800, abs=100)
    assert drawn(EpochDraws(5, 1, replacement=True), 4000) == pytest.approx(800, abs=100)


def test_with_replacement_clips_come_as_often_as_their_weights():
    weights = np.array([0.0, 1.0, 2.0, 1.0])
    draws = EpochDraws(4, 4000, weights, replacement=True)
    assert drawn(draws, 1) == pytest.approx([0, 1000, 2000, 1000], abs=120)


def test_the_last_clip_is_drawn_and_one_of_weight_zero_never():
    weights = np.array([0.0, 1.0, 1.0, 0.0, 2.0])
    counts = drawn(EpochDraws(5, 2, weights), 500)
    assert counts[0] == counts[3] == 0
    assert counts[4] > counts[1] > 200


def test_heavy_clips_come_first():
    weights = np.array([1e-9, 1.0, 1e9])
    assert all(EpochDraws(3, 3, weights).order(0, epoch).tolist() == [2, 1, 0] for epoch in range(20))


def test_epochs_and_seeds_differ_and_repeat():
    draws = EpochDraws(50, 50)
    orders = {(seed, epoch): draws.order(seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)}
    assert len({tuple(order) for order in orders.values()}) == 4
    assert draws.order(1, 0).tolist() == orders[1, 0]


@pytest.mark.parametrize(
    ("count", "weights", "possible"), [(4, None, 3), (3, [1.0, 0.0, 1.0], 2), (1, [0.0, 0.0, 0.0], 0)]
)
def test_more_than_there_are_is_refused_without_replacement(count, weights, possible):
    weights = None if weights is None else np.array(weights)
    with pytest.raises(
        UserError, match=f"An epoch of {count} clips cannot be drawn without replacement from {possible}"
    ):
        EpochDraws(3, count, weights)
    assert EpochDraws(3, possible, weights).count == possible
    if possible:
        assert len(EpochDraws(3, count, weights, replacement=True).order(0, 0)) == count


def test_a_sampler_gives_each_item_once_in_another_order_each_epoch():
    sampler = EpochSampler(30, seed=3)
    first = list(sampler)
    sampler.set_epoch(1)
    assert sorted(first) == sorted(sampler) == list(range(30)) and len(sampler) == 30
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first
