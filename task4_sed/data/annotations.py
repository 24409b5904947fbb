"""Ground truth and durations of sound event detection, read and checked.

Tables are tab separated. Events: `filename onset offset event_label` (or `label`; in seconds; a clip without events is
one row with empty cells), for soft labels also `confidence`. Durations: `filename duration`. Clips are named without
audio ending, so `a.wav`, `a.flac` and a score table `a.tsv` are the same clip.
"""

import csv
import io
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.data.audio import ENDINGS
from common.data.keyed_outputs import MORE_ENDINGS
from common.errors import UserError

EVENT_COLUMNS = ("filename", "onset", "offset", "event_label")
# The published DESED validation labels reach up to 0.12 s past durations that are rounded to 0.1 s.
ALLOWED_PAST_END = 0.5


@dataclass(frozen=True)
class Annotations:
    """Events of a set of clips.

    events: table with columns clip, onset, offset, event_label, line (in its file) and, for soft labels, confidence.
    clips: every clip of the table, with events or without, in order of appearance.
    source: file, for messages.
    """

    events: pd.DataFrame
    clips: tuple[str, ...]
    source: str

    def where(self, row: int) -> str:
        """`file:line` of the event in this row of the table."""
        line = int(self.events["line"].iloc[row])
        return f"{self.source}:{line}" if line else f"{self.source}, event {row + 1}"


GroundTruthSource: TypeAlias = Annotations | str | Path | pd.DataFrame | Mapping[str, list]
DurationsSource: TypeAlias = str | Path | pd.DataFrame | pd.Series | Mapping[str, float]


def clip_name(filename: str) -> str:
    """`Y1_30.000_40.000.wav` to `Y1_30.000_40.000`; other dots than that of an audio ending stay.

    Names are in the Unicode form NFC: a Mac writes an accent as a character of its own.
    """
    name = unicodedata.normalize("NFC", str(filename))
    stem, dot, ending = name.rpartition(".")
    return stem if dot and f".{ending.lower()}" in ENDINGS | MORE_ENDINGS else name


def read_events(source: GroundTruthSource) -> Annotations:
    """Events of a table, a data frame with the same columns, or a mapping of clip to (onset, offset, label).

    Events without length stay: a training draws no frame for them, metrics leave them out.

    Raises:
        UserError: with file and line, for a missing file or column, times that are not numbers, negative or swapped,
            an event without label, a confidence outside 0..1.
    """
    if isinstance(source, Annotations):
        return source
    if isinstance(source, Mapping):
        rows = [(clip, *event[:3]) for clip, events in source.items() for event in events]
        table = pd.DataFrame(rows, columns=list(EVENT_COLUMNS))
        return _check_events(table, tuple(clip_name(clip) for clip in source), "ground truth")
    if isinstance(source, pd.DataFrame):
        return _check_events(source, None, "ground truth")
    table = read_table(Path(source), EVENT_COLUMNS, "ground truth")
    return _check_events(table, None, str(source), lines=table.index.to_numpy())


def _check_events(
    table: pd.DataFrame, clips: tuple[str, ...] | None, source: str, lines: NDArray | None = None
) -> Annotations:
    table = table.reset_index(drop=True)
    missing = [name for name in EVENT_COLUMNS if name not in table.columns]
    if missing:
        raise UserError(f"{source} has no column {missing[0]}; events need {', '.join(EVENT_COLUMNS)}.")
    label = table["event_label"].astype("string").str.strip()
    names = table["filename"].astype("string").str.strip()
    events = pd.DataFrame(
        {
            "clip": names.map(clip_name, na_action="ignore"),
            "onset": pd.to_numeric(table["onset"], errors="coerce").astype(float),
            "offset": pd.to_numeric(table["offset"], errors="coerce").astype(float),
            "event_label": label.mask(label == ""),
            "line": np.zeros(len(table), dtype=int) if lines is None else lines,
        }
    )
    if "confidence" in table.columns:
        events["confidence"] = pd.to_numeric(table["confidence"], errors="coerce").astype(float)
    if clips is None:
        clips = tuple(dict.fromkeys(events["clip"].dropna()))
    empty_onset = table["onset"].isna() | (table["onset"].astype("string").str.strip() == "")
    empty_offset = table["offset"].isna() | (table["offset"].astype("string").str.strip() == "")
    without_event = events["event_label"].isna() & empty_onset & empty_offset
    result = Annotations(events, clips, source)
    _refuse(result, events["clip"].isna() | (names == ""), "has no file name")
    _refuse(result, ~without_event & events["event_label"].isna(), "has times but no event_label")
    times = events["onset"].notna() & events["offset"].notna()
    finite = np.isfinite(events["onset"]) & np.isfinite(events["offset"])
    _refuse(result, ~without_event & ~(times & finite), "has an onset or offset that is not a number of seconds")
    _refuse(result, events["onset"] < 0, "starts before its clip, at {onset:g} s")
    swapped = events["offset"] < events["onset"]
    _refuse(result, swapped, "ends at {offset:g} s, before its onset at {onset:g} s; are the columns swapped?")
    if "confidence" in events.columns:
        outside = ~without_event & ~events["confidence"].between(0, 1)
        _refuse(result, outside, "has confidence {confidence:g}, outside 0..1")
    events = events[~without_event].reset_index(drop=True)
    for column in ("clip", "event_label"):
        events[column] = events[column].astype(object)
    return Annotations(events, clips, source)


