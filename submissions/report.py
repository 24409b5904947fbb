"""What a check found, as lines for people and as JSON."""

from typing import Any

from submissions.checks import Finding, Result
from submissions.reading import Package

MARKS = {"error": "✗", "warning": "!", "note": "·"}


def lines(package: Package, results: list[Result]) -> list[str]:
    """One line per rule with a tick, or one for each place where it does not hold; then the sum of it."""
    width = max(len(result.name) for result in results)
    shown = [f"{package.name}: {package.rules.title} ({package.rules.name})"]
    for result in results:
        if result.holds and not any(finding.kind == "warning" for finding in result.findings):
            shown.append(f"✓ {result.name:<{width}}  {result.title}")
        for finding in sorted(result.findings, key=lambda finding: finding.kind):
            shown.append(f"{MARKS[finding.kind]} {result.name:<{width}}  {_place_first(finding)}")
        for reason in dict.fromkeys(result.skipped):
            shown.append(f"- {result.name:<{width}}  not checked: {reason}")
    shown.append(summary(package, results))
    return shown


def summary(package: Package, results: list[Result]) -> str:
    """How many rules hold, in one sentence."""
    holding = sum(result.holds for result in results)
    warnings = sum(finding.kind == "warning" for result in results for finding in result.findings)
    count = "Every rule holds" if holding == len(results) else f"{holding} of {len(results)} rules hold"
    if holding == len(results):
        count += f" ({len(results)})"
    remark = f", {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    made_up = package.evaluation is not None and package.evaluation.made_up
    return f"{count}{remark}." + (" Made-up evaluation set: not fit for the challenge." if made_up else "")


def as_data(package: Package, results: list[Result]) -> dict[str, Any]:
    """The same for JSON."""
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


def _place_first(finding: Finding) -> str:
    return f"{finding.place} {finding.sentence}"
