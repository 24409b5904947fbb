"""Results on stdout, as a table or as JSON; progress and messages on stderr."""

import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

LONGEST_LINE = 2000
LONGEST_CELL = 1000
LONGEST_UNFOLDED = 32
"""Characters of a cell that stays on one line."""
NARROWEST_FOLDED = 20
NUMBER = re.compile(r"[-+]?[\d.,]*$")
"""A number, or an empty cell."""
INTERVAL = re.compile(r" \[-?[\d.]+, -?[\d.]+\]$")
_quiet = False
_wide = False
_prefix = ""


def silence_rank() -> None:
    """Silence everything but errors on ranks other than 0."""
    global _quiet
    _quiet = True


def say(text: str) -> None:
    """Print a message on stderr, with the name of this process's task before each line."""
    if not _quiet:
        print_error("\n".join(f"{_prefix}{line}" for line in text.split("\n")))


def name_task(name: str) -> None:
    """Put a name before all messages of this process; empty for none. For tasks that run beside others."""
    global _prefix
    _prefix = f"[{name}] " if name else ""


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


def show_everything(wide: bool) -> None:
    """Whether tables on a terminal keep all columns and whole paths (`--wide`), also where they do not fit."""
    global _wide
    _wide = wide


def print_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Print results for people, one row per line; None becomes an empty cell.

    On a terminal the table fits its width: of several figures only the first keeps its interval, long texts are folded,
    long paths lose their first folders, and the last columns are left out and named, unless `--wide` was given.
    Elsewhere cells stand between tabs, whole.
    """
    if _quiet:
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[escape(shorten(_cell(row.get(column)), LONGEST_CELL)) for column in columns] for row in rows]
    if not sys.stdout.isatty():
        lines = ["\t".join(line) for line in ([escape(column) for column in columns], *cells) if line]
        print("\n".join([*([escape(title)] if title else []), *lines]), flush=True)
        return
    from rich.console import Console

    console = Console(width=10_000 if _wide else None)
    print_fitted(console, columns, cells, title)


def print_fitted(console: Any, columns: Sequence[str], cells: Sequence[Sequence[str]], title: str) -> None:
    """Print a table with the width of a rich Console; `cells` by row, columns of numbers stand to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    bounded = [number for number in range(len(columns)) if any(INTERVAL.search(row[number]) for row in cells)][1:]
    if len(bounded) > 1 and not _wide:
        cells = [[INTERVAL.sub("", text) if i in bounded else text for i, text in enumerate(row)] for row in cells]
    widths = []
    for number, column in enumerate(columns):
        texts = [row[number] if _wide else shorten_path(row[number]) for row in cells]
        longest = max(map(len, texts), default=0)
        folds = longest > LONGEST_UNFOLDED
        header = textwrap.fill(column, max(longest, *map(len, column.split()), 1), break_long_words=False)
        widths.append(NARROWEST_FOLDED if folds else max(longest, *map(len, header.split("\n"))))
        if number > 1 and sum(widths) + 2 * len(widths) - 2 > console.width:
            break
        side: Any = "right" if all(NUMBER.match(text) for text in texts) else "left"
        table.add_column(Text(header), justify=side, overflow="fold", no_wrap=not folds or _wide)
    shown = len(table.columns)
    for row in cells:
        table.add_row(*[Text(text if _wide else shorten_path(text)) for text in row[:shown]])
    if title:
        console.print(Text(title, style="bold"))
    console.print(table)
    if shown < len(columns):
        console.print(Text(f"({', '.join(columns[shown:])}: with --wide)", style="dim"))
    console.print()


def print_text(text: str) -> None:
    """Print a sentence for people on stdout, broken at spaces on a terminal."""
    if _quiet:
        return
    width = shutil.get_terminal_size().columns
    print(textwrap.fill(text, width, break_long_words=False) if sys.stdout.isatty() else text, flush=True)


def shorten_path(text: str) -> str:
    """The last parts of a long path without spaces, behind an ellipsis; any other text as it is."""
    if len(text) <= LONGEST_UNFOLDED or "/" not in text or " " in text:
        return text
    kept = text
    while len(kept) > LONGEST_UNFOLDED - 2 and "/" in kept:
        kept = kept.partition("/")[2]
    return f"…/{kept}"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def spell_time(seconds: float) -> str:
    """40 s, 12 min, 2 h 5 min."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


SECONDS_BETWEEN_LINES = 15.0
_wholes: list[tuple[str, Callable[[float], float]]] = []


@contextmanager
def part_of(name: str, left: Callable[[float], float]) -> Iterator[None]:
    """Within the block, progress also shows the time left of a whole, such as a run.

    Args:
        name: of the whole.
        left: from seconds left of the part to those of the whole; as many where it tells no more.
    """
    _wholes.append((name, left))
    try:
        yield
    finally:
        _wholes.pop()


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
        self._first: tuple[int, float] | None = None  # units when the first new one was done, and the time
        self._last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as RichProgress

            what = TextColumn("{task.description}", markup=False)
            columns = (what, BarColumn(), MofNCompleteColumn(), TextColumn(self.unit + "{task.fields[left]}"))
            self._bar = RichProgress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._bar.add_task(self.what, total=self.total, completed=self.done, left="")
        return self

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units. A line with a `note` is also printed when all units are done."""
        self.done += count
        if self._first is None and count > 0:
            self._first = self.done, time.monotonic()
        if self._bar is not None:
            shown = escape(f"{self.what} {note}".rstrip())
            self._bar.update(self._bar.tasks[0].id, advance=count, description=shown, left=self.time_left())
            return
        is_last = note and self.done == self.total
        if not self.quiet and (is_last or time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES):
            self._last_line = time.monotonic()
            of_total = "" if self.total is None else f" of {self.total}"
            say(f"{self.what}: {self.done}{of_total} {self.unit}{f'  {note}' if note else ''}{self.time_left()}")

    def time_left(self) -> str:
        """Such as ", about 12 min left (run: 20 min)"; empty where nothing tells, or nothing is left.

        The first new unit counts for nothing: it often waits for a model or a file system.
        """
        if self._first is None or self.total is None or not self._first[0] < self.done < self.total:
            return ""
        done, since = self._first
        left = (time.monotonic() - since) * (self.total - self.done) / (self.done - done)
        wholes, seconds = [], left
        for name, whole in reversed(_wholes):
            before, seconds = seconds, whole(seconds)
            if seconds > before:
                wholes.append(f"{name}: {spell_time(seconds)}")
        in_all = f" ({', '.join(wholes)})" if wholes else ""
        return f", about {spell_time(left)} left{in_all}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
