"""Losses and schedules of Task 4.

The mean teacher is that of the DCASE 2024 Task 4 baseline (sed_trainer_pretrained.py), interpolation consistency and
distillation of pseudo-labels are those of the system that won that challenge (CPJKU/cpjku_dcase24).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.training.schedules import exponential_rise


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
    return agreement_loss(student, teacher.float().sigmoid())


def agreement_loss(logits: Tensor, answers: Tensor) -> Tensor:
    """Mean squared difference of the student's probabilities (from logits) and a teacher's; 0 without clips."""
    if not len(logits):
        return logits.sum()
    return F.mse_loss(logits.float().sigmoid(), answers.detach().float())


def interpolated(answers: Tensor, weight: Tensor, partner: Tensor) -> Tensor:
    """What a teacher's answers to clean clips say of their mixture: weight * own + (1 - weight) * the partner's.

    Interpolation consistency: Verma et al., "Interpolation Consistency Training" (IJCAI 2019).

    Args:
        answers: (clips, ...), probabilities.
        weight: (clips,), of each clip itself.
        partner: (clips,).
    """
    share = weight.to(answers).view(-1, *[1] * (answers.dim() - 1))
    return torch.lerp(answers[partner.to(answers.device)], answers, share)


def distillation_loss(frame_logits: Tensor, pseudo: Tensor, weights: Sequence[tuple[slice, float]]) -> Tensor:
    """Binary cross-entropy of frames against pseudo-labels, a weighted sum over parts of the batch.

    Args:
        frame_logits: (clips, frames, classes), of all classes, since the pseudo-labels know all.
        pseudo: (clips, classes, frames), 0..1.
        weights: rows of each part, and its weight.
    """
    parts = [weight * strong_loss(frame_logits[rows], pseudo[rows]) for rows, weight in weights]
    return torch.stack(parts).sum()


def linear_ramp(step: int, ramp_steps: int, limit: float) -> float:
    """Weight factor in a step, counted from 0: step / ramp_steps, at most `limit`."""
    return min(step / ramp_steps, limit)


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
    # What is not trained is shared or equal.
    pairs = [pair for pair in zip(teacher.parameters(), student.parameters()) if pair[1].requires_grad]
    averaged, current = [list(values) for values in zip(*pairs)]
    if statistics:
        averaged += [buffer for buffer in teacher.buffers() if buffer.is_floating_point()]
        current += [buffer for buffer in student.buffers() if buffer.is_floating_point()]
    torch._foreach_lerp_(averaged, current, 1 - decay)
