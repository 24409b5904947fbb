"""Checks of Task 1 of 2026: one class of the Broad Sound Taxonomy and its probability for each clip."""

import re
from collections.abc import Collection, Iterator
from itertools import combinations

import numpy as np

from submissions.checks.meta import number
from submissions.checks.registry import Finding, check, row_findings
from submissions.checks.scenes import group
from submissions.checks.tables import as_numbers
from submissions.reading import Package, System

UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
FIGURES = ("hP", "hR", "hF")
ROUNDING = 2e-3
"""Figures have at least three decimals."""


@check("ids")
def ids_are_whole(system: System, *, column: str) -> Iterator[Finding]:
    """Every row has a whole id, which no other row has."""
    known = frozenset(system.known_evaluation.files if system.known_evaluation else ())
    for name, table in system.tables():
        ids = table[column]
        empty, doubled = np.flatnonzero(ids.str.strip() == ""), np.flatnonzero(ids.duplicated())
        yield from row_findings(system, name, ((row, "the id is empty") for row in empty))
        yield from row_findings(system, name, ((row, f"the id {ids.iat[row]!r} is listed twice") for row in doubled))
        odd = [row for row, one in enumerate(ids) if one.strip() and one not in known and not UUID.fullmatch(one)]
        cut = [row for row in odd if re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F-]*)?", ids.iat[row])]
        sentence = "is cut: give the whole id of 36 characters"
        yield from row_findings(system, name, ((row, f"the id {ids.iat[row]!r} {sentence}") for row in cut))
        others = [row for row in odd if row not in set(cut)] if not known else []
        yield from row_findings(
            system, name, ((row, f"the id {ids.iat[row]!r} is no UUID") for row in others), "warning"
        )


@check("codes")
def classes_are_of_the_taxonomy(system: System, *, column: str, classes: list[str]) -> Iterator[Finding]:
    """Every class is one of the 23 codes of the taxonomy."""
    for name, table in system.tables():
        codes = table[column]
        rows = np.flatnonzero(~codes.isin(classes))
        sentences = ((row, f"{codes.iat[row]!r} {_why_not(codes.iat[row], classes)}") for row in rows)
        yield from row_findings(system, name, sentences)


@check("answers_plausible")
def answers_are_plausible(system: System, *, column: str, score: str, classes: int) -> Iterator[Finding]:
    """Classes and scores vary, as far as one can see (warnings)."""
    for name, table in system.tables():
        place, rows = system.place(name), len(table)
        codes = table[column].value_counts()
        if rows > 1 and codes.iloc[0] > rows / 2:
            sentence = f"{codes.iloc[0]:,} of {rows:,} rows are {codes.index[0]}: has the system collapsed?"
            yield Finding(place, sentence, "warning")
        if score not in table:
            continue
        scores = as_numbers(table[[score]])[:, 0]
        if rows > 1 and np.ptp(scores) < 1e-9:
            yield Finding(place, f"every {score} is {scores[0]:g}", "warning")
        failed = np.flatnonzero(np.abs(scores - 1 / classes) < 1e-4)
        sentence = f"{score} is 1/{classes}, as in rows without an answer"
        yield from row_findings(system, name, ((row, sentence) for row in failed), "warning")


@check("systems_differ")
def systems_differ(package: Package) -> Iterator[Finding]:
    """No two systems answer the same (warnings)."""
    answers = {}
    for system in package.systems:
        for name, table in system.tables():
            answers[system.place(name)] = dict(zip(table.iloc[:, 0], table.iloc[:, 1]))
    for (other, first), (place, second) in combinations(answers.items(), 2):
        if first == second:
            yield Finding(place, f"has the same class as {other} for every clip", "warning")


@check("class_figures")
def figures_of_classes_agree(system: System, *, data_set: str) -> Iterator[Finding]:
    """Development figures agree: overall is the mean over classes, hF at most the mean of hP and hR (warnings)."""
    base = ("results", "development_datasets", data_set)
    classes = {name: group(system, *base, "class_wise", figure=name) for name in FIGURES}
    names = list(system.meta.get(*base, "class_wise"))
    predicted = classes["hP"] > 0
    for name, values in classes.items():
        overall = number(system, *base, "overall", name)
        # The official code leaves classes out that are never predicted; others count them as 0.
        means = (values.mean(), values[predicted].mean() if predicted.any() else 0.0)
        if min(abs(overall - mean) for mean in means) > ROUNDING:
            sentence = f"overall {name} is {overall:g}, but the mean of its classes is {means[0]:.4g}"
            yield Finding(system.meta_place(*base, "overall", name), sentence, "warning")
        if len(values) > 1 and np.ptp(values) == 0:
            sentence = f"{name} of every class is {values[0]:g}"
            yield Finding(system.meta_place(*base, "class_wise"), sentence, "warning")
    for at in np.flatnonzero(classes["hF"] > (classes["hP"] + classes["hR"]) / 2 + ROUNDING):
        place = system.meta_place(*base, "class_wise", names[at], "hF")
        yield Finding(place, f"hF of {names[at]} is above the mean of its hP and hR", "warning")


def _why_not(code: str, classes: Collection[str]) -> str:
    """What is wrong with a code that is none of `classes`."""
    if code.strip().lower() in classes:
        return f"is not a class; {code.strip().lower()} is"
    if code.endswith("-other"):
        return "is not a class: it only occurs in training"
    if code in {one.partition("-")[0] for one in classes}:
        return "is a top level; give one of its classes"
    if re.fullmatch(r"\d+", code):
        return "is a number; give the code of the class"
    return "is not a class of the taxonomy"
