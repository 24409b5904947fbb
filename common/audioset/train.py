"""How one tagging network learns, on AudioSet or on a smaller labelled set, and what it says about clips."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from numpy.typing import NDArray
from torch import Tensor, nn

from common.audioset.metrics import mean_average_precision
from common.audioset.settings import OptimSettings, TaggingSettings
from common.errors import UserError
from common.features import augment
from common.models.audio_model import AudioModel
from common.models.passt import PaSST, from_image_weights
from common.registry import load_audio_model
from common.registry.factory import create_audio_model, create_model
from common.registry.released import find_released
from common.registry.weights import read_tensors
from common.training.checkpoints import load_weights
from common.training.schedules import ExponentialWarmupLinearDown
from common.training.seeds import step_generator
from common.training.trainer import update_average

Objective = Literal["several_labels", "one_label"]
AVERAGE = "average."


def make_model(settings: TaggingSettings, labels: Sequence[str]) -> AudioModel:
    """Front end and network of the settings; from their weights, with a new classifier where the classes differ.

    Raises:
        UserError: as `load_audio_model`, or if weights do not fit the options of the network.
    """
    model, made = settings.model, _make_random_model(settings, labels)
    if model.weights is not None and _starts_from_images(made.network, model.weights):
        return made
    if model.weights is not None or find_released(model.name) is not None:
        loaded = load_audio_model(model.name, model.weights, labels=labels)
        try:
            made.network.load_state_dict(loaded.network.state_dict())
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip()
            raise UserError(f"model.options do not fit the weights of {model.name}: {first}") from error
    return made


def _make_random_model(settings: TaggingSettings, labels: Sequence[str]) -> AudioModel:
    """As `make_model`, with random weights; released weights still decide strides and the like."""
    model = settings.model
    return create_audio_model(model.name, front_end=settings.front_end.model_dump(), labels=labels, **model.options)


def _starts_from_images(network: nn.Module, weights: Path) -> bool:
    """Load DeiT's weights into a PaSST; False, and nothing done, for any other file or network."""
    if not isinstance(network, PaSST):
        return False
    tensors = read_tensors(weights)
    if "pos_embed" not in tensors:
        return False
    heads = {name: value for name, value in network.state_dict().items() if name.startswith("head")}
    try:
        network.load_state_dict({**heads, **from_image_weights(tensors, network)})
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{weights} holds image weights, but not those of a DeiT of this size.") from error
    return True


def load_trained(settings: TaggingSettings, labels: Sequence[str], weights: Path) -> AudioModel:
    """The model of the settings with the weights that it was left with, ready to tag, on the GPU where there is one."""
    model = _make_random_model(settings, labels)
    load_weights(model.network, weights)
    set_temperature_after(model.network, settings.trainer.epochs - 1)
    use_gpu = settings.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return model.eval().to("cuda" if use_gpu else "cpu")


def set_temperature_after(network: Any, epoch: int) -> None:
    """Set what a DyMN's kernels have after `epoch` (from 0); other networks have nothing of the kind."""
    if hasattr(network, "after_epoch") and epoch >= 0:
        network.after_epoch(epoch)


def demand_cooling(settings: TaggingSettings) -> None:
    """Refuse a training of DyMN that would end before its kernels' temperature is down.

    The temperature is in no checkpoint: everything that loads a DyMN takes it to be 1.

    Raises:
        UserError: with what to set.
    """
    epochs = settings.trainer.epochs
    with torch.device("meta"):
        network = create_model(settings.model.name, **settings.model.options)
    schedule: Any = getattr(network, "schedule", None)
    if schedule is not None and (last := schedule(epochs - 1)) > schedule(10**6):
        raise UserError(
            f"model.options: after {epochs} epochs the kernel temperature of DyMN would be {last:g}, but what loads "
            f"it takes {schedule(10**6):g}. Train longer, or start lower (--model.options.T_max {epochs})."
        )


