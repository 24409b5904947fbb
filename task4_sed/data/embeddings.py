"""Frames of a frozen model for every clip of a set, worked out once and kept in half precision, memory-mapped.

embeddings.npy  (clips, tokens, dim), float16
clips.tsv       filename of each row
store.json      model, weights, shape; written last, so that its presence means that the store is whole
progress.jsonl  only while embedding: the plan, then how many clips are done
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.data.audio import resample
from common.errors import UserError
from common.files import atomic_write, sha256_of, write_json
from common.models.audio_model import AudioModel
from common.output import Progress
from common.registry import load_audio_model, load_released_state_dict
from common.registry.factory import create_audio_model
from task4_sed.data.annotations import clip_name
from task4_sed.labels import SAMPLE_RATE
from task4_sed.settings import EmbeddingSettings

GetWaveforms = Callable[[NDArray], Tensor]
"""Rows of a set to waveforms (rows, samples) at 16 kHz."""


class FrozenFrames(nn.Module):
    """A frozen frame model: waveform (batch, samples) at 16 kHz to frames (batch, tokens, dim).

    Of models with a frame head it gives the sequence that the head would read, before it is stretched to 40 ms: 496
    tokens of 10 s for BEATs (62 steps of time, 8 frequency patches each), as the baseline of 2024 uses them.
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
    """The model of the settings.

    Raises:
        UserError: if it does not exist, its weights are missing or do not fit, or its frames have another width.
    """
    model = load_frame_model(settings)
    frozen = FrozenFrames(model)
    dim = frozen(torch.zeros(1, SAMPLE_RATE)).shape[-1]
    if dim != settings.dim:
        raise UserError(f"embedding.dim is {settings.dim}, but the frames of {settings.model} have {dim} values.")
    return frozen


class WeightsOfModel(Protocol):
    """Settings that name a model and its weights."""

    model: str
    weights: Path | None
    untrained: bool
    options: dict[str, Any]


def load_frame_model(settings: WeightsOfModel) -> AudioModel:
    """The audio model of the settings; untrained, it is the same in every call.

    Raises:
        UserError: if it does not exist, or its weights are missing or do not fit.
    """
    if settings.untrained:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the cache and the model of a later call must agree
            return create_audio_model(settings.model, **settings.options)
    if settings.weights is None:
        return load_audio_model(settings.model)
    return _load_file(settings)


def identity(settings: EmbeddingSettings) -> dict[str, Any]:
    """What decides the embeddings; a store of another model is told by it."""
    weights = "untrained" if settings.untrained else "registered"
    if settings.weights is not None and not settings.untrained:
        if not settings.weights.is_file():
            raise UserError(f"embedding.weights: there is no file {settings.weights}.")
        weights = sha256_of(settings.weights)
    return {"model": settings.model, "weights": weights, "options": settings.options}


def embedding_folder(root: Path, settings: EmbeddingSettings, set_name: str) -> Path:
    """Folder of a set's store."""
    return (settings.folder or Path(root) / "embeddings") / settings.model / set_name


class EmbeddingStore:
    """Reads the embeddings of some clips; worker processes each map the file themselves.

    Args:
        folder: of the store.
        filenames: the clips, in the order in which rows are asked for.
        model: what `identity` gives.

    Raises:
        UserError: if there is no store, it was not finished, was made by another model, lacks clips, or is cut off.
    """

    def __init__(self, folder: Path, filenames: Sequence[str], model: dict[str, Any]):
        self.folder = Path(folder)
        again = f"delete {self.folder} and call again to embed anew"
        if not (self.folder / "store.json").is_file():
            why = "was not finished" if (self.folder / "progress.jsonl").is_file() else "is missing"
            raise UserError(f"The store of embeddings {self.folder} {why}; `train` makes it, or goes on with it.")
        try:
            info = json.loads((self.folder / "store.json").read_text(encoding="utf-8"))
            made_by, self._shape = info["made_by"], tuple(info["shape"])
        except (ValueError, KeyError) as error:
            raise UserError(f"{self.folder / 'store.json'} is damaged; {again}.") from error
        if made_by != model:
            changed = next(key for key in model if made_by.get(key) != model[key])
            raise UserError(
                f"{self.folder} holds embeddings of another model ({changed}: {made_by.get(changed)}, asked is "
                f"{model[changed]}); {again}, or set embedding.folder."
            )
        path = self.folder / "embeddings.npy"
        if not path.is_file() or path.stat().st_size != _bytes(self._shape):
            raise UserError(f"{path} is cut off; {again}.")
        names = (self.folder / "clips.tsv").read_text(encoding="utf-8").splitlines()[1:]
        place = {clip_name(name): row for row, name in enumerate(names)}
        absent = [name for name in filenames if clip_name(name) not in place]
        if absent:
            raise UserError(
                f"{self.folder} lacks {len(absent)} of {len(filenames)} clips (first {absent[0]}); {again}."
            )
        self.rows = np.array([place[clip_name(name)] for name in filenames], dtype=np.int64)
        self._array: NDArray | None = None

    def gather(self, indices: NDArray) -> Tensor:
        """(clips, tokens, dim), float16; indices into `filenames`."""
        if self._array is None:
            self._array = np.memmap(
                self.folder / "embeddings.npy", np.float16, "r", len(_header(self._shape)), self._shape
            ).view(np.ndarray)
        return torch.from_numpy(np.take(self._array, self.rows[np.asarray(indices)], axis=0))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}


