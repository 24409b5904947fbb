"""Losses and schedules of the mean teacher, as in the DCASE 2024 Task 4 baseline (sed_trainer_pretrained.py)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.schedules import exponential_rise


def strong_loss(frame_logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of frames.

    Args:
        frame_logits: (clips, frames, classes); classes that a clip says nothing of at -1e4, so that they add nothing.
        target: (clips, classes, frames), 0..1.

    Returns:
        Mean over clips, frames and all classes, also those that add nothing; 0 without clips.
    """
    if not len(frame_logits):
        return frame_logits.sum()
    return F.binary_cross_entropy_with_logits(frame_logits.float().mT, target.float())


def weak_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of clips; logits and target (clips, classes). The mean is taken as in `strong_loss`."""
    if not len(logits):
        return logits.sum()
    return F.binary_cross_entropy_with_logits(logits.float(), target.float())


def consistency_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of probabilities; both are logits of the same shape. The teacher gets no gradient."""
    if not len(student):
        return student.sum()
    return F.mse_loss(student.float().sigmoid(), teacher.detach().float().sigmoid())


def consistency_weight(step: int, ramp_steps: int, weight: float) -> float:
    """Weight of the consistency loss in a step, counted from 0: `weight` times exp(-5 (1 - t)^2)."""
    return weight * exponential_rise(step + 1, ramp_steps)


def rate_factor(step: int, warmup_steps: int, decay_from: int | None, total_steps: int, floor: float = 1e-5) -> float:
    """Factor of the learning rate in a step, counted from 0.

    exp(-5 (1 - t)^2) over the warm-up, 1, and from `decay_from` on the cosine of 0 to a right angle at `total_steps`,
    at least `floor` (1e-8 over a peak of 1e-3).
    """
    if decay_from is not None and step + 1 >= decay_from:
        angle = (step + 1 - decay_from) * math.pi / (2 * max(1, total_steps - decay_from))
        return max(floor, math.cos(angle))
    return exponential_rise(step + 1, warmup_steps)


def teacher_decay(step: int, decay: float) -> float:
    """Decay of the moving average in a step, counted from 0: first the plain mean over the steps."""
    return min(1 - 1 / (step + 2), decay)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, decay: float, statistics: bool) -> None:
    """teacher = decay * teacher + (1 - decay) * student.

    Args:
        teacher, student: networks of one form.
        decay: 0..1.
        statistics: also of the batch norms' mean and variance; otherwise of parameters only, as published.
    """
    averaged, current = list(teacher.parameters()), list(student.parameters())
    if statistics:
        averaged += [buffer for buffer in teacher.buffers() if buffer.is_floating_point()]
        current += [buffer for buffer in student.buffers() if buffer.is_floating_point()]
    torch._foreach_lerp_(averaged, current, 1 - decay)
