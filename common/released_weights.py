"""Files of released weights: finding or downloading them, reading them safely, and loading them strictly."""

import errno
import fnmatch
import importlib
import logging
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.audio_model import AudioModel
from common.errors import UserError
from common.released import Architecture, Released, find_architecture, find_released, read_table

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "DCASE_KIT_CACHE"
WRAPPINGS = ("state_dict", "model", "net", "ema_model")  # keys under which files keep their tensors
NAMES_TOLD = 5  # of keys, in an error


def cache_folder() -> Path:
    """Where downloaded weights are kept: $DCASE_KIT_CACHE, or ~/.cache/dcase_kit."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "dcase_kit")


def load_weights(
    name: str, file: Path | str | None, num_classes: int | None, labels: Sequence[str] | None
) -> AudioModel:
    """See `common.registry.load_audio_model`."""
    from common.registry import create_audio_model

    find_architecture(name)
    entry = find_released(name)
    if file is None:
        if entry is None:
            raise _names_no_file(name)
        file = fetch(entry)
    state = read_tensors(Path(file))
    model = create_audio_model(name)
    count = len(labels) if labels is not None else num_classes
    if count is not None and count != len(model.labels):
        model = create_audio_model(name, labels=labels, num_classes=count)
    try:
        _load(model, state, new_head=count is not None, backbone_only=entry is not None and entry.backbone_only)
    except UserError as error:
        raise UserError(f"{file} does not fit {name}: {error}") from error
    return model.eval()


def load_into(audio_model: AudioModel, official: Mapping[str, Any]) -> None:
    """See `common.registry.load_released_state_dict`."""
    _load(audio_model, official, new_head=False, backbone_only=False)


def fetch(entry: Released) -> Path:
    """The file of released weights, from the cache folder or downloaded into it.

    Raises:
        UserError: without network (which file to put where), with a full disk, or if the file is not the published one.
    """
    folder = cache_folder()
    path = folder / entry.file
    if path.exists():
        return path
    if not entry.url:
        raise UserError(
            f"{entry.file} has no address that is known; get it from {entry.repository} and put it at {path}."
        )
    import pooch
    import requests

    logger.warning("downloading %s to %s", entry.url, path)
    digest = f"sha256:{entry.sha256}" if entry.sha256 else None
    try:
        pooch.retrieve(entry.url, known_hash=digest, fname=entry.file, path=folder)
    except requests.RequestException as error:
        raise UserError(
            f"{entry.url} cannot be downloaded ({type(error).__name__}). Put the file at {path}, or name it with --weights."
        ) from error
    except ValueError as error:  # pooch's word for a wrong digest
        raise UserError(
            f"{entry.url} is not the file that is known (its SHA-256 differs); get {entry.file} elsewhere and put it at {path}."
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        raise UserError(
            f"{entry.file} cannot be kept in {folder}: {error.strerror}. Make room, or set {CACHE_VARIABLE} to another folder."
        ) from error
    return path


def read_tensors(path: Path) -> dict[str, Any]:
    """Read a file of tensors without running code that it may hold.

    Raises:
        UserError: if it is missing, cut off, or holds anything but plain tensors and numbers.
    """
    if not path.is_file():
        raise UserError(f"There is no weights file {path}.")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" not in str(error).lower() and "Unsupported" not in str(error):
            raise UserError(f"{path} is not a file of weights, or it was cut off; download it again.") from error
        raise UserError(
            f"{path} holds pickled code, not plain tensors; it was not run. Ask for a file that holds a state dict."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"{path} is not a file of weights, or it was cut off; download it again.") from error
    if not isinstance(loaded, Mapping):
        raise UserError(f"{path} holds a {type(loaded).__name__}, not a state dict.")
    return dict(loaded)


def map_official_keys(network: nn.Module, architecture: Architecture, official: Mapping[str, Any]) -> dict[str, Tensor]:
    """Official tensors under the names of `network`; tables that the code computes and keys that are skipped left out.

    Raises:
        UserError: for a key that no rule knows.
    """
    module = importlib.import_module(architecture.network.partition(":")[0])
    released_key = getattr(module, "released_key", str)
    ours = set(network.state_dict())
    mapped: dict[str, Tensor] = {}
    unknown = []
    for key, tensor in plain_tensors(official).items():
        if _fits(key, architecture.fixed):
            continue
        name = released_key(key)
        if name in ours:
            mapped[name] = tensor
        elif name is not None or not _fits(key, architecture.skipped):
            unknown.append(key)
    if unknown:
        raise UserError(_unknown_keys(unknown, architecture, official))
    return mapped


def plain_tensors(official: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a file by name: out of a Lightning or author's container, and without a wrapper's prefix.

    Raises:
        UserError: if there is none.
    """
    tensors: Mapping[str, Any] = official
    while True:
        inner = next((tensors[key] for key in WRAPPINGS if isinstance(tensors.get(key), Mapping)), None)
        if inner is None:
            break
        tensors = inner
    found = {key: value for key, value in tensors.items() if isinstance(value, Tensor)}
    if not found:
        raise UserError(
            f"the file holds no tensors, only {', '.join(map(str, list(official)[:NAMES_TOLD])) or 'nothing'}"
        )
    for prefix in ("module.", "net_strong.", "net."):
        # M2D's own files have keys that begin with module.ar.; they are known by its key map.
        if all(key.startswith(prefix) and not key.startswith("module.ar.") for key in found):
            found = {key.removeprefix(prefix): value for key, value in found.items()}
    return found