def _refuse(annotations: Annotations, wrong: pd.Series, message: str) -> None:
    rows = np.flatnonzero(wrong.fillna(False).to_numpy(dtype=bool))
    if not len(rows):
        return
    first = annotations.events.iloc[rows[0]]
    who = "the event" if pd.isna(first["event_label"]) else f"the event {first['event_label']}"
    what = message.format(**{key: value for key, value in first.items() if isinstance(value, float)})
    more = f" {len(rows)} rows are like this." if len(rows) > 1 else ""
    end = "" if what.endswith("?") else "."
    raise UserError(f"{annotations.where(rows[0])}: {who} of {first['clip']} {what}{end}{more}")


def read_durations(source: DurationsSource) -> dict[str, float]:
    """Seconds of each clip.

    Raises:
        UserError: with file and line, for a missing file or column, a duration that is no positive number, a clip
            with two different durations.
    """
    name = "durations"
    if isinstance(source, (Mapping, pd.Series)):
        table = pd.DataFrame(list(source.items()), columns=["filename", "duration"])
    elif isinstance(source, pd.DataFrame):
        table = source
    else:
        name, table = str(source), read_table(Path(source), ("filename", "duration"), "durations")
    missing = [column for column in ("filename", "duration") if column not in table.columns]
    if missing:
        raise UserError(f"{name} has no column {missing[0]}; durations need filename and duration.")
    seconds = pd.to_numeric(table["duration"], errors="coerce").to_numpy(dtype=float)
    durations: dict[str, float] = {}
    for line, filename, value, cell in zip(table.index, table["filename"], seconds, table["duration"]):
        where = name if name == "durations" else f"{name}:{line}"
        if not (np.isfinite(value) and value > 0):
            raise UserError(f"{where}: the duration of {filename} is {cell}, not seconds > 0.")
        clip = clip_name(str(filename).strip())
        if durations.setdefault(clip, float(value)) != value:
            raise UserError(f"{where}: {filename} has the durations {durations[clip]:g} s and {value:g} s.")
    return durations


def check_against_durations(annotations: Annotations, durations: Mapping[str, float]) -> list[str]:
    """Refuse events after the end of their clip; returns a note on events that end slightly late.

    Events are never cut: the official evaluation keeps them as published.

    Raises:
        UserError: with file and line, if an event starts after its clip or ends over 0.5 s after it.
    """
    events = annotations.events
    duration = events["clip"].map(durations).to_numpy(dtype=float)
    past = events["offset"].to_numpy() - duration
    wrong = (events["onset"].to_numpy() >= duration) | (past > ALLOWED_PAST_END)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        event = events.iloc[row]
        raise UserError(
            f"{annotations.where(row)}: the event {event['event_label']} of {event['clip']} lasts from "
            f"{event['onset']:g} to {event['offset']:g} s, but the clip ends at {duration[row]:g} s."
        )
    late = past > 1e-6
    if not late.any():
        return []
    return [f"{late.sum()} events end up to {past[late].max():.2f} s after their clip; they are kept as published."]


