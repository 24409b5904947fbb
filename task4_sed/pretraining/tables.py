"""The official tables of AudioSet strong: clips, their events as frames of 40 ms, and their sampling weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.data.labels import label_table
from common.errors import UserError
from task4_sed.data.annotations import merge_touching, read_table
from task4_sed.data.targets import ranges
from task4_sed.labels import CLIP_SECONDS, SAMPLE_RATE

COLUMNS = ("segment_id", "start_time_seconds", "end_time_seconds", "label")
ALLOWED_PAST_END = 0.5
"""Seconds that an event of an official table may reach beyond 10 s."""


@dataclass(frozen=True)
class StrongEvents:
    """Events of clips; events of one class that overlap or touch are merged.

    clips: names, "Y" and the YouTube id. classes: all 456 names.
    starts: (clips + 1,), first event of each clip; within a clip events are sorted by class, then onset.
    label: (events,), index into `classes`. onset, offset: (events,) seconds.
    """

    clips: tuple[str, ...]
    classes: tuple[str, ...]
    starts: NDArray[np.int64]
    label: NDArray[np.int64]
    onset: NDArray[np.float64]
    offset: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.clips)

    def clip_of_event(self) -> NDArray[np.int64]:
        """(events,) index of each event's clip."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def select(self, rows: Sequence[int] | NDArray) -> "StrongEvents":
        """Only these clips, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        counts = np.diff(self.starts)[rows]
        events = ranges(self.starts[rows], counts)
        return StrongEvents(
            tuple(self.clips[row] for row in rows), self.classes, np.concatenate(([0], np.cumsum(counts))),
            self.label[events], self.onset[events], self.offset[events],
        )  # fmt: skip

    def only_classes(self, names: Sequence[str]) -> "StrongEvents":
        """Only events of these classes, numbered as in `names`; clips stay."""
        place = {name: index for index, name in enumerate(names)}
        column = np.array([place.get(name, -1) for name in self.classes], dtype=np.int64)[self.label]
        kept = column >= 0
        starts = np.concatenate(([0], np.cumsum(kept)))[self.starts]
        clip, column = self.clip_of_event()[kept], column[kept]
        onset, offset = self.onset[kept], self.offset[kept]
        order = np.lexsort((onset, column, clip))
        return StrongEvents(self.clips, tuple(names), starts, column[order], onset[order], offset[order])


def read_strong_table(path: Path) -> StrongEvents:
    """Read a table of events: tab or comma separated, with the columns of the official ones.

    Raises:
        UserError: with file and line, for a missing file or column, a label that is no class of AudioSet strong, times
            that are no numbers, an event that ends before it starts or after the end of its clip.
    """
    path = Path(path)
    table = _read(path)
    classes = tuple(row["name"] for row in label_table("audioset_strong"))
    number = {row["mid"]: index for index, row in enumerate(label_table("audioset_strong"))}
    label = table["label"].map(number)
    _refuse(path, table, label.isna(), f"has the label {{label}}, none of the {len(classes)} of AudioSet strong")
    onset = pd.to_numeric(table["start_time_seconds"], errors="coerce").to_numpy(dtype=np.float64)
    offset = pd.to_numeric(table["end_time_seconds"], errors="coerce").to_numpy(dtype=np.float64)
    times = "{start_time_seconds} to {end_time_seconds} s"
    _refuse(path, table, ~(np.isfinite(onset) & np.isfinite(offset)), f"has times that are no numbers ({times})")
    _refuse(path, table, (onset < 0) | (offset < onset), f"has an event that ends before it starts ({times})")
    past = (offset > CLIP_SECONDS + ALLOWED_PAST_END) | (onset >= CLIP_SECONDS + ALLOWED_PAST_END)
    _refuse(path, table, past, f"has an event past the end of its clip, which lasts {CLIP_SECONDS:g} s ({times})")
    names, clip = np.unique(
        ["Y" + name.rpartition("_")[0] for name in table["segment_id"].astype(str)], return_inverse=True
    )
    long = offset > onset
    first, last = merge_touching(clip[long], label.to_numpy(dtype=np.int64)[long], onset[long], offset[long])
    rows = np.flatnonzero(long)[first]
    starts = np.searchsorted(clip[rows], np.arange(len(names) + 1))
    return StrongEvents(tuple(names.tolist()), classes, starts, label.to_numpy(dtype=np.int64)[rows], onset[rows], last)


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"There is no table {path}; get it from research.google.com/audioset/download_strong.html.")
    table = read_table(path, (), "AudioSet strong")
    if "segment_id" not in table and len(table.columns) >= len(COLUMNS):
        table = table.rename(columns={table.columns[0]: "segment_id"})  # PretrainedSED's csv has an index without name
    absent = [name for name in COLUMNS if name not in table]
    if absent:
        raise UserError(f"{path}:1 has no column {absent[0]}; it has {', '.join(map(str, table.columns))}.")
    if table.empty:
        raise UserError(f"{path} has a header but no events.")
    return table


def _refuse(path: Path, table: pd.DataFrame, wrong: "pd.Series | NDArray", what: str) -> None:
    rows = np.flatnonzero(np.asarray(wrong))
    if len(rows):
        more = f" {len(rows)} rows are like this." if len(rows) > 1 else ""
        raise UserError(f"{path}:{table.index[rows[0]]} {what.format(**table.iloc[rows[0]])}.{more}")


FRAME_SECONDS = 0.04
FRAMES = 250
FRAME_SAMPLES = 640


class FrameTargets:
    """Frame targets of clips for some classes.

    A frame is on from floor(onset / 40 ms) up to, not including, ceil(offset / 40 ms).
    """

    def __init__(self, events: StrongEvents, classes: Sequence[str]):
        events = events.only_classes(classes)
        self.num_classes = len(classes)
        self._starts, self._label = events.starts, events.label
        self._first, self._last = event_frames(events.onset, events.offset)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def gather(self, rows: Sequence[int] | NDArray) -> NDArray[np.float32]:
        """(rows, classes, 250), 0 or 1."""
        rows = np.asarray(rows, dtype=np.int64)
        target = np.zeros((len(rows), self.num_classes, FRAMES), dtype=np.float32)
        counts = self._starts[rows + 1] - self._starts[rows]
        events = ranges(self._starts[rows], counts)
        places = zip(
            np.repeat(np.arange(len(rows)), counts).tolist(), self._label[events].tolist(),
            self._first[events].tolist(), self._last[events].tolist(),
        )  # fmt: skip
        for row, label, first, last in places:
            target[row, label, first:last] = 1
        return target

    def active_frames(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Clip, class and number of active frames of every event; a frame of two events counts once."""
        clip = np.repeat(np.arange(len(self)), np.diff(self._starts))
        before = np.append(0, self._last[:-1]) if len(clip) else self._last
        same = np.append(False, (clip[1:] == clip[:-1]) & (self._label[1:] == self._label[:-1]))[: len(clip)]
        first = np.where(same, np.maximum(self._first, before), self._first)
        return clip, self._label, np.maximum(self._last - first, 0)


def event_frames(onset: NDArray, offset: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First frame, and frame after the last, within the 250 of a clip."""
    # Counted in samples, as published: of the multiples of 40 ms only 8.04 and 8.12 s begin a frame early.
    first = np.floor(np.asarray(onset) * SAMPLE_RATE / FRAME_SAMPLES).clip(0, FRAMES)
    last = np.ceil(np.asarray(offset) * SAMPLE_RATE / FRAME_SAMPLES).clip(0, FRAMES)
    return first.astype(np.int64), last.astype(np.int64)


def temporal_weights(targets: FrameTargets, offset: float) -> NDArray[np.float64]:
    """(clips,) sum over classes of the clip's active frames * 1000 / (offset + active frames of the class).

    PretrainedSED, data_util/audioset_strong.py.
    """
    clip, label, frames = targets.active_frames()
    of_class = np.bincount(label, weights=frames, minlength=targets.num_classes)
    shares = frames * 1000 / (offset + of_class[label])
    return np.bincount(clip, weights=shares, minlength=len(targets)).astype(np.float64)
