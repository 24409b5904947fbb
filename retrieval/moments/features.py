"""Features on disk: a vector for each second of a recording and each word of a query, as they are published.

features/<audio>/<vid>.npz       features (seconds, dim); of a dual encoder also projected (seconds, size), unit length
features/<text>/qid<qid>.npz     last_hidden_state (words, dim); of a dual encoder also sentence (size,), unit length
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from common.data.audio import list_audio, read_blocks
from common.data.files import atomic_path, read_json, write_json
from common.errors import UserError
from common.models.audio_model import AudioModel
from common.models.network import choose_device
from common.models.text import TextEncoder
from common.output import Progress
from common.settings import MachineSettings
from common.training.seeds import seed_all
from retrieval.model import DualEncoder, make_audio_encoder, make_text_encoder
from retrieval.moments.annotations import Query
from retrieval.moments.settings import FeatureEncoder, Features
from retrieval.search.searcher import load_searcher

AT_ONCE = 16
BLOCK_SECONDS = 10.0
SECONDS_OFF = 2.0
"""Difference of the number of vectors from the seconds of a recording that is taken for rounding."""
MADE_BY = "encoder.json"
Array = NDArray[np.float32]


class Encoder:
    """The two encoders of the settings, on the device of `machine`."""

    def __init__(self, settings: FeatureEncoder, machine: MachineSettings | None = None):
        self.window = settings.window
        self.dual: DualEncoder | None = None
        self.audio: AudioModel
        self.text: TextEncoder
        if settings.run is not None:
            searcher = load_searcher(settings.run)
            if not isinstance(searcher.model, DualEncoder):
                raise UserError(f"{settings.run} is a run of vocal imitation; give one of text-to-audio retrieval.")
            self.dual, self.audio, self.text = searcher.model, searcher.model.audio, searcher.model.text
            self.identity: dict[str, Any] = {"run": searcher.identity, "window": settings.window}
        else:
            assert settings.audio is not None and settings.text is not None
            seed_all(0)  # of random weights
            self.audio, self.text = make_audio_encoder(settings.audio), make_text_encoder(settings.text)
            self.identity = settings.model_dump(mode="json", exclude={"run"})
        for model in (self.audio, self.text):
            model.to(choose_device(machine)).eval()

    @torch.inference_mode()
    def encode_recording(self, path: Path) -> dict[str, Array]:
        """One vector a second, at least one; only the vectors of a long recording are held in memory."""
        device, rate = next(self.audio.parameters()).device, self.audio.sample_rate
        vectors, projected = [], []
        for windows in batches(second_windows(path, self.window, rate), AT_ONCE):
            output = self.audio(torch.stack(windows).to(device))
            vector = output.embedding if output.frames is None else output.frames.mean(dim=1)
            vectors.append(vector.float().cpu())
            if self.dual is not None:
                projected.append(functional.normalize(self.dual.project_audio(vector).float(), dim=1).cpu())
        found = {"features": torch.cat(vectors).numpy()}
        return found | ({"projected": torch.cat(projected).numpy()} if projected else {})

    @torch.inference_mode()
    def encode_query(self, text: str) -> dict[str, Array]:
        """Hidden states of the words, and the vector of the sentence."""
        device = next(self.text.parameters()).device
        tokens = {name: value.to(device) for name, value in self.text.tokenize([text]).items()}
        found = {"last_hidden_state": self.text.model(**tokens).last_hidden_state[0].float().cpu().numpy()}
        if self.dual is not None:
            found["sentence"] = self.dual.embed_text([text])[0].float().cpu().numpy()
        return found


def second_windows(path: Path, window: float, sample_rate: int) -> Iterator[Tensor]:
    """Windows (samples,) around the middle of each whole second, zeros beyond the ends; block by block.

    A recording shorter than a second gives one window.
    """
    size = round(window * sample_rate)
    buffer, total, given = np.zeros((size - sample_rate) // 2, np.float32), 0, 0
    for block in read_blocks(path, BLOCK_SECONDS, sample_rate):
        buffer, total = np.concatenate([buffer, block]), total + len(block)
        while len(buffer) >= size and given < total // sample_rate:
            yield torch.from_numpy(buffer[:size].copy())
            buffer, given = buffer[sample_rate:], given + 1
    while given < max(1, total // sample_rate):
        yield torch.from_numpy(np.pad(buffer[:size], (0, max(0, size - len(buffer)))))
        buffer, given = buffer[sample_rate:], given + 1


def batches(windows: Iterator[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Lists of up to `size`."""
    while batch := list(islice(windows, size)):
        yield batch


