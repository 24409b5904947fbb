"""Frames of a frozen model for every clip of a set, computed once, in half precision, memory-mapped.

    embeddings.h5   filenames; frames (clips, tokens, dim) float16; made_by: the model, its weights and options

See common/data/keyed_outputs.py. Stores of earlier versions (embeddings.npy, clips.tsv, store.json) are read as well.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.data.audio import resample
from common.data.files import compute_sha256, read_json
from common.data.keyed_outputs import KeyedOutputs, KeyIndex, OutputWriter
from common.errors import UserError
from common.inference.prepare import computing_in
from common.models.audio_model import AudioModel
from common.models.network import choose_device
from common.output import Progress
from common.registry import load_audio_model, load_released_state_dict
from common.registry.models import create_audio_model
from common.registry.weights import read_tensors
from common.settings import MachineSettings
from task4_sed.data.annotations import clip_name
from task4_sed.labels import SAMPLE_RATE
from task4_sed.settings import EmbeddingSettings, FrameModelSettings

STORE = "embeddings.h5"
GetWaveforms = Callable[[NDArray], Tensor]
"""Rows of a set to waveforms (rows, samples) at 16 kHz."""


class FrozenFrames(nn.Module):
    """A frozen frame model: waveform (batch, samples) at 16 kHz to frames (batch, tokens, dim).

    For models with a frame head: the input of the head, before it is resized to 40 ms. 10 s are 496 tokens of BEATs (62
    time steps with 8 frequency patches each), as in the baseline of 2024.
    """

    def __init__(self, model: AudioModel):
        super().__init__()
        self.model = model.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) to (batch, tokens, dim), float32."""
        if self.model.sample_rate != SAMPLE_RATE:
            waveform = resample(waveform, SAMPLE_RATE, self.model.sample_rate)
        spectrogram = self.model.front_end(waveform)
        encoder = getattr(self.model.network, "model", None)
        frames = self.model.network(spectrogram).frames if encoder is None else encoder(spectrogram)
        if frames is None:
            raise UserError(f"{self.model.name} gives one vector per clip, no frames; choose a frame model.")
        return frames.float()

    def train(self, mode: bool = True) -> "FrozenFrames":
        """Stays in evaluation mode."""
        return super().train(False)


def load_frozen(settings: EmbeddingSettings) -> FrozenFrames:
    """The model of the settings; refuses frames of another width."""
    model = load_frame_model(settings)
    frozen = FrozenFrames(model)
    dim = frozen(torch.zeros(1, SAMPLE_RATE)).shape[-1]
    if dim != settings.dim:
        raise UserError(f"embedding.dim is {settings.dim}, but the frames of {settings.model} have {dim} values.")
    return frozen


def load_frame_model(settings: FrameModelSettings) -> AudioModel:
    """The audio model of the settings; an untrained one is the same in every call."""
    if settings.untrained:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the cache and the model of a later call must agree
            return create_audio_model(settings.model, **settings.options)
    if settings.weights is None:
        return load_audio_model(settings.model)
    try:
        return load_audio_model(settings.model, settings.weights)
    except UserError as with_heads:  # weights of the encoder alone, as Microsoft's BEATs files
        model = create_audio_model(settings.model, **{"head_type": None, **settings.options})
        try:
            load_released_state_dict(model, read_tensors(settings.weights))
        except UserError:
            raise with_heads from None
        return model


def identity(settings: EmbeddingSettings, precision: str = "float32") -> dict[str, Any]:
    """Model, weights, options and precision of embeddings, to recognise a store of another model."""
    weights = "untrained" if settings.untrained else "registered"
    if settings.weights is not None and not settings.untrained:
        if not settings.weights.is_file():
            raise UserError(f"embedding.weights: there is no file {settings.weights}.")
        weights = compute_sha256(settings.weights)
    found = {"model": settings.model, "weights": weights, "options": settings.options}
    return found if precision == "float32" else {**found, "precision": precision}


