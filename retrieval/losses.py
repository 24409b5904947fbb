"""Training objectives of retrieval, as functions of embeddings; every one normalises its inputs to unit length."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def contrastive_loss(audio: Tensor, text: Tensor, group: Tensor, temperature: float | Tensor) -> Tensor:
    """Symmetric NT-Xent in which every pair of the same file is a positive (stage 1).

    The mean runs over all positive pairs of the batch, not per row, and the positives stay in each other's
    denominator, as in "Estimated Audio-Caption Correspondences Improve Language-Based Audio Retrieval" (2024).

    Args:
        audio: (batch, dim) embeddings of the clips.
        text: (batch, dim) embeddings of their captions.
        group: (batch,) integers, equal where two pairs come from the same file.
        temperature: its absolute value divides the cosines.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: if the shapes do not fit.
    """
    logits = _cosines(audio, text) / _positive(temperature)
    positive = _same(group, len(audio))
    return -0.5 * (logits.log_softmax(dim=0)[positive].mean() + logits.log_softmax(dim=1)[positive].mean())


def correspondence_loss(
    audio: Tensor,
    text: Tensor,
    teacher_audio: Tensor | Sequence[Tensor],
    teacher_text: Tensor | Sequence[Tensor],
    temperature: float | Tensor,
) -> Tensor:
    """Cross entropy to the correspondences that teachers estimate within the batch, both directions (stage 2).

    The target is the softmax of the teachers' mean cosine at the student's temperature.

    Args:
        audio: (batch, dim) of the student.
        text: (batch, dim) of the student.
        teacher_audio: (batch, teachers, teacher_dim); or a sequence of (batch, teacher_dim), one per teacher, whose
            sizes may differ.
        teacher_text: the same for the captions.
        temperature: its absolute value divides the cosines of student and teachers.

    Returns:
        Scalar > 0: the mean of the two cross entropies.

    Raises:
        ValueError: if the shapes do not fit.
    """
    return distillation_loss(audio, text, estimated_correspondences(teacher_audio, teacher_text), temperature)


def distillation_loss(audio: Tensor, text: Tensor, correspondences: Tensor, temperature: float | Tensor) -> Tensor:
    """`correspondence_loss` for correspondences that are already at hand: (batch clips, batch captions), -1..1."""
    if correspondences.shape != (len(audio), len(text)):
        raise ValueError(
            f"correspondences {tuple(correspondences.shape)} do not fit {len(audio)} clips, {len(text)} captions"
        )
    temperature = _positive(temperature)
    logits = _cosines(audio, text) / temperature
    targets = correspondences / temperature
    by_caption = functional.cross_entropy(logits, targets.softmax(dim=1))
    by_clip = functional.cross_entropy(logits.mT, targets.mT.softmax(dim=1))
    return 0.5 * (by_caption + by_clip)


def estimated_correspondences(
    teacher_audio: Tensor | Sequence[Tensor], teacher_text: Tensor | Sequence[Tensor]
) -> Tensor:
    """Mean over teachers of the cosines between clips and captions: (clips, captions), -1..1.

    One matrix product per teacher; a (clips, captions, dim) array is never built.
    """
    audio, text = _per_teacher(teacher_audio), _per_teacher(teacher_text)
    if len(audio) != len(text) or not audio:
        raise ValueError(f"{len(audio)} teachers for the clips, {len(text)} for the captions")
    total = _cosines(audio[0], text[0])
    for clips, captions in zip(audio[1:], text[1:], strict=True):
        total = total + _cosines(clips, captions)
    return total / len(audio)


def imitation_loss(imitation: Tensor, recording: Tensor, label: Tensor, temperature: float | Tensor) -> Tensor:
    """NT-Xent from imitation to recording; other recordings of the same label leave the denominator.

    "Improving Query-by-Vocal Imitation with Contrastive Learning and Audio Pretraining" (2024).

    Args:
        imitation: (batch, dim).
        recording: (batch, dim), row i is what imitation i imitates.
        label: (batch,) integers.
        temperature: its absolute value divides the cosines.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: if the shapes do not fit.
    """
    logits = _cosines(imitation, recording) / _positive(temperature)
    itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(_same(label, len(logits)) & ~itself, -torch.inf)
    return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def _cosines(left: Tensor, right: Tensor) -> Tensor:
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise ValueError(f"embeddings {tuple(left.shape)} and {tuple(right.shape)} must be (batch, dim) of one dim")
    return functional.normalize(left, dim=1) @ functional.normalize(right, dim=1).mT


def _same(group: Tensor, batch: int) -> Tensor:
    if group.shape != (batch,):
        raise ValueError(f"group {tuple(group.shape)} must be ({batch},)")
    return group[:, None] == group[None, :]


def _per_teacher(embeddings: Tensor | Sequence[Tensor]) -> list[Tensor]:
    if isinstance(embeddings, Tensor):
        return [embeddings] if embeddings.ndim == 2 else list(embeddings.unbind(dim=1))
    return list(embeddings)


def _positive(temperature: float | Tensor) -> float | Tensor:
    return abs(temperature)
