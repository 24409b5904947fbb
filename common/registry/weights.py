"""Files of released weights: finding or downloading them, reading them safely, and loading them strictly."""

import fnmatch
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from common.data.download import RemoteFile, download
from common.errors import UserError
from common.models.audio_model import AudioModel
from common.models.network import without_values
from common.registry.models import (
    Architecture,
    Released,
    create_audio_model,
    create_model,
    find_architecture,
    find_network,
    find_released,
    read_table,
)
from common.training.checkpoints import read_checkpoint, refuse_nan

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "DCASE_KIT_CACHE"
WRAPPINGS = ("state_dict", "model", "net", "ema_model")  # keys under which files keep their tensors
NAMES_TOLD = 5  # of keys, in an error


def cache_folder() -> Path:
    """Where downloaded weights are kept: $DCASE_KIT_CACHE, or ~/.cache/dcase_kit."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "dcase_kit")


def load_audio_model(
    name: str, weights: Path | str | None = None, num_classes: int | None = None, labels: Sequence[str] | None = None
) -> AudioModel:
    """A model with released weights, in evaluation mode.

    Args:
        name: released weights (`mn10.as`), or an architecture together with `weights`.
        weights: file to read instead of the cache (or a download).
        num_classes: a new classifier of this size replaces the released one; the log names its tensors.
        labels: names for it; sets `num_classes`.

    Raises:
        UserError: unknown name, missing or wrong file, weights of another architecture, no network.
    """
    find_architecture(name)
    entry = find_released(name)
    if weights is None:
        if entry is None:
            raise _names_no_file(name)
        weights = fetch(entry)
    state = read_tensors(Path(weights))
    model = create_audio_model(name)
    count = len(labels) if labels is not None else num_classes
    if count is not None and count != len(model.labels):
        model = create_audio_model(name, labels=labels, num_classes=count)
    try:
        _load(model, state, new_head=count is not None, backbone_only=entry is not None and entry.backbone_only)
    except UserError as error:
        raise UserError(f"{weights} does not fit {name}: {error}") from error
    return model.eval()


def load_released_state_dict(audio_model: AudioModel, official_state_dict: Mapping[str, Any]) -> None:
    """Load weights as their authors wrote them; strict.

    Raises:
        UserError: for a key that is unknown or missing, or a shape that differs; names them.
    """
    _load(audio_model, official_state_dict, new_head=False, backbone_only=False)


def fetch(entry: Released) -> Path:
    """The file of released weights, from the cache folder or downloaded into it.

    Raises:
        UserError: as `download`.
    """
    path = cache_folder() / entry.file
    if path.exists():
        return path
    logger.warning("downloading %s to %s", entry.url, path)
    try:
        return download(RemoteFile(entry.file, entry.url, entry.sha256 and f"sha256:{entry.sha256}"), path.parent)
    except UserError as error:
        ways = f"--weights (a training: --model.weights), or another folder with {CACHE_VARIABLE}"
        raise UserError(f"{error} Or name the file with {ways}.") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file or Lightning checkpoint by name, without running code that it may hold.

    Raises:
        UserError: if it is missing, cut off, or holds anything but tensors and plain values.
    """
    content = read_checkpoint(path)
    try:
        tensors = plain_tensors(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    refuse_nan(tensors, path)
    return tensors


def map_official_keys(network: nn.Module, architecture: Architecture, official: Mapping[str, Any]) -> dict[str, Tensor]:
    """Official tensors under the names of `network`; tables that the code computes and keys that are skipped left out.

    Where names begin with a prefix (`model.`, `module.`, `multi_device_model.base_model.`), the tensors below the
    prefix that fits best are read; the log names it.

    Raises:
        UserError: for an unknown key.
    """
    tensors = plain_tensors(official)
    prefix = find_prefix(network, architecture, tensors)
    mapped, unknown = _translate(network, architecture, _below(prefix, tensors))
    if unknown:
        raise UserError(f"{architecture.name} has no tensor for {_some(unknown)}{_fits_better(architecture, tensors)}.")
    if prefix:
        left_out = len(tensors) - len(_below(prefix, tensors))
        logger.warning("%s: weights below %s are read; %d other tensors are not", architecture.name, prefix, left_out)
    return mapped


def find_prefix(network: nn.Module, architecture: Architecture, tensors: Mapping[str, Tensor]) -> str:
    """The beginning of names, such as `model.`, below which most tensors fit the network by name and shape."""
    counts: Counter[str] = Counter()
    for key in tensors:
        parts = key.split(".")
        counts.update(".".join(parts[:depth]) + "." for depth in range(1, len(parts)))
    enough = len(network.state_dict()) / 2
    prefixes = ["", *sorted((prefix for prefix, count in counts.items() if count >= enough), key=len)]
    return max(prefixes, key=lambda prefix: _share_that_fits(network, architecture, _below(prefix, tensors)))


def plain_tensors(official: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a file by name, out of a Lightning or author's container.

    Raises:
        UserError: if there is none.
    """
    tensors: Mapping[str, Any] = official
    while inner := next((tensors[key] for key in WRAPPINGS if isinstance(tensors.get(key), Mapping)), None):
        tensors = inner
    found = {str(key): value for key, value in tensors.items() if isinstance(value, Tensor)}
    if not found:
        raise UserError(
            f"the file holds no tensors, only {', '.join(map(str, list(official)[:NAMES_TOLD])) or 'nothing'}"
        )
    return _pretrained_part(found)


def _pretrained_part(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The transformer out of a Lightning module that the winners of DCASE 2024 Task 4 trained on AudioSet strong.

    It is ``net_strong.model``, or ``net_strong.model.model`` where a linear layer above it was trained as well. Other
    parts of such files (that layer, teachers, other networks) are left out, as in CPJKU/cpjku_dcase24.
    """
    place = "net_strong.model."
    if not any(key.startswith(place) for key in tensors):
        return tensors
    if any(key.startswith(place + "model.") for key in tensors):
        place += "model."
    return {"model." + key.removeprefix(place): value for key, value in tensors.items() if key.startswith(place)}


def _load(model: AudioModel, official: Mapping[str, Any], new_head: bool, backbone_only: bool) -> None:
    """Load strictly, except for a classifier that is new (`new_head`: if its size differs) or missing in the file."""
    architecture = find_architecture(model.name)
    ours = model.network.state_dict()
    mapped = map_official_keys(model.network, architecture, official)
    head = head_keys(architecture) & set(ours) if backbone_only or new_head else set()
    fresh: set[str] = set()
    if backbone_only:
        fresh = head
    elif new_head:
        differ = {key for key in head if key not in mapped or mapped[key].shape != ours[key].shape}
        layers = {key.rpartition(".")[0] for key in differ}
        fresh = {key for key in head if key.rpartition(".")[0] in layers}  # a layer is new as a whole
    mapped = {key: tensor for key, tensor in mapped.items() if key not in fresh}
    fixed = {key for key in ours if _fits(key, architecture.fixed)}
    missing = [key for key in ours if key not in mapped and key not in fresh and key not in fixed]
    wrong = [key for key, tensor in mapped.items() if tensor.shape != ours[key].shape]
    if missing or wrong:
        told = [f"{key} is {_shape(mapped[key])} instead of {_shape(ours[key])}" for key in wrong]
        raise UserError(_differences(missing, wrong, told, architecture, official))
    model.network.load_state_dict(mapped, strict=False)
    if fresh:
        names = ", ".join(sorted(fresh))
        logger.warning("%s: new, untrained classifier of %d classes (%s)", model.name, len(model.labels), names)


def head_keys(architecture: Architecture) -> set[str]:
    """Our keys of the tensors with a shape that depends on the number of classes."""
    with without_values():
        few, more = (create_model(architecture.name, num_classes=count).state_dict() for count in (2, 3))
    return {key for key in few if few[key].shape != more[key].shape}


def _translate(
    network: nn.Module, architecture: Architecture, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors under our names, and unknown keys."""
    released_key = find_network(architecture.network).released_key
    ours = set(network.state_dict())
    mapped: dict[str, Tensor] = {}
    unknown = []
    for key, tensor in tensors.items():
        if _fits(key, architecture.fixed):
            continue
        name = released_key(key)
        if name in ours:
            mapped[name] = tensor
        elif name is not None or not _fits(key, architecture.skipped):
            unknown.append(key)
    return mapped, unknown


def _differences(
    missing: list[str], wrong: list[str], told: list[str], architecture: Architecture, official: Mapping[str, Any]
) -> str:
    """The sentence for missing tensors and wrong shapes, with the way out where there is one."""
    head = head_keys(architecture)
    if head and set(missing) == head and not wrong:
        return "the file holds no classifier. Give num_classes for a new one."
    if wrong and set(wrong) <= head and not missing:
        return f"{_some(told)}. Its classifier has other classes: give num_classes, of the file or of a new one."
    parts = [f"tensors of {architecture.name} are missing: {_some(missing)}"] if missing else []
    parts += [_some(told)] if told else []
    return "; ".join(parts) + _fits_better(architecture, official) + "."


def _fits_better(architecture: Architecture, official: Mapping[str, Any]) -> str:
    """Names the other architecture that fits the file, if the one that was asked for does not at all."""
    tensors = plain_tensors(official)

    def share(candidate: Architecture) -> float:
        with without_values():
            network = create_model(candidate.name)
        return _share_that_fits(network, candidate, _below(find_prefix(network, candidate, tensors), tensors))

    if share(architecture) > 0.5:
        return ""
    others = (other for other in read_table().architectures.values() if other.name != architecture.name)
    return next((f"; the file looks like {other.name}" for other in others if share(other) > 0.9), "")


def _share_that_fits(network: nn.Module, architecture: Architecture, tensors: Mapping[str, Tensor]) -> float:
    """Of the tensors of a network, the share that a file has with the right name and shape."""
    mapped, unknown = _translate(network, architecture, tensors)
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    return sum(tensor.shape == shapes[key] for key, tensor in mapped.items()) / (len(shapes) + len(unknown))


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _fits(key: str, patterns: Any) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _some(names: Sequence[str]) -> str:
    rest = len(names) - NAMES_TOLD
    return ", ".join(names[:NAMES_TOLD]) + (f" and {rest} more" if rest > 0 else "")


def _names_no_file(name: str) -> UserError:
    weights = [other for other in read_table().released if other.split(".")[0] == name]
    if not weights:
        return UserError(f"No weights of {name} were released; name a file with --weights.")
    return UserError(f"{name} is an architecture; name its weights ({', '.join(weights)}) or a file with --weights.")
