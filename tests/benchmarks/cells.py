"""Cells of a trial, kept as they are computed, and how an interval is shown."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.output import say
from common.reports.statistics import Interval


class Cells:
    """Figures by name of a cell in a file of JSON lines, so that an interrupted trial resumes where it stopped."""

    def __init__(self, path: Path, made_with: Mapping[str, Any]):
        self.path = path
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else [dict(made_with)]
        if lines[0] != dict(made_with):
            raise SystemExit(f"{path} was made with {lines[0]}; give another --work.")
        self.found: dict[str, dict[str, Any]] = {line["cell"]: line["figures"] for line in lines[1:]}
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(lines[0]) + "\n")

    def __call__(self, cell: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The figures of a cell, from the file or from `work`."""
        if cell not in self.found:
            line = json.dumps({"cell": cell, "figures": work()})
            with self.path.open("a") as file:
                file.write(line + "\n")
            self.found[cell] = json.loads(line)["figures"]
            say(f"{cell} is done")
        return self.found[cell]


def interval_cells(found: Interval) -> dict[str, str]:
    """A value and its limits with one decimal, for a row of a table."""
    return {"value": f"{found.value:.1f}", "low": f"{found.low:.1f}", "high": f"{found.high:.1f}"}
