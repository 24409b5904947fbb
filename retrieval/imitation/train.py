"""Query by vocal imitation: a voice finds the recording that it imitates.

"Improving Query-by-Vocal Imitation with Contrastive Learning and Audio Pretraining" (DCASE workshop 2024), and the
baseline of the QVIM 2025 challenge.
"""

from functools import partial
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.data.loading import make_loader
from common.data.transfer import to_device
from common.features import augment
from common.features.front_ends import FrontEnd
from common.models.network import uses_gpu
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
        pin_memory=uses_gpu(settings.trainer),
    )


class ImitationModule(LightningModule):
    """Adapted NT-Xent from imitation to recording, on pairs of one batch."""

    def __init__(self, model: ImitationModel, settings: ImitationSettings, validation: Search | None):
        super().__init__()
        self.model, self.settings, self.validation = model, settings, validation

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of a batch."""
        change, clips = self.settings.augmentation, len(batch["label"])
        generator = step_generator(self, self.settings.seed, batch_idx)
        shift = augment.draw_shift(clips, change.roll, generator)
        sides: list[tuple[augment.Masks, augment.Mixing | None]] = []
        for _ in range(2):
            masks = augment.draw_masks(clips, change.frequency_mask, change.time_mask, generator)
            style = augment.draw_style(clips, change.mixstyle_probability, change.mixstyle_alpha, generator)
            sides.append((masks, style))
        shift, sides = to_device((shift, sides), batch["label"].device)
        voice = self.view(self.model.voice.front_end, augment.roll(batch["imitation"], shift, change.roll), *sides[0])
        recording = self.view(self.model.recording.front_end, batch["recording"], *sides[1])
        loss = self.compute_loss(voice, recording, batch["label"])
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=clips)
        return loss

    def view(self, front_end: FrontEnd, waveform: Tensor, masks: augment.Masks, style: augment.Mixing | None) -> Tensor:
        """Spectrogram (batch, 1, mels, frames) of one side; the masks are of the log-mel before it is normalised."""
        change = self.settings.augmentation
        front_end.mask = partial(augment.mask, drawn=masks, bands=change.frequency_mask, frames=change.time_mask)
        spectrogram = front_end(waveform)
        front_end.mask = None
        return spectrogram if style is None else augment.mix_statistics(spectrogram, *style)

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
