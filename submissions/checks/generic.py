"""Checks of files, labels and figures' places that every task shares."""

import re
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from submissions.checks.registry import Finding, check, shorten
from submissions.reading import DECLARATION, Package, System
from submissions.template import PLACEHOLDER_MARK


@check("label")
def label_is_formed(package: Package) -> Iterator[Finding]:
    """Each system's folder is named by its label."""
    for system in package.systems:
        if not re.fullmatch(package.rules.label, system.label):
            yield Finding(system.prefix, f"{system.label} is not a label; it must be {package.rules.label_in_words}")
    teams = {system.label.rpartition("_")[0] for system in package.systems}
    if len(teams) > 1:
        yield Finding(package.task_folder, f"labels of one team differ before the number: {', '.join(sorted(teams))}")


@check("systems")
def at_most_four_systems(package: Package) -> Iterator[Finding]:
    """There is a system, and there are no more than the challenge takes."""
    most = package.rules.max_systems
    if not package.systems:
        yield Finding(package.task_folder, f"no system found; expected {package.task_folder}/<label>/<label>.meta.yaml")
    if len(package.systems) > most:
        yield Finding(package.task_folder, f"{len(package.systems)} systems, at most {most} are taken")


@check("files")
def every_file_is_there(system: System, *, required: list[str]) -> Iterator[Finding]:
    """Every file of a system is there and holds something."""
    for pattern in required:
        wanted = pattern.format(label=system.label)
        found = [name for name in system.files if fnmatchcase(name, wanted)]
        if not found:
            yield Finding(system.place(wanted), "is missing")
        for name in found:
            if system.files[name].stat().st_size == 0:
                yield Finding(system.place(name), "is empty")


@check("no_other_files")
def no_other_files(package: Package, *, allowed: list[str], allowed_above: list[str]) -> Iterator[Finding]:
    """There are no files that do not belong."""
    for system in package.systems:
        patterns = [pattern.format(label=system.label) for pattern in allowed]
        others = [name for name in system.files if not any(fnmatchcase(name, pattern) for pattern in patterns)]
        yield from shorten(Finding(system.place(name), "does not belong into a package; remove it") for name in others)
    others = [name for name in package.shared_files if not _allowed_above(name, allowed_above)]
    yield from shorten(Finding(name, "does not belong into a package; remove it") for name in others)


@check("technical_report")
def technical_report_is_there(package: Package) -> Iterator[Finding]:
    """The technical report is there (a warning while it is not)."""
    reports = [name for name in package.files if name.lower().endswith(".pdf")]
    if not reports:
        yield Finding(package.task_folder, "there is no technical report; add <team>.technical_report.pdf", "warning")
    for name in reports:
        content = package.files[name].read_bytes()
        if PLACEHOLDER_MARK in content:
            yield Finding(name, "is the placeholder: the technical report is missing; put yours here", "warning")
        elif not content.startswith(b"%PDF-"):
            yield Finding(name, "is not a PDF")


@check("evaluation_list")
def evaluation_list_is_sound(package: Package) -> Iterator[Finding]:
    """The list of the evaluation set is known."""
    evaluation = package.evaluation
    if evaluation is None:
        name = package.rules.evaluation_set.name if package.rules.evaluation_set else "the evaluation set"
        sentence = f"the list of {name} is not public; give it with --evaluation_set to have the names checked too"
        yield Finding(package.task_folder, sentence, "warning")
        return
    doubled = [name for name, count in Counter(evaluation.files).items() if count > 1]
    if doubled or not evaluation.files:
        yield Finding(evaluation.source, f"lists {doubled[0]} twice" if doubled else "lists no files")
    if evaluation.made_up:
        sentence = f"declares a made-up evaluation set of {len(evaluation.files)} files: not fit for the challenge"
        yield Finding(evaluation.source, sentence, "note")


def _allowed_above(name: str, allowed: list[str]) -> bool:
    patterns = [DECLARATION, *allowed]
    return any(fnmatchcase(name, pattern) or PurePosixPath(name).match(pattern) for pattern in patterns)
