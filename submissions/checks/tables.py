"""Checks of output tables: one row per evaluation file, with a column per class."""

import codecs
import csv
import io
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd

from submissions.checks.registry import Finding, check, row_findings
from submissions.reading import MAX_LINE, NAME_COLUMNS, System, Unreadable, csv_quoting, has_a_huge_line, read_table

COPIED_SHARE = 0.1
"""Independent trainings share the scores of fewer clips than this."""
CERTAIN = 0.99
"""Probability above which a row says nothing but its class."""


@check("table_form")
def tables_have_their_columns(system: System) -> Iterator[Finding]:
    """Output tables have the columns of the rules, in order, and rows, each as long as the header."""
    rules = system.rules.tables
    for name in system.table_names:
        if odd := first_odd_row(system, name):
            yield odd
            continue
        table = read_table(system.files[name], rules.separator)
        found = list(table.columns)
        if rules.columns and found not in rules.headers:
            yield Finding(system.place(name, 1), differing_header(found, rules.columns))
        elif table.empty:
            yield Finding(system.place(name), "has no rows")
        elif rules.columns and found != rules.columns:
            absent = ", ".join(column for column in rules.columns if column not in found)
            yield Finding(system.place(name, 1), f"has no column {absent}, which may be asked for", "warning")


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
    evaluation = system.evaluation()
    wanted = base_names(pd.Series(evaluation.files, dtype=str)).unique()
    for name, table in system.tables():
        for row in np.flatnonzero(~table[column].str.startswith(prefix))[:1]:
            yield Finding(system.row_place(name, row), f"{table[column].iat[row]!r} must start with {prefix}")
        names = base_names(table[column])
        doubled, others = np.flatnonzero(names.duplicated()), np.flatnonzero(~names.isin(wanted))
        yield from row_findings(system, name, ((row, f"{names.iat[row]!r} is listed twice") for row in doubled))
        strange = ((row, f"{names.iat[row]!r} is not a file of {evaluation.source}") for row in others)
        yield from row_findings(system, name, strange)
        missing = pd.Index(wanted).difference(pd.Index(names), sort=False)
        if len(missing):
            sentence = f"{len(missing):,} of {len(wanted):,} files are missing, the first is {missing[0]}"
            yield Finding(system.place(name), sentence)


@check("same_files")
def tables_hold_the_same_files(system: System, *, column: str) -> Iterator[Finding]:
    """Every output table of a system has the same files."""
    tables = [(name, base_names(table[column])) for name, table in system.tables()]
    first_name, first = tables[0]
    if len(tables) == 1:
        raise Unreadable(f"{system.label} has one output table only")
    for name, files in tables[1:]:
        for row in np.flatnonzero(~files.isin(first))[:1]:
            yield Finding(system.row_place(name, row), f"{files.iat[row]!r} is not in {first_name}")
        for row in np.flatnonzero(~first.isin(files))[:1]:
            yield Finding(system.row_place(first_name, row), f"{first.iat[row]!r} is not in {name}")


@check("tables_differ")
def tables_differ(system: System, *, column: str) -> Iterator[Finding]:
    """No two output tables of a system hold the same scores, in whatever order of the rows."""
    scores: dict[str, pd.DataFrame] = {}
    for name, table in system.tables():
        values = pd.DataFrame(as_numbers(score_columns(table)), index=base_names(table[column]))
        scores[name] = values[~values.index.duplicated()]
    if len(scores) == 1:
        raise Unreadable(f"{system.label} has one output table only")
    for (other_name, other), (name, own) in combinations(scores.items(), 2):
        shared = own.index.intersection(other.index)
        equal = copied_rows(own.loc[shared].to_numpy(), other.loc[shared].to_numpy())
        if equal > COPIED_SHARE * len(shared):
            sentence = f"holds the same scores as {other_name} for {equal:,} of {len(shared):,} files"
            yield Finding(system.place(name), sentence)
        elif _same_in_another_order(own.to_numpy(), other.to_numpy()):
            yield Finding(system.place(name), f"holds the same scores as {other_name}, for other files")


@check("not_collapsed")
def rows_are_not_all_equal(system: System) -> Iterator[Finding]:
    """The answer differs between rows."""
    for name, table in system.tables():
        answers = score_columns(table)
        same = (answers == answers.iloc[0]).all(axis=None) or np.ptp(as_numbers(answers), axis=0).max() < 1e-6
        if len(answers) > 1 and same:
            yield Finding(system.place(name), "every row has the same answer: the system has collapsed")


def base_names(names: pd.Series) -> pd.Series:
    """File names without their folder, which the official scripts tolerate."""
    return names.str.rpartition("/")[2]


def copied_rows(own: np.ndarray, other: np.ndarray) -> int:
    """Number of rows (rows, classes) that are the same in both.

    Rows that are certain of one class are alike in independent systems; they count where there are hardly any others.
    """
    equal = _same_values(own, other).all(axis=1)
    uncertain = np.maximum(own.max(axis=1, initial=0), other.max(axis=1, initial=0)) < CERTAIN
    if uncertain.sum() > COPIED_SHARE * len(own):
        return int((equal & uncertain).sum())
    return int(equal.sum()) if equal.all() else 0


def _same_in_another_order(own: np.ndarray, other: np.ndarray) -> bool:
    own, other = (np.sort(values[values.max(axis=1) < CERTAIN], axis=0) for values in (own, other))
    return len(own) > 1 and own.shape == other.shape and bool(_same_values(own, other).all())


def _same_values(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.isclose(own, other, rtol=1e-3, atol=1e-5)


def score_columns(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that hold scores or ranked files; not the clip or query, nor its label."""
    return table.drop(columns=list(NAME_COLUMNS), errors="ignore")


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
    if content.startswith(codecs.BOM_UTF8):
        return Finding(system.place(name, 1), "starts with a byte order mark, on which the organisers' scripts stop")
    if has_a_huge_line(content):
        return Finding(system.place(name), f"has a line of more than {MAX_LINE:,} bytes")
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
