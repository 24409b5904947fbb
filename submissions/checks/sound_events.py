"""Checks of Task 4, sound event detection: a folder of score tables per run, and the energy."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from submissions.checks.meta import number
from submissions.checks.registry import Finding, check, shorten
from submissions.checks.tables import COPIED_SHARE, differing_header
from submissions.reading import NeedsOption, System, Unreadable

TIME_TOLERANCE = 1e-6


@dataclass
class ScoreTable:
    """Summary of one table; the scores themselves are not kept.

    sketch: each class's mean and highest score, (2 classes,).
    mistakes: rule to line and sentence of the first.
    """

    place: str
    sketch: np.ndarray = field(default_factory=lambda: np.zeros(0))
    end: float = np.nan
    constant: bool = False
    mistakes: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, rule: str, line: int, sentence: str) -> None:
        """Add a mistake, unless there is one already."""
        self.mistakes.setdefault(rule, (line, sentence))


Runs = dict[str, dict[str, ScoreTable]]
"""Folder of a run to clip to table."""


@check("score_columns")
def score_tables_have_their_columns(system: System) -> Iterator[Finding]:
    """Score tables have onset, offset and the classes in order, and each row is as long as the header."""
    yield from _first_mistakes(system, "form")


@check("score_numbers")
def scores_are_numbers(system: System) -> Iterator[Finding]:
    """Every time and score is a finite number, scores from 0 to 1."""
    yield from _first_mistakes(system, "numbers")


@check("frames")
def frames_follow_each_other(system: System) -> Iterator[Finding]:
    """Frames start at 0, have a length, and each starts where the one before ends."""
    yield from _first_mistakes(system, "frames")


@check("durations")
def tables_last_as_long_as_their_clips(system: System, *, tolerance: float, padded_to: float) -> Iterator[Finding]:
    """Score tables reach the end of their clip and end alike in every run."""
    durations = system.known_evaluation.durations if system.known_evaluation else {}
    by_stem = {Path(name).stem: seconds for name, seconds in durations.items()}
    runs = score_runs(system)
    first = next(iter(runs.values()))
    findings = []
    for clip, table in ((clip, table) for run in runs.values() for clip, table in run.items()):
        duration = by_stem.get(clip)
        if duration is not None and table.end < duration - tolerance:
            findings.append(Finding(table.place, f"ends at {table.end:g} s, but the clip lasts {duration:g} s"))
        elif duration is not None and table.end > max(duration, padded_to) + tolerance:
            findings.append(Finding(table.place, f"ends at {table.end:g} s, after the clip's {duration:g} s"))
        elif clip in first and abs(table.end - first[clip].end) > tolerance:
            sentence = f"ends at {table.end:g} s, but at {first[clip].end:g} s in {first[clip].place}"
            findings.append(Finding(table.place, sentence))
    yield from shorten(findings)
    unknown = [name for name in system.evaluation("durations").files if Path(name).stem not in by_stem]
    if unknown:
        raise NeedsOption(f"the duration of {unknown[0]} is not known; give --evaluation_set")


@check("same_clips")
def runs_hold_the_same_clips(system: System, *, folders: list[str]) -> Iterator[Finding]:
    """Every run, unprocessed or not, has a table for each clip of the evaluation set."""
    runs = score_runs(system)
    every = set().union(*runs.values())
    if system.known_evaluation:
        every = {Path(name).stem for name in system.known_evaluation.files}
    for folder in [pattern.format(label=system.label) for pattern in folders]:
        missing = sorted(every - set(runs.get(folder, ())))
        if missing:
            sentence = f"{len(missing)} of {len(every)} clips are missing, the first is {missing[0]}.tsv"
            yield Finding(system.place(folder), sentence)
    for tables in runs.values():
        others = sorted(set(tables) - every)
        yield from shorten(Finding(tables[clip].place, "is no clip of the evaluation set") for clip in others)
    system.evaluation()


@check("runs_independent")
def runs_are_independent(system: System) -> Iterator[Finding]:
    """Runs are of independent trainings: their scores differ, also up to scale."""
    runs = score_runs(system)
    if len({_run_number(folder) for folder in runs}) == 1:
        raise Unreadable("there is one run only")
    for (other_folder, others), (folder, tables) in combinations(runs.items(), 2):
        if _run_number(folder) == _run_number(other_folder):
            continue
        shared = [clip for clip in tables if clip in others and not (tables[clip].constant or others[clip].constant)]
        equal = sum(_alike(tables[clip], others[clip]) for clip in shared)
        if equal > COPIED_SHARE * len(shared):
            sentence = f"{equal} of {len(shared)} tables are the same as in {other_folder}: train each run anew"
            yield Finding(system.place(folder), sentence)


@check("postprocessed")
def post_processing_changes_something(system: System) -> Iterator[Finding]:
    """Post-processed scores differ from unprocessed ones (a warning where they do not)."""
    runs = score_runs(system)
    pairs = {folder: folder.replace(".output", "_unprocessed.output") for folder in runs}
    pairs = {folder: raw for folder, raw in pairs.items() if raw in runs}
    if not pairs:
        raise Unreadable("no run has scores of both kinds")
    for folder, raw in pairs.items():
        shared = set(runs[folder]) & set(runs[raw])
        if all(np.array_equal(runs[folder][clip].sketch, runs[raw][clip].sketch) for clip in shared):
            yield Finding(system.place(folder), "holds the same scores as its unprocessed folder", "warning")


@check("scores_vary")
def scores_vary(system: System) -> Iterator[Finding]:
    """Scores vary within at least one clip of a run."""
    for folder, tables in score_runs(system).items():
        if tables and all(table.constant for table in tables.values()):
            yield Finding(system.place(folder), "every table holds one score throughout: the system has collapsed")


@check("energy")
def energy_is_measured(system: System, *, files: dict[str, str], tolerance: float) -> Iterator[Finding]:
    """Energy figures agree with the submitted CodeCarbon csv files."""
    for key, pattern in files.items():
        name = pattern.format(label=system.label)
        if name not in system.files:
            raise Unreadable(f"{name} is missing")
        try:
            table = pd.read_csv(system.files[name])
        except (ValueError, pd.errors.ParserError):
            yield Finding(system.place(name), "is not a csv of CodeCarbon")
            continue
        missing = [column for column in ("run_id", "duration", "energy_consumed") if column not in table.columns]
        if missing or table.empty:
            yield Finding(system.place(name, 1), f"has no {missing[0]} column" if missing else "has no rows")
            continue
        # A tracker that is flushed writes the energy so far, again and again: the last row of each run counts.
        last = table.groupby("run_id", sort=False)["energy_consumed"].last()
        used = pd.to_numeric(last.astype(str), errors="coerce")  # as text, in which True is no number
        given = number(system, "system", "energy", key)
        if not any(abs(given - kwh) <= tolerance * abs(kwh) for kwh in (used.sum(), used.mean())):
            sentence = f"system.energy.{key} is {given:g} kWh, but {name} sums to {used.sum():g} kWh"
            yield Finding(system.meta_place("system", "energy", key), sentence)


@check("energy_ratios")
def energy_ratios_are_right(system: System, *, ratios: dict[str, list[str]]) -> Iterator[Finding]:
    """Energy relative to the baseline on the same hardware is the quotient of the figures."""
    for key, (numerator, denominator) in ratios.items():
        given = number(system, "system", "energy", key)
        reference = number(system, "system", "energy", denominator)
        quotient = number(system, "system", "energy", numerator) / reference if reference else np.inf
        if abs(given - quotient) > 0.02 * quotient:
            sentence = f"system.energy.{key} is {given:g}, but {numerator} / {denominator} is {quotient:.4g}"
            yield Finding(system.meta_place("system", "energy", key), sentence)


@cache
def score_runs(system: System) -> Runs:
    """Every score folder of a system, its tables examined once; Unreadable if there is none."""
    runs: Runs = {}
    pattern = re.compile(rf"({re.escape(system.label)}_run\d+(?:_unprocessed)?\.output)/([^/]+)\.tsv")
    for match in filter(None, map(pattern.fullmatch, system.files)):
        runs.setdefault(match[1], {})[match[2]] = _examine(system, match[0])
    if not runs:
        raise Unreadable(f"there is no folder {system.label}_run1.output with score tables")
    return runs


def _run_number(folder: str) -> str:
    return re.sub(r".*_run(\d+)(_unprocessed)?\.output", r"\1", folder)


def _alike(own: ScoreTable, other: ScoreTable) -> bool:
    """Whether two tables hold the same scores, or multiples of them."""
    totals = own.sketch.sum(), other.sketch.sum()
    if own.sketch.shape != other.sketch.shape or not np.isfinite(totals).all() or 0 in totals:
        return False
    return np.allclose(own.sketch / totals[0], other.sketch / totals[1], rtol=1e-3, atol=1e-6)


def _first_mistakes(system: System, rule: str) -> Iterator[Finding]:
    tables = (table for run in score_runs(system).values() for table in run.values())
    mistakes = ((table.place, *table.mistakes[rule]) for table in tables if rule in table.mistakes)
    yield from shorten(Finding(f"{place}:{line}", sentence) for place, line, sentence in mistakes)


def _examine(system: System, name: str) -> ScoreTable:
    table = ScoreTable(system.place(name))
    header, _, body = system.files[name].read_bytes().replace(b"\r\n", b"\n").partition(b"\n")
    columns = header[:10_000].decode("utf-8", "replace").split("\t")
    wanted = system.rules.tables.columns
    if columns != wanted:
        table.add("form", 1, differing_header(columns, wanted))
        return table
    rows = body.removesuffix(b"\n").split(b"\n")
    lengths = np.array([row.count(b"\t") + 1 for row in rows])
    if (lengths != len(columns)).any():
        line = int(np.flatnonzero(lengths != len(columns))[0])
        table.add("form", line + 2, f"{lengths[line]} fields, the header has {len(columns)}")
        return table
    try:
        values = np.array(b"\t".join(rows).split(b"\t"), dtype=float).reshape(-1, len(columns))
    except ValueError:  # a field that is no number becomes NaN
        fields = pd.DataFrame([row.decode("utf-8", "replace").split("\t") for row in rows])
        values = fields.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    _examine_values(table, values, columns)
    return table


def _examine_values(table: ScoreTable, values: np.ndarray, columns: list[str]) -> None:
    times, scores = values[:, :2], values[:, 2:]
    table.sketch = np.concatenate([scores.mean(axis=0), scores.max(axis=0)])
    table.end = float(values[-1, 1])
    table.constant = bool((scores == scores[0, 0]).all())
    for row, column in np.argwhere(~np.isfinite(values))[:1]:
        table.add("numbers", int(row) + 2, f"{columns[column]} is {values[row, column]:g}, no finite number")
    for row, column in np.argwhere((scores < 0) | (scores > 1))[:1]:
        if np.isfinite(scores[row, column]):
            sentence = f"{columns[column + 2]} is {scores[row, column]:g}, not from 0 to 1"
            table.add("numbers", int(row) + 2, sentence)
    if abs(times[0, 0]) > TIME_TOLERANCE:
        table.add("frames", 2, f"the first frame starts at {times[0, 0]:g} s, not 0")
    for row in np.flatnonzero(times[:, 1] <= times[:, 0])[:1]:
        table.add("frames", int(row) + 2, f"the frame from {times[row, 0]:g} to {times[row, 1]:g} s has no length")
    for row in np.flatnonzero(np.abs(times[1:, 0] - times[:-1, 1]) > TIME_TOLERANCE)[:1]:
        sentence = f"the frame starts at {times[row + 1, 0]:g} s, the previous one ends at {times[row, 1]:g} s"
        table.add("frames", int(row) + 3, sentence)
