"""Inference in each precision; device-aware models route each clip to its device's network."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class DeviceNetworks(nn.Module):
    """A network, and copies of it that were trained further on clips of one recording device each.

    The container of the DCASE 2025 baseline (models/multi_device_model.py): clips of a device without a copy go to
    `base_model`. Clips of one device run together, not one by one.

    Args:
        base_model: spectrogram to ModelOutput.
        device_models: recording device to its copy.
    """

    def __init__(self, base_model: nn.Module, device_models: Mapping[str, nn.Module] | None = None):
        super().__init__()
        self.base_model = base_model
        self.device_models = nn.ModuleDict(dict(device_models or {}))

    def model_for(self, recording_device: str | None) -> nn.Module:
        """The network for clips of a device."""
        if recording_device is not None and recording_device in self.device_models:
            return self.device_models[recording_device]
        return self.base_model

    def forward(self, spectrogram: Tensor, recording_devices: Sequence[str] | None = None) -> Tensor:
        """(batch, 1, mels, frames), and the devices of the clips if known, to logits (batch, classes)."""
        if recording_devices is None or not self.device_models:
            return self.base_model(spectrogram).logits
        known = [name if name in self.device_models else "" for name in recording_devices]
        parts, order = [], []
        for name in dict.fromkeys(known):
            rows = [row for row, own in enumerate(known) if own == name]
            parts.append(self.model_for(name)(spectrogram[rows]).logits)
            order += rows
        joined = torch.cat(parts)
        return torch.empty_like(joined).index_copy_(0, torch.tensor(order, device=joined.device), joined)


class InHalf(nn.Module):
    """Networks in half precision on spectrograms computed in single precision, as in the baseline."""

    def __init__(self, networks: DeviceNetworks):
        super().__init__()
        self.networks = copy.deepcopy(networks).half()

    def forward(self, spectrogram: Tensor, recording_devices: Sequence[str] | None = None) -> Tensor:
        """As `DeviceNetworks`; float16 logits."""
        return self.networks(spectrogram.half(), recording_devices)


class OnCPU(nn.Module):
    """Networks that run on a CPU only, such as 8-bit networks, beside others on a GPU."""

    def __init__(self, networks: DeviceNetworks):
        super().__init__()
        self.networks = networks

    def forward(self, spectrogram: Tensor, recording_devices: Sequence[str] | None = None) -> Tensor:
        """As `DeviceNetworks`."""
        return self.networks(spectrogram.cpu(), recording_devices)


class GeneralOnly(nn.Module):
    """The same networks without the devices of the clips."""

    def __init__(self, networks: nn.Module):
        super().__init__()
        self.networks = networks

    def forward(self, spectrogram: Tensor, recording_devices: Sequence[str] | None = None) -> Tensor:
        """As `DeviceNetworks`, by its general network."""
        return self.networks(spectrogram)


@torch.inference_mode()
def classify_with(
    front_end: nn.Module,
    networks: Mapping[str, nn.Module],
    loader: Any,
    limit: int | None = None,
    device: torch.device | None = None,
) -> tuple[dict[str, NDArray], list[str]]:
    """Logits of all clips of a loader by several networks on the same spectrograms.

    Args:
        front_end: waveform to spectrogram, on `device`.
        networks: name to `DeviceNetworks` or one of the classes around it, in evaluation mode.
        loader: of dicts with waveform (batch, samples), filename (list), and recording_device (list) if known.
        limit: maximum number of batches.
        device: of the front end and the networks.

    Returns:
        Name to logits (clips, classes), in the precision of the network; file names.
    """
    logits: dict[str, list[NDArray]] = {name: [] for name in networks}
    filenames: list[str] = []
    for number, batch in enumerate(loader):
        if limit is not None and number >= limit:
            break
        spectrogram = front_end(batch["waveform"].to(device or "cpu"))
        for name, network in networks.items():
            output = network(spectrogram, batch.get("recording_device")).cpu()
            logits[name].append((output.float() if output.dtype is torch.bfloat16 else output).numpy())
        filenames += batch["filename"]
    return {name: np.concatenate(parts) for name, parts in logits.items()}, filenames
