"""Cells of a sweep: what one is, what comes of it, and running it."""

import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import UserError
from common.settings import Field, Settings

RunFunction = Callable[[Any], Mapping[str, Any]]
"""Trains and scores one cell; at the top of a module, so that other processes find it. Its row has names and figures,
nothing that differs from machine to machine (times, energy), so that equal sweeps give equal files."""


class SlurmSettings(Settings):
    """What a cell asks of SLURM."""

    partition: str | None = None
    """Partition; null takes the cluster's default."""
    minutes: int = Field(24 * 60, ge=1)
    """Time limit of a cell. A cell that reaches it is queued again and goes on."""
    gpus: int = Field(0, ge=0)
    """GPUs for each cell."""
    cpus: int = Field(2, ge=1)
    """Cores for each cell."""
    memory_gb: int | None = Field(None, ge=1)
    """Memory for each cell; null takes the cluster's default."""
    at_once: int = Field(64, ge=1)
    """Cells that may run at the same time."""
    poll_s: float = Field(10.0, gt=0)
    """Seconds between looks at what is done."""


@dataclass(frozen=True)
class Cell:
    """One point of the grid: values of the settings that are swept, as text, and the whole settings."""

    names: tuple[str, ...]
    values: tuple[str, ...]
    settings: Any

    @property
    def title(self) -> str:
        """Such as "subset=5 seed=0"."""
        return " ".join(f"{name}={value}" for name, value in zip(self.names, self.values))


@dataclass(frozen=True)
class Outcome:
    """What came of a cell: its row, or what went wrong."""

    cell: Cell
    row: dict[str, Any] | None = None
    error: str = ""
    trace: str = ""


def run_cell(run: RunFunction, cell: Cell) -> Outcome:
    """Run one cell; an error becomes part of the outcome, so that the others go on."""
    try:
        return Outcome(cell, row=dict(run(cell.settings)))
    except UserError as error:
        return Outcome(cell, error=str(error), trace=traceback.format_exc())
    except Exception as error:
        return Outcome(cell, error=f"{type(error).__name__}: {error}", trace=traceback.format_exc())


def end_with(parent: int) -> None:
    """End this process when the sweep is gone: a training that nobody waits for would block its run's folder."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