class TaggingTraining(LightningModule):
    """Trains the network of the settings; logs train_loss and, of clips that it watches, val_mAP or val_accuracy.

    Validated and tested is the average of the weights where there is one (`average.` in the checkpoint).

    Args:
        settings: of the whole run.
        labels: names of the classes.
        objective: several_labels (binary cross entropy) or one_label (cross entropy).
        label_weight: of the loss on the labels beside the teacher's; None without a teacher.
    """

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
        self.network: Any = model.network
        if settings.model.norm_momentum is not None:
            for module in model.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = settings.model.norm_momentum
        averaged = settings.optim.ema_decay is not None or settings.optim.swa is not None
        for name in getattr(self.network, "unused_parameters", ()):  # several devices wait for every gradient
            self.network.get_parameter(name).requires_grad_(False)
        self.average: Any = copy.deepcopy(self.network).requires_grad_(False) if averaged else None
        self.averaged: Tensor
        self.register_buffer("averaged", torch.zeros((), dtype=torch.int64))
        self._seen: list[dict[str, Tensor]] = []

    @property
    def tested_prefix(self) -> str:
        """Where in the state dict the weights are that are validated and tested."""
        return AVERAGE if self.average is not None and int(self.averaged) else "network."

    def on_fit_start(self) -> None:
        """Order the weights so that convolutions are quickest; on a CPU with the channels last, a third less time."""
        # Not DyMN's: its one convolution over all clips of a batch has no such order.
        if self.device.type == "cpu" and not hasattr(self.network, "after_epoch"):
            self.network.to(memory_format=torch.channels_last)

    def on_train_epoch_start(self) -> None:
        """Cool the kernels of a DyMN; take the weights into their plain mean."""
        for network in (self.network, self.average):
            # After epoch e the published code sets the temperature of e: training in epoch e runs with that of e - 1.
            set_temperature_after(network, self.current_epoch - 1)
        swa = self.settings.optim.swa
        if swa is not None and self.average is not None:
            since = self.current_epoch + 1 - swa.start
            if since >= 0 and since % swa.every == 0:
                count = int(self.averaged)
                update_average(self.average, self.network, count / (count + 1))
                self.averaged += 1

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """Loss of a batch of `TaggingClips`."""
        generator = step_generator(self, self.settings.seed, batch_index)
        change = self.settings.augment
        waveform = augment.time_roll(batch["waveform"], change.roll, generator)
        self.front_end.mask = lambda log_mel: augment.time_mask(
            augment.frequency_mask(log_mel, change.frequency_mask, generator), change.time_mask, generator
        )
        with torch.autocast(self.device.type, enabled=False):
            spectrogram = self.front_end(waveform)
        self.front_end.mask = None
        targets = {key: batch[key] for key in _TARGETS if key in batch}
        if change.mixup_alpha is not None:
            weight, partner = augment.draw_mixup(len(waveform), change.mixup_alpha, generator, dominant=True)
            spectrogram = augment.mix(spectrogram, weight, partner)
            targets = {key: augment.mix(value, weight, partner) for key, value in targets.items()}
        return self._loss(self.network(spectrogram).logits.float(), targets)

    def _loss(self, logits: Tensor, targets: dict[str, Tensor]) -> Tensor:
        compute = weighted_bce if self.objective == "several_labels" else soft_cross_entropy
        loss = compute(logits, targets["target"], targets["weight"])
        if self.label_weight is not None:
            taught = weighted_bce(logits, targets["teacher_target"], targets["teacher_weight"])
            self.log_dict({"label_loss": loss, "teacher_loss": taught}, on_step=False, on_epoch=True)
            loss = distillation_loss(loss, taught, self.label_weight)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(logits))
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Let the moving average follow."""
        if self.average is not None and self.settings.optim.ema_decay is not None:
            update_average(self.average, self.network, self.settings.optim.ema_decay)
            self.averaged += 1

    def on_train_epoch_end(self) -> None:
        """Set the temperature that a DyMN is left with."""
        for network in (self.network, self.average):
            set_temperature_after(network, self.current_epoch)

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Keep logits and targets of a batch."""
        network = self.average if self.tested_prefix == AVERAGE else self.network
        with torch.autocast(self.device.type, enabled=False):
            spectrogram = self.front_end(batch["waveform"])
        logits = network(spectrogram).logits.float()
        self._seen.append({"logits": logits, **{key: batch[key] for key in ("target", "weight", "index")}})

    def on_validation_epoch_end(self) -> None:
        """Log the figure over the clips of all processes."""
        seen = {key: torch.cat([batch[key] for batch in self._seen]) for key in self._seen[0]}
        self._seen = []
        # Each process saw the same number of clips, some of them twice; (processes, clips, ...) or (clips, ...).
        gathered: dict[str, Any] = {key: self.all_gather(value) for key, value in seen.items()}
        clips = {key: value.reshape(-1, *seen[key].shape[1:]).cpu().numpy() for key, value in gathered.items()}
        _, first = np.unique(clips["index"], return_index=True)
        logits, target, weight = (clips[key][first] for key in ("logits", "target", "weight"))
        if self.objective == "one_label":
            self.log("val_accuracy", float((logits.argmax(1) == target.argmax(1)).mean()))
        elif (target * weight > 0.5).any():
            self.log("val_mAP", mean_average_precision(logits, target, weight))

    def configure_optimizers(self) -> Any:
        """The optimiser; its rate per epoch."""
        optim = self.settings.optim
        optimizer = make_optimizer(self.network, optim)
        schedule = ExponentialWarmupLinearDown(optim.warmup, optim.down_start, optim.down_length, optim.floor)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}


