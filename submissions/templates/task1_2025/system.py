"""A system of DCASE 2025 Task 1, by the official interface; the number in the file's name is the system's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .models.task1_asc.submission import packaged

_HERE = Path(__file__).parent
CHECKPOINT = _HERE / "ckpts" / f"system_{Path(__file__).stem.rpartition('_')[2]}.ckpt"


def load_model(model_file_path: str | Path | None = None) -> packaged.PackagedModel:
    """The model, on the CPU; its attribute `model` holds the networks."""
    return packaged.load_model(Path(model_file_path or CHECKPOINT))


def load_inputs(file_paths: Sequence, device_ids: Sequence[str], model: packaged.PackagedModel) -> list[Tensor]:
    """One tensor (1, 1, mels, frames) for each file, in their order."""
    return packaged.load_inputs(file_paths, model)


def get_model_for_device(model: packaged.PackagedModel, device_id: str) -> nn.Module:
    """The network for clips of a device; its forward takes one tensor of `load_inputs` and gives (1, 10) logits."""
    return packaged.model_for_device(model, device_id)


def predict(
    file_paths: Sequence,
    device_ids: Sequence[str],
    model_file_path: str | Path | None = None,
    use_cuda: bool = False,
    **more_of_the_official_script: Any,
) -> tuple[list[Tensor], list[str]]:
    """Logits (10,) of each file, in their order, and the classes in the order of the logits."""
    return packaged.predict(file_paths, device_ids, Path(model_file_path or CHECKPOINT), use_cuda)


def complexity(model: packaged.PackagedModel, device_id: str) -> dict[str, int]:
    """MACs and bytes ("Params") of a device's network; beyond the official interface."""
    return packaged.complexity(model, device_id)
