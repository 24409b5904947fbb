"""The rules of one task and year, read from rules/<name>.yaml."""

from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from common.errors import UserError, unknown
from common.settings import Settings, load_settings

RULES_FOLDER = Path(__file__).parent / "rules"


class Tables(Settings):
    """Form of a system's output tables."""

    files: str
    """Pattern of the file names below the system's folder; {label} is the system's label."""
    separator: str = "\t"
    """Character between two fields."""
    columns: list[str] = []
    """Header, in order; columns that depend on the evaluation set are not listed."""
    optional: list[str] = []
    """Columns that may be absent, with a warning."""

    @property
    def headers(self) -> list[list[str]]:
        """The headers that are accepted: all columns, or without the optional ones."""
        return [self.columns, [column for column in self.columns if column not in self.optional]]


class EvaluationSet(Settings):
    """The official evaluation set, as far as it is public."""

    name: str
    numbered: int | None = None
    """The files are 0.wav to (numbered - 1).wav."""


class Rules(Settings):
    """One task and year."""

    title: str
    """The challenge in words."""
    task: int
    """Number in the label and in the name of the folder."""
    year: int
    layout: str = Field("systems", pattern="^(systems|inference_package)$")
    """`systems`: task<number>/<label>/...; `inference_package`: one installable Python package."""
    recognised_by: list[str]
    """Patterns of file names that only packages of this task and year have; see `matches`."""
    meta_mark: str | None = None
    """Text in meta files that only packages of this task and year have."""
    label: str
    """Regular expression of a system's label."""
    label_in_words: str
    """The same for people."""
    max_systems: int = 4
    max_file_mb: int
    """Larger files are refused, unread."""
    max_package_mb: int
    tables: Tables
    evaluation_set: EvaluationSet
    shared: dict[str, Any] = {}
    """A place for YAML anchors that the rest of the file repeats."""
    meta: dict[str, Any] = {}
    """Form of <label>.meta.yaml; see submissions/schema.py."""
    unverified: list[str] = []
    """Dotted names of the meta file; mistakes in them and below are warnings, since their form was not verified."""
    checks: dict[str, dict[str, Any] | None]
    """Name of each check to its options, in the order of the report."""
    name: str = ""
    """Name of the file, without .yaml."""


def rule_names() -> list[str]:
    """Names that --rules takes."""
    return sorted(path.stem for path in RULES_FOLDER.glob("*.yaml"))


@cache
def load_rules(name: str) -> Rules:
    """The rules called `name`, such as task1_2024.

    Raises:
        UserError: if there are none of that name, or the file has mistakes.
    """
    path = RULES_FOLDER / f"{name}.yaml"
    if name not in rule_names():
        raise unknown("rules file", name, rule_names())
    return load_settings(Rules, path, {"name": name})


def matches(name: str, pattern: str) -> bool:
    """Whether a file's name fits a pattern. Its * stops at "/"; a leading "**/" stands for any folders, or none."""
    if pattern.startswith("**/"):
        return fnmatchcase(name.rpartition("/")[2], pattern[3:])
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def recognise(files: list[str], meta_text: str = "") -> Rules:
    """The rules that fit a package with these files and text of meta files: most patterns found, then the newest year.

    Raises:
        UserError: if no rules fit.
    """
    found = []
    for name in rule_names():
        rules = load_rules(name)
        hits = sum(any(matches(file, pattern) for file in files) for pattern in rules.recognised_by)
        hits += rules.meta_mark is not None and rules.meta_mark in meta_text
        if hits:
            found.append((hits, rules.year, rules))
    if not found:
        names = ", ".join(rule_names())
        raise UserError(f"The package's files do not show its task and year. Choose one with --rules: {names}.")
    return max(found, key=lambda item: item[:2])[2]