def _load(model: AudioModel, official: Mapping[str, Any], new_head: bool, backbone_only: bool) -> None:
    architecture = find_architecture(model.name)
    network = model.network
    mapped = map_official_keys(network, architecture, official)
    ours = network.state_dict()
    without_head = not any(_fits(key, architecture.head) for key in mapped)
    drop_head = new_head or backbone_only
    fresh = [key for key in mapped if drop_head and _other_class_count(mapped[key], ours[key])]
    if drop_head:  # a head whose class count differs is dropped as a whole layer, as the official code does
        layers = {key.rpartition(".")[0] for key in fresh}
        fresh = [key for key in mapped if key.rpartition(".")[0] in layers]
    if architecture.head and without_head and drop_head or backbone_only:
        fresh += [key for key in ours if _fits(key, architecture.head) and key not in fresh]
    mapped = {key: tensor for key, tensor in mapped.items() if key not in fresh}
    fixed = {key for key in ours if _fits(key, architecture.fixed)}
    missing = [key for key in ours if key not in mapped and key not in fresh and key not in fixed]
    wrong = [
        f"{key} is {_shape(mapped[key])} instead of {_shape(ours[key])}"
        for key in mapped
        if mapped[key].shape != ours[key].shape
    ]
    if missing or wrong:
        raise UserError(_differences(missing, wrong, architecture, without_head))
    network.load_state_dict(mapped, strict=False)
    if fresh:
        logger.warning(
            "%s: a new classifier of %d classes, not trained: %s",
            model.name,
            len(model.labels),
            ", ".join(sorted(fresh)),
        )


def _other_class_count(theirs: Tensor, ours: Tensor) -> bool:
    """Whether two tensors differ in their first dimension only, as those of a classifier do."""
    return theirs.ndim == ours.ndim > 0 and theirs.shape[1:] == ours.shape[1:] and theirs.shape[0] != ours.shape[0]


def _fits(key: str, patterns: Any) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _some(names: Sequence[str]) -> str:
    rest = len(names) - NAMES_TOLD
    return ", ".join(names[:NAMES_TOLD]) + (f" and {rest} more" if rest > 0 else "")


def _unknown_keys(unknown: list[str], architecture: Architecture, official: Mapping[str, Any]) -> str:
    return f"{architecture.name} has no tensor for {_some(unknown)}{_looks_like(architecture, official)}"


def _differences(missing: list[str], wrong: list[str], architecture: Architecture, without_head: bool) -> str:
    parts = []
    if missing:
        parts.append(f"tensors of {architecture.name} are missing: {_some(missing)}")
    if wrong:
        parts.append(_some(wrong))
    if architecture.head and without_head:
        parts.append("the file holds no classifier (give num_classes for a new one)")
    return "; ".join(parts)


def _looks_like(architecture: Architecture, official: Mapping[str, Any]) -> str:
    """A hint at the family whose key map knows all of the keys, if that is another one."""
    keys = list(plain_tensors(official))
    for other in _one_of_each_family():
        if other.family == architecture.family:
            continue
        module = importlib.import_module(other.network.partition(":")[0])
        with torch.device("meta"):
            names = set(getattr(module, other.network.partition(":")[2])(**other.options).state_dict())
        released_key = getattr(module, "released_key", str)
        if sum(released_key(key) in names for key in keys) > 0.9 * len(keys):
            return f"; the file looks like {other.name}"
    return ""


def _one_of_each_family() -> list[Architecture]:
    seen: dict[str, Architecture] = {}
    for architecture in read_table().architectures.values():
        seen.setdefault(architecture.network.partition(":")[0], architecture)
    return list(seen.values())


def _names_no_file(name: str) -> UserError:
    weights = [other for other in read_table().released if other.split(".")[0] == name]
    if not weights:
        return UserError(f"No weights of {name} were released; name a file with --weights.")
    return UserError(f"{name} is an architecture; name its weights ({', '.join(weights)}) or a file with --weights.")
