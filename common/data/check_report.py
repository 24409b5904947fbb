"""Result of `data check`, and the headers of all files, the same in every task."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.data.audio import AudioError, AudioInfo, audio_info
from common.errors import CheckFailed
from common.output import Progress, print_json, print_table, say


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


def read_headers(paths: Sequence[Path], what: str = "Checking", workers: int = 8) -> list[AudioInfo | AudioError]:
    """The header of each file, or why it cannot be read, by several threads."""
    found = []
    with ThreadPoolExecutor(workers) as pool, Progress(what, len(paths)) as progress:
        for header in pool.map(_read_header, paths):
            found.append(header)
            progress.advance()
    return found


def _read_header(path: Path) -> AudioInfo | AudioError:
    try:
        return audio_info(path)
    except AudioError as error:
        return error
