"""Findings of a check as text and as JSON."""

from typing import Any

from submissions.checks import Result
from submissions.reading import Package

MARKS = {"error": "✗", "warning": "!", "note": "·"}


def lines(package: Package, results: list[Result]) -> list[str]:
    """One line for each rule that holds and for each finding, then the summary."""
    width = max(len(result.name) for result in results)
    shown = [f"{package.name}: {package.rules.title} ({package.rules.name})"]
    for result in results:
        if result.holds and not any(finding.kind == "warning" for finding in result.findings):
            shown.append(f"✓ {result.name:<{width}}  {result.title}")
        for finding in sorted(result.findings, key=lambda finding: finding.kind):
            shown.append(f"{MARKS[finding.kind]} {result.name:<{width}}  {finding.place} {finding.sentence}")
        for reason in dict.fromkeys(result.skipped):
            shown.append(f"- {result.name:<{width}}  not checked: {reason}")
    shown.append(summary(package, results))
    return shown


def summary(package: Package, results: list[Result]) -> str:
    """Number of rules that hold, in one sentence."""
    holding = sum(result.holds for result in results)
    warnings = sum(finding.kind == "warning" for result in results for finding in result.findings)
    count = f"{holding} of {len(results)} rules hold"
    if holding == len(results):
        count = f"Every rule holds ({len(results)})"
    remark = f", {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    made_up = package.evaluation is not None and package.evaluation.made_up
    return f"{count}{remark}." + (" Made-up evaluation set: not fit for the challenge." if made_up else "")


def as_data(package: Package, results: list[Result]) -> dict[str, Any]:
    """Rules and findings for JSON."""
    return {
        "package": package.name,
        "rules": package.rules.name,
        "holds": all(result.holds for result in results),
        "made_up": package.evaluation is not None and package.evaluation.made_up,
        "checks": [
            {
                "name": result.name,
                "title": result.title,
                "holds": result.holds,
                "findings": [vars(finding) for finding in result.findings],
                "not_checked": result.skipped,
            }
            for result in results
        ],
    }
