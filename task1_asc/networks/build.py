"""The networks of Task 1 with their front ends: the one that is trained, its teachers, and what they cost."""

from typing import Any

import torch
from torch import nn

from common.errors import UserError
from common.features.front_ends import ResampledFirst, ResampledMel
from common.inference.complexity import BYTES, Complexity, challenge_macs, count_parameters, measure
from common.inference.quantize import folded_copy, int8_bytes, measure_int8
from common.models.audio_model import AudioModel
from common.models.cp_mobile import GlobalResponseNorm
from common.models.windows import WindowPolicy
from common.registry import load_audio_model
from common.registry.factory import create_audio_model, create_front_end, create_model
from common.registry.released import find_released
from task1_asc.data.tau2022 import CLASSES
from task1_asc.settings import ModelSettings, Task1Settings, TeacherSettings

KEPT_FLOAT = (GlobalResponseNorm,)
"""Modules that stay in float in an 8-bit network, as in the system of 2023: a norm over whole maps has a wide range."""
TASK_LABELS = "tau_scenes"


def make_model(settings: Task1Settings, sample_rate: int) -> AudioModel:
    """Front end and network of the settings, for waveforms at `sample_rate` Hz, with random weights."""
    name = settings.model.name
    front_end, network = make_settings_front_end(settings, sample_rate), make_network(settings.model)
    return AudioModel(front_end, network, CLASSES, WindowPolicy(1.0, shortest=1.0), "softmax", name)


def make_settings_front_end(settings: Task1Settings, sample_rate: int) -> nn.Module:
    """The front end alone."""
    if settings.front_end is None:
        return make_front_end(settings.model.name, sample_rate)
    return ResampledMel(input_rate=sample_rate, **settings.front_end.model_dump())


def make_network(model: ModelSettings) -> nn.Module:
    """The network alone."""
    return create_model(model.name, num_classes=len(CLASSES), **model.model_dump(exclude={"name"}))


def make_front_end(name: str, sample_rate: int, **options: Any) -> nn.Module:
    """The front end with which an architecture was published, for waveforms at `sample_rate` Hz."""
    front_end = create_front_end(name, **options)
    if isinstance(front_end, ResampledMel):
        return create_front_end(name, input_rate=sample_rate, **options)
    return front_end if front_end.sample_rate == sample_rate else ResampledFirst(front_end, sample_rate)


def make_teacher(teacher: TeacherSettings, sample_rate: int, subset: int) -> AudioModel:
    """A teacher with the weights that it begins with.

    Raises:
        UserError: if its weights have learned from clips outside the subset, or do not fit the options.
    """
    refuse_leaking_weights(teacher, subset)
    model = create_audio_model(teacher.model, labels=CLASSES, **teacher.options)
    model.front_end = make_front_end(teacher.model, sample_rate, **teacher.front_end)
    if teacher.weights is not None:
        donor = load_audio_model(teacher.weights, teacher.weights_file, labels=CLASSES)
        try:
            model.network.load_state_dict(donor.network.state_dict())
        except RuntimeError as error:
            raise UserError(
                f"The weights {teacher.weights} of the teacher {teacher.name} do not fit {teacher.model} with its "
                f"options {teacher.options}; leave out options that change its size."
            ) from error
    return model


def refuse_leaking_weights(teacher: TeacherSettings, subset: int) -> None:
    """Refuse weights that were trained on the scenes of the whole development set.

    Raises:
        UserError: for a subset below 100 %.
    """
    released = find_released(teacher.weights) if teacher.weights else None
    if released is not None and released.architecture.labels == TASK_LABELS and subset < 100:
        raise UserError(
            f"The teacher {teacher.name} begins with {teacher.weights}, whose authors trained it on the whole "
            f"development-train split; with subset {subset} that is a leak. Begin with weights of another data set, "
            "such as passt_s_swa.as, or with none."
        )


def input_shape(settings: Task1Settings, sample_rate: int = 32000) -> tuple[int, ...]:
    """Of the spectrogram of one second: (1, 1, mels, frames)."""
    front_end = make_settings_front_end(settings, sample_rate)
    with torch.no_grad():
        return tuple(front_end.eval()(torch.zeros(1, sample_rate)).shape)


def measure_network(model: ModelSettings, shape: tuple[int, ...], precision: str) -> Complexity:
    """Figures of the network for one second; `precision` is float32, float16 or int8 (see `common.inference.quantize`)."""
    with torch.device("meta"):
        network = make_network(model)
    return measure_int8(network, shape, KEPT_FLOAT) if precision == "int8" else measure(network, shape, precision)


def count_bytes(model: ModelSettings, precision: str) -> int:
    """Of the network's parameters, as `measure_network` has them but quicker."""
    with torch.device("meta"):
        network = make_network(model)
    return int8_bytes(network, KEPT_FLOAT) if precision == "int8" else count_parameters(network) * BYTES[precision]


def count_macs(model: ModelSettings, shape: tuple[int, ...], precision: str) -> int:
    """For one second, as `measure_network` has them but quicker."""
    with torch.device("meta"):
        network = make_network(model).eval()
        spectrogram = torch.empty(shape)
    network = folded_copy(network) if precision == "int8" else network
    return challenge_macs(network, {"spectrogram": spectrogram})


def order_for(network: nn.Module, device: torch.device) -> nn.Module:
    """Order the weights so that convolutions are quickest; on a CPU with the channels last, a third less time."""
    return network.to(memory_format=torch.channels_last) if device.type == "cpu" else network
