"""Networks, front ends and audio models by name, with random weights."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from common.data.labels import label_set
from common.errors import unknown
from common.features.front_ends import FrontEnd
from common.models.audio_model import AudioModel
from common.models.windows import WindowPolicy
from common.registry.networks import find_front_end, find_network
from common.registry.released import Architecture, find_architecture, find_released

M = TypeVar("M", bound=nn.Module)


def create_model(name: str, **options: Any) -> nn.Module:
    """A network (spectrogram to ModelOutput) with random weights.

    Args:
        name: an architecture, or released weights, with their options.
        options: of the network's constructor; they override the table. `num_classes` (or `n_classes`, as in official
            code) sets the classifier.

    Raises:
        UserError: for an unknown name (with the nearest ones) or an option that the network does not have.
    """
    if "n_classes" in options:
        options["num_classes"] = options.pop("n_classes")
    architecture = find_architecture(name)
    return _build(find_network(architecture.network).make, {**architecture.options, **options}, f"model {name}")


def create_front_end(name: str, **options: Any) -> FrontEnd:
    """The front end (waveform to spectrogram) of a model; `options` override the table."""
    made = {**find_architecture(name).front_end, **options}
    return _build(find_front_end(made.pop("make")), made, f"front end of {name}")


def create_audio_model(
    name: str, front_end: Mapping[str, Any] | None = None, labels: Sequence[str] | None = None, **options: Any
) -> AudioModel:
    """Front end and network with random weights; waveform (batch, samples) to ModelOutput.

    Args:
        name: as for `create_model`.
        front_end: options of the front end that differ from the table's.
        labels: names of the classes; sets `num_classes`.
        options: of the network.
    """
    architecture = find_architecture(name)
    if labels is not None:
        options.setdefault("num_classes", len(labels))
    released = find_released(name)
    return AudioModel(
        front_end=create_front_end(name, **(front_end or {})),
        network=create_model(name, **options),
        labels=labels or _labels(architecture, options.get("num_classes")),
        windows=WindowPolicy(**architecture.windows),
        activation=architecture.activation,
        name=released.name if released else name,
    )


def _labels(architecture: Architecture, num_classes: int | None) -> tuple[str, ...]:
    """The label set, or numbered names where the classes have another count or their names are not shipped."""
    labels = label_set(architecture.labels) if architecture.labels else ()
    count = num_classes or architecture.options.get("num_classes") or len(labels)
    return labels if count == len(labels) else tuple(f"class_{index}" for index in range(count))


def _build(make: Callable[..., M], options: dict[str, Any], what: str) -> M:
    parameters = inspect.signature(make).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for option in options:
        if option not in parameters and not open_ended:
            raise unknown(f"option of {what}", option, parameters)
    return make(**options)