def embedding_folder(root: Path, settings: EmbeddingSettings, set_name: str) -> Path:
    """Folder of a set's store."""
    return (settings.folder or Path(root) / "embeddings") / settings.model / set_name


def is_embedded(folder: Path) -> bool:
    """Whether a folder holds a whole store."""
    return (folder / STORE).is_file() or (folder / "store.json").is_file()


class EmbeddingStore:
    """Reads the embeddings of `filenames` in their order; worker processes each map the file themselves.

    Raises:
        UserError: if the store is missing, unfinished, of another model, without some clips, or cut off.
    """

    def __init__(self, folder: Path, filenames: Sequence[str], model: dict[str, Any]):
        folder = Path(folder)
        if not is_embedded(folder):
            raise UserError(f"The store of embeddings {folder} is missing or was not finished; `train` makes it.")
        self._frames = KeyedOutputs(folder / STORE, key=clip_name) if (folder / STORE).is_file() else _OldStore(folder)
        made_by = self._frames.attributes.get("made_by")
        if not isinstance(made_by, dict):
            raise UserError(f"{folder} does not say which model made its embeddings; delete it to embed again.")
        if made_by != model:
            changed = next(key for key in {**model, **made_by} if made_by.get(key) != model.get(key))
            raise UserError(
                f"{folder} holds embeddings of another model ({changed}: {made_by.get(changed)}, asked is "
                f"{model.get(changed)}); delete it to embed again, or set embedding.folder."
            )
        self.rows = self._frames.rows(filenames)

    def gather(self, indices: NDArray) -> Tensor:
        """(clips, tokens, dim), float16; indices into `filenames`."""
        return torch.from_numpy(self._frames.read(self.rows[np.asarray(indices)]))


class _OldStore:
    """A store of an earlier version as `KeyedOutputs`: embeddings.npy, clips.tsv and store.json."""

    def __init__(self, folder: Path):
        names = (folder / "clips.tsv").read_text(encoding="utf-8").splitlines()[1:]
        self.rows = KeyIndex(names, str(folder), clip_name).rows
        self._path = folder / "embeddings.npy"
        self.attributes = read_json(folder / "store.json", f"delete {folder} to embed again")
        try:
            self.read([0])
        except (OSError, ValueError, EOFError, IndexError) as error:
            raise UserError(f"{self._path} is cut off; delete {folder} to embed again.") from error

    def read(self, rows: Sequence[int] | NDArray) -> NDArray[np.float16]:
        """(len(rows), tokens, dim)."""
        frames = np.take(np.load(self._path, mmap_mode="r"), rows, axis=0)
        if not np.isfinite(frames).all():
            raise UserError(f"{self._path} holds NaN or infinity; delete {self._path.parent} to embed again.")
        return frames


def embed_set(
    folder: Path,
    filenames: Sequence[str],
    waveforms: GetWaveforms,
    settings: EmbeddingSettings,
    machine: MachineSettings | None = None,
    precision: str = "float32",
) -> None:
    """Make or finish the store of a set; refuses an unfinished store of other clips or another model.

    `machine` may keep it off a GPU. `precision`: see `computing_in`.
    """
    made_by = identity(settings, precision)
    if is_embedded(folder):
        EmbeddingStore(folder, filenames, made_by)
        return
    store = OutputWriter(
        folder / STORE, filenames, kind="frames", attributes={"made_by": made_by}, key=clip_name, resume=True
    )
    with store as writer:
        missing = writer.missing
        device = choose_device(machine)
        model = load_frozen(settings).to(device)
        with Progress("Embedding", len(filenames), done=len(filenames) - len(missing)) as progress:
            for first in range(0, len(missing), settings.batch):
                rows = missing[first : first + settings.batch]
                with computing_in(precision):
                    frames = model(waveforms(rows).to(device))
                writer.write([filenames[row] for row in rows], frames)
                progress.advance(len(rows))
