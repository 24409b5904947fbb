"""Learning rate factors against values worked out by hand."""

import math

import pytest

from common.training.schedules import (
    ExponentialWarmupLinearDown,
    WarmupCosine,
    exponential_rise,
    linear_fall,
    warmup_length,
)


def test_the_warm_up_is_straight_and_the_cosine_ends_at_its_floor():
    factor = WarmupCosine(4, 12, floor=0.1, start=0.2)
    # From 0.2 to 1 in four steps; then 0.1 + 0.9 (1 + cos(pi k / 8)) / 2.
    assert [factor(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    expected = {6: 0.55 + 0.45 * math.cos(math.pi / 4), 8: 0.55, 10: 0.55 - 0.45 * math.cos(math.pi / 4), 12: 0.1}
    assert {step: factor(step) for step in expected} == pytest.approx(expected)
    assert factor(100) == pytest.approx(0.1)


def test_a_warm_up_of_one_step_and_a_cosine_of_one_step():
    assert [WarmupCosine(1, 2)(step) for step in range(3)] == pytest.approx([0, 1, 0])
    assert [WarmupCosine(0, 1)(step) for step in range(2)] == pytest.approx([1, 0])
    assert [WarmupCosine(0.5, 1.5)(step) for step in (0, 1)] == pytest.approx([0, 0.5])


def test_the_exponential_rise_begins_at_exp_of_minus_five():
    assert exponential_rise(0, 4) == pytest.approx(math.exp(-5))
    assert exponential_rise(2, 4) == pytest.approx(math.exp(-1.25))
    assert exponential_rise(0, 4, at_least=2) == pytest.approx(math.exp(-1.25))
    assert exponential_rise(4, 4) == exponential_rise(0, 0) == 1


def test_the_linear_fall_ends_at_its_floor():
    assert [linear_fall(epoch, 2, 4, 0.2) for epoch in (0, 2, 4, 6, 9)] == pytest.approx([1, 1, 0.6, 0.2, 0.2])
    assert linear_fall(3, 2, 0, 0.2) == pytest.approx(0.2)
    ramps = ExponentialWarmupLinearDown(4, 6, 2, 0.5)
    assert [ramps(epoch) for epoch in (0, 4, 7, 8)] == pytest.approx([math.exp(-5 * 0.875**2), 1, 0.75, 0.5])


def test_a_share_of_the_training_is_rounded_to_whole_steps():
    assert warmup_length(None, 0.35, 10) == 4
    assert warmup_length(None, 0.34, 10) == 3
    assert warmup_length(7, 0.35, 10) == 7
    assert warmup_length(None, None, 10) == 0
