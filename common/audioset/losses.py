"""Losses of tagging, on labels and on the probabilities of a teacher."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from common.audioset.settings import Objective


def tagging_loss(
    logits: Tensor,
    targets: Mapping[str, Tensor],
    objective: Objective = "several_labels",
    label_weight: float | None = None,
) -> dict[str, Tensor]:
    """Loss on the labels, and with a teacher the weighted sum with the loss on its probabilities.

    Cross entropy is linear in its target, so mixing targets is mixing losses.

    >>> target = torch.tensor([[1.0, 0.0]])
    >>> taught = {"target": target, "weight": torch.ones(1, 2)}
    >>> round(float(tagging_loss(torch.zeros(1, 2), taught)["loss"]), 4)
    0.6931

    Args:
        targets: target and weight, with a teacher teacher_target and teacher_weight, as for `weighted_bce`.
        label_weight: share of the labels (published 0.1, there called kd_lambda); None without a teacher.

    Returns:
        loss; with a teacher also its parts `labels` and `teacher`, before weighting.
    """
    if objective == "one_label":
        labels = F.cross_entropy(logits, targets["target"])
    else:
        labels = weighted_bce(logits, targets["target"], targets["weight"])
    if label_weight is None:
        return {"loss": labels}
    teacher = weighted_bce(logits, targets["teacher_target"], targets["teacher_weight"])
    return {"loss": label_weight * labels + (1 - label_weight) * teacher, "labels": labels, "teacher": teacher}


def weighted_bce(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Binary cross entropy with logits, summed over weighted targets, mean over batch and classes.

    A probability p with weight w is the target w p, so that mixed clips add up. With weight 1 it is
    F.binary_cross_entropy_with_logits. Weight 0 (unknown) counts as loss 0, also in the mean, as in EfficientAT for
    clips without teacher and in the OpenMIC scripts.

    >>> logits = torch.tensor([[0.0, 5.0]])
    >>> round(float(weighted_bce(logits, torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]))), 4)
    0.3466

    Args:
        logits: (batch, classes).
        target: (batch, classes), weight times probability.
        weight: (batch, classes) or (batch, 1).
    """
    return (weight * F.softplus(logits) - target * logits).mean()


def teacher_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """sigmoid(logits / temperature) in single precision.

    >>> teacher_probabilities(torch.tensor([0.0]), 2.0)
    tensor([0.5000])
    """
    return torch.sigmoid(logits.float() / temperature)
