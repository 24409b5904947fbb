"""How one sound event detector learns from strong, soft, weak and missing labels, as a mean teacher."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.features.augment import draw_beta, mix
from common.features.front_ends import DesedMel
from common.models.output import ModelOutput
from common.registry.factory import create_model
from common.training.seeds import step_generator
from task4_sed.baseline.settings import GroupSettings, MixupSettings, Task4Settings
from task4_sed.data.embeddings import FrozenFrames
from task4_sed.data.sets import SETS
from task4_sed.losses import (
    consistency_loss,
    consistency_weight,
    rate_factor,
    strong_loss,
    weak_loss,
)
from task4_sed.mean_teacher import Batch, MeanTeacherTraining


def make_network(settings: Task4Settings) -> nn.Module:
    """The CRNN of the settings with random weights."""
    dim = None if settings.embeddings == "none" else settings.embedding.dim
    options = settings.model.model_dump(exclude={"name"})
    return create_model(
        settings.model.name, num_classes=len(settings.labels.classes), embedding_dim=dim, **options
    )  # fmt: skip


class BatchParts:
    """Which clips of a batch are of which kind, from the order of its groups.

    Attributes:
        strong: clips with strong or soft labels. weak: with weak labels. consistent: on which student and teacher are
            to agree. mixed: parts that are mixed within themselves, weak ones first, as published.
    """

    def __init__(self, groups: Sequence[GroupSettings], maestro_consistent: bool):
        kinds: list[str] = []
        for group in groups:
            layout = SETS[group.sets[0]]
            kinds += [layout.kind] * group.clips
        self.strong = _where(kinds, "strong", "soft")
        self.weak = _where(kinds, "weak")
        consistent = ("strong", "weak", "unlabeled", "soft") if maestro_consistent else ("strong", "weak", "unlabeled")
        self.consistent = _where(kinds, *consistent)
        self.mixed = [part for part in (_where(kinds, kind) for kind in ("weak", "strong", "soft")) if len(part) > 1]


class SoundEventTraining(MeanTeacherTraining):
    """Student and teacher; logs train_loss and its parts, and of validation clips val_objective and its parts.

    Args:
        settings: of the whole run.
        frozen: model whose frames are worked out in each step (`embeddings: live`); it is not part of the checkpoint.
        validation: events and durations that `objective` compares scores with; None where nothing is held out.
    """

    def __init__(self, settings: Task4Settings, frozen: FrozenFrames | None = None, validation: Any = None):
        super().__init__(settings, make_network(settings), settings.teacher, validation)
        self.front_end = DesedMel(n_mels=settings.front_end.n_mels)
        self.parts = BatchParts(settings.data.batch, settings.teacher is not None and settings.teacher.maestro)
        self._frozen = [frozen]  # in a list, so that its weights are in no checkpoint

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Loss of one batch, see `SoundEventClips.gather`."""
        magnitude, batch = self._mixed(batch, batch_index)
        spectrogram = self.front_end.scale(self.front_end.decibel(magnitude))
        embeddings = batch.get("embeddings")
        student = self.student(spectrogram, embeddings, batch["valid"])
        parts, weights = self.parts, self.settings.loss
        losses = {
            "strong": weights.strong * strong_loss(student.frame_logits[parts.strong], batch["strong"][parts.strong]),
            "weak": weights.weak * weak_loss(student.logits[parts.weak], batch["weak"][parts.weak]),
        }
        if self.teacher is not None and self.settings.teacher is not None:
            with torch.no_grad():
                teacher = self.teacher(spectrogram, embeddings, batch["valid"])
            ramp = self.settings.teacher.ramp_epochs * self.steps_per_epoch
            weight = consistency_weight(self.global_step, ramp, weights.consistency)
            losses["consistency"] = weight * self._disagreement(student, teacher)
        loss = torch.stack(list(losses.values())).sum()
        for name, value in {**losses, "": loss}.items():
            label = f"train_{name}_loss".replace("__", "_")
            self.log(label, value.detach(), on_step=False, on_epoch=True, batch_size=len(magnitude))
        return loss

    @torch.no_grad()
    def detect(self, batch: Batch, student: bool, masked: bool = True) -> ModelOutput:
        """What student or teacher say of a batch as it is; `masked`: only of classes that are valid for its clips."""
        network = self.student if student or self.teacher is None else self.teacher
        embeddings = self._embeddings(batch)
        valid = batch["valid"] if masked else None
        return network(self.front_end(batch["waveform"]), None if embeddings is None else embeddings.mT, valid)

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam over the student, with the schedule per step."""
        optim = self.settings.optim
        optimizer = torch.optim.Adam(self.student.parameters(), lr=optim.lr, betas=(0.9, 0.999))
        per_epoch, total = self.steps_per_epoch, int(self.trainer.estimated_stepping_batches)
        decay_from = None if optim.decay_from_epoch is None else optim.decay_from_epoch * per_epoch
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, _Rate(optim.warmup_epochs * per_epoch, decay_from, total)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Bring the frozen model to the device."""
        self._move_frozen()

    def use_frozen(self, frozen: FrozenFrames) -> None:
        """Work embeddings out from now on where a batch brings none."""
        self._frozen = [frozen]

    def _mixed(self, batch: Batch, batch_index: int) -> tuple[Tensor, Batch]:
        """Mel magnitudes (clips, 1, mels, 626) and the batch with embeddings (clips, dim, tokens), mixed or not."""
        generator = step_generator(self, self.settings.seed, batch_index)
        with torch.autocast(self.device.type, enabled=False):
            magnitude = self.front_end.magnitude(batch["waveform"])
        embeddings = self._embeddings(batch)
        batch = dict(batch) if embeddings is None else {**batch, "embeddings": embeddings.mT}
        mixup = self.settings.mixup
        if mixup is not None and torch.rand((), generator=generator).item() < mixup.probability:
            return mix_parts(magnitude, batch, self.parts.mixed, mixup, generator)
        return magnitude, batch

    def _embeddings(self, batch: Batch) -> Tensor | None:
        """(clips, tokens, dim), float32."""
        if "embeddings" in batch:
            return batch["embeddings"].float()
        frozen = self._frozen[0]
        if frozen is None:
            return None
        self._move_frozen()
        return frozen(batch["waveform"])

    def _move_frozen(self) -> None:
        if self._frozen[0] is not None:
            self._frozen[0].to(self.device)

    def _disagreement(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        rows = self.parts.consistent
        frames = consistency_loss(student.frame_logits[rows], teacher.frame_logits[rows])
        return frames + consistency_loss(student.logits[rows], teacher.logits[rows])


def mix_parts(
    magnitude: Tensor, batch: Batch, parts: Sequence[Tensor], settings: MixupSettings, generator: torch.Generator
) -> tuple[Tensor, Batch]:
    """Mix each part of a batch with itself.

    Args:
        magnitude: (clips, 1, mels, frames).
        batch: with strong, weak and, where there are any, embeddings.
        parts: indices of the clips of each part.
        settings: one weight and one order of partners for all clips of a part; `official` draws anew for embeddings.
        generator: of weights and partners.

    Returns:
        The magnitudes and a batch with mixed strong, weak and embeddings; its other entries as they were.
    """
    mixed = {name: batch[name].clone() for name in ("strong", "weak", "embeddings") if name in batch}
    mixed["magnitude"] = magnitude.clone()
    official = settings.draws == "official" and "embeddings" in batch
    calls = (("magnitude",), ("embeddings",)) if official else (("magnitude", "embeddings"),)
    for rows in parts:
        for inputs in calls:
            weight = draw_beta(1, settings.alpha, generator).expand(len(rows))
            partner = torch.randperm(len(rows), generator=generator)
            for name in (*inputs, "strong", "weak"):
                if name in mixed:
                    values = mixed[name][rows]
                    mixed[name][rows] = mix(values, weight.to(values.device), partner)
    if settings.weak_labels == "union":
        mixed["weak"] = (mixed["weak"] > 0).to(batch["weak"])
    return mixed.pop("magnitude"), {**batch, **mixed}


class _Rate:
    """Learning rate factor of a step; a class, so that it can be pickled."""

    def __init__(self, warmup_steps: int, decay_from: int | None, total_steps: int):
        self.arguments = (warmup_steps, decay_from, total_steps)

    def __call__(self, step: int) -> float:
        return rate_factor(step, *self.arguments)


def _where(kinds: Sequence[str], *wanted: str) -> Tensor:
    return torch.tensor([row for row, kind in enumerate(kinds) if kind in wanted], dtype=torch.long)
