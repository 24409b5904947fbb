"""How one sound event detector learns from strong, soft, weak and missing labels, as a mean teacher."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from common.data.transfer import as_rows, to_device
from common.features.augment import draw_beta, mix
from common.models.network import ModelOutput
from common.training.schedules import exponential_rise, schedule_rate
from common.training.seeds import step_generator
from task4_sed.baseline.network import SoundEventDetector
from task4_sed.baseline.settings import GroupSettings, LossSettings, MixupSettings, Task4Settings
from task4_sed.data.embeddings import FrozenFrames
from task4_sed.data.sets import set_layout
from task4_sed.losses import consistency_loss, strong_loss, weak_loss
from task4_sed.mean_teacher.detector import Batch
from task4_sed.mean_teacher.training import MeanTeacherTraining


class BatchParts:
    """Rows of a batch by kind of label, from the order of its groups.

    Attributes:
        strong: rows with strong or soft labels. weak: with weak labels. consistent: rows of the consistency loss.
        mixed: parts that are mixed within themselves, the weak one first, as published. clips: rows in all.
    """

    def __init__(self, groups: Sequence[GroupSettings], maestro_consistent: bool):
        kinds = [set_layout(group.sets[0]).kind for group in groups for _ in range(group.clips)]
        self.clips = len(kinds)
        self.strong = _where(kinds, "strong", "soft")
        self.weak = _where(kinds, "weak")
        self.consistent = _where(kinds, "strong", "weak", "unlabeled", *(["soft"] if maestro_consistent else []))
        self.mixed = [part for part in (_where(kinds, kind) for kind in ("weak", "strong", "soft")) if len(part) > 1]


class SoundEventTraining(SoundEventDetector, MeanTeacherTraining):
    """Trains student and teacher; logs train_loss and its parts, and of validation clips val_objective and its parts.

    Args:
        settings: of the whole run.
        frozen: as of `SoundEventDetector`.
        validation: events and durations for `objective`; None without validation.
    """

    def __init__(self, settings: Task4Settings, frozen: FrozenFrames | None = None, validation: Any = None):
        super().__init__(settings, frozen)
        self.validation = validation
        self.parts = BatchParts(settings.data.batch, settings.teacher is not None and settings.teacher.maestro)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Loss of one batch, see `SoundEventClips.gather`."""
        batch = self._mixed(batch, batch_index)
        consistency = 0.0
        if self.settings.teacher is not None:
            consistency = consistency_weight(self.settings, self.global_step, self.steps_per_epoch)
        losses = weigh(compare(*self.score(batch), batch, self.parts), self.settings.loss, consistency)
        loss = torch.stack(list(losses.values())).sum()
        for name, value in {**losses, "": loss}.items():
            label = f"train_{name}_loss".replace("__", "_")
            self.log(label, value.detach(), on_step=False, on_epoch=True, batch_size=len(batch["magnitude"]))
        return loss

    def score(self, batch: Batch) -> tuple[ModelOutput, ModelOutput | None]:
        """Outputs of student and teacher (no gradient) under the class masks, from ``magnitude`` and ``embeddings``."""
        spectrogram = self.front_end.scale(self.front_end.decibel(batch["magnitude"]))
        inputs = (spectrogram, batch.get("embeddings"), batch["valid"])
        student = self.student(*inputs)
        if self.teacher is None:
            return student, None
        with torch.no_grad():
            return student, self.teacher(*inputs)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam over the student, with the schedule per step."""
        optim = self.settings.optim
        optimizer = torch.optim.Adam(self.student.parameters(), lr=optim.lr, betas=(0.9, 0.999))
        factor = RateFactor.of(self.settings, self.steps_per_epoch, int(self.trainer.estimated_stepping_batches))
        return schedule_rate(optimizer, factor, "step")

    def _mixed(self, batch: Batch, batch_index: int) -> Batch:
        """The batch with ``magnitude`` (clips, 1, mels, 626) and ``embeddings`` (clips, dim, tokens), mixed or not."""
        generator = step_generator(self, self.settings.seed, batch_index)
        batch = {**batch, "magnitude": self.front_end.magnitude(batch["waveform"])}
        embeddings = self._embeddings(batch)
        if embeddings is not None:
            batch["embeddings"] = embeddings.mT
        mixup = self.settings.mixup
        if mixup is None or torch.rand((), generator=generator).item() >= mixup.probability:
            return batch
        mixings = draw_mixings(self.parts, mixup, embeddings is not None, generator)
        return mix_batch(batch, to_device(mixings, self.device), mixup.weak_labels)


@dataclass(frozen=True)
class Mixing:
    """A mixture of each clip with another one of its batch.

    inputs: names of what is mixed along with the labels. weight: (clips,) float64, share of the clip itself.
    partner: (clips,) row of the other clip; a clip that is not mixed has weight 1 and itself.
    """

    inputs: tuple[str, ...]
    weight: Tensor
    partner: Tensor


def draw_mixings(
    parts: BatchParts, settings: MixupSettings, with_embeddings: bool, generator: torch.Generator
) -> list[Mixing]:
    """Mixings to apply one after another: one weight and one order of partners for all clips of a part."""
    calls: tuple[tuple[str, ...], ...] = (("magnitude", "embeddings"),)
    if settings.draws == "official" and with_embeddings:
        calls = (("magnitude",), ("embeddings",))
    ones, themselves = torch.ones(parts.clips, dtype=torch.float64), torch.arange(parts.clips)
    mixings = [Mixing(inputs, ones.clone(), themselves.clone()) for inputs in calls]
    for rows in parts.mixed:
        for mixing in mixings:
            mixing.weight[rows] = draw_beta(1, settings.alpha, generator, torch.float64)
            mixing.partner[rows] = rows[torch.randperm(len(rows), generator=generator)]
    return mixings


def mix_batch(batch: Batch, mixings: Sequence[Mixing], weak_labels: str) -> Batch:
    """The batch with mixed inputs and labels; ``weak`` as `MixupSettings.weak_labels` says."""
    mixed = dict(batch)
    for mixing in mixings:
        for name in (*mixing.inputs, "strong", "weak"):
            if name == "weak" and weak_labels == "union":
                mixed[name] = _union(mixed[name], mixing)
            elif name in mixed:
                mixed[name] = mix(mixed[name], mixing.weight, mixing.partner)
    return mixed


def _union(weak: Tensor, mixing: Mixing) -> Tensor:
    """(clips, classes) every class of a clip with a share above 0; float32 would round a share of 1e-9 to 0."""
    own, other = (share[:, None] > 0 for share in (mixing.weight, 1 - mixing.weight))
    return ((weak > 0) & own | (weak[mixing.partner] > 0) & other).to(weak)


def training_targets(batch: Batch, parts: BatchParts) -> tuple[Tensor, Tensor]:
    """Frame labels of the strong rows and clip labels of the weak rows; classes that are not valid become 0."""
    strong, weak = as_rows(parts.strong), as_rows(parts.weak)
    return batch["strong"][strong] * batch["valid"][strong][..., None], batch["weak"][weak] * batch["valid"][weak]


def compare(student: ModelOutput, teacher: ModelOutput | None, batch: Batch, parts: BatchParts) -> dict[str, Tensor]:
    """Losses without weights: strong, weak and, with a teacher, consistency_frames and consistency_clips."""
    assert student.frame_logits is not None and student.logits is not None
    strong, weak = training_targets(batch, parts)
    losses = {
        "strong": strong_loss(student.frame_logits[as_rows(parts.strong)], strong),
        "weak": weak_loss(student.logits[as_rows(parts.weak)], weak),
    }
    if teacher is not None:
        assert teacher.frame_logits is not None and teacher.logits is not None
        rows = as_rows(parts.consistent)
        losses["consistency_frames"] = consistency_loss(student.frame_logits[rows], teacher.frame_logits[rows])
        losses["consistency_clips"] = consistency_loss(student.logits[rows], teacher.logits[rows])
    return losses


def weigh(losses: Mapping[str, Tensor], weights: LossSettings, consistency: float) -> dict[str, Tensor]:
    """Parts of the total loss: strong, weak and, with a teacher, consistency."""
    parts = {"strong": weights.strong * losses["strong"], "weak": weights.weak * losses["weak"]}
    if "consistency_frames" in losses:
        parts["consistency"] = consistency * (losses["consistency_frames"] + losses["consistency_clips"])
    return parts


def consistency_weight(settings: Task4Settings, step: int, steps_per_epoch: int) -> float:
    """Weight of the consistency loss in a step, counted from 0: exp(-5 (1 - t)^2) over the ramp, times its setting.

    From the epoch on in which the learning rate falls it is the full weight, as published.
    """
    assert settings.teacher is not None
    full_from = settings.optim.decay_from_epoch
    if full_from is not None and step >= full_from * steps_per_epoch:
        return settings.loss.consistency
    return settings.loss.consistency * exponential_rise(step + 1, settings.teacher.ramp_epochs * steps_per_epoch)


@dataclass(frozen=True)
class RateFactor:
    """Factor of the learning rate in a step, counted from 0.

    exp(-5 (1 - t)^2) over `warmup_steps`, 1, and from `decay_from` on the cosine of 0 to a right angle at
    `total_steps`, at least `floor`. `first`: factor of step 0 where it differs.
    """

    warmup_steps: int
    decay_from: int | None
    total_steps: int
    floor: float = 0.0
    first: float | None = None

    @classmethod
    def of(cls, settings: Task4Settings, steps_per_epoch: int, total_steps: int) -> "RateFactor":
        """The schedule of the settings; the lowest rate is 1e-8."""
        optim = settings.optim
        decay_from = None if optim.decay_from_epoch is None else optim.decay_from_epoch * steps_per_epoch
        first = 1.0 if optim.first_step == "peak" else None
        return cls(optim.warmup_epochs * steps_per_epoch, decay_from, total_steps, 1e-8 / optim.lr, first)

    def __call__(self, step: int) -> float:
        """Factor of `step`."""
        if step == 0 and self.first is not None:
            return self.first
        if self.decay_from is None or step + 1 < self.decay_from:
            return exponential_rise(step + 1, self.warmup_steps)
        progress = (step + 1 - self.decay_from) / max(1, self.total_steps - self.decay_from)
        return max(self.floor, cos(progress * pi / 2))


def _where(kinds: Sequence[str], *wanted: str) -> Tensor:
    return torch.tensor([row for row, kind in enumerate(kinds) if kind in wanted], dtype=torch.long)
