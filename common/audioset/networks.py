"""Networks for tagging: new ones, and trained ones with their logits."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader

from common.audioset.settings import Objective, TaggingSettings
from common.errors import UserError
from common.models.audio_model import AudioModel
from common.models.dynamic_mobilenet import DynamicMobileNet
from common.models.network import choose_device, without_values
from common.models.passt import PaSST, from_image_weights
from common.registry import load_audio_model
from common.registry.models import create_audio_model, create_model, find_architecture, find_released
from common.registry.weights import read_tensors
from common.training.checkpoints import load_weights


def make_model(settings: TaggingSettings, labels: Sequence[str]) -> AudioModel:
    """Front end and network of the settings; from their weights, with a new classifier where the classes differ."""
    model, made = settings.model, _make_random_model(settings, labels)
    if model.weights is not None and _load_image_weights(made.network, model.weights):
        return made
    if model.weights is not None or find_released(model.name) is not None:
        loaded = load_audio_model(model.name, model.weights, labels=labels)
        try:
            made.network.load_state_dict(loaded.network.state_dict())
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip()
            raise UserError(f"model.options do not fit the weights of {model.name}: {first}") from error
    return made


def network_options(settings: TaggingSettings) -> dict[str, Any]:
    """Options of the network; a DyMN with random weights starts at a kernel temperature of 30, as published."""
    model = settings.model
    random = model.weights is None and find_released(model.name) is None
    if random and find_architecture(model.name).network == "dymn":
        return {"T_max": 30.0, **model.options}
    return model.options


def _make_random_model(settings: TaggingSettings, labels: Sequence[str]) -> AudioModel:
    """As `make_model`, with random weights; released weights still decide strides and the like."""
    front_end = settings.front_end.model_dump()
    return create_audio_model(settings.model.name, front_end=front_end, labels=labels, **network_options(settings))


def _load_image_weights(network: nn.Module, weights: Path) -> bool:
    """Load DeiT's weights into a PaSST; False for any other file or network, which stays unchanged."""
    if not isinstance(network, PaSST):
        return False
    tensors = read_tensors(weights)
    if "pos_embed" not in tensors:
        return False
    heads = {name: value for name, value in network.state_dict().items() if name.startswith("head")}
    try:
        network.load_state_dict({**heads, **from_image_weights(tensors, network)})
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{weights} holds image weights, but not of a DeiT of this size.") from error
    return True


def load_trained(
    settings: TaggingSettings, labels: Sequence[str], weights: Path, objective: Objective = "several_labels"
) -> AudioModel:
    """The trained model of the settings in evaluation mode, on the GPU where there is one; of one label a softmax."""
    model = _make_random_model(settings, labels)
    model.activation = "softmax" if objective == "one_label" else "sigmoid"
    load_weights(model.network, weights)
    if isinstance(model.network, DynamicMobileNet):
        model.network.start_epoch(settings.trainer.epochs - 1)
    return model.eval().to(choose_device(settings.trainer))


def refuse_hot_kernels(settings: TaggingSettings) -> None:
    """Refuse (UserError) a training of DyMN that would end before the temperature of its kernels has fallen.

    The temperature is in no checkpoint: everything that loads a DyMN takes it to be 1.
    """
    epochs = settings.trainer.epochs
    with without_values():
        network = create_model(settings.model.name, **network_options(settings))
    if not isinstance(network, DynamicMobileNet):
        return
    last, lowest = network.temperature_in(epochs - 1), network.temperature_in(10**6)
    if last > lowest:
        raise UserError(
            f"model.options: after {epochs} epochs the kernel temperature of DyMN would be {last:g}, but "
            f"loading assumes {lowest:g}. Train longer, or start lower (--model.options.T_max {epochs})."
        )


@torch.inference_mode()
def tag_clips(
    model: AudioModel, loader: DataLoader[Any], limit: int | None = None
) -> tuple[NDArray[Any], dict[str, Any]]:
    """Logits of all clips of a loader (of `limit` batches at most); clips beyond the model's window in windows.

    Returns:
        float32 (clips, classes), and target, weight (arrays), filename (list) of the same clips.
    """
    device = next(model.network.parameters()).device
    logits, seen = [], []
    for batch in islice(loader, limit):
        output = model(batch["waveform"].to(device)).logits
        assert output is not None
        logits.append(output.float().cpu().numpy())
        seen.append(batch)
        del batch["waveform"]
    facts = {key: np.concatenate([batch[key].numpy() for batch in seen]) for key in ("target", "weight")}
    return np.concatenate(logits), {**facts, "filename": [name for batch in seen for name in batch["filename"]]}
