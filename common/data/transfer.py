"""Tensors of the host on a GPU, without waiting for it."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
ALIGNMENT = 8
"""Bytes; every tensor of a copy begins at a multiple, as the largest numbers need."""


def to_device(values: T, device: torch.device) -> T:
    """Tensors, and those in tuples, lists, mappings and dataclasses, on a device; anything else stays as it is.

    All tensors of the host go to a GPU in one copy, and nobody waits for its end.
    """
    host: dict[int, Tensor] = {}
    if device.type != "cpu":
        _map(values, lambda tensor: host.setdefault(id(tensor), tensor) if tensor.device.type == "cpu" else tensor)
    if not host:
        return values
    pieces = [tensor.contiguous().flatten().view(torch.uint8) for tensor in host.values()]
    padded = [torch.nn.functional.pad(piece, (0, -len(piece) % ALIGNMENT)) for piece in pieces]
    joined = torch.cat(padded)
    if device.type == "cuda":
        joined = joined.pin_memory()
    arrived = joined.to(device, non_blocking=True).split([len(piece) for piece in padded])
    there = {
        key: part[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for part, (key, tensor) in zip(arrived, host.items(), strict=True)
    }
    return _map(values, lambda tensor: there.get(id(tensor), tensor))


def _map(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, Mapping):
        return {name: _map(value, change) for name, value in values.items()}
    if isinstance(values, tuple | list):
        changed = [_map(value, change) for value in values]
        return type(values)(*changed) if hasattr(values, "_fields") else type(values)(changed)
    if is_dataclass(values) and not isinstance(values, type):
        return replace(values, **{part.name: _map(getattr(values, part.name), change) for part in fields(values)})
    return values


def as_rows(chosen: Tensor) -> slice | Tensor:
    """Row numbers (count,) or a mask of rows, on the host, as an index: a slice where the rows are consecutive.

    A slice of a tensor on a GPU is a view. Numbers are copied there first, and the host waits for a mask to be counted.
    """
    rows = chosen.nonzero().flatten() if chosen.dtype == torch.bool else chosen
    first = int(rows[0]) if len(rows) else 0
    consecutive = torch.equal(rows, torch.arange(first, first + len(rows)))
    return slice(first, first + len(rows)) if consecutive else rows
