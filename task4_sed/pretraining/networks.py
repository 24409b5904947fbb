"""The network of a training: built, initialised from weights, and its parameters in groups with learning rates."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from common.errors import UserError
from common.models.audio_model import AudioModel
from common.models.frame_mobilenet import FrameMobileNet
from common.models.frame_prediction import FramePrediction
from common.registry.models import create_audio_model, find_architecture, find_released
from common.registry.weights import fetch, map_official_keys, read_tensors
from task4_sed.pretraining.settings import ModelSettings, OptimSettings

HEADS = ("strong_head.", "weak_head.", "seq_model.")
"""Beginnings of the names of the parameters above the pre-trained blocks."""


def make_model(settings: ModelSettings, labels: Sequence[str]) -> AudioModel:
    """Front end and network with new heads, still with random weights.

    The head for clips is frozen: it gets no gradient from the loss, and distributed training waits for every gradient.
    """
    model = create_audio_model(settings.name, front_end=settings.front_end, labels=labels, **settings.options)
    network = model.network
    if not isinstance(network, FramePrediction):
        raise UserError(f"model.name {settings.name} gives one vector per clip, no frames; choose a frame model.")
    if network.head_type != "linear":
        raise UserError(f"model.options.head_type is {network.head_type}; here it must be linear.")
    network.weak_head.requires_grad_(False)
    if settings.head_bias is not None:
        nn.init.constant_(network.strong_head.bias, settings.head_bias)
    return model


def refuse_absent_weights(settings: ModelSettings) -> None:
    """Refuse a file of weights that is not there."""
    if settings.weights is not None and not settings.untrained and not settings.weights.is_file():
        raise UserError(f"model.weights: there is no file {settings.weights}.")


def start_from_weights(model: AudioModel, settings: ModelSettings) -> None:
    """Load the blocks below the heads, strictly; heads and recurrent layers stay random."""
    if settings.untrained:
        return
    released = find_released(settings.name)
    if settings.weights is not None:
        path = settings.weights
    elif released is not None:
        path = fetch(released)
    else:
        raise UserError(
            f"model.name {settings.name} names no weights; take {settings.name}.weak, give model.weights a file, or "
            "set model.untrained."
        )
    network = model.network
    own = network.state_dict()
    try:
        official = {key: value for key, value in read_tensors(path).items() if not key.startswith(HEADS)}
        mapped = map_official_keys(network, find_architecture(settings.name), official)
    except UserError as error:
        raise UserError(f"model.weights {path} cannot be used for {settings.name}: {error}") from error
    blocks = {key: value for key, value in own.items() if not key.startswith(HEADS)}
    wrong = [key for key, value in blocks.items() if key not in mapped or mapped[key].shape != value.shape]
    if wrong:
        raise UserError(
            f"model.weights {path} does not fit {settings.name} with its model.options: {len(wrong)} of {len(blocks)} "
            f"tensors are missing or have another shape (first {wrong[0]})."
        )
    network.load_state_dict(own | mapped)


def parameter_groups(network: FramePrediction, optim: OptimSettings) -> list[dict[str, Any]]:
    """Groups for an optimiser: heads at lr, block i from the top at lr * layer_decay^i, i = 1, 2, ...

    Patches and positions learn with the lowest block, a final norm with the top one; the 17 stages of a frame-wise
    MobileNet count one by one.
    """
    groups = _groups(network.strong_head.parameters(), optim.lr, optim)
    groups += _groups(network.seq_model.parameters(), optim.sequence_lr or optim.lr, optim)
    if not optim.frozen:
        layers = network.layer_groups()
        depth = len(layers) if isinstance(network.model, FrameMobileNet) else len(layers) - 1
        for number, parameters in enumerate(layers, start=1):
            groups += _groups(parameters, optim.lr * optim.layer_decay ** min(number, depth), optim)
    return groups


def freeze_below_heads(network: FramePrediction) -> None:
    """No gradients below the heads, in evaluation mode; recurrent layers included, as published."""
    for part in (network.model, network.seq_model):
        part.requires_grad_(False).eval()


@torch.no_grad()
def rise_per_decibel(front_end: nn.Module) -> float:
    """Rise of a front end's features for 1 dB; measured on noise, 2 dB apart."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.05 * torch.randn(1, int(front_end.sample_rate), generator=generator)  # type: ignore[arg-type]
    training = front_end.training
    front_end.eval()
    device = next((buffer.device for buffer in front_end.buffers()), noise.device)
    louder, as_it_is = front_end(noise.to(device) * 10**0.1), front_end(noise.to(device))
    front_end.train(training)
    return float((louder - as_it_is).median()) / 2


def _groups(parameters: Iterable[nn.Parameter], lr: float, optim: OptimSettings) -> list[dict[str, Any]]:
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    decayed = [parameter for parameter in learned if optim.decayed == "all" or parameter.ndim >= 2]
    others = [parameter for parameter in learned if optim.decayed != "all" and parameter.ndim < 2]
    parts = (
        {"params": decayed, "lr": lr, "weight_decay": optim.weight_decay},
        {"params": others, "lr": lr, "weight_decay": 0.0},
    )
    return [part for part in parts if part["params"]]
