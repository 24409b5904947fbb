"""Checks of output tables: one row per evaluation file, with a column per class."""

import csv
import io
from collections.abc import Iterator

import numpy as np
import pandas as pd

from submissions.checks.registry import Finding, check, shorten
from submissions.reading import Package, System, read_table


@check("table_form")
def tables_have_their_columns(system: System) -> Iterator[Finding]:
    """Output tables have the columns of the rules, in order, and each row is as long as the header."""
    wanted = system.rules.tables.columns
    for name in system.table_names:
        odd = first_odd_row(system, name)
        if odd:
            yield odd
            continue
        found = list(read_table(system.files[name], system.rules.tables.separator).columns)
        if wanted and found != wanted:
            yield Finding(system.place(name, 1), _differing_header(found, wanted))


@check("numbers")
def cells_are_numbers(system: System) -> Iterator[Finding]:
    """Every score is a finite number."""
    for name, table in system.tables():
        scores = score_columns(system, table)
        yield from shorten(bad_cells(system, name, scores, ~np.isfinite(as_numbers(scores)), "is not a finite number"))


@check("labels_known")
def labels_are_known(system: System, *, column: str) -> Iterator[Finding]:
    """Every label is one of the classes."""
    for name, table in system.tables():
        known = table[column].isin(score_columns(system, table).columns)
        rows = np.flatnonzero(~known.to_numpy())
        lines = ((row, table[column].iloc[row]) for row in rows)
        yield from shorten(Finding(system.place(name, row + 2), f"{label!r} is not a class") for row, label in lines)


@check("evaluation_files")
def rows_are_the_evaluation_set(package: Package, *, column: str, prefix: str = "") -> Iterator[Finding]:
    """Every output table holds each file of the evaluation set once, and no other."""
    if package.evaluation is None:
        return  # the rule evaluation_list says so
    wanted = pd.Index(package.evaluation.files).str.removeprefix("audio/").unique()
    for system in package.systems:
        for name, table in system.tables():
            bare = np.flatnonzero(~table[column].str.startswith(prefix).to_numpy())
            if len(bare):
                place = system.place(name, int(bare[0]) + 2)
                yield Finding(place, f"{table[column].iat[bare[0]]!r} must start with {prefix}")
            names = table[column].str.removeprefix("audio/")
            yield from _doubled(system, name, names)
            others = np.flatnonzero(~names.isin(wanted).to_numpy())
            yield from shorten(
                Finding(
                    system.place(name, row + 2), f"{names.iloc[row]!r} is not a file of {package.evaluation.source}"
                )
                for row in others
            )
            missing = wanted.difference(pd.Index(names), sort=False)
            if len(missing):
                sentence = f"{len(missing):,} of {len(wanted):,} files are missing, the first is {missing[0]}"
                yield Finding(system.place(name), sentence)


@check("same_files")
def tables_hold_the_same_files(system: System, *, column: str) -> Iterator[Finding]:
    """Every output table of a system has the same files."""
    tables = list(system.tables())
    first_name, first = tables[0]
    for name, table in tables[1:]:
        odd = np.flatnonzero(~table[column].isin(first[column]).to_numpy())
        if len(odd):
            yield Finding(system.place(name, int(odd[0]) + 2), f"{table[column].iloc[odd[0]]!r} is not in {first_name}")
        lost = np.flatnonzero(~first[column].isin(table[column]).to_numpy())
        if len(lost):
            yield Finding(
                system.place(first_name, int(lost[0]) + 2), f"{first[column].iloc[lost[0]]!r} is not in {name}"
            )


@check("tables_differ")
def tables_differ(system: System) -> Iterator[Finding]:
    """No two output tables of a system hold the same scores."""
    seen: dict[bytes, str] = {}
    for name, table in system.tables():
        scores = score_columns(system, table).to_numpy(dtype=object).astype(str) if _has_text(table) else None
        values = as_numbers(score_columns(system, table)) if scores is None else scores
        content = np.ascontiguousarray(values).tobytes()
        if content in seen:
            yield Finding(system.place(name), f"holds the same scores as {seen[content]}")
        seen[content] = name


@check("not_collapsed")
def rows_are_not_all_equal(system: System) -> Iterator[Finding]:
    """Scores differ between rows."""
    for name, table in system.tables():
        scores = as_numbers(score_columns(system, table))
        if len(scores) > 1 and (scores == scores[0]).all():
            yield Finding(system.place(name), "every row has the same scores: the system has collapsed")


def score_columns(system: System, table: pd.DataFrame) -> pd.DataFrame:
    """The columns that are classes, not names or times."""
    return table.drop(columns=[column for column in ("filename", "scene_label", "index") if column in table.columns])


def as_numbers(table: pd.DataFrame) -> np.ndarray:
    """(rows, columns) float64; what is no number becomes NaN."""
    if all(kind.kind in "fi" for kind in table.dtypes):
        return table.to_numpy(dtype=float)
    return table.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)


def bad_cells(system: System, name: str, table: pd.DataFrame, bad: np.ndarray, sentence: str) -> list[Finding]:
    """A finding for each True in `bad` (rows, columns)."""
    cells = np.argwhere(bad)
    return [
        Finding(system.place(name, int(row) + 2), f"{table.columns[column]} {table.iat[row, column]} {sentence}")
        for row, column in cells[:1000]
    ]


def _has_text(table: pd.DataFrame) -> bool:
    return any(kind.kind == "O" for kind in table.dtypes.drop(labels=["filename", "scene_label"], errors="ignore"))


def _doubled(system: System, name: str, names: pd.Series) -> Iterator[Finding]:
    rows = np.flatnonzero(names.duplicated().to_numpy())
    yield from shorten(
        Finding(system.place(name, int(row) + 2), f"{names.iloc[row]!r} stands here for the second time")
        for row in rows
    )


def first_odd_row(system: System, name: str) -> Finding | None:
    """Where a table stops being one: text that is not UTF-8, a row shorter or longer than the header."""
    separator = system.rules.tables.separator
    content = system.files[name].read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return Finding(system.place(name, content[: error.start].count(b"\n") + 1), "is not UTF-8")
    quoting = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting, strict=True)
    length = None
    try:
        for row in reader:
            length = len(row) if length is None else length
            if len(row) != length:
                return Finding(system.place(name, reader.line_num), f"{len(row)} fields, the header has {length}")
    except csv.Error as error:
        return Finding(system.place(name, reader.line_num), f"is not a row of a table: {error}")
    return None if length else Finding(system.place(name), "is empty")


def _differing_header(found: list[str], wanted: list[str]) -> str:
    for number, (have, want) in enumerate(zip(found, wanted), start=1):
        if have != want:
            return f"column {number} is {have!r}, expected {want!r}"
    if len(found) < len(wanted):
        return f"{len(found)} columns, the last {wanted[len(found) :]} are missing"
    return f"{len(found)} columns, expected {len(wanted)}; the first too many is {found[len(wanted)]!r}"
