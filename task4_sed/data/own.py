"""Own recordings of any length with a table of events: split by recording, cut into windows of 10 s.

    filename  onset  offset  label  [split]        tabs or commas between; label or event_label; seconds

`split` is train, validation or test, the same in all rows of a recording; a `recording` column names files that belong
together. A row with empty times and label is a recording without events. Files in the folder that the table does not
name are left out. The windows go to `data.store`/NAME_DIGEST, in the sets that `OWN_SETS` names; the digest is of the
table and the content of the files, so that a copy of both finds them again.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.data.audio import Waveform, audio_info, list_audio, read_audio, write_wav
from common.data.files import compute_sha256, digest_files, read_json, write_json, write_text
from common.data.splits import describe_split, split_recordings
from common.errors import UserError
from common.output import Progress, say
from common.runs.folder import make_once
from task4_sed.data.annotations import (
    EVENT_COLUMNS,
    Annotations,
    check_against_durations,
    clip_name,
    read_events,
    read_table,
)
from task4_sed.data.maestro import cut_labels, split_windows, window_name
from task4_sed.data.sets import OWN_SETS, WINDOWS, ClipSet
from task4_sed.labels import CLIP_SECONDS, FRAME_SECONDS, SAMPLE_RATE

PARTS = ("train", "validation", "test")
OTHER_NAMES = {"val": "validation", "valid": "validation", "eval": "test", "evaluation": "test", "training": "train"}
FACTS = "own.json"
HOP_SECONDS = 125 * FRAME_SECONDS
"""Seconds between windows; whole frames, so that the scores of windows join."""
MOST_MEDIAN = 25


@dataclass(frozen=True)
class OwnRecordings:
    """What a table and a folder hold; `files`, `parts` and `durations` are by name of the recording."""

    annotations: Annotations
    files: dict[str, Path]
    parts: dict[str, str]
    notes: tuple[str, ...]
    missing: tuple[str, ...] = ()

    @property
    def events(self) -> pd.DataFrame:
        """Table of clip, onset, offset, event_label."""
        return self.annotations.events

    def rows(self, durations: Mapping[str, float]) -> list[dict[str, Any]]:
        """A row for each part: recordings, seconds, events, classes."""
        rows = []
        for part in PARTS:
            own = [name for name, other in self.parts.items() if other == part]
            events = self.events[self.events["clip"].isin(own)]
            seconds = sum(durations.get(name, 0.0) for name in own)
            counts = {"recordings": len(own), "seconds": round(seconds, 1), "events": len(events)}
            rows.append({"set": part, **counts, "classes": events["event_label"].nunique()})
        return rows


def read_own(table: Path, audio: Path, allow_missing: bool = False) -> OwnRecordings:
    """Read a table of events and find its files.

    Raises:
        UserError: for a wrong table (file and line), files that are missing unless that is allowed, an unknown part.
    """
    if not table.is_file():
        raise UserError(f"There is no table of events {table}; give yours with --data.table (`data check`: --table).")
    annotations = read_events(table)
    raw = read_table(table, EVENT_COLUMNS[:1], "event")
    present = {clip_name(str(path.relative_to(audio))): path for path in list_audio(audio)}
    clips = list(annotations.clips)
    absent = [name for name in clips if name not in present]
    notes = []
    if absent:
        sentence = f"{len(absent)} of the {len(clips)} recordings of {table} are not in {audio} (first {absent[0]})"
        if not allow_missing or len(absent) == len(clips):
            raise UserError(
                f"{sentence}; there is {next(iter(present.values())).relative_to(audio)}. Give the folder where the "
                "names start (--data.audio; `data check`: --audio), or leave them out with --data.allow_missing true."
            )
        notes.append(f"{sentence}; they are left out.")
        clips = [name for name in clips if name in present]
    if extra := len(set(present) - set(annotations.clips)):
        notes.append(f"{extra} files of {audio} are not in {table}; they are left out.")
    events = annotations.events[annotations.events["clip"].isin(clips)]
    if events.empty:
        raise UserError(f"{table} has no event of a recording in {audio}.")
    groups = _column_of(raw, "recording", table) if "recording" in raw else {name: name for name in clips}
    if "split" in raw:
        parts, more = _given_parts(_column_of(raw, "split", table), clips, groups, table)
    else:
        labels: dict[str, set[str]] = {groups[name]: set() for name in clips}
        for name, label in zip(events["clip"], events["event_label"]):
            labels[groups[name]].add(label)
        try:
            of_group = split_recordings(labels, table)
        except UserError as error:
            raise UserError(f"{notes[0]} {error}" if absent else str(error)) from None
        parts, more = {name: of_group[groups[name]] for name in clips}, [describe_split(of_group, table)]
    flat = {name: name.replace("/", "__") for name in clips}
    events = events.assign(clip=events["clip"].map(flat)).reset_index(drop=True)
    return OwnRecordings(
        Annotations(events, tuple(flat.values()), str(table)),
        {flat[name]: present[name] for name in clips},
        {flat[name]: parts[name] for name in clips},
        (*notes, *more),
        tuple(absent),
    )


def _column_of(raw: pd.DataFrame, column: str, table: Path) -> dict[str, str]:
    """The value of a column by recording; refuses a recording with two."""
    found: dict[str, str] = {}
    for line, name, value in zip(raw.index, raw["filename"].map(clip_name), raw[column].fillna("").str.strip()):
        if not value or found.setdefault(name, value) != value:
            what = f"the {column}s {found[name]} and {value}" if value else f"no {column}"
            raise UserError(f"{table}:{line}: {name} has {what}; every row of it needs the same.")
    return found


def _given_parts(
    given: Mapping[str, str], clips: list[str], groups: Mapping[str, str], table: Path
) -> tuple[dict[str, str], list[str]]:
    parts = {name: OTHER_NAMES.get(given[name].lower(), given[name].lower()) for name in clips}
    wrong = sorted(set(parts.values()) - set(PARTS))
    if wrong:
        raise UserError(f"{table}: split {wrong[0]} is none of {', '.join(PARTS)}.")
    if not {"train", "test"} <= set(parts.values()):
        raise UserError(f"{table}: the column split needs train and test (and validation).")
    if "validation" in parts.values():
        return parts, []
    training = sorted({groups[name] for name, part in parts.items() if part == "train"})
    if len(training) < 2:
        raise UserError(f"{table}: one training recording cannot be split; name a validation recording in split.")
    held = set(np.random.default_rng(0).permutation(training)[: max(1, len(training) // 10)].tolist())
    parts |= {name: "validation" for name, part in parts.items() if part == "train" and groups[name] in held}
    return parts, [
        f"{table} names no validation part: {len(held)} of {len(training)} training recordings are held out."
    ]


def prepare_own(
    table: Path, audio: Path, store: Path, name: str, allow_missing: bool = False
) -> tuple[Path, dict[str, Any]]:
    """Cut the windows when they are absent.

    Returns:
        Root of the sets, and facts: name, classes, windows (by part), median (frames by class).
    """
    own = read_own(table, audio, allow_missing)
    contents = digest_files(list(own.files.values()), store / "digests.json")
    facts = repr((compute_sha256(table), sorted(zip(own.files, contents)), sorted(own.parts.items()), HOP_SECONDS, 1))
    digest = hashlib.sha256(facts.encode()).hexdigest()[:12]
    root = next(store.glob(f"*_{digest}"), store / f"{name}_{digest}")  # also those of a folder of another name
    for note in own.notes:
        say(note)
    make_once(root, partial(_write_sets, own, name))
    return root, read_json(root / FACTS, f"delete {root}")


def _write_sets(own: OwnRecordings, name: str, root: Path) -> None:
    durations = {recording: audio_info(path).duration for recording, path in own.files.items()}
    for note in check_against_durations(own.annotations, durations):
        say(note)
    rows: dict[str, list[pd.DataFrame]] = {part: [] for part in PARTS}
    counts, heard = dict.fromkeys(PARTS, 0), set[int]()
    with Progress(f"Cutting {name}", len(own.files), "recordings") as progress:
        for recording, path in own.files.items():
            part, waveform = own.parts[recording], read_audio(path, SAMPLE_RATE).clip(-1, 1)
            events = own.events[own.events["clip"] == recording]
            for window, start, samples in cut_windows(recording, waveform):
                inside = cut_labels(events, start, start + CLIP_SECONDS)
                heard.update(inside.index[inside["offset"] > inside["onset"]])
                rows[part].append(_table_rows(inside, f"{window}.wav"))
                _write(root / OWN_SETS[WINDOWS.get(f"own_{part}", f"own_{part}")].audio[0], window, samples)
                counts[part] += 1
            if part == "test":
                _write(root / OWN_SETS["own_test"].audio[0], recording, waveform)
            progress.advance()
    tested = [recording for recording, part in own.parts.items() if part == "test"]
    whole = {recording: own.events[own.events["clip"] == recording] for recording in tested}
    rows["test"] = [_table_rows(events, f"{recording}.wav") for recording, events in whole.items()]
    for part in PARTS:
        layout = OWN_SETS[f"own_{part}"]
        _write_table(root / str(layout.labels), pd.concat(rows[part]).sort_values("filename", kind="stable"))
    seconds = pd.DataFrame({"filename": tested, "duration": [durations[recording] for recording in tested]})
    _write_table(root / str(OWN_SETS["own_test"].durations), seconds)
    training = own.events[own.events["clip"].map(own.parts) == "train"]
    classes = sorted(set(own.events["event_label"]))
    shown = ", ".join(f"{row['recordings']:,} {row['set']}" for row in own.rows(durations))
    say(
        f"{name}: {len(own.files):,} recordings ({shown}), {sum(durations.values()):,.0f} s, cut into "
        f"{sum(counts.values()):,} windows of {CLIP_SECONDS:g} s; {len(heard):,} of {len(own.events):,} events of "
        f"{len(classes)} classes lie in them. The windows are in {root.parent.parent}."
    )
    write_json(root / FACTS, {"name": name, "classes": classes, "windows": counts, "median": median_lengths(training)})


def cut_windows(recording: str, waveform: Waveform) -> Iterator[tuple[str, float, Waveform]]:
    """Name, start in seconds and samples of each window of a recording at 16 kHz; the last ends with the recording."""
    for window in split_windows(len(waveform), SAMPLE_RATE, HOP_SECONDS):
        start = window.first / SAMPLE_RATE
        yield window_name(recording, window, SAMPLE_RATE), start, waveform[window.first : window.end]


def cut_long(clips: ClipSet, folder: Path) -> ClipSet:
    """The windows of clips of any length, written to a folder."""
    with Progress("Cutting", len(clips), "recordings") as progress:
        for name in clips.filenames:
            waveform = read_audio(clips.folder / name, SAMPLE_RATE).clip(-1, 1)
            for window, _, samples in cut_windows(clip_name(name), waveform):
                _write(folder, window, samples)
            progress.advance()
    names = tuple(sorted(path.name for path in folder.iterdir()))
    return ClipSet("own_test_windows", folder, names, clips.events)


def median_lengths(events: pd.DataFrame) -> dict[str, int]:
    """Frames of a median filter for each class: odd, half of the median length of its events, 1 to 25.

    A filter removes events shorter than half of it, so most events of a class stay.
    """
    lengths = (events["offset"] - events["onset"]).groupby(events["event_label"]).median() / 2 / FRAME_SECONDS
    return {label: int(np.clip(2 * (frames // 2) + 1, 1, MOST_MEDIAN)) for label, frames in lengths.items()}


def _table_rows(events: pd.DataFrame, filename: str) -> pd.DataFrame:
    """Rows of a table; one without event where there is none."""
    if events.empty:
        return pd.DataFrame({"filename": [filename], "onset": np.nan, "offset": np.nan, "event_label": None})
    return events.assign(filename=filename)[list(EVENT_COLUMNS)]


def _write(folder: Path, name: str, waveform: Waveform) -> None:
    write_wav(folder / f"{name}.wav", waveform, SAMPLE_RATE, subtype="PCM_16")


def _write_table(path: Path, table: pd.DataFrame) -> None:
    write_text(path, table.to_csv(sep="\t", index=False, lineterminator="\n"))
