"""Clips of AudioSet with their labels and the logits of a teacher."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from common.audioset.losses import teacher_probabilities
from common.audioset.settings import AugmentSettings, TeacherSettings
from common.audioset.tables import Classes, find_files
from common.data.encoded_store import EncodedClips
from common.data.keyed_outputs import KeyedOutputs
from common.data.loading import EpochDraws, rank_and_count
from common.errors import UserError
from common.features.augment import roll, wavmix
from common.output import say

Draw = tuple[int, int]
"""Index of a clip, and the seed of its augmentation."""


class PackedTargets:
    """Labels as packed bits (numpy.packbits), 66 bytes for the 527 of a clip; two million clips fit into 135 MB."""

    def __init__(self, packed: NDArray[np.uint8], num_classes: int):
        self.packed, self.num_classes = packed, num_classes

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        """(len(rows), classes) of 0 and 1."""
        return np.unpackbits(self.packed[rows], axis=-1, count=self.num_classes)


@dataclass
class Teacher:
    """The teacher's logits: their table, the row of each clip (clips,), -1 for none, and a temperature."""

    outputs: KeyedOutputs
    rows: NDArray[np.int64]
    temperature: float

    def targets(self, clips: NDArray[Any]) -> tuple[Tensor, Tensor]:
        """Probabilities (len(clips), classes), 0 where there are none, and whether there are, (len(clips), 1)."""
        rows = self.rows[clips]
        there = torch.from_numpy((rows >= 0).astype(np.float32))[:, None]
        logits = torch.from_numpy(self.outputs.read(rows))
        return teacher_probabilities(logits, self.temperature) * there, there


def open_teacher(settings: TeacherSettings, filenames: Sequence[str], num_classes: int) -> Teacher:
    """The teacher's logits of clips; raises UserError as `KeyedOutputs`, and for missing logits."""
    outputs = KeyedOutputs(settings.logits, "logits", (num_classes,))
    try:
        rows = outputs.rows(filenames, allow_missing=settings.missing == "labels_only")
    except UserError as error:
        raise UserError(f"teacher.logits: {error} Or set teacher.missing to labels_only.") from error
    if missing := int((rows < 0).sum()):
        if missing == len(rows):
            raise UserError(f"teacher.logits: {settings.logits} has none of the {len(rows):,} training clips.")
        say(f"{missing:,} of {len(rows):,} clips have no teacher logits; they learn from their labels alone.")
    return Teacher(outputs, rows, settings.temperature)


class TaggingClips(Dataset[Any]):
    """Waveforms with targets, and in training with gain, roll, wavmix and the teacher's probabilities.

    A batch holds ``waveform`` (batch, samples), ``target`` (weight times probability, `weighted_bce`) and ``weight``
    (batch, classes), float32; with a teacher ``teacher_target`` (batch, classes) and ``teacher_weight`` (batch, 1);
    ``filename`` (list) and ``index`` (batch,).

    Args:
        weights: (clips, classes), 0 where a label is unknown; None for 1.
        augment: gain, roll and wavmix for clips that are requested with a seed; None for none.
    """

    def __init__(
        self,
        audio: EncodedClips,
        targets: PackedTargets | NDArray[Any],
        weights: NDArray[Any] | None = None,
        teacher: Teacher | None = None,
        augment: AugmentSettings | None = None,
    ):
        self.audio, self.targets, self.weights, self.teacher, self.augment = audio, targets, weights, teacher, augment

    def __len__(self) -> int:
        return len(self.audio)

    def gather(self, draws: Sequence[int | Draw]) -> dict[str, Any]:
        """A batch of clips; those that are given with a seed are augmented."""
        batch = self._read(draws)
        seeds = [draw[1] for draw in draws if isinstance(draw, tuple)]
        if self.augment is None or len(seeds) < len(draws):
            return batch
        randoms = [np.random.default_rng((seed, 1)) for seed in seeds]
        self._change(batch["waveform"], randoms)
        rows = [row for row, random in enumerate(randoms) if random.random() < self.augment.wavmix_probability]
        if rows:
            chosen = [randoms[row] for row in rows]
            partners = self._read([(int(random.integers(len(self))), int(random.integers(2**62))) for random in chosen])
            self._change(partners["waveform"], chosen)
            drawn = torch.tensor([random.beta(2, 2) for random in chosen])
            mix_waveforms(batch, partners, torch.tensor(rows), drawn, self.augment.wavmix_teacher == "mixed")
        return batch

    def _read(self, draws: Sequence[int | Draw]) -> dict[str, Any]:
        batch = self.audio.gather(draws)
        clips = np.array([draw[0] if isinstance(draw, tuple) else draw for draw in draws])
        weight = torch.ones(len(clips), 1) if self.weights is None else _as_tensor(self.weights[clips])
        target = _as_tensor(self.targets[clips])
        weight = weight.expand_as(target).contiguous()
        batch |= {"target": target * weight, "weight": weight, "index": torch.from_numpy(clips)}
        if self.teacher is not None:
            batch["teacher_target"], batch["teacher_weight"] = self.teacher.targets(clips)
        return batch

    def _change(self, waveform: Tensor, randoms: Sequence[np.random.Generator]) -> None:
        """Gain and roll of each clip on its own, in place. Gains are whole decibels, as in pydub_augment."""
        assert self.augment is not None
        gain, most = self.augment.gain_db, self.augment.roll
        decibels = torch.tensor([float(random.integers(-gain, gain)) if gain else 0.0 for random in randoms])
        shift = torch.tensor([int(random.integers(-most, most + 1)) if most else 0 for random in randoms])
        if gain or most:
            waveform.copy_(change_waveforms(waveform, decibels, shift))


