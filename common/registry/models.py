"""Models by name: the table of architectures and released weights, and what is built from it with random weights.

The head of released.yaml explains how entries inherit from one another. The table is read without torch; the module of
a network is imported when the network is built.
"""

import fnmatch
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from common.data.labels import label_set
from common.errors import unknown

if TYPE_CHECKING:
    from torch import nn

    from common.features.front_ends import FrontEnd
    from common.models.audio_model import AudioModel

TABLE = Path(__file__).parent / "released.yaml"


@dataclass(frozen=True)
class Architecture:
    """A network with its front end and labels; everything that is needed to build it with random weights."""

    name: str
    family: str
    network: str  # a name of `find_network`
    front_end: dict[str, Any]  # "make": a class of front_ends.py; the rest are its options
    labels: str | None  # a name of common/data/labels.py
    options: dict[str, Any] = field(default_factory=dict)
    activation: str = "sigmoid"
    windows: dict[str, float] = field(default_factory=dict)
    parameters: int | None = None
    macs: int | None = None  # all calls, one clip of `macs_seconds`
    macs_seconds: float = 10.0
    also_reads: dict[str, list[int]] = field(default_factory=dict)  # inputs beside the spectrogram, without the batch
    fixed: list[str] = field(default_factory=list)  # patterns of official keys: tables that the code computes itself
    skipped: dict[str, str] = field(default_factory=dict)  # patterns of other official keys that are not read, and why
    paper: str = ""
    implements: str = ""  # official source file


@dataclass(frozen=True)
class Released:
    """A file of weights with its facts."""

    name: str
    architecture: Architecture  # with the options and front end of these weights
    file: str
    url: str
    repository: str
    tag: str
    licence: str
    paper: str
    figure: str = ""
    bytes: int | None = None
    sha256: str | None = None
    aliases: list[str] = field(default_factory=list)
    backbone_only: bool = False
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Everything in released.yaml, by name."""

    architectures: dict[str, Architecture]
    released: dict[str, Released]
    aliases: dict[str, str]

    def names(self) -> list[str]:
        """Architectures and released weights, each architecture before its weights."""
        names: list[str] = []
        for architecture in self.architectures:
            names += [architecture, *(name for name in self.released if name.split(".")[0] == architecture)]
        return names


@lru_cache
def read_table(path: Path = TABLE) -> Table:
    """Read the table once."""
    with path.open(encoding="utf-8") as file:
        raw = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    architectures: dict[str, Architecture] = {}
    released: dict[str, Released] = {}
    for family, group in raw["families"].items():
        for name, entry in group.pop("architectures").items():
            shared = {"name": name, "family": family, **_merge(group, entry)}
            origin = {key: shared.pop(key, "") for key in ("source", "tag")}
            weights = shared.pop("released", {})
            architectures[name] = Architecture(**shared)
            for tag, own in weights.items():
                released[f"{name}.{tag}"] = _released(f"{name}.{tag}", shared, {**origin, **own}, raw["sources"])
    aliases = {alias: entry.name for entry in released.values() for alias in entry.aliases}
    return Table(architectures, released, aliases)


def _released(name: str, shared: dict[str, Any], own: dict[str, Any], sources: dict[str, Any]) -> Released:
    """Split the entry of released weights into changes of the architecture and facts of the file."""
    source = sources[own.pop("source")]
    url = source["url"].format(tag=own["tag"], file=own["file"].replace("(", "%28").replace(")", "%29"))
    changed = {each.name for each in fields(Architecture)} & set(own)
    architecture = Architecture(**_merge(shared, {key: own.pop(key) for key in changed}))
    return Released(name, architecture, **{**source, **own, "url": url})


def _merge(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both else value
    return merged


def find_released(name: str) -> Released | None:
    """The entry of released weights by its name or an official name; None if there is none."""
    table = read_table()
    return table.released.get(table.aliases.get(name, name))


def find_architecture(name: str) -> Architecture:
    """The architecture of a name: of an architecture, of released weights (with their options), or an official name.

    Raises:
        UserError: for an unknown name, with the nearest ones.
    """
    table = read_table()
    entry = find_released(name)
    if entry is not None:
        return entry.architecture
    if name not in table.architectures:
        raise unknown("model", name, [*table.names(), *table.aliases])
    return table.architectures[name]


def is_model_name(name: str) -> bool:
    """Whether the name is an architecture, released weights, or an official name."""
    return name in read_table().architectures or find_released(name) is not None


def list_models(pattern: str = "*") -> list[str]:
    """Names of architectures and released weights that fit a pattern with * and ?; official names count too."""
    table = read_table()
    wanted = {table.aliases[alias] for alias in fnmatch.filter(table.aliases, pattern)}
    return [name for name in table.names() if fnmatch.fnmatchcase(name, pattern) or name in wanted]


def describe_models(pattern: str = "*") -> list[dict[str, Any]]:
    """A row per architecture and per file of released weights with a name that fits `pattern`.

    Raises:
        UserError: no name fits.
    """
    names = list_models(pattern)
    if not names:
        raise unknown("model", pattern, list_models())
    rows = []
    for name in names:
        released = find_released(name)
        about = {} if released is None else asdict(released)
        rows.append(asdict(find_architecture(name)) | about | {"name": name})
        rows[-1].pop("architecture", None)
    return rows


def summary_row(model: dict[str, Any]) -> dict[str, Any]:
    """The few columns that fit a terminal."""
    size = model.get("bytes")
    return {
        "name": model["name"],
        "parameters": model["parameters"],
        "million MACs": round(model["macs"] / 1e6) if model["macs"] else None,
        "labels": model["labels"],
        "weights MB": round(size / 1e6, 1) if size else None,
        "published figure": model.get("figure"),
        "licence": model.get("licence"),
    }


class Network(NamedTuple):
    """A function that builds a network, and one from keys of its authors' files to ours (None: not read)."""

    make: "Callable[..., nn.Module]"
    released_key: Callable[[str], str | None] = str


