"""Limits of parameters and operations, and the widths within them."""

import pytest

from common.errors import UserError
from task1_asc.networks.build import input_shape
from task1_asc.networks.limits import fits, largest_widths, measure_network
from task1_asc.recipe import RECIPE, refuse_over_limits
from task1_asc.settings import ModelSettings
from tests.support.quick_distillation import quick


def test_a_network_over_the_limits_is_refused_with_the_nearest_width_before_anything_is_trained(tiny_task1, tmp_path):
    settings = quick(
        tiny_task1, tmp_path, front_end=None, model__base_channels=32, model__channels_multiplier=2.3,
        model__expansion_rate=3.0,
    )  # fmt: skip
    with pytest.raises(UserError) as told:
        RECIPE.run(settings)
    message = str(told.value)
    assert "131,168 bytes in int8, 3,168 over the limit of 128,000" in message
    assert "base_channels 32, channels_multiplier 2.3, expansion_rate 2.9" in message
    assert not (tmp_path / "quick" / "teachers" / "cp_resnet_1").exists()
    nearest = settings.model_copy(update={"model": settings.model.model_copy(update={"expansion_rate": 2.9})})
    refuse_over_limits(nearest)


def test_too_many_macs_are_told_as_such(tiny_task1, tmp_path):
    settings = quick(tiny_task1, tmp_path, limits__max_macs=20_000)
    with pytest.raises(UserError, match=r"multiply-accumulates for one second, [\d,]+ over the limit of 20,000"):
        refuse_over_limits(settings)


@pytest.mark.slow
def test_the_search_finds_the_largest_width_within_both_limits(tiny_task1, tmp_path, monkeypatch):
    """Against trying all of a small grid."""
    monkeypatch.setattr("task1_asc.networks.limits.BASES", (8, 16))
    monkeypatch.setattr("task1_asc.networks.limits.MULTIPLIERS", (1.0, 1.5, 2.0))
    monkeypatch.setattr("task1_asc.networks.limits.EXPANSIONS", (1.0, 2.0, 3.0))
    settings = quick(tiny_task1, tmp_path, limits__max_bytes=16_000, limits__max_macs=200_000)
    shape, tried = input_shape(settings), {}
    for base in (8, 16):
        for multiplier in (1.0, 1.5, 2.0):
            for expansion in (1.0, 2.0, 3.0):
                dials = {"base_channels": base, "channels_multiplier": multiplier, "expansion_rate": expansion}
                figures = measure_network(ModelSettings(name="cp_mobile", **dials), shape, "int8")
                if fits(figures, settings.limits):
                    tried[figures.bytes] = dials
    best = largest_widths(settings, 1)[0]
    assert best.figures.bytes == max(tried)
    assert len(tried) < 18
