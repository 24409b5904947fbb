"""Findings of a check as text and as JSON."""

from typing import Any

from common.output import escape
from submissions.checks import Result
from submissions.reading import Package

MARKS = {"error": "✗", "warning": "!", "note": "·"}


def lines(package: Package, results: list[Result]) -> list[str]:
    """One line for each rule that holds, each finding and each reason why a rule was not checked; then the summary."""
    width = max(len(result.name) for result in results)
    shown = [f"{package.name}: {package.rules.title} ({package.rules.name})"]
    for result in results:
        if result.holds and not any(finding.kind == "warning" for finding in result.findings):
            shown.append(f"✓ {result.name:<{width}}  {result.title}")
        for finding in sorted(result.findings, key=lambda finding: finding.kind):
            shown.append(f"{MARKS[finding.kind]} {result.name:<{width}}  {finding.place} {finding.sentence}")
        for reason in dict.fromkeys(result.skipped + result.needs):
            shown.append(f"- {result.name:<{width}}  not checked: {reason}")
    return [_shown(line) for line in [*shown, summary(package, results)]]


def summary(package: Package, results: list[Result]) -> str:
    """Numbers of rules that hold, are broken, and were not checked, in one sentence."""
    count = {state: sum(result.state == state for result in results) for state in ("holds", "broken", "not checked")}
    parts = [f"{count['holds']} of {len(results)} rules hold"]
    if count["holds"] == len(results):
        parts = [f"Every rule holds ({len(results)})"]
    parts += [f"{number} {state}" for state, number in count.items() if number and state != "holds"]
    warnings = sum(finding.kind == "warning" for result in results for finding in result.findings)
    if warnings:
        parts.append(f"{warnings} warning{'s' if warnings > 1 else ''}")
    made_up = package.evaluation is not None and package.evaluation.made_up
    return f"{', '.join(parts)}." + (" Made-up evaluation set: not fit for the challenge." if made_up else "")


def passes(results: list[Result]) -> bool:
    """Whether no rule is broken, and all were checked that need no option of the command."""
    return not any(result.state == "broken" or result.skipped for result in results)


def as_data(package: Package, results: list[Result]) -> dict[str, Any]:
    """Rules and findings for JSON."""
    return {
        "package": _shown(package.name),
        "rules": package.rules.name,
        "holds": passes(results),
        "made_up": package.evaluation is not None and package.evaluation.made_up,
        "checks": [
            {
                "name": result.name,
                "title": result.title,
                "state": result.state,
                "holds": result.holds,
                "findings": [
                    {"place": _shown(finding.place), "sentence": _shown(finding.sentence), "kind": finding.kind}
                    for finding in result.findings
                ],
                "not_checked": [_shown(reason) for reason in result.skipped + result.needs],
            }
            for result in results
        ],
    }


def _shown(text: str) -> str:
    """A line without control characters, cut where a value or a name is very long."""
    return escape(text if len(text) <= 1000 else f"{text[:700]} ... {text[-200:]}")
