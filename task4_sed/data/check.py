"""`data check`: counts of each set against the published ones, missing clips, files against their rows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.data.audio import AudioError, AudioInfo
from common.data.check_report import CheckReport, read_headers
from common.data.files import is_made_up
from common.errors import UserError
from task4_sed.data import sets
from task4_sed.data.annotations import check_against_durations, clip_name
from task4_sed.data.maestro import recording_name
from task4_sed.data.own import read_own

SHOWN = 5
TOLERANCE = 0.11
"""Largest difference in seconds of a file and its row: durations are published with one decimal."""


@dataclass
class SetsReport(CheckReport):
    """Result of `check_data`; `missing` holds the clips without audio, by set."""

    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)


def check_data(root: Path, num_workers: int = 8) -> SetsReport:
    """Compare every set with its published number of clips, made-up data with the number made.

    Optional sets (public evaluation, evaluation 2024) may be absent; whatever else cannot be used is a problem. The
    files of a set without its table are checked, too.
    """
    report = SetsReport(Path(root), is_made_up(root))
    for name, layout in sets.SETS.items():
        try:
            clips = sets.read_set(root, name, allow_missing=True)
        except UserError as error:
            if not layout.optional or any((report.root / folder).exists() for folder in layout.audio):
                report.problems.append(str(error))
            clips = sets.folder_clips(root, name)
            report.rows.append({"set": name, "clips": len(clips), "published": sets.published_clips(root, name)})
            if len(clips):
                report.problems += _file_problems(report.root, clips, num_workers)
            continue
        _check_set(report, clips, num_workers)
    return report


def check_own(table: Path, audio: Path, num_workers: int = 8) -> SetsReport:
    """Read a table of own events, and every file that it names."""
    report = SetsReport(table, made_up=is_made_up(audio))
    try:
        own = read_own(table, audio, allow_missing=True)
    except UserError as error:
        report.problems.append(str(error))
        return report
    report.missing, report.notes = {"own": own.missing} if own.missing else {}, list(own.notes)
    seconds, damaged = _read_durations(own.files, str(audio), num_workers)
    report.problems += ([own.notes[0]] if own.missing else []) + damaged
    report.rows += own.rows(seconds)
    if not damaged:
        try:
            report.notes += check_against_durations(own.annotations, seconds)
        except UserError as error:
            report.problems.append(str(error))
    return report


def _check_set(report: SetsReport, clips: sets.ClipSet, num_workers: int) -> None:
    listed, published = len(clips) + len(clips.missing), sets.published_clips(report.root, clips.name)
    row = {"set": clips.name, "clips": len(clips), "missing": len(clips.missing), "published": published}
    report.rows.append(row | {"events": len(clips.events), "labels": clips.layout.kind})
    if clips.missing:
        report.missing[clips.name] = clips.missing
        report.problems.append(sets.missing_sentence(clips.name, len(clips.missing), listed, clips.missing))
    if published is not None and listed != published:
        report.problems.append(
            f"The set {clips.name} lists {listed} clips, published are {published}; get its table (or folder) again."
        )
    report.problems += _file_problems(report.root, clips, num_workers)


def _file_problems(root: Path, clips: sets.ClipSet, num_workers: int) -> Iterator[str]:
    """Files that are damaged, differ from their duration, or end before their labels."""
    files = {name: clips.folder / name for name in clips.filenames}
    seconds, damaged = _read_durations(files, clips.name, num_workers)
    if damaged:
        more = f" And {len(damaged) - 1} more of the set {clips.name}." if len(damaged) > 1 else ""
        yield f"{damaged[0]}{more}"
        return
    try:
        sets.check_lengths(clips, seconds)
    except UserError as error:
        yield str(error)
    if clips.layout.durations is None:
        return
    try:
        table = sets.set_durations(root, clips.name)
    except UserError as error:
        yield str(error)
        return
    yield from _compare_durations(clips, seconds, table)


def _read_durations(files: Mapping[str, Path], what: str, num_workers: int) -> tuple[dict[str, float], list[str]]:
    """Seconds of each file by name, and a sentence for each damaged one."""
    headers = read_headers(list(files.values()), f"Checking {what}", num_workers)
    seconds = {name: header.duration for name, header in zip(files, headers) if isinstance(header, AudioInfo)}
    return seconds, [str(header) for header in headers if isinstance(header, AudioError)]


def _compare_durations(clips: sets.ClipSet, seconds: dict[str, float], table: dict[str, float]) -> Iterator[str]:
    maestro = clips.layout.domain == "maestro"
    rows = {name: recording_name(name) if maestro else clip_name(name) for name in clips.filenames}
    absent = [name for name, row in rows.items() if row not in table]
    if absent:
        yield f"{clips.layout.durations} has no row for {len(absent)} clips of the set {clips.name}, first {absent[0]}."
    if maestro:
        return
    wrong = [name for name in seconds if rows[name] in table and abs(seconds[name] - table[rows[name]]) > TOLERANCE]
    if wrong:
        told = ", ".join(f"{name} {seconds[name]:.2f} s, row {table[rows[name]]:g} s" for name in wrong[:SHOWN])
        yield f"{len(wrong)} clips of the set {clips.name} are longer or shorter than {clips.layout.durations}: {told}."
