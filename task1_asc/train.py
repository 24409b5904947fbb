"""How one scene classification network learns, and what it says about clips."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from common.errors import UserError
from common.features import augment
from common.features.impulse_responses import DeviceImpulseResponses
from common.inference.quantize import freeze
from common.models.audio_model import AudioModel
from common.training.schedules import ExponentialWarmupLinearDown, WarmupCosine, steps_of
from common.training.seeds import step_generator
from common.training.trainer import update_average
from task1_asc.data.tau2022 import CLASSES
from task1_asc.networks.build import make_model, order_for
from task1_asc.settings import (
    AugmentSettings,
    DistillationSettings,
    ImpulseResponseSettings,
    RampOptimSettings,
    Task1Settings,
)


class Augmentation(nn.Module):
    """What the settings ask to do to the training clips of a batch.

    Args:
        settings: see there for the order.
        sample_rate: Hz of the waveforms.
    """

    def __init__(self, settings: AugmentSettings, sample_rate: int):
        super().__init__()
        self.settings = settings
        self.max_shift = round(settings.roll_seconds * sample_rate)
        self.responses = _read_responses(settings.impulse_responses, sample_rate)

    def waveforms(
        self, waveform: Tensor, target: Tensor, recording_devices: Sequence[str], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Augment (batch, samples); targets are mixed where clips are.

        The target is (batch,) classes, which become (batch, classes) probabilities when they are mixed, or (batch, any)
        numbers.
        """
        settings = self.settings
        if self.responses is not None and settings.impulse_responses is not None:
            devices = settings.impulse_responses.recording_devices
            eligible = torch.tensor([device in devices for device in recording_devices])
            waveform = self.responses(waveform, eligible, settings.impulse_responses.probability, generator)
        waveform = augment.gain(waveform, settings.gain_db, generator)
        waveform = augment.time_roll(waveform, self.max_shift, generator)
        if settings.mixup_alpha is not None:
            mixable = target if target.is_floating_point() else F.one_hot(target, len(CLASSES)).to(waveform)
            waveform, target = augment.mixup(waveform, mixable, settings.mixup_alpha, generator)
        return waveform, target

    def power(self, power: Tensor, generator: torch.Generator) -> Tensor:
        """Silence bands and frames of the power mel spectrogram (batch, 1, mels, frames), before the logarithm."""
        power = augment.frequency_mask(power, self.settings.frequency_mask, generator)
        return augment.time_mask(power, self.settings.time_mask, generator)

    def spectrograms(self, spectrogram: Tensor, generator: torch.Generator) -> Tensor:
        """Mix styles of the log-mel spectrogram (batch, 1, mels, frames)."""
        mixstyle = self.settings.freq_mixstyle
        if mixstyle is None:
            return spectrogram
        return augment.freq_mixstyle(spectrogram, mixstyle.probability, mixstyle.alpha, generator)