def change_waveforms(waveform: Tensor, decibels: Tensor, shift: Tensor) -> Tensor:
    """Gain in decibels and circular shift in samples, (clips,) each, of waveforms (clips, samples)."""
    louder = waveform * (10 ** (decibels / 20)).to(waveform)[:, None]
    return roll(louder, shift, int(shift.abs().max()))


def mix_waveforms(
    batch: dict[str, Any], partners: dict[str, Any], rows: Tensor, drawn: Tensor, mix_teacher: bool = False
) -> None:
    """Mix partners into rows of a batch of `TaggingClips`, in place; each row keeps the larger part.

    Args:
        drawn: (rows,), from Beta(2, 2); a row's own weight is max(drawn, 1 - drawn).
        mix_teacher: mix the teacher's probabilities as well; published: the batch's own ones stay.
    """
    keys = ["waveform", "target", "weight"]
    if mix_teacher and "teacher_target" in batch:
        keys += ["teacher_target", "teacher_weight"]
    wavmix(batch, {key: partners[key] for key in keys}, rows, torch.maximum(drawn, 1 - drawn))


def open_audioset(
    root: Path,
    patterns: Sequence[str],
    classes: Classes,
    sample_rate: int,
    seconds: float,
    teacher: TeacherSettings | None = None,
    augment: AugmentSettings | None = None,
) -> TaggingClips:
    """Clips of the HDF5 files below `root` that fit the patterns; targets of other classes are a UserError."""
    audio = EncodedClips(find_files(root, patterns), sample_rate, seconds)
    targets = PackedTargets(audio.packed_targets(len(classes)), len(classes))
    opened = None if teacher is None else open_teacher(teacher, audio.filenames, len(classes))
    return TaggingClips(audio, targets, None, opened, augment)


def _as_tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def class_balance_weights(targets: Any, offset: float = 100.0) -> NDArray[np.float64]:
    """Sampling weight of each clip: sum over its classes of 1000 / (offset + clips of the class).

    EfficientAT and PaSST, datasets/audioset.py (get_ft_cls_balanced_sample_weights).

    >>> class_balance_weights(np.array([[1, 0], [1, 1], [0, 0]]), offset=8.0).round(1).tolist()
    [100.0, 211.1, 0.0]

    Args:
        targets: (clips, classes) of 0 and 1, an array or `PackedTargets`.
        offset: added to each class's count, so that the rarest classes do not outweigh all others.

    Returns:
        (clips,).
    """
    # In parts: the labels of all of AudioSet take 1 GB when they are unpacked.
    parts = np.array_split(np.arange(len(targets)), -(-len(targets) // 50_000))
    counts = np.sum([targets[part].sum(axis=0, dtype=np.int64) for part in parts], axis=0)
    with np.errstate(divide="ignore"):
        per_class = np.where(counts > 0, 1000.0 / (offset + counts), 0.0)
    return np.concatenate([targets[part] @ per_class for part in parts])


class DrawSampler(DistributedSampler[Draw]):
    """Gives each process its share of an epoch's draws, with a seed for each clip.

    The order of an epoch does not depend on the number of processes: process r of W takes draws r, r + W, ...; up to
    W - 1 last draws are left out, so that all take the same number of steps. Lightning replaces no DistributedSampler.

    `shuffled` gives the draws in random order; without, and without replacement, heavy clips come first.
    """

    def __init__(self, draws: EpochDraws, seed: int, shuffled: bool = True):
        # Not the initialiser above: it asks for processes before they have found each other.
        self.draws, self.seed, self.shuffled, self.epoch = draws, seed, shuffled, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is drawn next; Lightning calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.draws.count // rank_and_count()[1]

    def __iter__(self) -> Iterator[Draw]:
        rank, world = rank_and_count()
        order, random = self.draws.order(self.seed, self.epoch), np.random.default_rng((self.seed, self.epoch, 1))
        if self.shuffled:
            random.shuffle(order)
        seeds = random.integers(2**62, size=len(order))
        share = slice(rank, len(self) * world, world)
        return iter(list(zip(order[share].tolist(), seeds[share].tolist())))