def write_features(encoder: Encoder, settings: Features, root: Path, queries: Sequence[Query]) -> None:
    """Write the missing files of `queries`; finished files are kept, so that an interrupted call resumes.

    Raises:
        UserError: if the folder was written by another encoder, or a recording has no audio.
    """
    places = [root / "features" / settings.audio, root / "features" / settings.text]
    recordings = [vid for vid in dict.fromkeys(q.vid for q in queries) if not (places[0] / f"{vid}.npz").is_file()]
    sentences = [query for query in queries if not (places[1] / f"qid{query.qid}.npz").is_file()]
    for place in places:
        _claim(place, encoder.identity)
    if recordings:
        paths = find_audio(root, recordings)
        with Progress("Encoding recordings", len(recordings), "recordings") as progress:
            for vid in recordings:
                _write(places[0] / f"{vid}.npz", encoder.encode_recording(paths[vid]))
                progress.advance()
    for query in sentences:
        _write(places[1] / f"qid{query.qid}.npz", encoder.encode_query(query.query))


def find_audio(root: Path, recordings: Sequence[str]) -> dict[str, Path]:
    """The audio file of each recording in `audio` of a data set."""
    paths = {path.stem: path for path in list_audio(root / "audio")}
    if absent := [vid for vid in recordings if vid not in paths]:
        raise UserError(
            f"{root / 'audio'} lacks {len(absent)} of {len(recordings)} recordings, the first is {absent[0]}; put them "
            "there, or take their queries out."
        )
    return paths


class FeatureReader:
    """Reads features of one data set, checked: (seconds, dim) and (words, dim) of unit length.

    Raises:
        UserError: naming the file, if it is missing or damaged, has NaN, another size than the first one, or not one
            vector a second.
    """

    def __init__(self, settings: Features, root: Path):
        self.settings, self.root = settings, root
        self._sizes: dict[str, int] = {}
        self._known: dict[tuple[str, str], Array] = {}

    def audio(self, query: Query, key: str = "features") -> Array:
        """(seconds, dim) of the query's recording."""
        vectors = self._read(self.settings.audio, query.vid, key)
        if abs(len(vectors) - max(1.0, query.duration)) > SECONDS_OFF:
            raise UserError(
                f"The features of {query.vid} are {len(vectors)} vectors for {query.duration:g} s, not one a second; "
                "write them again, or correct the duration."
            )
        return vectors

    def text(self, query: Query, key: str = "last_hidden_state") -> Array:
        """(words, dim) of the query, or (1, size) of its sentence."""
        return self._read(self.settings.text, f"qid{query.qid}", key)

    def _read(self, folder: str, name: str, key: str) -> Array:
        if (folder + key, name) in self._known:
            return self._known[folder + key, name]
        path = self.root / "features" / folder / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as data:
                vectors = np.atleast_2d(np.asarray(data[key], dtype=np.float32))
        except FileNotFoundError as error:
            raise UserError(f"{path} does not exist; download the features, or set features.encoder.") from error
        except KeyError as error:
            raise UserError(f"{path} has no {key}; only the dual encoder of a run writes it.") from error
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise UserError(f"{path} is damaged ({type(error).__name__}); delete it and write it again.") from error
        if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
            raise UserError(f"{path} holds {key} of shape {vectors.shape}, or NaN; delete it and write it again.")
        size = self._sizes.setdefault(folder + key, vectors.shape[1])
        if vectors.shape[1] != size:
            raise UserError(f"{path} has vectors of size {vectors.shape[1]}, others {size}; use one encoder for all.")
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-10)
        if self.settings.keep_in_memory:
            self._known[folder + key, name] = vectors
        return vectors


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    path = folder / MADE_BY
    if not path.is_file():
        if folder.is_dir() and any(folder.glob("*.npz")):
            raise UserError(f"{folder} holds features of an unknown encoder; name another in features.audio and text.")
        write_json(path, identity)
    elif read_json(path, f"delete {folder} and write the features again") != identity:
        raise UserError(f"{folder} was written by another encoder; name another folder in features.audio and text.")


def _write(path: Path, arrays: dict[str, Array]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
