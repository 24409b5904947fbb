"""Checkpoints: written atomically, read without running any code in them."""

import io
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.data.files import atomic_write
from common.errors import UserError


def save_checkpoint(checkpoint: dict[str, Any], path: Path | str) -> None:
    """Write tensors and plain values atomically."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    with atomic_write(Path(path), "wb") as file:
        file.write(buffer.getbuffer())


def read_checkpoint(path: Path | str, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a file that `save_checkpoint` or Lightning wrote.

    Raises:
        UserError: if the file is missing, truncated, no checkpoint, or holds anything but tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}; name a file of weights.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of files from elsewhere
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):  # the pickle asks for a class or function
            raise UserError(
                f"{path} holds code or objects, not only weights, and was not loaded; use a checkpoint that holds "
                "a state_dict."
            ) from error
        raise UserError(_damaged(path)) from error
    except PermissionError as error:
        raise UserError(f"{path} may not be read: {error.strerror}.") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError) as error:
        raise UserError(_damaged(path)) from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path} holds a {type(checkpoint).__name__}, not the dict of a checkpoint.")
    return checkpoint


def _damaged(path: Path) -> str:
    return f"{path} is cut off or is no checkpoint; get another one, or delete it and train again."


def read_weights(path: Path | str, prefix: str = "") -> dict[str, Tensor]:
    """The weights of a Lightning checkpoint or a bare state dict with names that start with `prefix`, without it."""
    checkpoint = read_checkpoint(path)
    state = checkpoint.get("state_dict", checkpoint)
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__} in place of weights; train again, or get another file.")
    named = ((str(name), value) for name, value in state.items())
    weights = {name.removeprefix(prefix): value for name, value in named if name.startswith(prefix)}
    if not weights:
        raise UserError(f"{path} has no weights with names that start with {prefix!r}.")
    refuse_nan(weights, path)
    return weights


def refuse_nan(weights: Mapping[str, Any], path: Path | str) -> None:
    """Refuse weights and biases that are not finite, and NaN in other tensors (ranges of 8 bit may be infinite)."""
    for name, value in weights.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            finite = value.isfinite() if name.endswith(("weight", "bias")) else ~value.isnan()
            if not finite.all():
                raise UserError(
                    f"{path}: {value.numel() - int(finite.sum()):,} of {value.numel():,} values of {name} are NaN or "
                    "infinite; the training diverged, or the file is damaged. Train again, or get another file."
                )


def load_weights(module: nn.Module, path: Path | str, prefix: str = "") -> None:
    """Load weights strictly.

    Raises:
        UserError: as `read_checkpoint`, or if names or shapes do not match `module`.
    """
    try:
        module.load_state_dict(read_weights(path, prefix))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UserError(f"The weights in {path} are of another network: {first}") from error
