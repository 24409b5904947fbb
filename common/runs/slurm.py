"""Tasks as array jobs of SLURM, by submitit."""

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.data.files import read_json, write_json
from common.errors import UserError, import_part
from common.output import say
from common.runs.tasks import Outcome, SlurmSettings, Task, run_task

_LOOKS_BEFORE_LOST = 3


class _Job:
    """Body of a job. One that SLURM requeues, or that reaches its time limit, starts the task again, which resumes."""

    def __call__(self, task: Task) -> Outcome:
        return run_task(task)

    def checkpoint(self, task: Task) -> Any:
        """Called by submitit before the time limit and on preemption: queue the same call again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, task)


def run_on_slurm(tasks: Sequence[Task], folder: Path, settings: SlurmSettings) -> Iterator[Outcome]:
    """Outcomes as they come in; see `common.runs.processes.Executor` and `Task.earlier`.

    Raises:
        UserError: if submitit or SLURM is missing.
    """
    submitit = import_part("submitit", "--on slurm needs submitit: pip install submitit (see requirements.txt).")
    if not shutil.which("sbatch"):
        raise UserError(
            "--on slurm needs SLURM's sbatch on the PATH. Start the command on a login node, or without --on."
        )
    folder.mkdir(parents=True, exist_ok=True)
    submitted = folder / "submitted.json"
    known: dict[str, str] = read_json(submitted, "delete it to submit all tasks anew") if submitted.exists() else {}
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=1000)
    executor.update_parameters(**_parameters(settings))
    waiting, done = list(tasks), set[str]()
    jobs: dict[str, Any] = {}
    lost: dict[str, int] = {}
    while waiting or jobs:
        ready = [task for task in waiting if done.issuperset(task.needs)]
        waiting = [task for task in waiting if task not in ready]
        if not ready and not jobs:  # what is left needs a task that failed
            return
        jobs |= _submit(ready, known, folder, executor)
        write_json(submitted, known)
        queued = _queued_jobs()
        for name, job in list(jobs.items()):
            outcome = None
            if job.paths.result_pickle.exists():
                outcome = _outcome(name, job)
            elif queued is not None and job.job_id not in queued:
                # The result may come a moment after the job has left the queue (shared file systems).
                lost[name] = lost.get(name, 0) + 1
                if lost[name] >= _LOOKS_BEFORE_LOST:
                    outcome = Outcome(name, error=f"job {job.job_id} ended without a result; see {job.paths.stderr}")
            if outcome is not None:
                del jobs[name]
                if not outcome.error:
                    done.add(name)
                yield outcome
        if jobs and not any(done.issuperset(task.needs) for task in waiting):
            time.sleep(settings.poll_s)


def _submit(tasks: Sequence[Task], known: dict[str, str], folder: Path, executor: Any) -> dict[str, Any]:
    """Jobs of the tasks by name: those that an earlier call submitted, and new ones, which are noted in `known`."""
    jobs: dict[str, Any] = {}
    for task in tasks:
        job = _earlier_job(task, folder, known.get(task.name))
        if job is not None:
            say(f"{task.name}: job {job.job_id} was submitted before")
            jobs[task.name] = job
    new = [task for task in tasks if task.name not in jobs]
    if new:
        for task, job in zip(new, executor.map_array(_Job(), new)):
            known[task.name] = job.job_id
            jobs[task.name] = job
        number = jobs[new[0].name].job_id.split("_")[0]
        say(f"{len(new)} tasks submitted to SLURM as job {number}; logs in {folder}")
    return jobs


def _earlier_job(task: Task, folder: Path, job_id: str | None) -> Any:
    """A job that an earlier call submitted for the task, if it counts; see `Task.earlier`."""
    if job_id is None:
        return None
    import submitit

    job: Any = submitit.SlurmJob(folder=folder, job_id=job_id, tasks=[0])
    queued = _queued_jobs()
    running = queued is not None and job_id in queued and not job.paths.result_pickle.exists()
    if running and task.earlier == "cancel":
        job.cancel()
        return None
    if running:
        return job
    kept = task.earlier == "keep" and job.paths.result_pickle.exists()
    return job if kept and not _outcome(task.name, job).error else None


def _outcome(name: str, job: Any) -> Outcome:
    try:
        error = job.exception()
        result = None if error is not None else job.result()
    except (ImportError, AttributeError) as unreadable:  # of an older version of the kit
        return Outcome(name, error=f"the result of job {job.job_id} cannot be read: {unreadable}")
    if isinstance(result, Outcome):
        return result
    return Outcome(name, error=f"job {job.job_id} failed; see {job.paths.stderr}", trace=str(error))


def _queued_jobs() -> set[str] | None:
    """Ids of the jobs that wait, run or are about to end, array elements as <job>_<number>; None without an answer."""
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None
    ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE"}
    return {line.split()[0] for line in done.stdout.splitlines() if line.split()[1] not in ended}


def _parameters(settings: SlurmSettings) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "name": "dcase_kit",
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
