"""Training of one scene classification network."""

import copy
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from common.data.transfer import to_device
from common.errors import UserError
from common.features import augment
from common.models.audio_model import AudioModel
from common.models.network import channels_last, prefers_channels_last
from common.training.schedules import ExponentialWarmupLinearDown, WarmupCosine, schedule_rate, warmup_length
from common.training.seeds import step_generator
from common.training.trainer import MovingAverage
from task1_asc.data.tau2022 import CLASSES
from task1_asc.networks.build import make_model
from task1_asc.settings import (
    AnyOptim,
    AugmentSettings,
    DistillationSettings,
    ImpulseResponseSettings,
    RampOptimSettings,
    Task1Settings,
)

if TYPE_CHECKING:
    from common.features.impulse_responses import DeviceImpulseResponses


class Draws(NamedTuple):
    """Random numbers of a step; None where there is no such augmentation."""

    responses: tuple[Tensor, Tensor] | None
    gain: Tensor | None
    shift: Tensor | None
    mixing: augment.Mixing | None
    masks: augment.Masks
    style: augment.Mixing | None


class Augmentation(nn.Module):
    """Augmentation of the training clips of a batch.

    Args:
        settings: the steps; see there for their order.
        sample_rate: Hz of the waveforms.
    """

    def __init__(self, settings: AugmentSettings, sample_rate: int):
        super().__init__()
        self.settings = settings
        self.max_shift = round(settings.roll_seconds * sample_rate)
        self.responses = _read_responses(settings.impulse_responses, sample_rate)

    def draw(self, recording_devices: Sequence[str], generator: torch.Generator) -> Draws:
        """Random numbers of a step for clips of these devices."""
        settings, clips = self.settings, len(recording_devices)
        responses = mixing = style = None
        if self.responses is not None and settings.impulse_responses is not None:
            devices = settings.impulse_responses.recording_devices
            eligible = torch.tensor([device in devices for device in recording_devices])
            responses = self.responses.draw(eligible, settings.impulse_responses.probability, generator)
        gain = augment.draw_gain(clips, settings.gain_db, generator)
        shift = augment.draw_shift(clips, self.max_shift, generator)
        if settings.mixup_alpha is not None:
            mixing = augment.draw_mixup(clips, settings.mixup_alpha, generator)
        masks = augment.draw_masks(clips, settings.frequency_mask, settings.time_mask, generator)
        if (mixstyle := settings.freq_mixstyle) is not None:
            style = augment.draw_style(clips, mixstyle.probability, mixstyle.alpha, generator)
        return Draws(responses, gain, shift, mixing, masks, style)

    def waveforms(self, waveform: Tensor, target: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Augment (batch, samples); targets are mixed where clips are.

        The target is (batch,) classes, which become (batch, classes) probabilities when they are mixed, or (batch, any)
        numbers.
        """
        if self.responses is not None and draws.responses is not None:
            waveform = self.responses.change(waveform, *draws.responses)
        waveform = augment.roll(augment.amplify(waveform, draws.gain), draws.shift, self.max_shift)
        if draws.mixing is not None:
            mixable = target if target.is_floating_point() else F.one_hot(target, len(CLASSES)).to(waveform)
            waveform, target = (augment.mix(values, *draws.mixing) for values in (waveform, mixable))
        return waveform, target

    def power(self, power: Tensor, draws: Draws) -> Tensor:
        """Silence bands and frames of the spectrogram (batch, 1, mels, frames) that the front end masks."""
        return augment.mask(power, draws.masks, self.settings.frequency_mask, self.settings.time_mask)


class SceneTraining(LightningModule):
    """Trains the network of the settings; logs train_loss and, of held-out clips, val_macro_accuracy and val_loss.

    The moving average of the network, if there is one, is validated and tested (`average.` in the checkpoint).

    Args:
        settings: of the whole run.
        sample_rate: Hz of the waveforms in the batches.
        model: to train; None makes the model of the settings, with random weights.
    """

    def __init__(self, settings: Task1Settings, sample_rate: int, model: AudioModel | None = None):
        super().__init__()
        self.settings = settings
        model = model or make_model(settings, sample_rate)
        self.front_end: Any = model.front_end  # a module with `mask`
        self.network = model.network
        self.augmentation = Augmentation(settings.augment, sample_rate)
        averaged = settings.optim.average_decay is not None
        self.average = copy.deepcopy(self.network).requires_grad_(False) if averaged else None
        self._counts = torch.zeros(3, len(CLASSES))

    def configure_callbacks(self) -> list[Callback]:
        """The moving average of the weights, if the settings ask for one."""
        decay = self.settings.optim.average_decay
        return [] if decay is None else [MovingAverage(decay)]

    def on_fit_start(self) -> None:
        """Choose the order of the weights in memory."""
        if prefers_channels_last(self.device, self.settings.trainer.precision):
            channels_last(self.network)

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """Loss of one batch: waveform (batch, samples), target (batch,), recording_device (list).

        With teacher_logits (batch, classes), of the clips as recorded, it is the loss of distillation.
        """
        generator = step_generator(self, self.settings.seed, batch_index)
        distillation = self.settings.distillation if "teacher_logits" in batch else None
        target = batch["target"]
        if distillation is not None:
            taught = (batch["teacher_logits"] / distillation.temperature).softmax(dim=1)
            # Side by side, so that both are mixed with the same weights.
            target = torch.cat([F.one_hot(target, len(CLASSES)).to(taught), taught], dim=1)
        draws = to_device(self.augmentation.draw(batch["recording_device"], generator), target.device)
        waveform, target = self.augmentation.waveforms(batch["waveform"], target, draws)
        self.front_end.mask = partial(self.augmentation.power, draws=draws)
        spectrogram = self.front_end(waveform)
        self.front_end.mask = None
        if draws.style is not None:
            spectrogram = augment.mix_statistics(spectrogram, *draws.style)
        logits = self.network(spectrogram).logits
        if distillation is None:
            loss = F.cross_entropy(logits, target)
        else:
            labels, taught = target.chunk(2, dim=1)
            loss = distillation_loss(logits, labels, taught, distillation)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(waveform))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Count the correct clips of each class."""
        network = self.network if self.average is None else self.average
        logits = network(self.front_end(batch["waveform"])).logits.float()
        target = batch["target"]
        correct = (logits.argmax(dim=1) == target).float()
        losses = F.cross_entropy(logits, target, reduction="none")
        counts = torch.stack([correct, torch.ones_like(correct), losses])
        self._counts = self._counts.to(self.device).index_add(1, target, counts)

    def on_validation_epoch_end(self) -> None:
        """Log the figures over the clips of all processes."""
        counts = torch.as_tensor(self.all_gather(self._counts)).view(-1, *self._counts.shape).sum(dim=0)
        self._counts = torch.zeros_like(self._counts)
        correct, clips, losses = counts[:, counts[1] > 0]
        self.log("val_macro_accuracy", (correct / clips).mean())
        self.log("val_loss", losses.sum() / clips.sum())

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with warm-up and cosine per step, or Adam with CP-JKU's ramps per epoch."""
        optim = self.settings.optim
        optimizer = make_optimizer(self.network.parameters(), optim)
        if isinstance(optim, RampOptimSettings):
            ramps = ExponentialWarmupLinearDown(optim.rise_epochs, optim.fall_from, optim.fall_epochs, optim.floor)
            return schedule_rate(optimizer, ramps, "epoch")
        total = int(self.trainer.estimated_stepping_batches)
        warmup = warmup_length(optim.warmup_steps, optim.warmup_share, total)
        return schedule_rate(optimizer, WarmupCosine(warmup, total), "step")


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
        """Freeze in each of the last epochs, since a resumed run starts in one of them."""
        from common.inference.quantize import freeze

        if self.current_epoch >= max(1, (self.trainer.max_epochs or 0) - self.frozen_epochs):
            freeze(self.network)


def make_optimizer(parameters: Iterable[Tensor], optim: AnyOptim) -> torch.optim.Optimizer:
    """AdamW, or Adam with the weight decay in the gradient."""
    adam = isinstance(optim, RampOptimSettings) and optim.decay == "l2"
    kind = torch.optim.Adam if adam else torch.optim.AdamW
    return kind(parameters, lr=optim.lr, weight_decay=optim.weight_decay)


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


def _read_responses(settings: ImpulseResponseSettings | None, sample_rate: int) -> "DeviceImpulseResponses | None":
    if settings is None:
        return None
    from common.features.impulse_responses import DeviceImpulseResponses

    options = settings.model_dump(include={"max_duration", "level", "delay"})
    try:
        return DeviceImpulseResponses(settings.folder, sample_rate, **options)
    except UserError as error:
        raise UserError(f"augment.impulse_responses.folder: {error}") from error
