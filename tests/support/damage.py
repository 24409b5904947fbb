"""Damaging a package, and what the check then finds."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from submissions.checks import Finding
from submissions.package import check_package
from submissions.report import passes
from tests.support.packages import edit_meta

Damage = tuple[Callable[[Path], object], str, str]
"""What is done to a package, the rule that must find it, and what its place and sentence must name."""


def broken(path: Path, **options) -> dict[str, list[Finding]]:
    """Rule to its errors."""
    results = check_package(path, **options)[1]
    errors = {result.name: [finding for finding in result.findings if finding.kind == "error"] for result in results}
    return {name: findings for name, findings in errors.items() if findings}


def warnings(package: Path) -> dict[str, list[Finding]]:
    """Rule to its warnings; there are no errors."""
    results = check_package(package)[1]
    assert passes(results), [result for result in results if not result.holds]
    return {one.name: [finding for finding in one.findings if finding.kind == "warning"] for one in results}


def assert_found(package: Path, damage: Damage, read=broken) -> None:
    """Damage a package: the rule finds it and names the place."""
    change, rule, told = damage
    change(package)
    found = read(package)
    assert rule in found, f"{rule} found nothing; others: {found}"
    assert any(told in f"{finding.place} {finding.sentence}" for finding in found[rule]), found[rule]


def edit_line(path: Path, number: int, change) -> None:
    """Change line `number` (from 1) of a text file."""
    rows = path.read_text().splitlines()
    rows[number - 1] = change(rows[number - 1])
    path.write_text("\n".join(rows) + "\n")


def put(*address, value):
    """A change of a meta file: the value at an address."""

    def change(data: dict) -> None:
        *path, last = address
        for key in path:
            data = data[key]
        data[last] = value

    return change


def drop(*address):
    def change(data: dict) -> None:
        *path, last = address
        for key in path:
            data = data[key]
        del data[last]

    return change


def named(package: Path, pattern: str) -> Path:
    return sorted(package.rglob(pattern))[0]


def meta(package: Path) -> Path:
    return named(package, "*.meta.yaml")


def rewrite(pattern: str, change: Callable[[pd.DataFrame], pd.DataFrame | None], separator: str = "\t"):
    """A damage: a table, read as text and changed."""

    def damage(package: Path) -> None:
        path = named(package, pattern)
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
        changed = change(table)
        (table if changed is None else changed).to_csv(path, sep=separator, index=False)

    return damage


def cell(row: int, column: int, value: str):
    def change(table: pd.DataFrame) -> None:
        table.iat[row, column] = value

    return change


def content(pattern: str, old: bytes, new: bytes):
    """A damage: bytes of a file replaced once."""

    def damage(package: Path) -> None:
        path = named(package, pattern)
        assert old in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(old, new, 1))

    return damage


def prepend(pattern: str, start: bytes):
    return lambda package: named(package, pattern).write_bytes(start + named(package, pattern).read_bytes())


def in_meta(change):
    return lambda package: edit_meta(package, change)


def report(text: bytes):
    return lambda package: named(package, "*.technical_report.pdf").write_bytes(text)
