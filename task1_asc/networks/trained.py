"""The trained networks of a run: the one that all devices share, copies for devices, and all of these in 8 bit."""

import copy
from pathlib import Path

import torch
from torch import nn

from common.errors import UserError
from common.inference.quantize import blank_int8
from common.models.audio_model import AudioModel
from common.runs.stages import Run
from common.training.checkpoints import load_weights
from task1_asc.data.tau2022 import TRAINING_DEVICES
from task1_asc.networks.build import KEPT_FLOAT, input_shape, make_model, make_network, order_for
from task1_asc.networks.classify import DeviceNetworks, InHalf, OnCPU
from task1_asc.settings import Task1Settings


def load_run_model(run: Run, sample_rate: int) -> AudioModel:
    """The trained model of a run in evaluation mode, on the GPU where there is one; of all devices, in float."""
    settings = run.settings
    name = "best.ckpt" if settings.data.validation is not None else "last.ckpt"
    path = run.folder / "train" / name
    if not path.is_file():
        raise UserError(f"{run.folder} is not trained yet: {path} is missing. Finish it with --resume {run.folder}.")
    model = make_model(settings, sample_rate)
    load_weights(model.network, path, "network." if settings.optim.average_decay is None else "average.")
    device = device_of(settings)
    order_for(model.network, device)
    return model.eval().to(device)


def load_run_networks(run: Run, sample_rate: int) -> tuple[nn.Module, DeviceNetworks]:
    """Front end and networks in float: the general one and, where the run has them, copies for devices."""
    model = load_run_model(run, sample_rate)
    copies = {}
    for device in TRAINING_DEVICES if run.settings.device_tuning is not None else ():
        path = run.folder / "devices" / device / "last.ckpt"
        if path.is_file():  # a subset may have no clip of a device
            network = copy.deepcopy(model.network)
            load_weights(network, path, "network.")
            copies[device] = network
    return model.front_end, DeviceNetworks(model.network, copies).eval()


def load_int8_networks(run: Run, networks: DeviceNetworks, sample_rate: int) -> DeviceNetworks:
    """The 8-bit form of a run's networks; `networks` says for which devices there are copies."""
    shape = input_shape(run.settings, sample_rate)
    blank = make_network(run.settings.model).eval()
    quantized = {}
    for name in ("general", *networks.device_models):
        quantized[name] = blank_int8(blank, shape, KEPT_FLOAT)
        load_weights(quantized[name], int8_file(run, name))
    return DeviceNetworks(quantized.pop("general"), quantized).eval()


def int8_file(run: Run, name: str = "general") -> Path:
    """Where the 8-bit form of the general network, or of a device's copy, lies."""
    return run.folder / "quantize" / f"{name}.ckpt"


def networks_by_precision(run: Run, sample_rate: int) -> tuple[nn.Module, dict[str, nn.Module]]:
    """Front end, and the networks of a run in float32, float16 and, where it is quantised, int8."""
    front_end, single = load_run_networks(run, sample_rate)
    networks: dict[str, nn.Module] = {"float32": single, "float16": InHalf(single)}
    if run.settings.quantization is not None:
        networks["int8"] = OnCPU(load_int8_networks(run, single, sample_rate))
    return front_end, networks


def device_of(settings: Task1Settings) -> torch.device:
    """What to compute on."""
    return torch.device("cuda" if settings.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