_TARGETS = ("target", "weight", "teacher_target", "teacher_weight")


def make_optimizer(network: nn.Module, optim: OptimSettings) -> torch.optim.Optimizer:
    """The optimiser of the settings over all parameters that are trained."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if optim.name == "sgd":
        return torch.optim.SGD(parameters, lr=optim.lr, weight_decay=optim.weight_decay, momentum=0.9)
    kind = torch.optim.Adam if optim.name == "adam" else torch.optim.AdamW
    return kind(parameters, lr=optim.lr, weight_decay=optim.weight_decay)


@torch.inference_mode()
def tag_clips(model: AudioModel, loader: Any, limit: int | None = None) -> tuple[NDArray, dict[str, Any]]:
    """Logits of all clips of a loader.

    Args:
        model: in evaluation mode, on its device. Clips longer than its window are tagged in windows.
        loader: of batches of `TaggingClips`.
        limit: batches at most.

    Returns:
        float32 (clips, classes), and target, weight (arrays), filename (list) of the same clips.
    """
    device = next(model.network.parameters()).device
    logits, targets, weights, filenames = [], [], [], []
    for number, batch in enumerate(loader):
        if limit is not None and number >= limit:
            break
        output = model(batch["waveform"].to(device)).logits
        assert output is not None
        logits.append(output.float().cpu().numpy())
        targets.append(batch["target"].numpy())
        weights.append(batch["weight"].numpy())
        filenames += batch["filename"]
    facts = {"target": np.concatenate(targets), "weight": np.concatenate(weights), "filename": filenames}
    return np.concatenate(logits), facts


def weighted_bce(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Binary cross entropy with logits, summed over weighted targets, mean over batch and classes.

    Cross entropy is linear in its target, so that mixing targets is mixing losses. A target p with weight w stands as
    (w p, w); two mixed clips add up. With weight 1 it is F.binary_cross_entropy_with_logits. What is unknown (weight 0)
    counts as loss 0, also in the mean: so do EfficientAT for clips without teacher, and the OpenMIC scripts.

    Args:
        logits: (batch, classes).
        target: (batch, classes), weight times probability.
        weight: (batch, classes) or (batch, 1).
    """
    return (weight * F.softplus(logits) - target * logits).mean()


def distillation_loss(label_loss: Tensor, teacher_loss: Tensor, label_weight: float) -> Tensor:
    """label_weight * label_loss + (1 - label_weight) * teacher_loss; published with 0.1 (kd_lambda)."""
    return label_weight * label_loss + (1 - label_weight) * teacher_loss


def soft_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross entropy over classes with probabilities (batch, classes) as target; `weight` must be 1 and is not used."""
    return F.cross_entropy(logits, target)


def teacher_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """sigmoid(logits / temperature) in single precision."""
    return torch.sigmoid(logits.float() / temperature)
