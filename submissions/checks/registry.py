"""Each check is one small function, registered under its name in rules/*.yaml.

A check takes the Package or one System, and its options in the rules file. It yields a Finding for each mistake; the
first line of its docstring is the rule in words.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from common.errors import UserError, unknown
from submissions.reading import Broken, NeedsOption, Package, System, Unreadable

Kind = Literal["error", "warning", "note"]
MAX_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """A mistake at a place (`file` or `file:line`), or a warning or note, which break no rule."""

    place: str
    sentence: str
    kind: Kind = "error"


@dataclass
class Result:
    """Findings of one rule.

    skipped: why it could not be checked; another rule is broken, too.
    needs: why it was not checked without an option of the command.
    """

    name: str
    title: str
    findings: list[Finding] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)

    @property
    def state(self) -> Literal["holds", "broken", "not checked"]:
        """A rule holds if it was checked everywhere."""
        if any(finding.kind == "error" for finding in self.findings):
            return "broken"
        return "not checked" if self.skipped or self.needs else "holds"

    @property
    def holds(self) -> bool:
        """Whether the rule was checked everywhere and holds."""
        return self.state == "holds"


Check = Callable[..., Iterator[Finding]]
CHECKS: dict[str, tuple[Check, bool]] = {}
"""Name to function, and whether it takes a System (otherwise the Package)."""


def check(name: str) -> Callable[[Check], Check]:
    """Register a check; its first parameter is called `package` or `system`."""

    def register(function: Check) -> Check:
        CHECKS[name] = (function, next(iter(inspect.signature(function).parameters)) == "system")
        return function

    return register


def run_checks(package: Package) -> list[Result]:
    """Run every check of the package's rules, in order."""
    return [_run(name, given or {}, package) for name, given in package.rules.checks.items()]


def shorten(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The first few findings of one kind in one file, then how many more there are."""
    findings = list(findings)
    yield from findings[:MAX_SHOWN]
    if len(findings) > MAX_SHOWN:
        file = findings[0].place.partition(":")[0]
        yield Finding(file, f"{len(findings) - MAX_SHOWN} more like this", findings[0].kind)


def row_findings(system: System, name: str, rows: Iterable[tuple[int, str]], kind: Kind = "error") -> Iterator[Finding]:
    """The first few mistakes in rows of an output table, (row, sentence), then how many more there are."""
    rows = list(rows)
    yield from (Finding(system.row_place(name, int(row)), sentence, kind) for row, sentence in rows[:MAX_SHOWN])
    if len(rows) > MAX_SHOWN:
        yield Finding(system.place(name), f"{len(rows) - MAX_SHOWN} more like this", kind)


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
            for finding in function(target, **given):
                result.findings.append(finding)
        except Broken as error:
            result.findings.append(Finding(*error.args))
        except NeedsOption as error:
            result.needs.append(str(error))
        except Unreadable as error:
            result.skipped.append(str(error))
    if per_system and not targets:
        result.skipped.append("there is no system")
    return result
