"""Checks of files and labels that every task shares."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from submissions.checks.registry import Finding, check, shorten
from submissions.participant import PLACEHOLDER_MARK
from submissions.reading import DECLARATION, Package, System


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
    """There is at least one system, and no more than the challenge accepts."""
    most = package.rules.max_systems
    if not package.systems:
        yield Finding(package.task_folder, f"no system found; expected {package.task_folder}/<label>/<label>.meta.yaml")
    if len(package.systems) > most:
        yield Finding(package.task_folder, f"{len(package.systems)} systems, at most {most} are accepted")


@check("files")
def every_file_is_there(system: System, *, required: list[str]) -> Iterator[Finding]:
    """Every file of a system exists and is not empty."""
    patterns = [pattern.format(label=system.label) for pattern in required]
    yield from missing_or_empty(system.files, patterns, system.prefix)


@check("no_other_files")
def no_other_files(package: Package, *, allowed: list[str], allowed_above: list[str]) -> Iterator[Finding]:
    """There are no other files."""
    for system in package.systems:
        patterns = [pattern.format(label=system.label) for pattern in allowed]
        others = [name for name in system.files if not any(fnmatchcase(name, pattern) for pattern in patterns)]
        yield from shorten(Finding(system.place(name), "does not belong in a package; remove it") for name in others)
    above = [DECLARATION, *allowed_above]
    others = [
        name for name in package.shared_files
        if not any(fnmatchcase(name, pattern) or PurePosixPath(name).match(pattern) for pattern in above)
    ]  # fmt: skip
    yield from shorten(Finding(name, "does not belong in a package; remove it") for name in others)


@check("technical_report")
def technical_report_is_there(package: Package) -> Iterator[Finding]:
    """The technical report exists (a warning until it does)."""
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
        name = package.rules.evaluation_set.name
        sentence = f"the list of {name} is not public; give it with --evaluation_set to check the names, too"
        yield Finding(package.task_folder, sentence, "warning")
        return
    doubled = [name for name, count in Counter(evaluation.files).items() if count > 1]
    if doubled or not evaluation.files:
        yield Finding(evaluation.source, f"lists {doubled[0]} twice" if doubled else "lists no files")
    if evaluation.made_up:
        sentence = f"declares a made-up evaluation set of {len(evaluation.files)} files: not fit for the challenge"
        yield Finding(evaluation.source, sentence, "note")


def missing_or_empty(files: Mapping[str, Path], patterns: list[str], prefix: str = ".") -> Iterator[Finding]:
    """A finding for each pattern that no file matches, and each match without content."""
    for pattern in patterns:
        found = [name for name in files if fnmatchcase(name, pattern)]
        empty = [name for name in found if files[name].stat().st_size == 0]
        for name in empty if found else [pattern]:
            yield Finding((PurePosixPath(prefix) / name).as_posix(), "is empty" if found else "is missing")
