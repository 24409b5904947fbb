"""Code of an inference package of Task 1 2025: the functions of the official interface, and their complexity.

`python -m task1_asc package --year 2025` copies this file with the modules it needs into the package. The checkpoint of
a system holds its weights, and how to build its networks and front end.
"""

import importlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor, nn

from common.features.front_ends import FrontEnd, ResampledFirst
from common.inference.complexity import challenge_macs, on_meta, stored_bytes
from common.inference.quantize import blank_int8, folded_copy
from task1_asc.networks.classify import DeviceNetworks

ROOT = __name__.rpartition("task1_asc.")[0]  # of the copied modules: empty in the kit
AT_ONCE = 64


class LogitsOnly(nn.Module):
    """A network that returns only its logits."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(batch, 1, mels, frames) to (batch, classes)."""
        return self.network(spectrogram).logits


class PackagedModel(nn.Module):
    """Result of `load_model`. The official script saves the state dict of `model`.

    Attributes:
        model: the networks (`DeviceNetworks`).
        front_end: waveform at the files' rate to spectrogram.
        spec: how to build them; labels, precision.
    """

    def __init__(self, spec: dict[str, Any]):
        super().__init__()
        self.spec = spec
        self.front_end = make_front_end(spec["front_end"], spec["sample_rate"]).eval()
        names = ("general", *spec["devices"])
        if spec["precision"] == "int8":
            blank = make_float_network(spec)
            made: dict[str, nn.Module] = {
                name: blank_int8(blank, spec["input_shape"], kept_float(spec)) for name in names
            }
        else:
            made = {name: make_float_network(spec) for name in names}
        self.model = DeviceNetworks(made.pop("general"), made).eval()
        if spec["precision"] == "float16":
            self.model.half()

    @property
    def dtype(self) -> torch.dtype:
        """Type of the spectrograms."""
        return torch.float16 if self.spec["precision"] == "float16" else torch.float32


def load_model(path: Path) -> PackagedModel:
    """The model in a system's checkpoint, on the CPU, in evaluation mode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about PyTorch's own storage of 8-bit tensors
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    model = PackagedModel(checkpoint["spec"])
    model.model.load_state_dict(checkpoint["state_dict"])
    return model.eval().requires_grad_(False)


@torch.no_grad()
def load_inputs(file_paths: Sequence[str | Path], model: PackagedModel) -> list[Tensor]:
    """One spectrogram (1, 1, mels, frames) for each file, in their order."""
    samples = model.spec["sample_rate"]
    inputs = []
    for path in file_paths:
        waveform, rate = soundfile.read(str(path), dtype="float32")
        if rate != model.spec["sample_rate"] or waveform.shape != (samples,):
            raise ValueError(
                f"{path}: {waveform.shape} at {rate} Hz, expected one channel of one second at {samples} Hz"
            )
        inputs.append(model.front_end(torch.from_numpy(waveform)[None]).to(model.dtype))
    return inputs


def model_for_device(model: PackagedModel, device_id: str) -> nn.Module:
    """The network for clips of a device; an unknown device gets the general network."""
    return LogitsOnly(model.model.model_for(device_id)).eval()


@torch.no_grad()
def predict(
    file_paths: Sequence[str | Path], device_ids: Sequence[str], path: Path, use_cuda: bool = False
) -> tuple[list[Tensor], list[str]]:
    """Logits (classes,) of each file, in their order, and the classes; files of one device run together."""
    model = load_model(path)
    cuda = use_cuda and torch.cuda.is_available() and model.spec["precision"] != "int8"
    model = model.to("cuda" if cuda else "cpu")
    logits: list[Tensor] = []
    for first in range(0, len(file_paths), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        if cuda:
            model.front_end.cpu()
        spectrograms = torch.cat(load_inputs(file_paths[part], model)).to("cuda" if cuda else "cpu")
        logits += list(model.model(spectrograms, list(device_ids[part])).float().cpu())
    return logits, list(model.spec["labels"])


def complexity(model: PackagedModel, device_id: str) -> dict[str, int]:
    """MACs and bytes ("Params") of a device's network as the rules count them, with packed 8-bit weights."""
    spec = model.spec
    network = make_float_network(spec)
    network = on_meta(folded_copy(network) if spec["precision"] == "int8" else network)
    spectrogram = torch.empty(tuple(spec["input_shape"]), device="meta")
    macs = challenge_macs(network, {"spectrogram": spectrogram})
    return {"MACs": macs, "Params": stored_bytes(model.model.model_for(device_id))}


def make_float_network(spec: dict[str, Any]) -> nn.Module:
    """The network with random weights, in single precision."""
    return _build(spec["network"]).eval()


def make_front_end(spec: dict[str, Any], sample_rate: int) -> FrontEnd:
    """The front end for waveforms at `sample_rate` Hz."""
    front_end = _build(spec)
    return front_end if front_end.sample_rate == sample_rate else ResampledFirst(front_end, sample_rate)


def kept_float(spec: dict[str, Any]) -> tuple[type, ...]:
    """Classes of modules that stay in float in an 8-bit network."""
    return tuple(_find(target) for target in spec["kept_float"])


def _build(spec: dict[str, Any]) -> Any:
    return _find(spec["make"])(**{name: value for name, value in spec.items() if name != "make"})


def _find(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(ROOT + module), name)
