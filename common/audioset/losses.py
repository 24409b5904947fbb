"""Losses of tagging whose targets may be mixed, unknown or a teacher's."""

import torch
import torch.nn.functional as F
from torch import Tensor


def weighted_bce(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Binary cross entropy with logits, summed over weighted targets, mean over batch and classes.

    Cross entropy is linear in its target, so that mixing targets is mixing losses. A target p with weight w stands as
    (w p, w); two mixed clips add up. With weight 1 it is F.binary_cross_entropy_with_logits. What is unknown (weight 0)
    counts as loss 0, also in the mean: so do EfficientAT for clips without teacher, and the OpenMIC scripts.

    Args:
        logits: (batch, classes).
        target: (batch, classes), weight times probability.
        weight: (batch, classes) or (batch, 1).
    """
    return (weight * F.softplus(logits) - target * logits).mean()


def distillation_loss(label_loss: Tensor, teacher_loss: Tensor, label_weight: float) -> Tensor:
    """label_weight * label_loss + (1 - label_weight) * teacher_loss; published with 0.1 (kd_lambda)."""
    return label_weight * label_loss + (1 - label_weight) * teacher_loss


def soft_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross entropy over classes with probabilities (batch, classes) as target; `weight` must be 1 and is not used."""
    return F.cross_entropy(logits, target)


def teacher_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """sigmoid(logits / temperature) in single precision."""
    return torch.sigmoid(logits.float() / temperature)
