"""Tensors of the host on a fake GPU."""

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from common.data.transfer import as_rows, to_device
from tests.gpu.devices import Copies, fake_cuda


class Pair(NamedTuple):
    weight: Tensor
    partner: Tensor


@dataclass(frozen=True)
class Draws:
    pair: Pair | None
    curves: dict[str, Tensor]
    crop: tuple[slice, int]


DRAWS = Draws(Pair(torch.rand(5), torch.arange(3)), {"a": torch.rand(2, 3).double().mT}, (slice(2, 3), 7))


def test_all_tensors_of_the_host_go_to_the_device_in_one_copy_that_nobody_waits_for():
    with fake_cuda() as device, Copies() as copies:
        there = to_device(torch.ones(2), device)
        moved, same = to_device((DRAWS, there), device)
    assert dict(copies.found) == {"to device": 2}
    assert same is there
    assert moved.crop == DRAWS.crop
    for now, before in zip((*moved.pair, moved.curves["a"]), (*DRAWS.pair, DRAWS.curves["a"]), strict=True):
        assert (now.device, now.dtype, now.shape) == (device, before.dtype, before.shape)


def test_values_arrive_as_they_were(monkeypatch):
    monkeypatch.setattr(Tensor, "to", lambda tensor, *_, **__: tensor.clone())  # the host stands for the device
    values = [torch.tensor(True), torch.rand(3), torch.rand(2, 3).double().mT, torch.arange(7), torch.rand(3).half()]
    for now, before in zip(to_device(values, torch.device("xpu")), values, strict=True):
        assert torch.equal(now, before) and now is not before


def test_on_a_cpu_nothing_is_touched():
    assert to_device(DRAWS, torch.device("cpu")) is DRAWS


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (torch.tensor([3, 4, 5]), slice(3, 6)),
        (torch.tensor([False, True, True]), slice(1, 3)),
        (torch.tensor([], dtype=torch.int64), slice(0, 0)),
    ],
)
def test_consecutive_rows_are_a_slice(chosen, expected):
    assert as_rows(chosen) == expected


def test_other_rows_are_their_numbers():
    assert as_rows(torch.tensor([4, 3])).tolist() == [4, 3]
    assert as_rows(torch.tensor([True, False, True])).tolist() == [0, 2]
