"""One executor for cells of a sweep and for stages of a run: worker processes on this machine, or jobs of SLURM.

    for outcome in Executor(jobs=2).run(tasks, folder):
        ...

On this machine each job has a worker process, which stays for the next task. With several GPUs each worker sees one of
them, and the workers share the cores. A worker that dies fails its own task only; all end when this process is gone.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Literal

from common.output import name_task, say
from common.runs.folder import environment
from common.runs.tasks import Outcome, SlurmSettings, Task, run_task


@dataclass(frozen=True)
class Executor:
    """Runs tasks in other processes, several at the same time.

    jobs: tasks at a time on this machine. on: this machine, or SLURM. slurm: resources of each task there.
    """

    jobs: int = 1
    on: Literal["here", "slurm"] = "here"
    slurm: SlurmSettings = field(default_factory=SlurmSettings)

    def run(self, tasks: Sequence[Task], folder: Path) -> Iterator[Outcome]:
        """Outcomes as they come in; a task starts when those that it needs have succeeded, else it has no outcome.

        Args:
            tasks: what to run.
            folder: of the records and logs of SLURM's jobs.

        Raises:
            UserError: if SLURM is asked for and missing.
        """
        if self.on == "slurm":
            from common.runs.slurm import run_on_slurm

            return run_on_slurm(tasks, folder, self.slurm)
        return _run_here(tasks, min(self.jobs, len(tasks)))


def _run_here(tasks: Sequence[Task], jobs: int) -> Iterator[Outcome]:
    waiting, done = list(tasks), set[str]()
    environments = _environments(jobs)
    free = [_Worker(environment) for environment in environments]
    running: dict[Connection, tuple[Task, _Worker]] = {}
    try:
        while waiting or running:
            for task in [task for task in waiting if done.issuperset(task.needs)][: len(free)]:
                waiting.remove(task)
                worker = free.pop(0)
                if task.log is not None:
                    say(f"{task.name}: starts (log in {task.log})")
                running[worker.start(task)] = (task, worker)
            if not running:  # what is left needs a task that failed
                return
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                task, worker = running.pop(connection)
                outcome = worker.outcome(task)
                free.append(worker)
                if not outcome.error:
                    done.add(task.name)
                yield outcome
    finally:
        for worker in [*free, *(worker for _, worker in running.values())]:
            worker.end()


class _Worker:
    """A process that runs one task after another; started with the first, and anew when it has died."""

    def __init__(self, environment: dict[str, str]):
        self.environment = environment
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    def start(self, task: Task) -> Connection:
        """Start a task; the connection is ready when it has ended."""
        if self._connection is None or self._process is None or not self._process.is_alive():
            context = multiprocessing.get_context("spawn")
            self._connection, inner = context.Pipe()
            self._process = context.Process(target=_work, args=(inner, os.getpid()))
            with environment(self.environment):  # before the process loads torch, whatever its main module imports
                self._process.start()
            inner.close()
        self._connection.send(task)
        return self._connection

    def outcome(self, task: Task) -> Outcome:
        """Outcome of the task that has ended."""
        assert self._connection is not None and self._process is not None
        try:
            return self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            self._process = self._connection = None
            return Outcome(task.name, error=f"its process was killed (exit code {code}; out of memory?); start again.")

    def end(self) -> None:
        """End the process, also in the middle of a task."""
        if self._process is not None and self._connection is not None:
            self._connection.close()
            self._process.terminate()
            self._process.join()


def _work(connection: Connection, parent: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        name_task("" if task.log else task.name)  # several processes write to one terminal
        outcome = run_task(task)
        try:
            connection.send(outcome)
        except Exception as error:  # a value that cannot be pickled
            connection.send(Outcome(task.name, error=f"{type(error).__name__}: {error}"))


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: a training that nobody waits for would block the folder of its run."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _environments(jobs: int) -> list[dict[str, str]]:
    """Environment variables of each worker: its share of the cores, and its GPU where there are any."""
    threads = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // max(1, jobs)))}
    gpus = _visible_gpus()
    return [
        {**threads, "CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else threads for number in range(jobs)
    ]


def _visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES gives them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
