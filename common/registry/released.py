"""The table of architectures and released weights, read without torch.

released.yaml holds the data and says at its top how entries inherit from one another.
"""

import fnmatch
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from common.errors import unknown

TABLE = Path(__file__).parent / "released.yaml"


@dataclass(frozen=True)
class Source:
    """Where released files come from: repository, address with {tag} and {file}, licence, paper."""

    repository: str
    url: str
    licence: str
    paper: str


@dataclass(frozen=True)
class Architecture:
    """A network with its front end and labels; everything that is needed to build it with random weights."""

    name: str
    family: str
    network: str  # a name of networks.py
    options: dict[str, Any]
    front_end: dict[str, Any]  # "make": a name of networks.py; the rest are its options
    labels: str | None  # a name of common/data/labels.py
    activation: str
    windows: dict[str, float]
    parameters: int | None = None
    macs: int | None = None  # all calls, one clip of `macs_seconds`
    macs_seconds: float = 10.0
    also_reads: dict[str, list[int]] = field(default_factory=dict)  # inputs beside the spectrogram, without the batch
    fixed: tuple[str, ...] = ()  # patterns of official keys: tables that the code computes itself
    skipped: dict[str, str] = field(default_factory=dict)  # patterns of other official keys that are not read, and why
    paper: str = ""
    implements: str = ""  # official source file


@dataclass(frozen=True)
class Released:
    """A file of weights and what is known of it."""

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
    aliases: tuple[str, ...] = ()
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
    sources = {name: Source(**entry) for name, entry in raw["sources"].items()}
    architectures: dict[str, Architecture] = {}
    released: dict[str, Released] = {}
    for family, group in raw["families"].items():
        members = group.pop("architectures")
        for name, entry in members.items():
            merged = _merge(group, entry or {})
            weights = merged.pop("released", {})
            source = sources.get(merged.pop("source", ""))
            architectures[name] = _architecture(name, family, merged)
            for tag, own in weights.items():
                released[f"{name}.{tag}"] = _released(f"{name}.{tag}", family, merged, own, source, sources)
    aliases = {alias: entry.name for entry in released.values() for alias in entry.aliases}
    return Table(architectures, released, aliases)


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
    """Whether a name is that of an architecture, of released weights, or an official one."""
    table = read_table()
    return name in {*table.architectures, *table.released, *table.aliases}


def list_models(pattern: str = "*") -> list[str]:
    """Names of architectures and released weights that fit a pattern with * and ?; official names count too."""
    table = read_table()
    wanted = {table.aliases[alias] for alias in fnmatch.filter(table.aliases, pattern)}
    return [name for name in table.names() if fnmatch.fnmatchcase(name, pattern) or name in wanted]


def _merge(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both else value
    return merged


def _architecture(name: str, family: str, entry: dict[str, Any]) -> Architecture:
    return Architecture(
        name=name,
        family=family,
        network=entry["network"],
        options=entry.get("options", {}),
        front_end=entry["front_end"],
        labels=entry["labels"],
        activation=entry.get("activation", "sigmoid"),
        windows=entry.get("windows", {}),
        parameters=entry.get("parameters"),
        macs=entry.get("macs"),
        macs_seconds=entry.get("macs_seconds", 10.0),
        also_reads=entry.get("also_reads", {}),
        fixed=tuple(entry.get("fixed", ())),
        skipped=entry.get("skipped", {}),
        paper=entry.get("paper", ""),
        implements=entry.get("implements", ""),
    )


def _released(
    name: str,
    family: str,
    shared: dict[str, Any],
    own: dict[str, Any],
    source: Source | None,
    sources: dict[str, Source],
) -> Released:
    entry = dict(own)
    source = sources[entry.pop("source")] if "source" in entry else source
    assert source is not None, f"{name} has no source in {TABLE}"
    tag = str(entry.pop("tag", shared.get("tag", "")))
    file = entry.pop("file")
    about = {key: entry.pop(key) for key in ("figure", "bytes", "sha256", "backbone_only", "note") if key in entry}
    aliases = tuple(entry.pop("aliases", ()))
    licence, paper = entry.pop("licence", source.licence), entry.pop("paper", source.paper)
    changes = {key: entry.pop(key) for key in _CHANGEABLE if key in entry}
    assert not entry, f"{name} has unknown fields {', '.join(entry)} in {TABLE}"
    architecture = _architecture(name.split(".")[0], family, _merge(shared, changes))
    url = source.url.format(tag=tag, file=file.replace("(", "%28").replace(")", "%29"))
    return Released(name, architecture, file, url, source.repository, tag, licence, paper, aliases=aliases, **about)


_CHANGEABLE = ("options", "front_end", "labels", "windows", "parameters", "macs", "macs_seconds", "activation")


def describe_models(pattern: str = "*") -> list[dict[str, Any]]:
    """A row per architecture and per file of released weights whose name fits `pattern`.

    Raises:
        UserError: no name fits.
    """
    names = list_models(pattern)
    if not names:
        raise unknown("model", pattern, list_models())
    return [_describe(name) for name in names]


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


def _describe(name: str) -> dict[str, Any]:
    architecture = asdict(find_architecture(name))
    released = find_released(name)
    return {**architecture, **(_weights(released) if released else {}), "name": name}


def _weights(released: Released) -> dict[str, Any]:
    return {key: value for key, value in asdict(released).items() if key != "architecture"}