def merge_overlapping(events: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Merge events of one class and clip that overlap or touch; returns the table and how many events disappeared.

    Both metric packages refuse such events: PSDS counts an event once.
    """
    clip, label = (pd.factorize(events[name], sort=True)[0] for name in ("clip", "event_label"))
    onset, offset = (events[name].to_numpy(dtype=float) for name in ("onset", "offset"))
    first, offset = merge_touching(clip, label, onset, offset)
    merged = events.iloc[first].assign(offset=offset).reset_index(drop=True)
    return merged, len(events) - len(merged)


def merge_touching(clip: NDArray, label: NDArray, onset: NDArray, offset: NDArray) -> tuple[NDArray, NDArray]:
    """Merge events of one class and clip that overlap or touch.

    Args:
        clip, label, onset, offset: (events,), the first two as numbers.

    Returns:
        Index of the first event of each merged one, sorted by clip, class, onset; and the offsets of the merged ones.
    """
    order = np.lexsort((onset, label, clip))
    clip, label, onset, offset = clip[order], label[order], onset[order], offset[order]
    if not len(clip):
        return order, offset
    first = np.append(True, (clip[1:] != clip[:-1]) | (label[1:] != label[:-1]))
    # The running maximum restarts in each class: the series of the classes lie one above the other, far apart.
    lift = (np.cumsum(first) - 1) * (offset.max() + 1)
    reach = np.maximum.accumulate(offset + lift)
    heads = np.flatnonzero(first | np.append(True, onset[1:] + lift[1:] > reach[:-1]))
    return order[heads], np.maximum.reduceat(offset, heads)


def read_table(path: Path, columns: Sequence[str], what: str) -> pd.DataFrame:
    """A tab- or comma-separated table with these columns, every cell as text; empty cells become NaN.

    Blank lines and empty cells after the last column are no part of it.

    Returns:
        The table; the row on line n of the file has the index n.

    Raises:
        UserError: if it is missing, no text, lacks a column, or has a row with more cells than columns.
    """
    if not path.is_file():
        raise UserError(f"There is no {what} table {path}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        body = text.lstrip()
        first = text[: len(text) - len(body)].count("\n") + 1
        head, _, rows = (part.rstrip() for part in body.partition("\n"))
        separator = "," if "\t" not in head and "," in head else "\t"  # older systems left comma-separated tables
        quoting: Literal[0, 3] = csv.QUOTE_NONE if separator == "\t" and '"' not in head else csv.QUOTE_MINIMAL
        names = [name.strip() for name in next(csv.reader([head], delimiter=separator, quoting=quoting), [])]
        if "event_label" in columns and "event_label" not in names:
            names = ["event_label" if name == "label" else name for name in names]
        while names and not names[-1]:
            names.pop()
        width = max(len(names), *(line.count(separator) + 1 for line in rows.split("\n")))
        table = pd.read_csv(
            io.StringIO(rows + "\n"), sep=separator, header=None, names=range(width), index_col=False, dtype=str,
            keep_default_na=False, na_values=["", "nan", "NaN"], skip_blank_lines=False, quoting=quoting,
        )  # fmt: skip
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{path} is no tab-separated table with {', '.join(columns)} ({reason}).") from error
    if len(table) != rows.count("\n") + 1:
        raise UserError(f"{path} has a quotation mark that is not closed on its line.")
    table.index += first + 1
    table = table.where(table.apply(lambda column: column.str.strip() != ""))
    table = table[table.notna().any(axis=1)]
    beyond = table.index[table.iloc[:, len(names) :].notna().any(axis=1)]
    if len(beyond):
        cells = int(table.loc[beyond[0]].notna().to_numpy().nonzero()[0][-1]) + 1
        raise UserError(f"{path}:{beyond[0]} has {cells} cells under {len(names)} columns; is there a tab too many?")
    table = table.iloc[:, : len(names)].set_axis(names, axis=1)
    missing = [name for name in columns if name not in names]
    if missing:
        found = ", ".join(names)
        raise UserError(
            f"{path}:{first}: no column {missing[0]} in the {what} table; it has {found} (tabs between them?)."
        )
    for name in columns:
        if names.count(name) > 1:
            raise UserError(f"{path}:{first}: the {what} table has two columns {name}.")
    return table
