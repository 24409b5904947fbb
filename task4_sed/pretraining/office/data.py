"""DCASE 2016 Task 2 as HEAR distributes it: recordings of 120 s, office sounds, events in milliseconds."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from common.data.audio import audio_info, read_fixed
from common.errors import UserError, unknown
from task4_sed.labels import CLIP_SAMPLES, CLIP_SECONDS, SAMPLE_RATE
from task4_sed.pretraining.clips import PlannedClips
from task4_sed.pretraining.tables import FRAME_SECONDS, FRAMES

END_TOLERANCE = 1e-7
"""Seconds added to the end of an event, so that a frame with its centre there counts (0.0001 ms in HEAR)."""

Event = tuple[float, float, str]


@dataclass(frozen=True)
class Recordings:
    """Recordings of a split.

    paths: audio files. events: of each, (onset, offset, label) in seconds. classes: names, in the order of the outputs.
    durations: seconds.
    """

    paths: tuple[Path, ...]
    events: tuple[tuple[Event, ...], ...]
    classes: tuple[str, ...]
    durations: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def frame_targets(self, index: int) -> NDArray[np.float32]:
        """(classes, frames) of a recording; a frame is on if its centre is in an event."""
        frames = round(self.durations[index] / FRAME_SECONDS)
        centres = (np.arange(frames) + 0.5) * FRAME_SECONDS
        target = np.zeros((len(self.classes), frames), dtype=np.float32)
        for onset, offset, label in self.events[index]:
            inside = (centres >= onset - 1e-9) & (centres < offset + END_TOLERANCE)
            target[self.classes.index(label), inside] = 1
        return target


def read_vocabulary(root: Path) -> tuple[str, ...]:
    """Names of the classes in the order of their numbers."""
    path = Path(root) / "labelvocabulary.csv"
    if not path.is_file():
        raise UserError(f"There is no {path}; data.root is dcase2016_task2-hear2021-full of HEAR (hearbenchmark.com).")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        names = {int(row["idx"]): row["label"] for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no table with idx and label.") from error
    if sorted(names) != list(range(len(rows))) or not rows:
        raise UserError(f"{path} does not number its {len(rows)} labels from 0 on.")
    return tuple(names[index] for index in range(len(rows)))


def read_recordings(root: Path, split: str) -> Recordings:
    """Recordings of "train", "valid" or "test".

    Raises:
        UserError: for a missing or damaged file, an unknown label, an event past the end, a recording that is shorter
            than 10 s or not at 16 kHz.
    """
    root, classes = Path(root), read_vocabulary(root)
    path = root / f"{split}.json"
    if not path.is_file():
        raise UserError(f"There is no {path}.")
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        events = {
            name: tuple(sorted((e["start"] / 1000, e["end"] / 1000, str(e["label"])) for e in of_file))
            for name, of_file in listed.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not of HEAR's form: file name to a list of label, start and end (ms).") from error
    paths = tuple(root / str(SAMPLE_RATE) / split / name for name in events)
    durations = tuple(_check(recording, events[recording.name], classes, path) for recording in paths)
    if not paths:
        raise UserError(f"{path} lists no recording.")
    return Recordings(paths, tuple(events.values()), classes, durations)


class RandomCrops(PlannedClips):
    """Training clips of 10 s from a random frame on.

    An epoch has as many clips as the recordings have pieces of 10 s; clip i is from recording i modulo their number.
    """

    def __init__(self, recordings: Recordings):
        self.recordings = recordings
        self.targets = [recordings.frame_targets(index) for index in range(len(recordings))]

    def __len__(self) -> int:
        return int(sum(seconds // CLIP_SECONDS for seconds in self.recordings.durations))

    def gather(self, rows: NDArray[np.int64], seeds: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """See `PlannedClips`."""
        waveforms, targets = [], []
        for row, seed in zip(rows.tolist(), seeds.tolist()):
            number = row % len(self.recordings)
            target = self.targets[number]
            first = int(np.random.default_rng(seed).integers(target.shape[1] - FRAMES + 1))
            waveforms.append(_read(self.recordings.paths[number], first))
            targets.append(target[:, first : first + FRAMES])
        return {"waveform": torch.from_numpy(np.stack(waveforms)), "target": torch.from_numpy(np.stack(targets))}


class FixedPieces(PlannedClips):
    """Pieces of 10 s of every recording, one after another; the last is padded with zeros."""

    def __init__(self, recordings: Recordings):
        self.recordings = recordings
        self.counts = [int(np.ceil(seconds / CLIP_SECONDS - 1e-6)) for seconds in recordings.durations]
        self.pieces = [(number, piece) for number, count in enumerate(self.counts) for piece in range(count)]

    def __len__(self) -> int:
        return len(self.pieces)

    def gather(self, rows: NDArray[np.int64], seeds: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """The waveforms alone."""
        chosen = [self.pieces[row] for row in rows.tolist()]
        waveforms = [_read(self.recordings.paths[number], piece * FRAMES) for number, piece in chosen]
        return {"waveform": torch.from_numpy(np.stack(waveforms))}

    def join(self, logits: NDArray) -> list[NDArray]:
        """(pieces, 250, classes) to (frames, classes) of each recording."""
        joined, first = [], 0
        for count, seconds in zip(self.counts, self.recordings.durations):
            whole = logits[first : first + count].reshape(-1, logits.shape[-1])
            joined.append(whole[: round(seconds / FRAME_SECONDS)])
            first += count
        return joined


def _read(path: Path, first_frame: int) -> NDArray[np.float32]:
    return read_fixed(path, CLIP_SAMPLES, SAMPLE_RATE, start=first_frame * FRAME_SECONDS)


def _check(recording: Path, events: Sequence[Event], classes: Sequence[str], table: Path) -> float:
    """Seconds of a recording."""
    info = audio_info(recording)
    if info.sample_rate != SAMPLE_RATE:
        raise UserError(f"{recording} is sampled at {info.sample_rate} Hz, expected {SAMPLE_RATE} Hz.")
    if info.duration < CLIP_SECONDS:
        raise UserError(f"{recording} lasts {info.duration:.2f} s, needed are at least {CLIP_SECONDS:g} s.")
    for onset, offset, label in events:
        if label not in classes:
            raise UserError(f"{table}, {recording.name}: {unknown('label', label, classes)}")
        if offset < onset or offset > info.duration + FRAME_SECONDS:
            raise UserError(
                f"{table}, {recording.name}: an event {label} lasts from {onset:g} to {offset:g} s, the recording "
                f"{info.duration:g} s."
            )
    return info.duration
