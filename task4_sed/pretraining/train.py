"""Training of one frame model on frame labels and, with teachers, on their probabilities."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn import functional as F

from common.data.transfer import to_device
from common.models.audio_model import AudioModel
from common.models.frame_prediction import FramePrediction
from common.training.memory import MemoryEstimate, activations_per_clip
from common.training.schedules import WarmupCosine, schedule_rate
from task4_sed.augment import Streams
from task4_sed.labels import CLIP_SECONDS
from task4_sed.pretraining.augment import Share, augment, draw, joined
from task4_sed.pretraining.networks import freeze_below_heads, parameter_groups, rise_per_decibel
from task4_sed.pretraining.scoring import EvaluationScores
from task4_sed.pretraining.settings import OfficeSettings, PretrainSettings

Batch = dict[str, Any]


def training_loss(logits: Tensor, target: Tensor, distilled: Tensor | None, weight: float) -> dict[str, Tensor]:
    """Binary cross-entropy against labels and teachers, 0..1, mean over everything; (clips, classes, frames) each.

    Teachers have `weight`, the labels 1 - weight, or 1 without teachers.
    """
    labels = F.binary_cross_entropy_with_logits(logits, target)
    if distilled is None:
        return {"labels": labels}
    return {"labels": (1 - weight) * labels, "teachers": weight * F.binary_cross_entropy_with_logits(logits, distilled)}


class FrameTraining(LightningModule):
    """Training of the strong head and the layers below; logs train_loss and its parts.

    `distillation_weight` is of the teachers' targets, where batches bring them as ``distilled``.
    """

    def __init__(
        self, settings: PretrainSettings | OfficeSettings, model: AudioModel, distillation_weight: float = 0.0
    ):
        super().__init__()
        assert isinstance(model.network, FramePrediction)
        self.settings = settings
        self.front_end = model.front_end
        self.network: FramePrediction = model.network
        self.distillation_weight = distillation_weight
        self.per_decibel = rise_per_decibel(self.front_end)
        if settings.optim.frozen:
            freeze_below_heads(self.network)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Loss of this process's part of a batch: waveform, target, first, joint and, with teachers, distilled."""
        if self.settings.optim.frozen:
            freeze_below_heads(self.network)  # Lightning has put them in training mode
        streams = Streams(self.settings.seed, self.global_step, batch_index)
        share = Share(int(batch["first"]), len(batch["waveform"]), int(batch["joint"]))
        features = self.features(batch["waveform"], streams)
        targets = [batch[name] for name in ("target", "distilled") if name in batch]
        settings = self.settings.augmentation
        with torch.no_grad():
            draws = draw(settings, streams, share.joint, features.shape[-2], features.shape[-1])
            draws = to_device(draws, features.device)
            features, targets = augment(features, targets, settings, draws, share, self.per_decibel)
        logits = self.network(features).frame_logits.float().mT
        losses = training_loss(logits, targets[0], targets[1] if len(targets) > 1 else None, self.distillation_weight)
        loss = torch.stack(list(losses.values())).sum()
        parts = {f"train_loss_{name}": value for name, value in losses.items()} if len(losses) > 1 else {}
        for name, value in {**parts, "train_loss": loss}.items():
            self.log(
                name, value.detach(), on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch["waveform"])
            )
        return loss

    @torch.no_grad()
    def features(self, waveform: Tensor, streams: Streams | None = None) -> Tensor:
        """(clips, samples) to (clips, 1, mels, frames), float32; a front end with jitter draws from the step's stream.

        The jitter is one for the batch, and so for all processes.
        """
        if streams is not None and hasattr(self.front_end, "generator"):
            self.front_end.generator = streams["front_end"]  # type: ignore[assignment]
        return self.front_end(waveform)

    @torch.no_grad()
    def detect(self, waveform: Tensor) -> Tensor:
        """(clips, samples) to frame logits (clips, frames, classes), float32; in evaluation mode."""
        return self.network(self.features(waveform)).frame_logits.float()

    def estimate_memory(self, clips: int, precision: str) -> MemoryEstimate:
        """Memory of a step with this many clips on a device."""
        waveform = torch.zeros(1, round(CLIP_SECONDS * self.front_end.sample_rate))
        features = self.features(waveform)

        def forward(features: Tensor) -> None:
            self.network(features)

        activations = clips * activations_per_clip(self.network, [features], forward, precision)
        # as recorded and augmented; features before and after two steps
        batch = clips * 4 * (2 * waveform.numel() + 3 * features.numel())
        return MemoryEstimate.of(self.network, activations, batch, precision)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam or AdamW over the groups, with the schedule per step."""
        optim = self.settings.optim
        groups = parameter_groups(self.network, optim)
        make = torch.optim.AdamW if optim.algorithm == "adamw" else torch.optim.Adam
        optimizer = make(groups, lr=optim.lr, betas=(0.9, 0.999))
        schedule = WarmupCosine(optim.warmup_steps, int(self.trainer.estimated_stepping_batches))
        return schedule_rate(optimizer, schedule, "step")


class Pretraining(FrameTraining):
    """Training on AudioSet strong; logs of the evaluation clips val_psds1_macro and val_psds1.

    `scores` makes the store for scores of the evaluation clips; None without validation.
    """

    def __init__(self, settings: PretrainSettings, model: AudioModel, scores: Any = None):
        weight = 0.0 if settings.distillation is None else settings.distillation.weight
        super().__init__(settings, model, weight)
        self._make_scores = scores
        self._scores: EvaluationScores | None = None

    def on_validation_epoch_start(self) -> None:
        """Begin with no scores."""
        self._scores = self._make_scores()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Score a batch; rank 0 keeps the scores of all ranks."""
        assert self._scores is not None
        rows, scores = score_batch(self, self._scores, batch)
        if self.global_rank == 0:
            self._scores.add(rows, scores)

    def on_validation_epoch_end(self) -> None:
        """Log PSDS1."""
        figures: dict[str, float] = {}
        if self.global_rank == 0:
            assert self._scores is not None
            found = self._scores.figures(with_segments=False)
            figures = {f"val_{name}": float(found[name]["value"]) for name in ("psds1_macro", "psds1")}
        self._scores = None
        self.log_dict(self.trainer.strategy.broadcast(figures))


def score_batch(module: FrameTraining, scores: EvaluationScores, batch: Batch) -> tuple[Tensor, Tensor]:
    """Rows (clips,) and filtered scores (clips, scored classes, frames) of a batch of all processes."""
    share = Share(int(batch["first"]), len(batch["waveform"]), int(batch["joint"]))
    filtered = scores.prepare(module.detect(batch["waveform"]))
    return joined(batch["row"], share), joined(filtered, share)
