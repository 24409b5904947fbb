"""Teacher logits by file name: from an ensemble of models, or from the published file."""

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.audioset.data import open_audioset
from common.audioset.recipe import load_run_model
from common.audioset.settings import PretrainSettings
from common.audioset.tables import read_classes
from common.data.keyed_outputs import OutputWriter
from common.data.loading import make_loader
from common.errors import UserError
from common.models.audio_model import AudioModel
from common.models.network import choose_device
from common.output import Progress, say
from common.registry import load_audio_model
from common.runs.folder import SETTINGS_FILE
from common.runs.run import open_run

DEVICE_BATCH = 32
ROWS_AT_ONCE = 4096


@torch.inference_mode()
def write_teacher_logits(
    sources: Sequence[str],
    root: Path,
    out: Path,
    patterns: Sequence[str],
    seconds: float | None = None,
    batch_size: int = DEVICE_BATCH,
    num_workers: int = 0,
) -> int:
    """Write the mean of several models' logits for every clip, as float16.

    Args:
        sources: run folders of `pretrain`, or models of the registry (passt_s_swa.as, or mn04.as=FILE).
        patterns: names of HDF5 files below `root`.
        seconds: of the clips; None takes the length that the first run was trained on, 10 without a run.

    Returns:
        The number of clips. A model that has other classes than the data, or gives NaN, is a UserError.
    """
    classes = read_classes(root)
    runs = [open_run(Path(source), PretrainSettings) for source in sources if _is_run(source)]
    device = choose_device(runs[0].settings.trainer if runs else None)
    models = [_load(source, classes.names).to(device).eval() for source in sources]
    rates = {model.sample_rate for model in models}
    if len(rates) > 1:
        raise UserError(
            f"The models take waveforms at {', '.join(map(str, sorted(rates)))} Hz; write their logits apart."
        )
    if seconds is None:
        seconds = next((run.settings.data.seconds for run in runs), 10.0)
    clips = open_audioset(root, patterns, classes, rates.pop(), seconds)
    loader = make_loader(clips, batch_size, num_workers=num_workers, pin_memory=device.type == "cuda")
    with (
        OutputWriter(out, clips.audio.filenames, (len(classes),)) as writer,
        Progress("Teacher logits", len(clips)) as progress,
    ):
        for batch in loader:
            waveform = batch["waveform"].to(device)
            logits = [model(waveform).logits for model in models]
            writer.write(batch["filename"], torch.stack([part.float() for part in logits if part is not None]).mean(0))
            progress.advance(len(waveform))
    return len(clips)


def import_published_logits(array: Path, index: Path, out: Path) -> int:
    """Turn EfficientAT's passt_enemble_logits_mAP_495.npy and fname_to_index.pkl into a file keyed by clip.

    The index is a pickled dict, a video's name to its row, read without running code. Returns the number of clips;
    a file that is missing, cut off or of another kind is a UserError.
    """
    if not index.is_file():
        raise UserError(f"There is no file {index}.")
    try:
        content = _PlainUnpickler(io.BytesIO(index.read_bytes())).load()
        rows_of = {str(name): int(row) for name, row in dict(content).items()}
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{index} is cut off or no pickled dict of names and rows; download it again.") from error
    try:
        logits = np.load(array, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{array} is cut off or no .npy file; download it again.") from error
    if logits.ndim != 2 or (rows_of and max(rows_of.values()) >= len(logits)):
        raise UserError(f"{array} has the shape {logits.shape}, but {index} names rows up to {max(rows_of.values())}.")
    named = {f"Y{video}": row for video, row in rows_of.items()}
    names = sorted(named, key=named.__getitem__)
    with OutputWriter(out, names, logits.shape[1:]) as writer, Progress("Logits", len(names)) as progress:
        for first in range(0, len(names), ROWS_AT_ONCE):
            part = names[first : first + ROWS_AT_ONCE]
            writer.write(part, logits[[named[name] for name in part]])
            progress.advance(len(part))
    return len(names)


def _is_run(source: str) -> bool:
    return (Path(source) / SETTINGS_FILE).is_file()


def _load(source: str, labels: Sequence[str]) -> AudioModel:
    name, _, weights = source.partition("=")
    if _is_run(source):
        model = load_run_model(open_run(Path(source), PretrainSettings))
    else:
        model = load_audio_model(name, Path(weights) if weights else None)
    if tuple(model.labels) != tuple(labels):
        raise UserError(f"{source} has {len(model.labels)} classes, the data have {len(labels)} others.")
    say(f"Teacher {source}")
    return model


class _PlainUnpickler(pickle.Unpickler):
    """Reads dicts of texts and numbers; refuses everything that could run code."""

    allowed = {("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"), ("numpy", "dtype")}

    def find_class(self, module: str, name: str) -> Any:
        """Only the classes of NumPy's numbers."""
        if (module, name) in self.allowed:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")
