"""Progress of long work on stderr: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any

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
