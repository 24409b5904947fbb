"""Result of `data check`, the same in every task."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.errors import CheckFailed
from common.output import print_json, print_table, say


@dataclass
class CheckReport:
    """A data set compared with its official counts, or made-up data with the counts of its creation.

    `rows` hold counts, found and expected, one row per split or set; `problems` are one sentence each, and so are
    `notes`: known oddities of the published files.
    """

    root: Path
    made_up: bool = False
    rows: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def show(self, json: bool) -> None:
        """Print the report.

        Raises:
            CheckFailed: if there are problems.
        """
        if json:
            print_json({key: value for key, value in asdict(self).items() if key != "notes" or value})
        else:
            self.print_tables()
        for note in self.notes:
            say(note)
        if self.problems:
            raise CheckFailed("\n".join(self.problems))
        say("No problems found.")

    def print_tables(self) -> None:
        """Print the counts for people."""
        print_table(self.rows, title=f"{'Made-up data in ' if self.made_up else ''}{self.root}")