def find_network(name: str) -> Network:
    """The network of an architecture, by the word `network` in released.yaml."""
    match name:
        case "cp_mobile":
            from common.models.cp_mobile import CPMobile

            return Network(CPMobile)
        case "cp_resnet":
            from common.models.cp_resnet import CPResNet

            return Network(CPResNet)
        case "mn":
            from common.models.mobilenet import MobileNet

            return Network(MobileNet)
        case "dymn":
            from common.models.dynamic_mobilenet import DynamicMobileNet

            return Network(DynamicMobileNet)
        case "passt":
            from common.models.passt import PaSST

            return Network(PaSST)
        case "beats":
            from common.models import beats

            return Network(beats.beats, beats.released_key)
        case "atst_frame":
            from common.models import atst

            return Network(atst.atst_frame, atst.released_key)
        case "fpasst":
            from common.models import frame_passt

            return Network(frame_passt.fpasst, frame_passt.released_key)
        case "m2d":
            from common.models import m2d

            return Network(m2d.m2d, m2d.released_key)
        case "asit":
            from common.models import asit

            return Network(asit.asit, asit.released_key)
        case "frame_mn":
            from common.models import frame_mobilenet

            return Network(frame_mobilenet.frame_mobilenet, frame_mobilenet.released_key)
        case "crnn":
            from common.models import crnn

            return Network(crnn.desed_crnn, crnn.released_key)
    raise ValueError(f"released.yaml names the network {name}, which is not listed here")


def create_model(name: str, **options: Any) -> "nn.Module":
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


def create_front_end(name: str, **options: Any) -> "FrontEnd":
    """The front end (waveform to spectrogram) of a model; `options` override the table."""
    from common.features import front_ends

    made = {**find_architecture(name).front_end, **options}
    return _build(getattr(front_ends, made.pop("make")), made, f"front end of {name}")


def create_audio_model(
    name: str, front_end: Mapping[str, Any] | None = None, labels: Sequence[str] | None = None, **options: Any
) -> "AudioModel":
    """Front end and network with random weights; waveform (batch, samples) to ModelOutput.

    Args:
        name: as for `create_model`.
        front_end: options of the front end that differ from the table's.
        labels: names of the classes; sets `num_classes`.
        options: of the network.
    """
    from common.models.audio_model import AudioModel, WindowPolicy

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


def _build(make: Callable[..., Any], options: dict[str, Any], what: str) -> Any:
    parameters = inspect.signature(make).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for option in options:
        if option not in parameters and not open_ended:
            raise unknown(f"option of {what}", option, parameters)
    return make(**options)
