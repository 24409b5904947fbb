"""Tasks that an executor runs: cells of a sweep, or stages of a run."""

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.errors import CheckFailed, UserError
from common.settings import Field, Settings


class SlurmSettings(Settings):
    """Resources that each task requests from SLURM."""

    partition: str | None = None
    """Partition; null takes the cluster's default."""
    minutes: int = Field(24 * 60, ge=1)
    """Time limit of a task. A task that reaches it is queued again and resumes."""
    gpus: int = Field(0, ge=0)
    """GPUs of each task."""
    cpus: int = Field(2, ge=1)
    """Cores of each task."""
    memory_gb: int | None = Field(None, ge=1)
    """Memory of each task; null takes the cluster's default."""
    at_once: int = Field(64, ge=1)
    """Tasks that may run at the same time."""
    poll_s: float = Field(10.0, gt=0)
    """Seconds between two looks at the queue."""


@dataclass(frozen=True)
class Task:
    """A call that may run in another process.

    name: unique among the tasks that run together.
    function: at the top of a module, so that other processes find it.
    argument: of the function.
    needs: names of tasks that must succeed first.
    log: file for what the task writes to stdout and stderr; None leaves it where it goes.
    earlier: on SLURM, what counts of a job that an earlier call submitted for this task: "keep" takes its result too,
        "wait" only waits for one that still runs, "cancel" ends it.
    """

    name: str
    function: Callable[[Any], Any]
    argument: Any
    needs: tuple[str, ...] = ()
    log: Path | None = None
    earlier: Literal["keep", "wait", "cancel"] = "keep"


@dataclass(frozen=True)
class Outcome:
    """Result of a task: what its function returned, or why it failed."""

    name: str
    value: Any = None
    error: str = ""
    trace: str = ""


def run_task(task: Task) -> Outcome:
    """Run a task in this process; an error becomes part of the outcome."""
    with _written_to(task.log):
        try:
            return Outcome(task.name, task.function(task.argument))
        except (UserError, CheckFailed) as error:
            return Outcome(task.name, error=str(error), trace=traceback.format_exc())
        except Exception as error:
            trace = traceback.format_exc()
            if task.log is not None:
                os.write(2, trace.encode())
            return Outcome(task.name, error=f"{type(error).__name__}: {error}", trace=trace)


@contextmanager
def _written_to(log: Path | None) -> Iterator[None]:
    """Append what is written to stdout and stderr within the block to a file; of child processes too."""
    if log is None:
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    before = os.dup(1), os.dup(2)
    with log.open("a", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    try:
        yield
    finally:
        for stream, kept in zip((1, 2), before):
            os.dup2(kept, stream)
            os.close(kept)
