"""Checks of language-based audio retrieval: ten file names per query, or a full matrix of similarities."""

import csv
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from submissions.checks.meta import number
from submissions.checks.registry import Finding, check, row_findings, shorten
from submissions.checks.tables import as_numbers
from submissions.reading import System, Unreadable


@check("queries")
def queries_are_the_official_ones(system: System, *, column: str) -> Iterator[Finding]:
    """The table holds every query of the evaluation set once, in order."""
    known = system.known_evaluation
    for name, table in system.tables():
        if column not in table.columns:
            raise Unreadable(f"{name} has no column {column}")
        queries = table[column]
        for row in np.flatnonzero(queries.str.strip() == "")[:3]:
            yield Finding(system.row_place(name, row), "the query is empty")
        if known and known.queries:
            yield from _first_difference(system, name, list(queries), known.queries)
            continue
        doubled = ((row, f"{queries.iat[row]!r} is listed twice") for row in np.flatnonzero(queries.duplicated()))
        yield from row_findings(system, name, doubled, "warning")
    system.evaluation("queries")


@check("distinct_files")
def ranked_files_are_distinct(system: System, *, column: str) -> Iterator[Finding]:
    """Each query has ten different file names."""
    for name, table in system.tables():
        ranked = table.drop(columns=[column])
        sentences = []
        for row, files in enumerate(ranked.itertuples(index=False)):
            empty = [title for title, file in zip(ranked.columns, files) if not str(file).strip()]
            doubled = [file for file, count in Counter(files).items() if count > 1]
            if empty or doubled:
                sentences.append((row, f"{empty[0]} is empty" if empty else f"{doubled[0]!r} is ranked twice"))
        yield from row_findings(system, name, sentences)


@check("ranked_names")
def ranked_files_exist(system: System, *, column: str) -> Iterator[Finding]:
    """Ranked file names are names of the evaluation set, byte for byte."""
    known = set(system.evaluation().files)
    for name, table in system.tables():
        ranked = table.drop(columns=[column])
        wrong = np.argwhere(~ranked.isin(known).to_numpy())
        sentences = ((row, _unknown_name(str(ranked.iat[row, at]), known)) for row, at in wrong)
        yield from row_findings(system, name, sentences)


@check("matrix_names")
def matrix_has_every_file(system: System, *, column: str) -> Iterator[Finding]:
    """The matrix has one column for each file of the evaluation set, named byte for byte."""
    for name, _ in system.tables():
        place = system.place(name, 1)
        with system.files[name].open(encoding="utf-8", newline="") as file:
            first, *header = next(csv.reader(file, delimiter=system.rules.tables.separator))
        if first != column:
            yield Finding(place, f"the first column is {first!r}, expected {column!r}")
        doubled = [file for file, count in Counter(header).items() if count > 1]
        yield from shorten(Finding(place, f"two columns are called {file!r}") for file in doubled)
        known = dict.fromkeys(system.evaluation().files)
        yield from shorten(Finding(place, _unknown_name(file, known)) for file in header if file not in known)
        missing = [file for file in known if file not in set(header)]
        if missing:
            yield Finding(place, f"{len(missing)} of {len(known)} files have no column, the first is {missing[0]!r}")


@check("rows_vary")
def matrix_rows_vary(system: System, *, column: str) -> Iterator[Finding]:
    """No query is equally close to every file."""
    for name, table in system.tables():
        values = as_numbers(table.drop(columns=[column], errors="ignore"))
        rows = np.flatnonzero((values == values[:, :1]).all(axis=1)) if values.shape[1] > 1 else ()
        yield from row_findings(system, name, ((row, "every file has the same similarity") for row in rows))


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


def _first_difference(system: System, name: str, found: list[str], wanted: list[str]) -> Iterator[Finding]:
    if len(found) != len(wanted):
        missing = [query for query in wanted if query not in set(found)]
        remark = f"; {missing[0]!r} is missing" if missing else ""
        yield Finding(system.place(name), f"{len(found)} queries, expected {len(wanted)}{remark}")
    for row, (have, want) in enumerate(zip(found, wanted)):
        if have != want:
            order = " (the order differs)" if have in set(wanted) else ""
            yield Finding(system.row_place(name, row), f"the query is {have!r}, expected {want!r}{order}")
            return


def _unknown_name(name: str, known: Iterable[str]) -> str:
    """The sentence for a name that is not in the evaluation set, with the one that was meant."""
    for meant in known:
        if meant.strip() == name.strip():
            return f"{name!r} is no file of the set; {meant!r} is, with its blanks"
        if unicodedata.normalize("NFC", meant) == unicodedata.normalize("NFC", name):
            return f"{name!r} is no file of the set: the folder has its letters composed differently (Unicode form)"
        if meant.replace(":", "_") == name.replace(":", "_") or meant.lower() == name.lower():
            return f"{name!r} is no file of the set; {meant!r} is"
    return f"{name!r} is no file of the set"