def embed_set(
    folder: Path,
    filenames: Sequence[str],
    waveforms: GetWaveforms,
    settings: EmbeddingSettings,
    load: Callable[[EmbeddingSettings], FrozenFrames] = load_frozen,
) -> None:
    """Make the store of a set, or finish it; one that is whole is kept.

    Args:
        folder: of the store.
        filenames: of all clips of the set.
        waveforms: gives the waveforms of some of them.
        settings: of the model, which is loaded only where something is left to do.
        load: gives the model.

    Raises:
        UserError: if the folder holds the beginning of a store of other clips or another model.
    """
    if (folder / "store.json").is_file():
        EmbeddingStore(folder, filenames, identity(settings))
        return
    folder.mkdir(parents=True, exist_ok=True)
    table = "\n".join(["filename", *filenames, ""])
    plan = {"made_by": identity(settings), "clips": hashlib.sha256(table.encode()).hexdigest()}
    with _progress_file(folder, plan) as (journal, done), Progress("Embedding", len(filenames), done=done) as progress:
        model = load(settings)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model.to(device)
        data = None
        for first in range(done, len(filenames), settings.batch):
            rows = np.arange(first, min(first + settings.batch, len(filenames)))
            frames = model(waveforms(rows).to(device)).half().cpu().numpy()
            if not np.isfinite(frames).all():
                raise UserError(f"The embeddings of {filenames[first]} or one of the next clips are not finite.")
            if data is None:
                data = _open_array(folder / "embeddings.npy", (len(filenames), *frames.shape[1:]))
            data[rows] = frames
            data.flush()
            journal.write(json.dumps({"done": int(rows[-1]) + 1}) + "\n")
            journal.flush()
            progress.advance(len(rows))
        shape = np.load(folder / "embeddings.npy", mmap_mode="r").shape
    with atomic_write(folder / "clips.tsv") as file:
        file.write(table)
    write_json(folder / "store.json", {**plan, "shape": list(shape)})
    (folder / "progress.jsonl").unlink()


@contextmanager
def _progress_file(folder: Path, plan: dict[str, Any]) -> Iterator[tuple[Any, int]]:
    path = folder / "progress.jsonl"
    lines = [_parse(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    if lines and lines[0] and lines[0] != plan:
        raise UserError(f"{folder} holds the beginning of embeddings of other clips or another model; delete it.")
    done = max((line.get("done", 0) for line in lines), default=0)
    with path.open("a", encoding="utf-8") as journal:
        if not (lines and lines[0]):
            journal.truncate(0)
            journal.write(json.dumps(plan) + "\n")
            done = 0
        elif not lines[-1]:
            journal.write("\n")  # ends a line that a kill cut
        yield journal, done


def _parse(line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError:
        return {}


def _open_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    if not path.is_file() or path.stat().st_size != _bytes(shape):
        with path.open("wb") as file:
            file.write(_header(shape))
            file.truncate(_bytes(shape))
    return np.memmap(path, np.float16, "r+", len(_header(shape)), shape)


def _header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f2", "fortran_order": False, "shape": tuple(shape)})
    return buffer.getvalue()


def _bytes(shape: tuple[int, ...]) -> int:
    return len(_header(shape)) + 2 * int(np.prod(shape, dtype=np.int64))


def _load_file(settings: WeightsOfModel) -> AudioModel:
    """Weights of a file: of the encoder alone, as Microsoft's BEATs files, or with the heads of PretrainedSED."""
    from common.registry.weights import read_tensors

    assert settings.weights is not None
    try:
        return load_audio_model(settings.model, settings.weights)
    except UserError as with_heads:
        model = create_audio_model(settings.model, **{"head_type": None, **settings.options})
        try:
            load_released_state_dict(model, read_tensors(settings.weights))
        except UserError:
            raise with_heads from None
        return model
