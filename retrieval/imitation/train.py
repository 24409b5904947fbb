"""Query by vocal imitation: a voice finds the recording that it imitates.

"Improving Query-by-Vocal Imitation with Contrastive Learning and Audio Pretraining" (DCASE workshop 2024), and the
baseline of the QVIM 2025 challenge.
"""

from typing import Any

import pandas as pd
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.data.loading import make_loader
from common.features.augment import freq_mixstyle, mask, time_roll
from common.training.schedules import ExponentialWarmupLinearDown, WarmupCosine, schedule_rate
from common.training.seeds import step_generator
from retrieval.imitation.data import Search
from retrieval.imitation.evaluate import separate_groups
from retrieval.imitation.model import ImitationModel, read_sound
from retrieval.imitation.settings import (
    MONITOR,
    AdamRamps,
    AdamWCosine,
    ImitationSettings,
    ImitationTraining,
)
from retrieval.losses import imitation_loss
from retrieval.metrics import reciprocal_rank


class ImitationPairs(Dataset):
    """Items are dicts: imitation and recording (samples,), label (number)."""

    def __init__(self, pairs: pd.DataFrame, sample_rate: int, duration: float):
        self.pairs, self.sample_rate, self.duration = pairs, sample_rate, duration
        self.labels = pd.factorize(pairs["label"])[0]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "imitation": read_sound(self.pairs["imitation"].iat[index], self.sample_rate, self.duration),
            "recording": read_sound(self.pairs["recording"].iat[index], self.sample_rate, self.duration),
            "label": int(self.labels[index]),
        }


def training_loader(pairs: pd.DataFrame, sample_rate: int, settings: ImitationSettings) -> DataLoader:
    """Every row once an epoch, in an order drawn from (seed, epoch); the last batch may be shorter."""
    return make_loader(
        ImitationPairs(pairs, sample_rate, settings.data.duration),
        settings.training.batch_size,
        shuffle_seed=settings.seed,
        num_workers=settings.data.num_workers,
    )


class ImitationModule(LightningModule):
    """Adapted NT-Xent from imitation to recording, on pairs of one batch."""

    def __init__(self, model: ImitationModel, settings: ImitationSettings, validation: Search | None):
        super().__init__()
        self.model, self.settings, self.validation = model, settings, validation
        self.generator = torch.Generator()
        for encoder in (model.voice, model.recording):
            if hasattr(encoder.front_end, "mask"):
                encoder.front_end.mask = self.mask

    def mask(self, log_mel: Tensor) -> Tensor:
        """Frequency and time mask of the log-mel spectrogram, before it is normalised: (batch, 1, mels, frames)."""
        widths = self.settings.augmentation
        return mask(log_mel, widths.frequency_mask, widths.time_mask, self.generator)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of a batch."""
        augmentation = self.settings.augmentation
        generator = self.generator = step_generator(self, self.settings.seed, batch_idx)
        imitation = time_roll(batch["imitation"], augmentation.roll, generator)
        sides = (self.model.voice.front_end, imitation), (self.model.recording.front_end, batch["recording"])
        mixstyle = augmentation.mixstyle_probability, augmentation.mixstyle_alpha, generator
        voice, recording = (freq_mixstyle(front_end(waveform), *mixstyle) for front_end, waveform in sides)
        loss = self.compute_loss(voice, recording, batch["label"])
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(imitation))
        return loss

    def compute_loss(self, voice: Tensor, recording: Tensor, label: Tensor) -> Tensor:
        """Loss of the spectrograms of both sides, (batch, 1, mels, frames), and labels (batch,)."""
        imitations = self.model.voice.network(voice).embedding.float()
        recordings = self.model.recording.network(recording).embedding.float()
        return contrast(imitations, recordings, label, self.settings.training)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing by batch: the search runs once per epoch."""

    def on_validation_epoch_end(self) -> None:
        """Log the MRR of other imitations of the training sounds."""
        search, settings = self.validation, self.settings
        assert search is not None
        similarity = self.model.compare(search.queries, search.items, settings.data.duration, settings.eval_batch)
        ranks = reciprocal_rank(*separate_groups(similarity, search))
        self.log(MONITOR, ranks.mean(), rank_zero_only=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Optimiser and learning rates of the settings."""
        optim, epochs = self.settings.training.optim, self.trainer.max_epochs or 1
        optimizer = make_optimizer(self.model.parameters(), optim)
        factor = rate_factor(optim, self.trainer.estimated_stepping_batches / epochs)
        return schedule_rate(optimizer, factor, "epoch" if isinstance(optim, AdamRamps) else "step")


def contrast(imitation: Tensor, recording: Tensor, label: Tensor, settings: ImitationTraining) -> Tensor:
    """Loss of embeddings (batch, dim) and labels (batch,)."""
    if not settings.mask_same_label:
        label = torch.arange(len(label), device=label.device)
    return imitation_loss(imitation, recording, label, settings.temperature)


def make_optimizer(parameters: Any, settings: AdamRamps | AdamWCosine) -> torch.optim.Optimizer:
    """Adam (with an L2 penalty) or AdamW."""
    make = torch.optim.Adam if isinstance(settings, AdamRamps) else torch.optim.AdamW
    return make(parameters, lr=settings.lr, weight_decay=settings.weight_decay)


def rate_factor(
    settings: AdamRamps | AdamWCosine, steps_per_epoch: float
) -> ExponentialWarmupLinearDown | WarmupCosine:
    """Course of the learning rate as a share of its peak, of an epoch (`AdamRamps`) or a step (`AdamWCosine`)."""
    if isinstance(settings, AdamRamps):
        return ExponentialWarmupLinearDown(
            settings.warmup_epochs, settings.down_start, settings.down_length, settings.floor
        )
    warmup, lowest = settings.warmup_epochs * steps_per_epoch, settings.min_lr / settings.lr
    return WarmupCosine(warmup, warmup + settings.down_epochs * steps_per_epoch, floor=lowest, start=lowest)
