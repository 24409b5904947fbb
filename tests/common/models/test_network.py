"""Sizes, devices and shapes of networks."""

import pytest
import torch

from common.models.network import choose_device, make_divisible, prefers_channels_last, without_values
from common.settings import MachineSettings


@pytest.mark.parametrize(
    ("channels", "rounded"),
    [
        (1, 8),
        (8, 8),
        (16, 16),
        (17, 16),
        (44, 48),
        (43.9, 40),
        (60, 64),
        (100, 104),
        (11, 16),
        (18, 24),
        (19.9, 24),
        (90, 88),
    ],
)
def test_channels_become_the_nearest_multiple_of_eight_and_lose_no_tenth(channels, rounded):
    """As in MobileNet: halves upwards, at least 8, and the next multiple where rounding down takes more than 10 %."""
    assert make_divisible(channels) == rounded


def test_channels_become_multiples_of_other_numbers_too():
    assert [make_divisible(channels, 4) for channels in (1, 5, 6, 30)] == [4, 8, 8, 32]


@pytest.mark.parametrize(
    ("accelerator", "there", "kind"),
    [
        ("auto", True, "cuda"),
        ("gpu", True, "cuda"),
        ("cpu", True, "cpu"),
        ("auto", False, "cpu"),
        ("cpu", False, "cpu"),
    ],
)
def test_a_gpu_is_taken_where_there_is_one_unless_the_settings_say_cpu(monkeypatch, accelerator, there, kind):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert choose_device(MachineSettings(accelerator=accelerator)).type == kind
    assert choose_device().type == ("cuda" if there else "cpu")


@pytest.mark.parametrize(
    ("device", "precision", "last"),
    [("cpu", "32-true", True), ("cuda", "32-true", False), ("cuda", "16-mixed", True), ("cpu", "bf16-mixed", True)],
)
def test_channels_come_last_on_a_cpu_and_in_half_precision(device, precision, last):
    assert prefers_channels_last(torch.device(device), precision) is last


def test_networks_without_values_have_shapes_alone_and_drawing_leaves_tensors_as_they_are():
    with without_values():
        layer, tensor = torch.nn.Linear(3, 2), torch.empty(4)
        assert tensor.normal_(0.0, 1.0) is tensor and tensor.uniform_(-1.0, 1.0) is tensor
        assert torch.zeros(2, dtype=torch.float64).dtype == torch.float64
    assert layer.weight.shape == (2, 3) and layer.weight.is_meta and tensor.is_meta
    assert not torch.nn.Linear(3, 2).weight.is_meta
