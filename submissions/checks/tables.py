"""Checks of output tables: one row per evaluation file, with a column per class."""

import csv
import io
from collections.abc import Iterator

import numpy as np
import pandas as pd

from submissions.checks.registry import Finding, check, row_findings
from submissions.reading import System, csv_quoting, read_table


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
            yield Finding(system.place(name, 1), differing_header(found, wanted))


@check("numbers")
def cells_are_numbers(system: System) -> Iterator[Finding]:
    """Every score is a finite number."""
    for name, table in system.tables():
        scores = score_columns(table)
        yield from bad_cells(system, name, scores, ~np.isfinite(as_numbers(scores)), "not a finite number")


@check("labels_known")
def labels_are_known(system: System, *, column: str) -> Iterator[Finding]:
    """Every label is one of the classes."""
    for name, table in system.tables():
        labels = table[column]
        rows = np.flatnonzero(~labels.isin(score_columns(table).columns))
        yield from row_findings(system, name, ((row, f"{labels.iat[row]!r} is not a class") for row in rows))


@check("evaluation_files")
def rows_are_the_evaluation_set(system: System, *, column: str, prefix: str = "") -> Iterator[Finding]:
    """Every output table lists each file of the evaluation set once, and no other."""
    if system.evaluation is None:
        return  # the rule evaluation_list says so
    source = system.evaluation.source
    wanted = pd.Index(system.evaluation.files).str.removeprefix("audio/").unique()
    for name, table in system.tables():
        for row in np.flatnonzero(~table[column].str.startswith(prefix))[:1]:
            yield Finding(system.row_place(name, row), f"{table[column].iat[row]!r} must start with {prefix}")
        names = table[column].str.removeprefix("audio/")
        doubled, others = np.flatnonzero(names.duplicated()), np.flatnonzero(~names.isin(wanted))
        yield from row_findings(system, name, ((row, f"{names.iat[row]!r} is listed twice") for row in doubled))
        strange = ((row, f"{names.iat[row]!r} is not a file of {source}") for row in others)
        yield from row_findings(system, name, strange)
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
        for row in np.flatnonzero(~table[column].isin(first[column]))[:1]:
            yield Finding(system.row_place(name, row), f"{table[column].iat[row]!r} is not in {first_name}")
        for row in np.flatnonzero(~first[column].isin(table[column]))[:1]:
            yield Finding(system.row_place(first_name, row), f"{first[column].iat[row]!r} is not in {name}")


@check("tables_differ")
def tables_differ(system: System) -> Iterator[Finding]:
    """No two output tables of a system hold the same scores."""
    seen: dict[bytes, str] = {}
    for name, table in system.tables():
        scores = score_columns(table)
        has_text = any(kind.kind == "O" for kind in scores.dtypes)
        values = scores.to_numpy(dtype=object).astype(str) if has_text else as_numbers(scores)
        content = np.ascontiguousarray(values).tobytes()
        if content in seen:
            yield Finding(system.place(name), f"holds the same scores as {seen[content]}")
        seen[content] = name


@check("not_collapsed")
def rows_are_not_all_equal(system: System) -> Iterator[Finding]:
    """The answer differs between rows."""
    for name, table in system.tables():
        answers = score_columns(table)
        if len(answers) > 1 and (answers == answers.iloc[0]).all(axis=None):
            yield Finding(system.place(name), "every row has the same answer: the system has collapsed")


def score_columns(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that hold scores or ranked files; not the clip or query, nor its label."""
    return table.drop(columns=["filename", "scene_label", "index", "caption"], errors="ignore")


def as_numbers(table: pd.DataFrame) -> np.ndarray:
    """(rows, columns) float64; text that is not a number becomes NaN."""
    if all(kind.kind in "fi" for kind in table.dtypes):
        return table.to_numpy(dtype=float)
    return table.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)


def bad_cells(system: System, name: str, scores: pd.DataFrame, bad: np.ndarray, what: str) -> Iterator[Finding]:
    """The first few cells that are True in `bad` (rows, columns)."""
    cells = np.argwhere(bad)[:1000]
    sentences = ((row, f"{scores.columns[at]} is {scores.iat[row, at]}, {what}") for row, at in cells)
    yield from row_findings(system, name, sentences)


def first_odd_row(system: System, name: str) -> Finding | None:
    """The first place that is not UTF-8, or a row shorter or longer than the header."""
    separator = system.rules.tables.separator
    content = system.files[name].read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return Finding(system.place(name, content[: error.start].count(b"\n") + 1), "is not UTF-8")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=csv_quoting(separator), strict=True)
    length = None
    try:
        for row in reader:
            length = len(row) if length is None else length
            if len(row) != length:
                return Finding(system.place(name, reader.line_num), f"{len(row)} fields, the header has {length}")
    except csv.Error as error:
        return Finding(system.place(name, reader.line_num), f"is not a row of a table: {error}")
    return None if length else Finding(system.place(name), "is empty")


def differing_header(found: list[str], wanted: list[str]) -> str:
    """The first difference between two headers."""
    for number, (have, want) in enumerate(zip(found, wanted), start=1):
        if have != want:
            return f"column {number} is {have!r}, expected {want!r}"
    if len(found) < len(wanted):
        return f"{len(found)} columns, the last {wanted[len(found) :]} are missing"
    return f"{len(found)} columns, expected {len(wanted)}; the first too many is {found[len(wanted)]!r}"