class SceneTraining(LightningModule):
    """Trains the network of the settings; logs train_loss and, of held-out clips, val_macro_accuracy and val_loss.

    Validated and tested is the moving average of the network where there is one (`average.` in the checkpoint).

    Args:
        settings: of the whole run.
        sample_rate: Hz of the waveforms in the batches.
        model: what learns; None makes the settings' own, with random weights.
    """

    def __init__(self, settings: Task1Settings, sample_rate: int, model: AudioModel | None = None):
        super().__init__()
        self.settings = settings
        model = model or make_model(settings, sample_rate)
        self.front_end, self.network = model.front_end, model.network
        self.augmentation = Augmentation(settings.augment, sample_rate)
        averaged = settings.optim.average_decay is not None
        self.average = copy.deepcopy(self.network).requires_grad_(False) if averaged else None
        self._counts = torch.zeros(3, len(CLASSES))

    @property
    def tested_prefix(self) -> str:
        """Where in the state dict the weights are that are validated and tested."""
        return "network." if self.average is None else "average."

    def on_fit_start(self) -> None:
        """Choose the order of the weights in memory."""
        order_for(self.network, self.device)

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """Loss of one batch: waveform (batch, samples), target (batch,), recording_device (list).

        With teacher_logits (batch, classes), which are those of the clips as recorded, it is the distillation's.
        """
        generator = step_generator(self, self.settings.seed, batch_index)
        distillation = self.settings.distillation if "teacher_logits" in batch else None
        target = batch["target"]
        if distillation is not None:
            taught = (batch["teacher_logits"] / distillation.temperature).softmax(dim=1)
            # Side by side, so that both are mixed with the same weights.
            target = torch.cat([F.one_hot(target, len(CLASSES)).to(taught), taught], dim=1)
        waveform, target = self.augmentation.waveforms(batch["waveform"], target, batch["recording_device"], generator)
        self.front_end.mask = lambda power: self.augmentation.power(power, generator)
        with torch.autocast(self.device.type, enabled=False):
            spectrogram = self.front_end(waveform)
        self.front_end.mask = None
        logits = self.network(self.augmentation.spectrograms(spectrogram, generator)).logits
        if distillation is None:
            loss = F.cross_entropy(logits, target)
        else:
            labels, taught = target.chunk(2, dim=1)
            loss = distillation_loss(logits, labels, taught, distillation)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(waveform))
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Let the moving average follow."""
        if self.average is not None and self.settings.optim.average_decay is not None:
            update_average(self.average, self.network, self.settings.optim.average_decay)

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Count right clips of each class."""
        network = self.network if self.average is None else self.average
        logits = network(self.front_end(batch["waveform"])).logits.float()
        target = batch["target"]
        right = (logits.argmax(dim=1) == target).float()
        losses = F.cross_entropy(logits, target, reduction="none")
        counts = torch.stack([right, torch.ones_like(right), losses])
        self._counts = self._counts.to(self.device).index_add(1, target, counts)

    def on_validation_epoch_end(self) -> None:
        """Log the figures over the clips of all processes."""
        counts = self.all_gather(self._counts).view(-1, *self._counts.shape).sum(dim=0)
        self._counts = torch.zeros_like(self._counts)
        right, clips, losses = counts[:, counts[1] > 0]
        self.log("val_macro_accuracy", (right / clips).mean())
        self.log("val_loss", losses.sum() / clips.sum())

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with warm-up and cosine per step, or Adam with CP-JKU's ramps per epoch."""
        optim = self.settings.optim
        if isinstance(optim, RampOptimSettings):
            kind = torch.optim.Adam if optim.decay == "l2" else torch.optim.AdamW
            optimizer = kind(self.network.parameters(), lr=optim.lr, weight_decay=optim.weight_decay)
            ramps = ExponentialWarmupLinearDown(optim.rise_epochs, optim.fall_from, optim.fall_epochs, optim.floor)
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, ramps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=optim.lr, weight_decay=optim.weight_decay)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = WarmupCosine(steps_of(optim.warmup_steps, optim.warmup_share, total), total)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class QuantizedSceneTraining(SceneTraining):
    """Trains a network that computes as if in 8 bit (`common.inference.quantize.prepare_training`).

    Args:
        settings: of the whole run, with the optimiser of this training.
        sample_rate: Hz of the waveforms in the batches.
        model: front end and prepared network.
        frozen_epochs: last epochs in which ranges and statistics stay as they are; the first epoch always moves them.
    """

    def __init__(self, settings: Task1Settings, sample_rate: int, model: AudioModel, frozen_epochs: int):
        super().__init__(settings, sample_rate, model)
        self.frozen_epochs = frozen_epochs

    def on_train_epoch_start(self) -> None:
        """Freeze where it is time; again in each of the last epochs, since a resumed run begins in one of them."""
        if self.current_epoch >= max(1, (self.trainer.max_epochs or 0) - self.frozen_epochs):
            freeze(self.network)


def distillation_loss(logits: Tensor, labels: Tensor, taught: Tensor, settings: DistillationSettings) -> Tensor:
    """Loss of a student, fschmid56/cpjku_dcase23.

    lambda * CE + (1 - lambda) * T^2 * mean over clips and classes of p_t (log p_t - log p_s), p = softmax(logits / T).
    The divergence is averaged over the classes too: a tenth of PyTorch's "batchmean".

    Args:
        logits: of the student, (batch, classes).
        labels: (batch, classes), one-hot or mixed.
        taught: p_t, (batch, classes).
        settings: lambda (label_weight) and T (temperature).
    """
    temperature, weight = settings.temperature, settings.label_weight
    # Not reduction="mean": later versions of PyTorch take that for "batchmean".
    divergence = F.kl_div((logits / temperature).log_softmax(dim=1), taught, reduction="none").mean()
    return weight * F.cross_entropy(logits, labels) + (1 - weight) * temperature**2 * divergence


def _read_responses(settings: ImpulseResponseSettings | None, sample_rate: int) -> DeviceImpulseResponses | None:
    if settings is None:
        return None
    options = settings.model_dump(include={"max_duration", "level", "delay"})
    try:
        return DeviceImpulseResponses(settings.folder, sample_rate, **options)
    except UserError as error:
        raise UserError(f"augment.impulse_responses.folder: {error}") from error
