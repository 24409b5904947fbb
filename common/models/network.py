"""What all networks have in common: their output, their widths, and the device that they run on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:  # inference packages copy this module without settings
    from common.settings import MachineSettings


class ModelOutput(NamedTuple):
    """Output of every network and audio model; all scores are before sigmoid or softmax.

    logits: (batch, classes), or None for a network without clip classifier.
    embedding: (batch, dim), one vector per clip.
    frames: (batch, time, dim), or None for a clip model.
    frame_logits: (batch, time, classes), or None.
    """

    logits: Tensor | None
    embedding: Tensor
    frames: Tensor | None = None
    frame_logits: Tensor | None = None


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `channels`, at least `divisor`, and never below 0.9 `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def uses_gpu(settings: "MachineSettings | None" = None) -> bool:
    """Whether there is a GPU, and the settings of the trainer allow it."""
    return (settings is None or settings.accelerator != "cpu") and torch.cuda.is_available()


def choose_device(settings: "MachineSettings | None" = None) -> torch.device:
    """The GPU where there is one and the settings of the trainer allow it, else the CPU."""
    return torch.device("cuda" if uses_gpu(settings) else "cpu")


def channels_last(network: nn.Module) -> nn.Module:
    """Order the weights with the channels last, in place: on a CPU convolutions take a third less time."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]


def prefers_channels_last(device: torch.device, precision: str) -> bool:
    """Whether convolutions are quicker with `channels_last`: on a CPU, and on the tensor cores of a GPU in half."""
    return device.type == "cpu" or precision != "32-true"


class _NoDraws(TorchFunctionMode):
    """Leaves tensors as they are where random values are asked for, by their methods or by nn.init."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.clamp_):
            return args[0]
        if getattr(function, "__module__", "") == nn.init.__name__ and kwargs:
            return kwargs["tensor"]
        return function(*args, **(kwargs or {}))


@contextmanager
def without_values() -> Iterator[None]:
    """Networks made within are on the meta device; drawing for it would import torch._dynamo, which takes a second."""
    with torch.device("meta"), _NoDraws():
        yield
