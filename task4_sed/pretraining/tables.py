"""The official tables of AudioSet strong: events by clip, durations, and which clips there are."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.data.keyed_outputs import clip_key
from common.data.labels import label_table
from common.errors import UserError

COLUMNS = ("segment_id", "start_time_seconds", "end_time_seconds", "label")
CLIP_SECONDS = 10.0
ALLOWED_PAST_END = 0.5
"""Seconds that an event may reach beyond 10 s; farther than that a table is not the official one."""


@dataclass(frozen=True)
class StrongEvents:
    """Events of clips; those of one class that overlap or touch are one.

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
        """Only events of these classes, whose indices are then those of `names`; clips stay."""
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
            that are no numbers, an event that ends before it starts or lies past the end of its clip.
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
    columns = merge_touching(clip[long], label.to_numpy(dtype=np.int64)[long], onset[long], offset[long])
    starts = np.searchsorted(columns[0], np.arange(len(names) + 1))
    return StrongEvents(tuple(names.tolist()), classes, starts, *columns[1:])


def merge_touching(
    clip: NDArray, label: NDArray, onset: NDArray, offset: NDArray
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Join events of one class and clip that overlap or touch; sorted by clip, class, onset. All arrays (events,)."""
    order = np.lexsort((onset, label, clip))
    clip, label, onset, offset = clip[order], label[order], onset[order], offset[order]
    if not len(clip):
        return clip, label, onset, offset
    first = np.append(True, (clip[1:] != clip[:-1]) | (label[1:] != label[:-1]))
    # The running maximum starts again in each class: its series lie one above the other, far apart.
    lift = (np.cumsum(first) - 1) * (offset.max() + 1)
    reach = np.maximum.accumulate(offset + lift)
    begins = first | np.append(True, onset[1:] + lift[1:] > reach[:-1])
    heads = np.flatnonzero(begins)
    return clip[heads], label[heads], onset[heads], np.maximum.reduceat(offset, heads)


def read_durations(path: Path) -> dict[str, float]:
    """Seconds of clips from a table with file name and duration.

    Raises:
        UserError: if it is missing, has other columns, or a duration that is no positive number.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no table of durations {path}; it is eval_durations.csv of fschmid56/PretrainedSED.")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    if not rows or not {"filename", "duration"} <= set(rows[0]):
        raise UserError(f"{path}:1 has no columns filename and duration.")
    durations = {}
    for line, row in enumerate(rows, start=2):
        try:
            seconds = float(row["duration"])
        except (TypeError, ValueError):
            seconds = float("nan")
        if not seconds > 0:
            raise UserError(f"{path}:{line}: the duration of {row['filename']} is {row['duration']}, not seconds > 0.")
        durations[clip_key(row["filename"])] = seconds
    return durations


def ranges(starts: NDArray, counts: NDArray) -> NDArray[np.int64]:
    """start, start + 1, ... of each range, one after another."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts - starts, counts)


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"There is no table {path}; get it from research.google.com/audioset/download_strong.html.")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        head = file.readline()
    separator = "\t" if "\t" in head else ","
    try:
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path} is no table with {', '.join(COLUMNS)} ({str(error).strip()}).") from error
    if "segment_id" not in table and len(table.columns) >= len(COLUMNS):
        table = table.rename(columns={table.columns[0]: "segment_id"})  # PretrainedSED's csv names its index nothing
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
        raise UserError(f"{path}:{rows[0] + 2} {what.format(**table.iloc[rows[0]])}.{more}")
