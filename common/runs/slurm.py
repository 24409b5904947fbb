"""Cells of a sweep as an array job of SLURM, by submitit."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.files import write_json
from common.output import say

if TYPE_CHECKING:
    from common.runs.cells import Cell, Outcome, RunFunction, SlurmSettings

_LOOKS_BEFORE_LOST = 3


class CellTask:
    """What a job does. A job that SLURM requeues, or that reaches its time limit, starts it again and it goes on."""

    def __call__(self, run: "RunFunction", cell: "Cell") -> "Outcome":
        """Run the cell."""
        from common.runs.cells import run_cell

        return run_cell(run, cell)

    def checkpoint(self, run: "RunFunction", cell: "Cell") -> Any:
        """Called by submitit before the time limit and on preemption: queue the same call again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, run, cell)


def run_on_slurm(
    cells: list["Cell"], run: "RunFunction", folder: Path, settings: "SlurmSettings"
) -> Iterator["Outcome"]:
    """Outcomes as they come in; jobs of an earlier call that still run, or have ended since, are not sent again.

    Raises:
        UserError: if submitit or SLURM is missing.
    """
    from common.runs.cells import Outcome

    try:
        import submitit
    except ImportError as error:
        raise UserError("--on slurm needs submitit: pip install submitit (see requirements.txt).") from error
    if not shutil.which("sbatch"):
        raise UserError(
            "--on slurm needs SLURM's sbatch on the PATH. Start the sweep on a login node, or without --on."
        )
    folder.mkdir(parents=True, exist_ok=True)
    submitted = folder / "submitted.json"
    known: dict[str, str] = json.loads(submitted.read_text(encoding="utf-8")) if submitted.exists() else {}
    jobs = {}
    for cell in cells:
        job = _earlier_job(submitit, folder, known.get(cell.title))
        if job is not None:
            say(f"{cell.title}: job {job.job_id} was sent already")
            jobs[cell.title] = (cell, job)
    new = [cell for cell in cells if cell.title not in jobs]
    if new:
        executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=1000)
        executor.update_parameters(**_parameters(settings))
        sent = executor.map_array(CellTask(), [run] * len(new), new)
        for cell, job in zip(new, sent):
            known[cell.title] = job.job_id
            jobs[cell.title] = (cell, job)
        write_json(submitted, known)
        say(f"{len(new)} cells sent to SLURM as job {sent[0].job_id.split('_')[0]}; logs in {folder}")
    lost: dict[str, int] = {}
    while jobs:
        queued = _queued_jobs()
        for title, (cell, job) in list(jobs.items()):
            if job.paths.result_pickle.exists():
                del jobs[title]
                yield _outcome(cell, job)
            elif queued is not None and job.job_id not in queued:
                # The result may come a moment after the job has left the queue (shared file systems).
                lost[title] = lost.get(title, 0) + 1
                if lost[title] >= _LOOKS_BEFORE_LOST:
                    del jobs[title]
                    yield Outcome(cell, error=f"job {job.job_id} ended without a result; see {job.paths.stderr}")
        if jobs:
            time.sleep(settings.poll_s)


def _earlier_job(submitit: Any, folder: Path, job_id: str | None) -> Any:
    """A job that an earlier call sent, if it still runs or has succeeded."""
    if job_id is None:
        return None
    job = submitit.SlurmJob(folder=folder, job_id=job_id, tasks=[0])
    if job.paths.result_pickle.exists():
        return job if job.exception() is None and job.result().row is not None else None
    queued = _queued_jobs()
    return job if queued is not None and job_id in queued else None


def _outcome(cell: "Cell", job: Any) -> "Outcome":
    from common.runs.cells import Outcome

    error = job.exception()
    if error is None:
        return job.result()
    return Outcome(cell, error=f"job {job.job_id} failed; see {job.paths.stderr}", trace=str(error))


def _queued_jobs() -> set[str] | None:
    """Ids of the jobs that wait, run or end just now, array elements as <job>_<number>; None when SLURM is silent."""
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return None
    ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE"}
    return {line.split()[0] for line in done.stdout.splitlines() if line.split()[1] not in ended}


def _parameters(settings: "SlurmSettings") -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "name": "dcase_sweep",
        "timeout_min": settings.minutes,
        "cpus_per_task": settings.cpus,
        "slurm_array_parallelism": settings.at_once,
        "slurm_setup": [f"export OMP_NUM_THREADS={settings.cpus}"],
    }
    if settings.partition:
        parameters["slurm_partition"] = settings.partition
    if settings.gpus:
        parameters["gpus_per_node"] = settings.gpus
    if settings.memory_gb:
        parameters["mem_gb"] = settings.memory_gb
    return parameters
