"""How one tagging network learns, on AudioSet or on a smaller labelled set."""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from common.audioset.losses import tagging_loss
from common.audioset.metrics import mean_average_precision
from common.audioset.networks import make_model
from common.audioset.settings import Objective, OptimSettings, TaggingSettings
from common.data.transfer import to_device
from common.features import augment
from common.models.dynamic_mobilenet import DynamicMobileNet
from common.models.network import ModelOutput, channels_last, prefers_channels_last
from common.output import say
from common.training.schedules import ExponentialWarmupLinearDown, schedule_rate
from common.training.seeds import step_generator
from common.training.trainer import update_average

AVERAGE = "average."
LARGE_LOGIT = 30.0
TARGETS = ("target", "weight", "teacher_target", "teacher_weight")


class TaggingTraining(LightningModule):
    """Trains the network of the settings; logs train_loss and, on validation clips, val_loss and val_mAP or accuracy.

    The average of the weights (`average.` in the checkpoint) is validated and tested where there is one.

    Args:
        objective: several_labels (binary cross entropy) or one_label (cross entropy).
        label_weight: of the loss on the labels beside the teacher's; None without a teacher.
    """

    averaged: Tensor

    def __init__(
        self,
        settings: TaggingSettings,
        labels: Sequence[str],
        objective: Objective = "several_labels",
        label_weight: float | None = None,
    ):
        super().__init__()
        self.settings, self.objective, self.label_weight = settings, objective, label_weight
        model = make_model(settings, labels)
        self.front_end: Any = model.front_end
        self.network = model.network
        if settings.model.norm_momentum is not None:
            for module in model.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = settings.model.norm_momentum
        averaged = settings.optim.ema_decay is not None or settings.optim.swa is not None
        for name in cast(Sequence[str], getattr(self.network, "unused_parameters", ())):
            self.network.get_parameter(name).requires_grad_(False)  # several devices wait for every gradient
        self.average = copy.deepcopy(self.network).requires_grad_(False) if averaged else None
        self.register_buffer("averaged", torch.zeros((), dtype=torch.int64))
        self._seen: list[dict[str, Tensor]] = []

    @property
    def tested_prefix(self) -> str:
        """Prefix in the state dict of the weights that are validated and tested."""
        return AVERAGE if self.average is not None and int(self.averaged) else "network."

    def on_fit_start(self) -> None:
        """Order the weights for the device."""
        # Not DyMN's: its one convolution over all clips of a batch has no such order.
        preferred = prefers_channels_last(self.device, self.settings.trainer.precision)
        if preferred and not isinstance(self.network, DynamicMobileNet):
            channels_last(self.network)

    def on_train_epoch_start(self) -> None:
        """Set the kernel temperature of a DyMN; take the weights into their plain mean."""
        for network in (self.network, self.average):
            if isinstance(network, DynamicMobileNet):
                network.start_epoch(self.current_epoch)
        if self.average is not None and takes_average(self.settings.optim, self.current_epoch):
            count = int(self.averaged)
            update_average(self.average, self.network, count / (count + 1))
            self.averaged += 1

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """Loss of a batch of `TaggingClips`."""
        generator = step_generator(self, self.settings.seed, batch_index)
        change = self.settings.augment
        clips, widths = len(batch["waveform"]), (change.frequency_mask, change.time_mask)
        masks = augment.draw_masks(clips, *widths, generator)
        mixing: augment.Mixing | None = None
        if change.mixup_alpha is not None:
            mixing = augment.draw_mixup(clips, change.mixup_alpha, generator, dominant=True)
        masks, mixing = to_device((masks, mixing), batch["waveform"].device)
        self.front_end.mask = partial(augment.mask, drawn=masks, bands=widths[0], frames=widths[1])
        spectrogram = self.front_end(batch["waveform"])
        self.front_end.mask = None
        targets = {key: batch[key] for key in TARGETS if key in batch}
        if mixing is not None:
            spectrogram, targets = mix_batch(spectrogram, targets, *mixing)
        parts = tagging_loss(self._logits(self.network, spectrogram), targets, self.objective, self.label_weight)
        names = {"loss": "train_loss", "labels": "label_loss", "teacher": "teacher_loss"}
        shown = {names[key]: value for key, value in parts.items() if key == "loss" or "teacher" in parts}
        self.log_dict(shown, on_step=False, on_epoch=True, batch_size=len(spectrogram))
        return parts["loss"]

    def on_train_batch_end(self, *_: Any) -> None:
        """Update the moving average."""
        if self.average is not None and self.settings.optim.ema_decay is not None:
            update_average(self.average, self.network, self.settings.optim.ema_decay)
            self.averaged += 1

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Keep logits and targets of a batch."""
        network = self.average if self.average is not None and self.tested_prefix == AVERAGE else self.network
        logits = self._logits(network, self.front_end(batch["waveform"]))
        self._seen.append({"logits": logits, **{key: batch[key] for key in ("target", "weight", "index")}})

    def on_validation_epoch_end(self) -> None:
        """Log the figures over the clips of all processes; warn of logits that no trained network gives."""
        seen = {key: torch.cat([batch[key] for batch in self._seen]) for key in self._seen[0]}
        self._seen = []
        # Each process saw the same number of clips, some of them twice; (processes, clips, ...) or (clips, ...).
        gathered: dict[str, Any] = {key: self.all_gather(value) for key, value in seen.items()}
        clips = {key: value.reshape(-1, *seen[key].shape[1:]).cpu() for key, value in gathered.items()}
        first = np.unique(clips["index"], return_index=True)[1]
        logits, target, weight = (clips[key][first] for key in ("logits", "target", "weight"))
        largest = float(logits.abs().max())
        loss = tagging_loss(logits, {"target": target, "weight": weight}, self.objective)["loss"]
        self.log_dict({"val_loss": loss, "val_largest_logit": largest})
        if not largest < LARGE_LOGIT:
            say(
                f"Epoch {self.current_epoch + 1}: the largest logit of the validation clips is {largest:.0f}. The "
                "running statistics do not fit the weights (a DyMN from random weights may do that); train longer, or "
                "start from released weights."
            )
        if self.objective == "one_label":
            self.log("val_accuracy", (logits.argmax(1) == target.argmax(1)).float().mean())
        elif (target * weight > 0.5).any():
            self.log("val_mAP", mean_average_precision(logits, target, weight))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimiser; its rate per epoch."""
        optimizer = make_optimizer(self.network.parameters(), self.settings.optim)
        return schedule_rate(optimizer, rate_factor(self.settings.optim, self.settings.trainer.epochs), "epoch")

    @staticmethod
    def _logits(network: nn.Module, spectrogram: Tensor) -> Tensor:
        output: ModelOutput = network(spectrogram)
        assert output.logits is not None
        return output.logits.float()


