"""Checks of language-based audio retrieval: ten file names per query, or a full matrix of similarities."""

import csv
import unicodedata
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd

from submissions.checks.meta import number
from submissions.checks.registry import Finding, check, shorten
from submissions.checks.tables import as_numbers
from submissions.reading import Package, System, Unreadable


@check("queries")
def queries_are_the_official_ones(package: Package, *, column: str) -> Iterator[Finding]:
    """Every query of the evaluation set stands in the table once, in order."""
    wanted = package.evaluation.queries if package.evaluation else []
    for system in package.systems:
        for name, table in system.tables():
            if column not in table.columns:
                raise Unreadable(f"{name} has no column {column}")
            found, lines = list(table[column]), line_numbers(table)
            for row in np.flatnonzero(table[column].str.strip() == "")[:3]:
                yield Finding(system.place(name, lines[row]), "the query is empty")
            if not wanted:
                counts = Counter(found)
                doubled = [row for row, query in enumerate(found) if counts[query] > 1][1:]
                yield from shorten(
                    Finding(system.place(name, lines[row]), f"{found[row]!r} stands here again", "warning")
                    for row in doubled
                )
            elif found != wanted:
                yield from _first_difference(system, name, found, wanted, lines)


@check("distinct_files")
def ranked_files_are_distinct(system: System, *, column: str) -> Iterator[Finding]:
    """Each query has ten different file names."""
    for name, table in system.tables():
        ranked, lines = table.drop(columns=[column]), line_numbers(table)
        findings = []
        for row, files in enumerate(ranked.itertuples(index=False)):
            empty = [title for title, file in zip(ranked.columns, files) if not str(file).strip()]
            doubled = [file for file, count in Counter(files).items() if count > 1]
            if empty:
                findings.append(Finding(system.place(name, lines[row]), f"{empty[0]} is empty"))
            elif doubled:
                findings.append(Finding(system.place(name, lines[row]), f"{doubled[0]!r} is ranked twice"))
        yield from shorten(findings)


@check("ranked_names")
def ranked_files_exist(package: Package, *, column: str) -> Iterator[Finding]:
    """Ranked file names are names of the evaluation set, byte for byte."""
    known = set(package.evaluation.files) if package.evaluation else set()
    for system in package.systems if known else []:
        for name, table in system.tables():
            ranked, lines = table.drop(columns=[column]), line_numbers(table)
            wrong = np.argwhere(~ranked.isin(known).to_numpy())
            yield from shorten(
                Finding(system.place(name, lines[row]), _unknown_name(str(ranked.iat[row, rank]), known))
                for row, rank in wrong
            )


@check("matrix_names")
def matrix_has_every_file(package: Package, *, column: str) -> Iterator[Finding]:
    """The matrix has one column for each file of the evaluation set, named byte for byte."""
    for system in package.systems:
        for name, _ in system.tables():
            with system.files[name].open(encoding="utf-8", newline="") as file:
                header = next(csv.reader(file, delimiter=system.rules.tables.separator))
            if header[0] != column:
                yield Finding(system.place(name, 1), f"the first column is {header[0]!r}, expected {column!r}")
            doubled = [file for file, count in Counter(header[1:]).items() if count > 1]
            yield from shorten(Finding(system.place(name, 1), f"two columns are called {file!r}") for file in doubled)
            if package.evaluation is None:
                continue  # the rule evaluation_list says so
            known = set(package.evaluation.files)
            strange = [file for file in header[1:] if file not in known]
            yield from shorten(Finding(system.place(name, 1), _unknown_name(file, known)) for file in strange)
            missing = [file for file in package.evaluation.files if file not in set(header)]
            if missing:
                sentence = f"{len(missing)} of {len(known)} files have no column, the first is {missing[0]!r}"
                yield Finding(system.place(name, 1), sentence)


