"""Scores and pseudo-labels of a set of clips in one HDF5 file, found by file name.

    filenames       (clips,) names without audio ending
    strong_logits   (clips, frames, classes), before the sigmoid; or strong_scores, probabilities
    ends            (clips,) seconds at which each clip's last frame ends
    attributes      classes (JSON list), frame_seconds

The first two are the layout of the system that won DCASE 2024 Task 4; its files are read too, when the classes are
given. See common/data/keyed_outputs.py.
"""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.keyed_outputs import KeyedOutputs, OutputWriter
from common.errors import UserError
from task4_sed.data.annotations import clip_name

FRAME_SECONDS = 0.064
KINDS = ("logits", "scores")
CLIPS_AT_ONCE = 64


class ScoreWriter(OutputWriter):
    """Writes a store within a `with` block; it appears whole or not at all.

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
        attributes = {"classes": list(classes), "frame_seconds": float(frame_seconds)}
        super().__init__(path, None, None, f"strong_{kind}", dtype, attributes=attributes, key=clip_name)
        self.classes, self.frame_seconds = tuple(classes), float(frame_seconds)
        self._ends: list[float] = []

    def write(self, filenames: Sequence[str], values: Any, ends: Sequence[float] | None = None) -> None:
        """Add clips.

        Args:
            filenames: one per clip; endings of audio files are cut.
            values: (clips, frames, classes) array or tensor.
            ends: seconds at which each clip's last frame ends; all frames whole when None.
        """
        if len(values.shape) != 3 or values.shape[2] != len(self.classes):
            raise ValueError(f"{self.path.name}: {len(self.classes)} classes cannot have scores of {values.shape}")
        super().write(filenames, values)
        whole = [values.shape[1] * self.frame_seconds] * len(filenames)
        self._ends.extend(whole if ends is None else [float(end) for end in ends])

    def columns(self) -> dict[str, NDArray]:
        """Ends of the clips."""
        return {"ends": np.array(self._ends)}


class ScoreStore:
    """Reads a store; worker processes each open it themselves.

    Args:
        path: of the store.
        classes: what the last axis must mean; needed for files that do not say it.
        frame_seconds: what a frame must last; None takes what the file says, else 64 ms.

    Attributes:
        filenames: names of the clips, without audio ending.
        kind: "logits" or "scores".
        ends: (clips,) seconds at which each clip's last frame ends.

    Raises:
        UserError: for a file that is cut off or no store, has other classes, another frame rate or doubled names.
    """

    def __init__(self, path: Path, classes: Sequence[str] | None = None, frame_seconds: float | None = None):
        self.path = Path(path)
        self._outputs = KeyedOutputs(self.path, [f"strong_{kind}" for kind in KINDS], key=clip_name)
        if len(self._outputs.shape) != 2:
            raise UserError(f"{self.path} holds rows of shape {self._outputs.shape}, not frames of classes.")
        self.kind = self._outputs.kind.removeprefix("strong_")
        self.filenames = self._outputs.filenames.names()
        self.num_frames, num_classes = self._outputs.shape
        self.classes = self._agreed_classes(self._outputs.attributes.get("classes"), classes, num_classes)
        own = self._outputs.attributes.get("frame_seconds", frame_seconds or FRAME_SECONDS)
        if frame_seconds is not None and abs(own - frame_seconds) > 1e-6:
            raise UserError(f"{self.path} has frames of {own * 1000:g} ms, expected {frame_seconds * 1000:g} ms.")
        self.frame_seconds = float(own)
        ends = self._outputs.column("ends")
        self.ends = np.full(len(self.filenames), self.num_frames * self.frame_seconds) if ends is None else ends

    def _agreed_classes(self, stored: list[str] | None, asked: Sequence[str] | None, number: int) -> tuple[str, ...]:
        if stored is None and asked is None:
            raise UserError(f"{self.path} does not say which classes its {number} columns are; give them.")
        names = tuple(stored if stored is not None else asked or ())
        if len(names) != number:
            raise UserError(f"{self.path} holds scores of {number} classes, but {len(names)} are named.")
        for place, (ours, theirs) in enumerate(zip_longest(names, asked or names, fillvalue="nothing"), start=1):
            if ours != theirs:
                raise UserError(f"{self.path} has other classes: column {place} is {ours}, expected {theirs}.")
        return names

    def __len__(self) -> int:
        return len(self.filenames)

    def __contains__(self, filename: str) -> bool:
        return self._outputs.rows([filename], allow_missing=True)[0] >= 0

    def __getitem__(self, filename: str) -> NDArray[np.float32]:
        """(frames, classes) float32 of one clip."""
        return self.read([filename])[0]

    def read(self, filenames: Iterable[str]) -> NDArray[np.float32]:
        """(clips, frames, classes) float32, in the order of `filenames`."""
        return self._outputs.read(self._outputs.rows(list(filenames))).astype(np.float32)

    def read_as(self, kind: str, filename: str) -> NDArray[np.float64]:
        """(frames, classes) float64 of one clip as "logits" or as "scores", whatever the file holds."""
        values = self._outputs.read([self._row(filename)])[0].astype(np.float64)
        if kind == self.kind:
            return values
        return logit(values) if kind == "logits" else sigmoid(values)

    def end_of(self, filename: str) -> float:
        """Seconds at which the clip's last frame ends."""
        return float(self.ends[self._row(filename)])

    def num_frames_of(self, filename: str) -> int:
        """Frames that a clip really has; later ones are padding."""
        return int(min(self.num_frames, max(1, np.ceil(self.end_of(filename) / self.frame_seconds - 1e-6))))

    def _row(self, filename: str) -> int:
        return int(self._outputs.rows([filename])[0])


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """0..1, without overflow for large logits of either sign."""
    half = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1, half) / (1 + half)


def logit(probabilities: np.ndarray) -> np.ndarray:
    """The inverse of `sigmoid`; 0 and 1 become about -23 and 23."""
    clipped = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-10, 1 - 1e-10)
    return np.log(clipped) - np.log1p(-clipped)
