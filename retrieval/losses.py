"""Training objectives of retrieval, as functions of embeddings.

Every one normalises its inputs to unit length, divides cosines by the absolute value of the temperature, and raises a
ValueError for shapes that do not fit.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def contrastive_loss(audio: Tensor, text: Tensor, group: Tensor, temperature: float | Tensor) -> Tensor:
    """Symmetric NT-Xent in which every pair of the same file is a positive (stage 1).

    The mean runs over all positive pairs of the batch, not per row, and the positives stay in each other's
    denominator, as in "Estimated Audio-Caption Correspondences Improve Language-Based Audio Retrieval" (2024).

    >>> same = torch.eye(2)  # each clip beside its own caption
    >>> round(contrastive_loss(same, same, torch.tensor([0, 1]), temperature=1.0).item(), 4)  # ln(1 + 1 / e)
    0.3133
    >>> round(contrastive_loss(same, same.flip(0), torch.tensor([0, 1]), temperature=1.0).item(), 4)
    1.3133

    Args:
        audio: (batch, dim) embeddings of the clips.
        text: (batch, dim) embeddings of their captions.
        group: (batch,) integers, equal where two pairs come from the same file.

    Returns:
        Scalar >= 0.
    """
    logits = _cosines(audio, text) / _positive(temperature)
    positive = _same(group, len(audio))
    return -0.5 * (_mean_of(logits.log_softmax(dim=0), positive) + _mean_of(logits.log_softmax(dim=1), positive))


def distillation_loss(audio: Tensor, text: Tensor, correspondences: Tensor, temperature: float | Tensor) -> Tensor:
    """Cross entropy to estimated correspondences within the batch, both directions (stage 2).

    The target is the softmax of the teachers' mean cosine at the student's temperature.

    >>> cosines = torch.eye(2)
    >>> round(distillation_loss(cosines, cosines, cosines, temperature=1.0).item(), 4)  # the entropy of the target
    0.5822

    Args:
        audio: (clips, dim) of the student.
        text: (captions, dim) of the student.
        correspondences: (clips, captions), -1..1; see `estimated_correspondences`.

    Returns:
        Scalar > 0: the mean of the two cross entropies.
    """
    if correspondences.shape != (len(audio), len(text)):
        raise ValueError(
            f"correspondences {tuple(correspondences.shape)} do not fit {len(audio)} clips, {len(text)} captions"
        )
    logits = _cosines(audio, text) / _positive(temperature)
    targets = correspondences / _positive(temperature)
    by_caption = functional.cross_entropy(logits, targets.softmax(dim=1))
    by_clip = functional.cross_entropy(logits.mT, targets.mT.softmax(dim=1))
    return 0.5 * (by_caption + by_clip)


def estimated_correspondences(teacher_audio: Sequence[Tensor], teacher_text: Sequence[Tensor]) -> Tensor:
    """Mean over teachers of the cosines between clips and captions.

    One matrix product per teacher; a (clips, captions, dim) array is never built.

    >>> first, second = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    >>> estimated_correspondences([first, second], [first, first]).item()  # cosines 1 and 0
    0.5

    Args:
        teacher_audio: (clips, teacher_dim) of each teacher; sizes may differ.
        teacher_text: (captions, teacher_dim) of each teacher.

    Returns:
        (clips, captions), -1..1.
    """
    cosines = [_cosines(audio, text) for audio, text in zip(teacher_audio, teacher_text, strict=True)]
    return torch.stack(cosines).mean(dim=0)


def imitation_loss(imitation: Tensor, recording: Tensor, label: Tensor, temperature: float | Tensor) -> Tensor:
    """NT-Xent from imitation to recording; other recordings of the same label leave the denominator.

    "Improving Query-by-Vocal Imitation with Contrastive Learning and Audio Pretraining" (2024).

    >>> embeddings = torch.ones(3, 2)
    >>> round(imitation_loss(embeddings, embeddings, torch.tensor([0, 1, 2]), temperature=0.07).item(), 4)  # ln 3
    1.0986
    >>> imitation_loss(embeddings, embeddings, torch.tensor([0, 0, 0]), temperature=0.07).item()
    0.0

    Args:
        imitation: (batch, dim).
        recording: (batch, dim), row i is the recording of imitation i.
        label: (batch,) integers.

    Returns:
        Scalar >= 0.
    """
    logits = _cosines(imitation, recording) / _positive(temperature)
    itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(_same(label, len(logits)) & ~itself, -torch.inf)
    return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def _mean_of(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the values where `chosen`; a GPU does not wait for their number."""
    return values.where(chosen, 0).sum() / chosen.sum() if values.is_cuda else values[chosen].mean()


def _cosines(left: Tensor, right: Tensor) -> Tensor:
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise ValueError(f"embeddings {tuple(left.shape)} and {tuple(right.shape)} must be (batch, dim) of one dim")
    return functional.normalize(left, dim=1) @ functional.normalize(right, dim=1).mT


def _same(group: Tensor, batch: int) -> Tensor:
    if group.shape != (batch,):
        raise ValueError(f"group {tuple(group.shape)} must be ({batch},)")
    return group[:, None] == group[None, :]


def _positive(temperature: float | Tensor) -> float | Tensor:
    return temperature.abs() if isinstance(temperature, Tensor) else abs(temperature)
