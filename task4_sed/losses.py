"""Losses and schedules of Task 4: the DCASE 2024 baseline (sed_trainer_pretrained.py), and the winner of that year."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def strong_loss(frame_logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of frames: mean over clips, frames and all classes, masked ones included; 0 without clips.

    Args:
        frame_logits: (clips, frames, classes); masked classes at -1e4, so that they add nothing.
        target: (clips, classes, frames), 0..1.

    Example:
        >>> frame_logits = torch.tensor([[[0.0, -1e4]]])  # one clip, one frame, the second class masked
        >>> round(strong_loss(frame_logits, torch.tensor([[[1.0], [0.0]]])).item(), 4)  # ln(2) / 2
        0.3466
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
    """Mean squared difference of the student's probabilities (from logits) and the teacher's; 0 without clips.

    Example:
        >>> agreement_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.5]])).item()
        0.125
    """
    if not len(logits):
        return logits.sum()
    return F.mse_loss(logits.float().sigmoid(), answers.detach().float())


def linear_ramp(step: int, ramp_steps: int, limit: float) -> float:
    """Weight factor in a step, counted from 0: step / ramp_steps, at most `limit`."""
    return min(step / ramp_steps, limit)


def teacher_decay(step: int, decay: float, counted_from: int = 1) -> float:
    """Decay of the moving average in a step, counted from 0: 1 - 1 / (n + 1), at most `decay`.

    `counted_from` is n in step 0. The baseline counts from 1; the winner of 2024 from 0, so its first update overwrites
    the teacher, and the next ones give the plain mean of all students.

    Example:
        >>> [round(teacher_decay(step, 0.999), 3) for step in (0, 1, 5000)]
        [0.5, 0.667, 0.999]
    """
    return min(1 - 1 / (step + counted_from + 1), decay)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, decay: float, statistics: bool) -> None:
    """teacher = decay * teacher + (1 - decay) * student.

    `statistics`: also of the batch norms' mean and variance; otherwise of parameters only, as published.
    """
    # What is not trained is shared or equal.
    pairs = [pair for pair in zip(teacher.parameters(), student.parameters()) if pair[1].requires_grad]
    averaged, current = [list(values) for values in zip(*pairs)]
    if statistics:
        averaged += [buffer for buffer in teacher.buffers() if buffer.is_floating_point()]
        current += [buffer for buffer in student.buffers() if buffer.is_floating_point()]
    torch._foreach_lerp_(averaged, current, 1 - decay)
