"""Scores and pseudo-labels of a set of clips in one HDF5 file.

    filenames       (clips,) names without audio ending; clips are found by name, never by position
    strong_logits   (clips, frames, classes), before the sigmoid; or strong_scores, probabilities
    ends            (clips,) seconds at which each clip's last frame ends
    attributes      classes (JSON list), frame_seconds

The first two are the layout of the system that won DCASE 2024 Task 4; its files are read too, when the classes are
given. A file appears whole or not at all.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from common.errors import UserError, nearest
from common.files import atomic_path
from task4_sed.data.annotations import clip_name

FRAME_SECONDS = 0.064
KINDS = ("logits", "scores")
CLIPS_AT_ONCE = 64


class ScoreWriter:
    """Writes a store within a `with` block; without the block ending well there is no file.

    Args:
        path: of the store. classes: names, in the order of the last axis.
        frame_seconds: length of a frame. kind: "logits" or "scores" (probabilities). dtype: float16 or float32.
    """

    def __init__(
        self, path: Path, classes: Sequence[str], *, frame_seconds: float = FRAME_SECONDS, kind: str = "logits",
        dtype: str = "float16",
    ):  # fmt: skip
        if kind not in KINDS:
            raise UserError(f"A store holds {' or '.join(KINDS)}, not {kind}.")
        self.path, self.classes, self.frame_seconds = Path(path), tuple(classes), float(frame_seconds)
        self.kind, self.dtype = kind, np.dtype(dtype)
        self._names: dict[str, int] = {}
        self._ends: list[float] = []
        self._data: h5py.Dataset | None = None

    def __enter__(self) -> "ScoreWriter":
        self._path_context: AbstractContextManager[Path] = atomic_path(self.path)
        self._file = h5py.File(self._path_context.__enter__(), "w")
        return self

    def write(self, filenames: Sequence[str], values: Any, ends: Sequence[float] | None = None) -> None:
        """Add clips.

        Args:
            filenames: one per clip; endings of audio files are cut.
            values: (clips, frames, classes) array or tensor.
            ends: seconds at which each clip's last frame ends; all frames whole when None.
        """
        if hasattr(values, "detach"):  # a tensor; torch is not needed to tell
            values = values.detach().float().cpu().numpy()
        values = np.asarray(values)
        names = [clip_name(name) for name in filenames]
        if values.ndim != 3 or values.shape[0] != len(names) or values.shape[2] != len(self.classes):
            raise ValueError(
                f"{self.path.name}: {len(names)} clips of {len(self.classes)} classes cannot have scores of shape "
                f"{values.shape}"
            )
        if not np.isfinite(values).all():
            bad = names[int(np.argwhere(~np.isfinite(values))[0][0])]
            raise UserError(f"The scores of {bad} for {self.path} hold NaN or infinity, so they were not stored.")
        if self._data is None:
            shape = values.shape[1:]
            self._data = self._file.create_dataset(
                f"strong_{self.kind}", (0, *shape), maxshape=(None, *shape), chunks=(1, *shape), dtype=self.dtype
            )
        if values.shape[1] != self._data.shape[1]:
            raise UserError(
                f"{names[0]} has {values.shape[1]} frames, but {self.path} holds clips of {self._data.shape[1]}."
            )
        for name in names:
            if name in self._names:
                raise UserError(f"{name} was stored twice in {self.path}; file names must differ.")
            self._names[name] = len(self._names)
        first = self._data.shape[0]
        self._data.resize(first + len(names), axis=0)
        limit = np.finfo(self.dtype).max
        self._data[first:] = np.clip(values, -limit, limit)
        self._ends.extend([values.shape[1] * self.frame_seconds] * len(names) if ends is None else ends)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self._finish()
            except BaseException as failure:
                self._file.close()
                self._path_context.__exit__(type(failure), failure, failure.__traceback__)
                raise
        self._file.close()
        self._path_context.__exit__(kind, error, trace)

    def _finish(self) -> None:
        if self._data is None:
            raise UserError(f"No clip was written to {self.path}, so no store was made.")
        self._file.create_dataset("filenames", data=list(self._names), dtype=h5py.string_dtype())
        self._file.create_dataset("ends", data=np.array(self._ends))
        self._file.attrs["classes"] = json.dumps(self.classes)
        self._file.attrs["frame_seconds"] = self.frame_seconds


class ScoreStore:
    """Reads a store; worker processes each open it themselves.

    Args:
        path: of the store.
        classes: what the last axis must mean; needed for files that do not say it.
        frame_seconds: what a frame must last; None takes what the file says, else 64 ms.

    Raises:
        UserError: for a file that is cut off or no store, has other classes, another frame rate or doubled names.
    """

    def __init__(self, path: Path, classes: Sequence[str] | None = None, frame_seconds: float | None = None):
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"There is no score store {self.path}.")
        self._file: h5py.File | None = None
        try:
            with h5py.File(self.path, "r") as file:
                self._read_head(file, classes, frame_seconds)
        except OSError as error:
            raise UserError(f"{self.path} is cut off or no HDF5 file; write it again.") from error

    def _read_head(self, file: h5py.File, classes: Sequence[str] | None, frame_seconds: float | None) -> None:
        found = [kind for kind in KINDS if f"strong_{kind}" in file]
        if "filenames" not in file or not found:
            raise UserError(f"{self.path} is no score store: it needs filenames and strong_logits or strong_scores.")
        self.kind = found[0]
        data = file[f"strong_{self.kind}"]
        names = [name.decode() if isinstance(name, bytes) else str(name) for name in file["filenames"][:]]
        self.filenames = tuple(clip_name(name) for name in names)
        if data.ndim != 3 or data.shape[0] != len(names):
            raise UserError(f"{self.path} names {len(names)} clips but holds scores of shape {data.shape}.")
        if len(set(self.filenames)) < len(names):
            twice = next(name for name in self.filenames if self.filenames.count(name) > 1)
            raise UserError(f"{self.path} holds {twice} twice; file names must differ.")
        self.num_frames = data.shape[1]
        stored = json.loads(file.attrs["classes"]) if "classes" in file.attrs else None
        self.classes = self._agreed_classes(stored, classes, data.shape[2])
        own = float(file.attrs["frame_seconds"]) if "frame_seconds" in file.attrs else frame_seconds or FRAME_SECONDS
        if frame_seconds is not None and abs(own - frame_seconds) > 1e-6:
            raise UserError(f"{self.path} has frames of {own * 1000:g} ms, expected {frame_seconds * 1000:g} ms.")
        self.frame_seconds = own
        self.ends = file["ends"][:] if "ends" in file else np.full(len(names), self.num_frames * own)
        self._place = {name: index for index, name in enumerate(self.filenames)}

    def _agreed_classes(self, stored: list[str] | None, asked: Sequence[str] | None, number: int) -> tuple[str, ...]:
        if stored is None and asked is None:
            raise UserError(f"{self.path} does not say which classes its {number} columns are; give them.")
        names = tuple(stored if stored is not None else asked or ())
        if len(names) != number:
            raise UserError(f"{self.path} holds scores of {number} classes, but {len(names)} are named.")
        if asked is not None and tuple(asked) != names:
            place = next(
                (i for i, pair in enumerate(zip(names, asked)) if pair[0] != pair[1]), min(len(names), len(asked))
            )
            ours = names[place] if place < len(names) else "nothing"
            theirs = asked[place] if place < len(asked) else "nothing"
            raise UserError(f"{self.path} has other classes: column {place + 1} is {ours}, expected {theirs}.")
        return names

    def __len__(self) -> int:
        return len(self.filenames)

    def __contains__(self, filename: str) -> bool:
        return clip_name(filename) in self._place

    def __getitem__(self, filename: str) -> np.ndarray:
        """(frames, classes) float32 of one clip."""
        return self._dataset()[self._index(filename)].astype(np.float32)

    def read(self, filenames: Iterable[str]) -> np.ndarray:
        """(clips, frames, classes) float32, in the order of `filenames`."""
        places = [self._index(name) for name in filenames]
        data = self._dataset()
        return np.stack([data[place] for place in places]).astype(np.float32)

    def read_as(self, kind: str, filename: str) -> np.ndarray:
        """(frames, classes) float64 of one clip as "logits" or as "scores", whatever the file holds."""
        values = self._dataset()[self._index(filename)].astype(np.float64)
        if kind == self.kind:
            return values
        return logit(values) if kind == "logits" else sigmoid(values)

    def end_of(self, filename: str) -> float:
        """Seconds at which the clip's last frame ends."""
        return float(self.ends[self._index(filename)])

    def num_frames_of(self, filename: str) -> int:
        """Frames that a clip really has; later ones are padding."""
        end = self.ends[self._index(filename)]
        return int(min(self.num_frames, max(1, np.ceil(end / self.frame_seconds - 1e-6))))

    def _index(self, filename: str) -> int:
        name = clip_name(filename)
        if name not in self._place:
            near = nearest(name, self.filenames, 1)
            hint = f" Near it: {near[0]}." if near else ""
            raise UserError(f"{self.path} has no scores of {name}; it holds {len(self)} clips.{hint}")
        return self._place[name]

    def _dataset(self) -> h5py.Dataset:
        if self._file is None:
            self._file = h5py.File(self.path, "r")
        return self._file[f"strong_{self.kind}"]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_file": None}


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """0..1, without overflow for large logits of either sign."""
    half = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1, half) / (1 + half)


def logit(probabilities: np.ndarray) -> np.ndarray:
    """The inverse of `sigmoid`; 0 and 1 become about -23 and 23."""
    clipped = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-10, 1 - 1e-10)
    return np.log(clipped) - np.log1p(-clipped)
