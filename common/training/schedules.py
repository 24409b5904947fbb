"""Learning rate factors: functions of a step or an epoch, 0..1 times the peak rate."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig


@dataclass
class WarmupCosine:
    """Linear from `start` over the warm-up, then half a cosine down to `floor` at the last step.

    transformers' get_cosine_schedule_with_warmup, which the DCASE 2024 Task 1 baseline uses, for floor 0.

    Args:
        warmup_steps: steps until the peak.
        total_steps: steps of the whole training.
        floor: factor at the end.
        start: factor of the first step.
    """

    warmup_steps: float
    total_steps: float
    floor: float = 0.0
    start: float = 0.0

    def __call__(self, step: int) -> float:
        """Factor of `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.start + (1 - self.start) * step / max(1, self.warmup_steps)
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.floor + (1 - self.floor) * cosine


@dataclass
class ExponentialWarmupLinearDown:
    """Exponential rise, constant, linear fall, constant; usually over epochs.

    CP-JKU's schedule (PaSST, EfficientAT, cpjku_dcase23: helpers/ramp.py).

    Args:
        warmup: length of the rise.
        down_start: where the fall begins.
        down_length: length of the fall.
        floor: factor after the fall.
    """

    warmup: int
    down_start: int
    down_length: int
    floor: float

    def __call__(self, position: float) -> float:
        """Factor at an epoch or step, counted from 0."""
        rise = exponential_rise(position, self.warmup, at_least=0.5)
        return rise * linear_fall(position, self.down_start, self.down_length, self.floor)


def exponential_rise(position: float, length: float, at_least: float = 0.0) -> float:
    """exp(-5 (1 - position / length)^2), 1 from `length` on; positions below `at_least` count as `at_least`."""
    if length == 0 or position >= length:
        return 1.0
    return math.exp(-5.0 * (1.0 - max(position, at_least) / length) ** 2)


def linear_fall(position: float, start: float, length: float, floor: float) -> float:
    """1 until `start`, then linear over `length` to `floor`."""
    if position <= start:
        return 1.0
    left = max(0.0, 1 - (position - start) / length) if length else 0.0
    return floor + (1 - floor) * left


def warmup_length(steps: int | None, share: float | None, total_steps: int) -> int:
    """Steps of a warm-up, given as such or as a share (0..1) of the training."""
    return steps if steps is not None else round((share or 0.0) * total_steps)


def schedule_rate(
    optimizer: torch.optim.Optimizer,
    factor: Callable[[int], float] | list[Callable[[int], float]],
    interval: Literal["step", "epoch"],
) -> OptimizerLRSchedulerConfig:
    """What `configure_optimizers` returns for rates that are the peak times `factor`: one of all groups, or of each."""
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}