@check("rankings_vary")
def rankings_vary(system: System, *, column: str) -> Iterator[Finding]:
    """Not every query gets the same answer."""
    for name, table in system.tables():
        answers = table.drop(columns=[column], errors="ignore")
        if len(answers) > 1 and (answers == answers.iloc[0]).all(axis=None):
            yield Finding(system.place(name), "every query gets the same answer: the system has collapsed")


@check("rows_vary")
def matrix_rows_vary(system: System, *, column: str) -> Iterator[Finding]:
    """No query is equally close to every file."""
    for name, table in system.tables():
        values, lines = as_numbers(table.drop(columns=[column], errors="ignore")), line_numbers(table)
        if values.shape[1] < 2:
            continue
        rows = np.flatnonzero((values == values[:, :1]).all(axis=1))
        yield from shorten(
            Finding(system.place(name, lines[row]), "every file has the same similarity") for row in rows
        )


@check("matrix_numbers")
def similarities_are_numbers(system: System, *, column: str) -> Iterator[Finding]:
    """Every similarity is a finite number."""
    for name, table in system.tables():
        scores, lines = table.drop(columns=[column], errors="ignore"), line_numbers(table)
        cells = np.argwhere(~np.isfinite(as_numbers(scores)))
        yield from shorten(
            Finding(
                system.place(name, lines[row]), f"{scores.columns[at]!r}: {scores.iat[row, at]} is not a finite number"
            )
            for row, at in cells[:1000]
        )


@check("recall_plausible")
def recalls_are_plausible(system: System) -> Iterator[Finding]:
    """Development figures agree: R@1 <= R@5 <= R@10, and mAP@10 lies between R@1 and R@10."""
    base = ("results", "development_evaluation")
    figures = {name: number(system, *base, name) for name in ("R@1", "R@5", "R@10", "mAP@10")}
    for low, high in (("R@1", "R@5"), ("R@5", "R@10"), ("R@1", "mAP@10"), ("mAP@10", "R@10")):
        if figures[low] > figures[high] + 1e-3:
            place = system.meta_place(*base, low)
            yield Finding(place, f"{low} is {figures[low]:g}, more than {high} with {figures[high]:g}")
    if figures["R@10"] == 0:
        yield Finding(system.meta_place(*base, "R@10"), "R@10 is 0: no recording was found")


def line_numbers(table: pd.DataFrame) -> list[int]:
    """Line of each row: a quoted query may hold line breaks."""
    breaks = sum(
        (table[column].str.count("\n") for column in table.columns if table[column].dtype == object),
        start=pd.Series(0, index=table.index),
    )
    return (2 + np.arange(len(table)) + breaks.cumsum().shift(fill_value=0).to_numpy()).astype(int).tolist()


def _first_difference(
    system: System, name: str, found: list[str], wanted: list[str], lines: list[int]
) -> Iterator[Finding]:
    missing = [query for query in wanted if query not in set(found)]
    if len(found) != len(wanted):
        remark = f"; {missing[0]!r} is missing" if missing else ""
        yield Finding(system.place(name), f"{len(found)} queries, expected {len(wanted)}{remark}")
    for row, (have, want) in enumerate(zip(found, wanted)):
        if have != want:
            order = " (the order differs)" if have in set(wanted) else ""
            yield Finding(system.place(name, lines[row]), f"the query is {have!r}, expected {want!r}{order}")
            return


def _unknown_name(name: str, known: set[str]) -> str:
    """The sentence for a name that is not in the evaluation set, with the one that was meant."""
    for meant in known:
        if meant.strip() == name.strip():
            return f"{name!r} is no file of the set; {meant!r} is, with its blanks"
        if unicodedata.normalize("NFC", meant) == unicodedata.normalize("NFC", name):
            return f"{name!r} is no file of the set: the folder has its letters composed differently (Unicode form)"
        if meant.replace(":", "_") == name.replace(":", "_") or meant.lower() == name.lower():
            return f"{name!r} is no file of the set; {meant!r} is"
    return f"{name!r} is no file of the set"
