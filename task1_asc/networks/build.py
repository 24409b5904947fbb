"""The networks of Task 1 with their front ends: new ones, and the trained ones of a run."""

import copy
from typing import Any

import torch
from torch import nn

from common.features.front_ends import FrontEnd, ResampledFirst, ResampledMel
from common.models.audio_model import AudioModel, WindowPolicy
from common.models.cp_mobile import GlobalResponseNorm
from common.models.network import channels_last, choose_device
from common.registry.models import create_front_end, create_model
from common.runs.run import Run
from common.training.checkpoints import load_weights
from task1_asc.data.tau2022 import CLASSES, TRAINING_DEVICES
from task1_asc.networks.classify import DeviceNetworks, InHalf, OnCPU
from task1_asc.settings import ModelSettings, Task1Settings

KEPT_FLOAT = (GlobalResponseNorm,)
"""Modules that stay in float in an 8-bit network, as in the system of 2023: a norm over whole maps has a wide range."""


def make_model(settings: Task1Settings, sample_rate: int) -> AudioModel:
    """Front end and network of the settings, for waveforms at `sample_rate` Hz, with random weights."""
    name = settings.model.name
    front_end, network = make_settings_front_end(settings, sample_rate), make_network(settings.model)
    return AudioModel(front_end, network, CLASSES, WindowPolicy(1.0, shortest=1.0), "softmax", name)


def make_settings_front_end(settings: Task1Settings, sample_rate: int) -> FrontEnd:
    """The front end alone."""
    if settings.front_end is None:
        return make_front_end(settings.model.name, sample_rate)
    return ResampledMel(input_rate=sample_rate, **settings.front_end.model_dump())


def make_network(model: ModelSettings) -> nn.Module:
    """The network alone."""
    return create_model(model.name, num_classes=len(CLASSES), **model.model_dump(exclude={"name"}))


def make_front_end(name: str, sample_rate: int, **options: Any) -> FrontEnd:
    """The front end with which an architecture was published, for waveforms at `sample_rate` Hz."""
    front_end = create_front_end(name, **options)
    if isinstance(front_end, ResampledMel):
        return create_front_end(name, input_rate=sample_rate, **options)
    return front_end if front_end.sample_rate == sample_rate else ResampledFirst(front_end, sample_rate)


def input_shape(settings: Task1Settings, sample_rate: int = 32000) -> tuple[int, ...]:
    """Shape of the spectrogram of one second: (1, 1, mels, frames)."""
    front_end = make_settings_front_end(settings, sample_rate)
    with torch.no_grad():
        return tuple(front_end.eval()(torch.zeros(1, sample_rate)).shape)


def load_run_model(run: Run[Task1Settings], sample_rate: int) -> AudioModel:
    """The trained float network of a run for all devices, with its front end, in evaluation mode."""
    settings = run.settings
    path = run.checkpoint("train/last.ckpt" if settings.data.validation is None else "train/best.ckpt")
    model = make_model(settings, sample_rate)
    load_weights(model.network, path, tested_prefix(settings))
    device = choose_device(settings.trainer)
    if device.type == "cpu":
        channels_last(model.network)
    return model.eval().to(device)


def load_run_networks(run: Run[Task1Settings], sample_rate: int) -> tuple[FrontEnd, DeviceNetworks]:
    """Front end and float networks: the general one and, if the run has them, copies for devices."""
    model = load_run_model(run, sample_rate)
    copies = {}
    for device in TRAINING_DEVICES if run.settings.device_tuning is not None else ():
        path = run.folder / "devices" / device / "last.ckpt"
        if path.is_file():  # a subset may have no clip of a device
            copies[device] = copy.deepcopy(model.network)
            load_weights(copies[device], path, "network.")
    return model.front_end, DeviceNetworks(model.network, copies).eval()


def load_int8_networks(run: Run[Task1Settings], networks: DeviceNetworks, sample_rate: int) -> DeviceNetworks:
    """The 8-bit form of a run's networks; `networks` names the devices with copies."""
    from common.inference.quantize import blank_int8

    shape = input_shape(run.settings, sample_rate)
    blank = make_network(run.settings.model).eval()
    quantized = {}
    for name in ("general", *networks.device_models):
        quantized[name] = blank_int8(blank, shape, KEPT_FLOAT)
        load_weights(quantized[name], run.folder / "quantize" / f"{name}.ckpt")
    return DeviceNetworks(quantized.pop("general"), quantized).eval()


def networks_by_precision(run: Run[Task1Settings], sample_rate: int) -> tuple[FrontEnd, dict[str, nn.Module]]:
    """Front end, and the networks of a run in float32, float16 and, if it is quantised, int8."""
    front_end, single = load_run_networks(run, sample_rate)
    networks: dict[str, nn.Module] = {"float32": single, "float16": InHalf(single)}
    if run.settings.quantization is not None:
        networks["int8"] = OnCPU(load_int8_networks(run, single, sample_rate))
    return front_end, networks


def tested_prefix(settings: Task1Settings) -> str:
    """Prefix in a checkpoint of the weights that are validated and tested: the moving average where there is one."""
    return "network." if settings.optim.average_decay is None else "average."