def takes_average(optim: OptimSettings, epoch: int) -> bool:
    """Whether the weights at the start of an epoch (from 0) count in their plain mean."""
    since = epoch + 1 - (optim.swa.start if optim.swa is not None else 0)
    return optim.swa is not None and since >= 0 and since % optim.swa.every == 0


def make_optimizer(parameters: Any, optim: OptimSettings) -> torch.optim.Optimizer:
    """The optimiser of the settings over all parameters that are trained."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if optim.name == "sgd":
        return torch.optim.SGD(trained, lr=optim.lr, weight_decay=optim.weight_decay, momentum=0.9)
    kind = torch.optim.Adam if optim.name == "adam" else torch.optim.AdamW
    return kind(trained, lr=optim.lr, weight_decay=optim.weight_decay)


def rate_factor(optim: OptimSettings, epochs: int | None = None) -> ExponentialWarmupLinearDown:
    """Factor of the learning rate in each epoch; a schedule for other than these `epochs` is scaled to them."""
    scale = 1.0 if epochs is None or optim.schedule_epochs is None else epochs / optim.schedule_epochs
    warmup, start, length = (round(scale * each) for each in (optim.warmup, optim.down_start, optim.down_length))
    return ExponentialWarmupLinearDown(warmup, start, length, optim.floor)


def mix_batch(
    spectrogram: Tensor, targets: Mapping[str, Tensor], weight: Tensor, partner: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mixup of spectrograms and of all targets; weight and partner (batch,)."""
    mixed = {key: augment.mix(value, weight, partner) for key, value in targets.items()}
    return augment.mix(spectrogram, weight, partner), mixed
