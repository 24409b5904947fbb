"""Every rule is one small function, registered under the name that rules/*.yaml uses.

A check takes a Package (once) or a System (once for each), and what its rules file gives it. It yields a Finding for
each mistake; the first line of its docstring is the rule in words.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from common.errors import UserError, unknown
from submissions.reading import Package, System, Unreadable

MAX_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """A mistake at a place (`file` or `file:line`), or a warning or note, which break no rule."""

    place: str
    sentence: str
    kind: Literal["error", "warning", "note"] = "error"


@dataclass
class Result:
    """What one rule says about a package. `skipped` tells why it could not be looked at."""

    name: str
    title: str
    findings: list[Finding] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether the rule was looked at everywhere and holds."""
        return not self.skipped and not any(finding.kind == "error" for finding in self.findings)


Check = Callable[..., Iterator[Finding]]
CHECKS: dict[str, tuple[Check, bool]] = {}
"""Name to function, and whether it takes one System (else the Package)."""


def check(name: str) -> Callable[[Check], Check]:
    """Register a check; its first parameter is called `package` or `system`."""

    def register(function: Check) -> Check:
        CHECKS[name] = (function, next(iter(inspect.signature(function).parameters)) == "system")
        return function

    return register


def run_checks(package: Package) -> list[Result]:
    """Every check of the package's rules, in their order."""
    return [_run(name, given or {}, package) for name, given in package.rules.checks.items()]


def shorten(findings: Iterable[Finding], shown: int = MAX_SHOWN) -> Iterator[Finding]:
    """The first few findings of one kind in one file, then how many more there are."""
    findings = list(findings)
    yield from findings[:shown]
    if len(findings) > shown:
        file = findings[0].place.partition(":")[0]
        yield Finding(file, f"{len(findings) - shown} more like this", findings[0].kind)


def _run(name: str, given: dict[str, Any], package: Package) -> Result:
    if name not in CHECKS:
        raise unknown("check", name, CHECKS)
    function, per_system = CHECKS[name]
    result = Result(name, (inspect.getdoc(function) or name).splitlines()[0])
    targets: list[Package | System] = [*package.systems] if per_system else [package]
    for target in targets:
        if set(given) - set(inspect.signature(function).parameters):
            raise UserError(f"submissions/rules/{package.rules.name}.yaml: check {name} does not take {sorted(given)}.")
        try:
            result.findings.extend(function(target, **given))
        except Unreadable as error:
            result.skipped.append(str(error))
    if per_system and not targets:
        result.skipped.append("there is no system")
    return result
