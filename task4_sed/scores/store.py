"""Scores and pseudo-labels of a set of clips in one HDF5 file, found by file name.

    filenames       (clips,) names without audio ending
    strong_logits   (clips, frames, classes), before the sigmoid; or strong_scores, probabilities
    ends            (clips,) seconds at which each clip's last frame ends
    attributes      classes (JSON list), frame_seconds

The first two are the layout of the system that won DCASE 2024 Task 4; its files are read too, when the classes are
given. See common/data/keyed_outputs.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.data.keyed_outputs import KeyedOutputs, OutputWriter
from common.errors import UserError
from task4_sed.data.annotations import clip_name
from task4_sed.scores.tables import ScoreTables, empty_values, from_frames, read_folder

FRAME_SECONDS = 0.064
KINDS = ("logits", "scores")
CLIPS_AT_ONCE = 16


class ScoreWriter(OutputWriter):
    """Writes a store within a `with` block; it appears whole or not at all.

    Classes are those of the last axis. `kind`: "logits" or "scores" (probabilities). `dtype`: float16 or float32.
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
        """Add clips: (clips, frames, classes) array or tensor, and the seconds at which each clip's last frame ends.

        Endings of audio files are cut. Without `ends` all frames are whole.
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


def read_score_tables(source: "ScoreTables | str | Path | Mapping[str, pd.DataFrame]", jobs: int = 1) -> ScoreTables:
    """Score tables of a folder of .tsv files, of a score store (.h5), or from data frames by clip name.

    `jobs`: processes that parse files, from 256 MB on.

    Raises:
        UserError: with file and line, for a gap between frames, a frame without length, NaN, wrong columns, text.
    """
    if isinstance(source, ScoreTables):
        return source
    if isinstance(source, Mapping):
        return from_frames(source)
    source = Path(source)
    if source.is_file() and source.suffix in (".h5", ".hdf5"):
        return read_scores(source)
    return read_folder(source, jobs)


def read_scores(path: Path, classes: Sequence[str] | None = None) -> ScoreTables:
    """Probabilities of a store as score tables, sorted by clip name; float32."""
    store = ScoreStore(path, classes)
    clips = tuple(sorted(store.filenames))
    ends = np.array([store.end_of(clip) for clip in clips])
    counts = np.ceil(ends / store.frame_seconds - 1e-6).clip(1, store.num_frames).astype(np.int64)  # others are padding
    starts = np.concatenate(([0], np.cumsum(counts)))
    values = empty_values(len(store.classes), int(starts[-1]), np.float32)
    borders = []
    for first in range(0, len(clips), CLIPS_AT_ONCE):
        block = clips[first : first + CLIPS_AT_ONCE]
        rows = [store.read_as("scores", clip)[:count].astype(np.float32) for clip, count in zip(block, counts[first:])]
        values[:, starts[first] : starts[first + len(block)]] = np.concatenate(rows).T
        for place in range(len(block)):
            edges = np.round(np.arange(counts[first + place] + 1) * store.frame_seconds, 6)
            edges[-1] = ends[first + place]
            borders.append(edges)
    return ScoreTables(clips, store.classes, starts, np.concatenate(borders), values)


def mean_logits(members: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over systems before the sigmoid, as in the winner's pseudo-labels; float64."""
    if not len(members):
        raise UserError("An ensemble needs at least one member.")
    return np.asarray(np.mean(members, axis=0, dtype=np.float64))


def ensemble_stores(paths: Sequence[Path], out: Path) -> None:
    """Mean of score stores as a float32 store of logits; one clip in memory at a time.

    The stores are of the same clips, classes and frames; the order of clips may differ.
    """
    first = ScoreStore(paths[0])
    members = [first, *(ScoreStore(path, first.classes, first.frame_seconds) for path in paths[1:])]
    for member in members[1:]:
        if other := sorted(set(member.filenames) ^ set(first.filenames)):
            raise UserError(
                f"{member.path} differs from the first member of the ensemble in {len(other)} clips, as {other[0]}."
            )
        if member.num_frames != first.num_frames:
            raise UserError(f"{member.path} has {member.num_frames} frames per clip, {first.path} {first.num_frames}.")
    with ScoreWriter(out, first.classes, frame_seconds=first.frame_seconds, dtype="float32") as writer:
        for name in first.filenames:
            mean = mean_logits([member.read_as("logits", name) for member in members])
            writer.write([name], mean[None], [first.end_of(name)])
