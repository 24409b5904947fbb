"""Results on stdout, as a table or as JSON; what happens meanwhile on stderr."""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

_quiet = False


def leave_words_to_the_first() -> None:
    """From now on let this process, one of several that train together, tell nothing but errors."""
    global _quiet
    _quiet = True


def say(text: str) -> None:
    """One line about what happens, on stderr."""
    if not _quiet:
        tell_error(text)


def tell_error(text: str) -> None:
    """What went wrong, on stderr, whichever process it is."""
    print(text, file=sys.stderr, flush=True)


def print_json(data: object) -> None:
    """Results for programs. Paths become texts, NumPy numbers and arrays numbers and lists, NaN null."""
    if _quiet:
        return
    print(json.dumps(_plain(data), indent=2, ensure_ascii=False, allow_nan=False), flush=True)


def print_table(rows: Sequence[Mapping[str, Any]], title: str = "", columns: Sequence[str] | None = None) -> None:
    """Results for people: one line per row, one column per key; numbers to the right, None as an empty cell.

    Off a terminal nothing is cut off, however long the lines get.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if _quiet:
        return
    columns = list(columns or dict.fromkeys(key for row in rows for key in row))
    table = Table(title=title or None, title_justify="left")
    for column in columns:
        values = [row.get(column) for row in rows]
        numeric = any(_is_number(value) for value in values) and all(_is_number(v) or v is None for v in values)
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*[Text(_cell(row.get(column))) for column in columns])
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


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple | set | frozenset):
        return [_plain(value) for value in data]
    if isinstance(data, float):
        return float(data) if math.isfinite(data) else None
    if data is None or isinstance(data, str | bool | int):
        return data
    if isinstance(data, Path):
        return str(data)
    if hasattr(data, "tolist"):  # NumPy and torch
        return _plain(data.tolist())
    raise TypeError(f"{type(data).__name__} has no form in JSON")


SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts work that is done, within a `with` block.

    Args:
        what: what is done, such as "Packing".
        total: how many units there are; None when that is not known.
        unit: name of the units.
        done: units that were already done before.
        quiet: show nothing.
    """

    def __init__(self, what: str, total: int | None, unit: str = "clips", done: int = 0, quiet: bool = False):
        self.what, self.total, self.unit, self.done, self.quiet = what, total, unit, done, quiet
        self._bar: Any = None
        self._last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            columns = (TextColumn(self.what), BarColumn(), MofNCompleteColumn(), TextColumn(self.unit))
            self._bar = RichProgress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
            self._bar.start()
            self._bar.add_task(self.what, total=self.total, completed=self.done)
        return self

    def advance(self, count: int = 1) -> None:
        """Note that `count` more units are done."""
        self.done += count
        if self._bar is not None:
            self._bar.advance(self._bar.tasks[0].id, count)
        elif not self.quiet and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            of_total = "" if self.total is None else f" of {self.total}"
            print(f"{self.what}: {self.done}{of_total} {self.unit}", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
