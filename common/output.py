"""Results on stdout, as a table or as JSON; progress and messages on stderr."""

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

LONGEST_LINE = 2000
LONGEST_CELL = 1000
_quiet = False


def silence_rank() -> None:
    """Silence everything but errors on ranks other than 0."""
    global _quiet
    _quiet = True


def say(text: str) -> None:
    """Print a message on stderr."""
    if not _quiet:
        print_error(text)


def print_error(text: str) -> None:
    """Print an error on stderr, on every rank; the middle of a line that quotes a huge value is left out."""
    lines = (escape(shorten(line, LONGEST_LINE), keep="\t") for line in text.split("\n"))
    print("\n".join(lines), file=sys.stderr, flush=True)


def shorten(text: str, longest: int) -> str:
    """The beginning and the end of a text with more characters than `longest`, and how many lie between."""
    if len(text) <= longest:
        return text
    return f"{text[: longest // 2]} ... ({len(text) - longest // 2 - 200:,} more characters) ... {text[-200:]}"


def escape(text: str, keep: str = "") -> str:
    r"""Write control characters, line breaks and undecodable bytes, such as those in names of files, as \x1b, \n."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in text
    )


def print_json(data: object) -> None:
    """Print results for programs; NumPy arrays become lists, NaN becomes null."""
    from pydantic_core import to_json

    if _quiet:
        return
    text = to_json(data, indent=2, inf_nan_mode="null", fallback=lambda value: value.tolist()).decode()
    print(text, flush=True)


def print_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Print results for people, one row per line; None becomes an empty cell.

    Lines are not cut when stdout is not a terminal.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if _quiet:
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title=title or None, title_justify="left")
    for column in columns:
        values = [row.get(column) for row in rows]
        numeric = any(_is_number(value) for value in values) and all(_is_number(v) or v is None for v in values)
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*[Text(escape(shorten(_cell(row.get(column)), LONGEST_CELL))) for column in columns])
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(80, console.measure(table, options=console.options.update(width=10_000)).maximum))
    console.print(table)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """A progress bar on a terminal, a line every 15 seconds elsewhere; used as a context manager.

    Args:
        what: the work, such as "Packing".
        total: number of units; None when unknown.
        unit: name of the units.
        done: units that are already finished.
        quiet: show nothing.
    """

    def __init__(self, what: str, total: int | None, unit: str = "clips", done: int = 0, quiet: bool = False):
        self.what, self.total, self.unit, self.done, self.quiet = what, total, unit, done, quiet or _quiet
        self._bar: Any = None
        self._last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            what = TextColumn("{task.description}", markup=False)
            columns = (what, BarColumn(), MofNCompleteColumn(), TextColumn(self.unit))
            self._bar = RichProgress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
            self._bar.start()
            self._bar.add_task(self.what, total=self.total, completed=self.done)
        return self

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units. A line with a `note` is also printed when all units are done."""
        self.done += count
        if self._bar is not None:
            shown = escape(f"{self.what} {note}".rstrip())
            self._bar.update(self._bar.tasks[0].id, advance=count, description=shown)
            return
        is_last = note and self.done == self.total
        if not self.quiet and (is_last or time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES):
            self._last_line = time.monotonic()
            of_total = "" if self.total is None else f" of {self.total}"
            say(f"{self.what}: {self.done}{of_total} {self.unit}{f'  {note}' if note else ''}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
