"""Time left of a run, from records of equal runs, and of a sweep, from its finished cells."""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.data.files import read_json
from common.errors import UserError
from common.settings import changed_settings


def seconds_before(record: Path, settings: Mapping[str, Any]) -> float | None:
    """Seconds that a stage took in a run beside this one with these settings, apart from the seed; None without one.

    Args:
        record: of the stage in this run, whether it is finished or not.
        settings: that the stage uses.
    """
    run = record.parent.parent
    for path in run.parent.glob(f"*/{record.relative_to(run)}"):
        with suppress(UserError, KeyError):
            found = read_json(path, "", {"settings": dict})
            changed = changed_settings(found["settings"], dict(settings))
            if not found["interrupted_before"] and all(change.startswith("seed: ") for change in changed):
                return float(found["seconds"])
    return None


def run_clock(stage: float | None, later: Iterable[float | None]) -> Callable[[float], float]:
    """From seconds left of a step to those of the run; as many where the length of a later stage is not known.

    Args:
        stage: seconds that the stage takes as a whole, None if unknown. later: those of the stages after it.
    """
    started, after = time.monotonic(), list(later)

    def left(of_step: float) -> float:
        known = [seconds for seconds in after if seconds is not None]
        of_stage = max(of_step, (stage or 0.0) - (time.monotonic() - started))
        return of_stage + sum(known) if len(known) == len(after) else of_step

    return left


class SweepClock:
    """Time left of a sweep with cells one after another, or beside each other."""

    def __init__(self, cells: int):
        self.cells, self.done = cells, 0
        self.started = self.cell_started = time.monotonic()

    def cell_is_done(self) -> float:
        """Count a cell; seconds left of the sweep."""
        self.done, self.cell_started = self.done + 1, time.monotonic()
        return (self.cell_started - self.started) * (self.cells - self.done) / self.done

    def left(self, of_cell: float) -> float:
        """From seconds left of a cell to those of the sweep, which runs one cell at a time."""
        now = time.monotonic()
        finished = (self.cell_started - self.started) / self.done if self.done else 0.0
        return of_cell + (finished or now - self.cell_started + of_cell) * (self.cells - self.done - 1)
