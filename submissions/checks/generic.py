"""Checks of files and labels that every task shares."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

from submissions.checks.pdf import pdf_mistake
from submissions.checks.registry import Finding, Kind, check, shorten
from submissions.participant import PLACEHOLDER_MARK
from submissions.reading import DECLARATION, NeedsOption, Package, System, Unreadable
from submissions.rules import matches


@check("label")
def label_is_formed(package: Package) -> Iterator[Finding]:
    """Each system's folder is named by its label."""
    if not package.systems:
        raise Unreadable("there is no system")
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
    yield from missing_or_empty(system.files, [system.pattern(pattern) for pattern in required], system.prefix)


@check("no_other_files")
def no_other_files(
    package: Package, *, allowed: list[str], allowed_above: list[str], outside: Kind = "error"
) -> Iterator[Finding]:
    """There are no other files."""
    for system in package.systems:
        patterns = [system.pattern(pattern) for pattern in allowed]
        others = [name for name in system.files if not any(matches(name, pattern) for pattern in patterns)]
        yield from shorten(Finding(system.place(name), "does not belong in a package; remove it") for name in others)
    above = [DECLARATION, *allowed_above]
    others = [name for name in package.shared_files if not any(matches(name, pattern) for pattern in above)]
    inside = [name for name in others if name.startswith(f"{package.task_folder}/")]
    yield from shorten(Finding(name, "does not belong in a package; remove it") for name in inside)
    elsewhere = [name for name in others if name not in inside]
    yield from shorten(Finding(name, "does not belong in a package; remove it", outside) for name in elsewhere)
    yield from files_of_macos(package)


@check("technical_report")
def technical_report_is_there(package: Package, *, required: bool = False) -> Iterator[Finding]:
    """The technical report exists (a warning while its placeholder does, and where other tasks bring it)."""
    reports = [name for name in package.files if name.lower().endswith(".pdf")]
    if not reports:
        kind: Kind = "error" if required else "warning"
        yield Finding(package.task_folder, "there is no technical report; add <team>.technical_report.pdf", kind)
    for name in reports:
        content = package.files[name].read_bytes()
        if PLACEHOLDER_MARK in content:
            yield Finding(name, "is the placeholder: the technical report is missing; put yours here", "warning")
        elif mistake := pdf_mistake(content):
            yield Finding(name, mistake)


@check("evaluation_list")
def evaluation_list_is_sound(package: Package) -> Iterator[Finding]:
    """The list of the evaluation set is known."""
    evaluation = package.evaluation
    if evaluation is None:
        raise NeedsOption(f"the list of {package.rules.evaluation_set.name} is not public; give --evaluation_set")
    doubled = [name for name, count in Counter(evaluation.files).items() if count > 1]
    if doubled or not evaluation.files:
        yield Finding(evaluation.source, f"lists {doubled[0]} twice" if doubled else "lists no files")
    if evaluation.made_up:
        sentence = f"declares a made-up evaluation set of {len(evaluation.files)} files: not fit for the challenge"
        yield Finding(evaluation.source, sentence, "note")


def files_of_macos(package: Package) -> Iterator[Finding]:
    """A note on files that macOS added."""
    if package.of_macos:
        sentence = (
            f"one of {len(package.of_macos)} files that macOS added; they are not read, and `pack` leaves them out"
        )
        yield Finding(package.of_macos[0], sentence, "note")


def missing_or_empty(
    files: Mapping[str, Path], patterns: list[str], prefix: str = ".", may_be_empty: Collection[str] = ()
) -> Iterator[Finding]:
    """A finding for each pattern that no file matches, and each match without content."""
    for pattern in patterns:
        found = [name for name in files if matches(name, pattern)]
        empty = [name for name in found if files[name].stat().st_size == 0 and pattern not in may_be_empty]
        for name in empty if found else [pattern]:
            yield Finding((PurePosixPath(prefix) / name).as_posix(), "is empty" if found else "is missing")
