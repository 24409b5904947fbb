"""The estimate of the memory of a step."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.errors import UserError
from common.training.memory import MemoryEstimate, activations_per_clip, refuse_large

NETWORK = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


def test_activations_are_what_the_layers_keep_of_a_clip():
    # Of 10 rows: the input of each linear layer, (10, 8) and (10, 16); the ReLU keeps its output, which is the second.
    rows = [torch.zeros(1, 10, 8)]
    assert activations_per_clip(NETWORK, rows, NETWORK, "32-true") == 4 * (80 + 160)
    assert activations_per_clip(NETWORK, rows, NETWORK, "bf16-mixed") == 2 * (80 + 160)
    assert activations_per_clip(NETWORK, rows, lambda values: len(values) * 1000, "32-true") == 1000


def test_an_estimate_counts_weights_gradients_and_the_two_averages_of_adam():
    weights = 8 * 16 + 16 + 16 * 2 + 2
    memory = MemoryEstimate.of(NETWORK, 100, 10, "32-true", other_weights=7)
    assert memory == MemoryEstimate(4 * weights + 7, 4 * weights, 8 * weights, 100, 10)
    assert memory.total == 16 * weights + 117
    assert MemoryEstimate.of(NETWORK, 100, 10, "16-mixed").activations == 100 + 2 * weights


def test_a_training_that_does_not_fit_is_refused_with_advice(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=2**30))
    refuse_large(MemoryEstimate(2**29, 0, 0, 0, 2**29), "train", "Take less.")
    with pytest.raises(UserError, match=r"train needs about 1\.0 GiB, but the GPU has 1\.0 GiB\. Take less\."):
        refuse_large(MemoryEstimate(2**29, 0, 0, 1, 2**29), "train", "Take less.")
