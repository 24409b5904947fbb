"""Stages of a run side by side: each in a process of its own on this machine, or as a job of SLURM.

    run_stages(run, stages, runner=SideBySide(jobs=3))

A stage starts when those that it needs are done. With several GPUs each process sees one of them. When a stage fails,
the others go on, but for those that need it. What a stage says goes to <run>/logs/<stage>.txt.
"""

import multiprocessing
import os
import shutil
import threading
import traceback
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from common.errors import CheckFailed, UserError
from common.output import say
from common.runs.cells import Cell, Outcome, SlurmSettings, end_with
from common.runs.stages import Action, Run, Stage, do_stage, is_done, needs_of

_DONE = "done"


@dataclass
class SideBySide:
    """Does the stages of a run, several at a time.

    jobs: how many. on: this machine, or SLURM. slurm: what each asks of it.
    """

    jobs: int
    on: Literal["here", "slurm"] = "here"
    slurm: SlurmSettings | None = None
    _processes: list[BaseProcess] = field(default_factory=list, init=False)
    _starting: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __call__(self, run: Run, stages: Sequence[Stage], plan: dict[str, Action]) -> None:
        """Do what the plan does not keep.

        Raises:
            UserError, CheckFailed: when stages failed, after the others are done.
        """
        done = {name for name, action in plan.items() if action == "keep"}
        waiting = [stage for stage in stages if stage.name not in done]
        running: dict[Future, tuple[Stage, int]] = {}
        free, failed = list(range(self.jobs)), {}
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                while waiting or running:
                    for stage in [stage for stage in waiting if set(needs_of(stage, stages)) <= done][: len(free)]:
                        waiting.remove(stage)
                        slot = free.pop(0)
                        running[pool.submit(self._do, run, stage, stages, plan[stage.name], slot)] = (stage, slot)
                    if not running:
                        break
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        stage, slot = running.pop(future)
                        free.append(slot)
                        if (error := future.result()) is None:
                            done.add(stage.name)
                            say(f"{stage.name}: done")
                        else:
                            failed[stage.name] = error
                            say(f"{stage.name}: {error.splitlines()[-1]}")
            finally:
                for process in self._processes:  # after Ctrl-C
                    process.terminate()
        if failed:
            left = f"; not started: {', '.join(stage.name for stage in waiting)}" if waiting else ""
            told = "\n  ".join(f"{name}: {error}" for name, error in failed.items())
            raise CheckFailed(f"{len(failed)} stages failed (see {run.folder / 'logs'}){left}:\n  {told}")

    def _do(self, run: Run, stage: Stage, stages: Sequence[Stage], action: Action, slot: int) -> str | None:
        """Do one stage and wait for it; what went wrong, or None."""
        job = _Job(run, stage, tuple(stages), action)
        say(f"{stage.name}: starts {'on SLURM' if self.on == 'slurm' else f'(log in {job.log})'}")
        return self._on_slurm(job) if self.on == "slurm" else self._here(job, slot)

    def _here(self, job: "_Job", slot: int) -> str | None:
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(job, sender, os.getpid()))
        environment = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // self.jobs)), **_gpu_of(slot)}
        with self._starting:  # a process gets the environment that there is when it starts
            before = {name: os.environ.get(name) for name in environment}
            os.environ.update(environment)
            process.start()
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        self._processes.append(process)
        sender.close()
        process.join()
        self._processes.remove(process)
        try:
            message = receiver.recv()
        except EOFError:
            return f"its process was killed (exit code {process.exitcode}; out of memory?); start the run again."
        return None if message == _DONE else str(message)

    def _on_slurm(self, job: "_Job") -> str | None:
        from common.runs.slurm import run_on_slurm

        folder = job.run.folder / "slurm" / job.stage.name
        if job.action == "redo":
            shutil.rmtree(folder, ignore_errors=True)
        cell = Cell(("stage",), (job.stage.name,), job)
        for _ in range(2):
            try:
                outcome: Outcome = next(iter(run_on_slurm([cell], _row, folder, self.slurm or SlurmSettings())))
            except UserError as error:
                return str(error)
            if outcome.row is None:
                return outcome.error
            if is_done(job.run, job.stage.name):
                return None
            shutil.rmtree(folder)  # the result of an earlier job, whose stage was deleted since
        return "its job ended, but left no record; see its log."


@dataclass(frozen=True)
class _Job:
    run: Run
    stage: Stage
    stages: tuple[Stage, ...]
    action: Action

    @property
    def log(self) -> Path:
        return self.run.folder / "logs" / f"{self.stage.name}.txt"


def _work(job: _Job, sender: Any, parent: int) -> None:
    """What a process does."""
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    job.log.parent.mkdir(exist_ok=True)
    with job.log.open("a", encoding="utf-8", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            do_stage(job.run, job.stage, job.stages, job.action)
            sender.send(_DONE)
        except (UserError, CheckFailed) as error:
            sender.send(str(error))
        except Exception as error:
            traceback.print_exc()
            sender.send(f"{type(error).__name__}: {error}")


def _row(job: _Job) -> dict[str, Any]:
    """What a job of SLURM does."""
    do_stage(job.run, job.stage, job.stages, job.action)
    return {"stage": job.stage.name}


def _gpu_of(slot: int) -> dict[str, str]:
    """The environment in which a process sees one GPU, where there are some."""
    import torch

    count = torch.cuda.device_count()
    if not count:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = visible if len(visible) == count and visible[0] else [str(number) for number in range(count)]
    return {"CUDA_VISIBLE_DEVICES": names[slot % count]}
