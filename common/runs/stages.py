"""The stages that fill a run folder; each leaves a record as its last act.

runs/<task>/<name>/settings.yaml         the settings of the run
runs/<task>/<name>/<stage>/stage.json    written last: settings that the stage used, code, time, energy, inputs

A call with the same settings keeps finished stages and resumes the others. Other settings are refused, with what has
changed.

    STAGES = [
        Stage("teachers", train_teachers, uses=("data", "teacher")),
        Stage("student", train_student, uses=("data", "teacher", "student")),
    ]
    run_stages(Run(Path("runs/task4_sed/two_iterations"), settings), STAGES, redo=("student",))
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from common.data.files import compute_sha256, read_json, write_json, write_text
from common.errors import CheckFailed, UserError, unknown
from common.output import part_of, say, silence_rank, spell_time
from common.runs.folder import (
    SETTINGS_FILE,
    code_version,
    environment,
    is_main_process,
    lock_folder,
    prepare_folder,
)
from common.runs.run import RECORD, Run, is_done, read_stage_file, run_clock, seconds_before, setting_values
from common.settings import Settings, changed_settings, dump_settings

if TYPE_CHECKING:
    from common.runs.processes import Executor

SECONDS_BETWEEN_LOOKS = 0.2
EARLY_FILES = ("metrics.csv", "energy.json", "emissions.csv")
"""Files that a training writes before it has something to resume from."""
_BEGUN = ".begun.json"  # settings of a stage that has started and has no record yet
_PART = re.compile(r"\..+\.[a-z0-9_]{8}\.part")  # of `atomic_path`; a kill leaves it
_REDO = ".redo"  # marks a folder that is removed when its stage starts
_PLAN = "DCASE_KIT_STAGES"  # pending stages, for processes that Lightning starts within a stage
_TWO_STEPS = "DCASE_KIT_TWO_STEPS"  # temporary folder of --fast_check, for the same processes


@dataclass(frozen=True)
class Stage:
    """One step of a recipe.

    name: also the name of its folder.
    work: called with the run and its settings; fills run.folder / name, and resumes an interrupted call.
    uses: names of the settings that its products depend on, such as ("data", "optim.lr").
    needs: earlier stages that it reads from; None for all of them.
    alone: only rank 0 runs it, the other ranks wait. Use it for every stage that does not run distributed.
    """

    name: str
    work: Callable[[Run[Any], Any], None]
    uses: tuple[str, ...]
    needs: tuple[str, ...] | None = None
    alone: bool = False


Action = Literal["keep", "start", "resume", "redo"]


def run_stages(
    run: Run[Any], stages: Sequence[Stage], redo: Collection[str] = (), executor: "Executor | None" = None
) -> None:
    """Run the stages that are not finished, in their order.

    Args:
        run: folder and settings.
        stages: the recipe.
        redo: stages to run again from the start, with those that need them.
        executor: runs stages that do not need each other at the same time; None runs them in this process.

    Raises:
        UserError: before anything is computed, when the folder cannot be used or was made with other settings.
        CheckFailed: when stages failed in other processes, after the others are done.
    """
    for name in redo:
        if name not in [stage.name for stage in stages]:
            raise unknown("stage", name, [stage.name for stage in stages])
    if not is_main_process():
        silence_rank()
        _run_on_rank(run, stages, redo)
        return
    prepare_folder(run.folder)
    with lock_folder(run.folder):
        _refuse_foreign(run, stages)
        plan = _plan(run, stages, redo)
        _mark(run, plan)
        _write_settings(run)
        for name, action in plan.items():
            if action == "keep":
                say(f"{name}: kept, its settings are the same")
        with _announced(name for name, action in plan.items() if action != "keep"):
            if executor is None:
                _one_after_another(run, stages, plan)
            else:
                _side_by_side(run, stages, plan, executor)


def do_two_steps(settings: Settings, stages: Sequence[Stage]) -> None:
    """Run two steps of each stage in a temporary folder.

    Args:
        settings: of the run.
        stages: as for `quick_stages`.

    Raises:
        UserError: if torchrun or srun started several processes, which have no temporary folder in common.
    """
    if is_main_process():
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, environment({_TWO_STEPS: folder}):
            run_stages(Run(Path(folder) / "run", settings), quick_stages(stages))
        say("Two steps of everything worked.")
    elif _TWO_STEPS in os.environ:
        run_stages(Run(Path(os.environ[_TWO_STEPS]) / "run", settings), quick_stages(stages))
    else:
        raise UserError("--fast_check starts its processes itself: call it once, without torchrun or srun.")


def quick_stages(stages: Sequence[Stage]) -> list[Stage]:
    """The same stages with two steps each; their work takes `fast_check`."""
    return [replace(stage, work=partial(cast(Any, stage.work), fast_check=True)) for stage in stages]


def _plan(run: Run[Any], stages: Sequence[Stage], redo: Collection[str]) -> dict[str, Action]:
    """Action for each stage; stages that were run, or started, with other settings are refused."""
    plan: dict[str, Action] = {}
    refused: dict[str, list[str]] = {}
    for stage in stages:
        folder = run.folder / stage.name
        record, begun = read_stage_file(folder / RECORD), read_stage_file(folder / _BEGUN)
        earlier = record or begun
        if (folder / _REDO).exists() or earlier is None:
            plan[stage.name] = "redo" if (folder / _REDO).exists() else "start"
        elif stage.name in redo or any(plan[name] != "keep" for name in required_stages(stage, stages)):
            plan[stage.name] = "redo"
        elif changed := changed_settings(earlier["settings"], setting_values(run.settings, stage.uses)):
            if record is None and _did_nothing(folder):
                plan[stage.name] = "redo"
                continue
            refused[stage.name] = changed
            plan[stage.name] = "resume" if record is None else "keep"
        elif record is None:
            plan[stage.name] = "resume"
        else:
            plan[stage.name] = "keep" if record.get("inputs") == _inputs(run, stage, stages) else "redo"
    if refused:
        changes = ", ".join(dict.fromkeys(change for changed in refused.values() for change in changed))
        raise UserError(
            f"{run.folder} was made with other settings: {changes}. "
            f"Choose another name (--name X), or run the stage again (--redo {next(iter(refused))})."
        )
    return plan


def _did_nothing(folder: Path) -> bool:
    """Whether a stage that was started left nothing to resume from, such as a checkpoint."""
    return all(path.name[0] == "." or path.name in EARLY_FILES for path in folder.rglob("*") if path.is_file())


def _mark(run: Run[Any], plan: dict[str, Action]) -> None:
    """Remove the records of stages that run again, so that they stay removed after an interruption."""
    for name, action in plan.items():
        folder = run.folder / name
        if action == "redo" and folder.exists():
            (folder / _REDO).touch()
            (folder / RECORD).unlink(missing_ok=True)
            (folder / _BEGUN).unlink(missing_ok=True)


def _one_after_another(run: Run[Any], stages: Sequence[Stage], plan: dict[str, Action]) -> None:
    pending = [stage for stage in stages if plan[stage.name] != "keep"]
    for number, stage in enumerate(pending):
        started = time.monotonic()
        lengths = [seconds_before(run.folder / each.name / RECORD, setting_values(run.settings, each.uses))
                   for each in pending[number:]]  # fmt: skip
        with part_of("run", run_clock(lengths[0], lengths[1:])):
            _run_stage(run, stage, stages, plan[stage.name])
        say(f"{stage.name}: done in {spell_time(time.monotonic() - started)}")


def _side_by_side(run: Run[Any], stages: Sequence[Stage], plan: dict[str, Action], executor: "Executor") -> None:
    """Run the pending stages of a plan in dependency order, in other processes; each writes to a log of its own."""
    from common.runs.tasks import Task

    pending = [stage for stage in stages if plan[stage.name] != "keep"]
    names = {stage.name for stage in pending}
    logs = run.folder / "logs"
    tasks = [
        Task(
            stage.name,
            _run_job,
            _Job(run, stage, tuple(stages), plan[stage.name]),
            needs=tuple(name for name in required_stages(stage, stages) if name in names),
            log=logs / f"{stage.name}.txt",
            earlier="cancel" if plan[stage.name] == "redo" else "wait",
        )
        for stage in pending
    ]
    failed = {}
    for outcome in executor.run(tasks, run.folder / "slurm"):
        names.remove(outcome.name)
        error = outcome.error
        if not error and not is_done(run, outcome.name):
            error = "its job ended without a record; see its log."
        if error:
            failed[outcome.name] = error
        say(f"{outcome.name}: {error.splitlines()[-1] if error else 'done'}")
    if failed:
        left = f"; not started: {', '.join(stage.name for stage in pending if stage.name in names)}" if names else ""
        lines = "\n  ".join(f"{name}: {error}" for name, error in failed.items())
        raise CheckFailed(f"{len(failed)} stages failed (see {logs}){left}:\n  {lines}")


@dataclass(frozen=True)
class _Job:
    """A stage for another process."""

    run: Run[Any]
    stage: Stage
    stages: tuple[Stage, ...]
    action: Action


def _run_job(job: _Job) -> None:
    run_stage(job.run, job.stage, job.stages, job.action)


def run_stage(run: Run[Any], stage: Stage, stages: Sequence[Stage], action: Action) -> None:
    """Run one stage of a recipe in a process of its own, as planned, and write its record."""
    with _announced([stage.name]):
        _run_stage(run, stage, stages, action)


def _announced(names: Iterable[str]) -> AbstractContextManager[None]:
    """Environment in which child processes know the pending stages."""
    return environment({_PLAN: ",".join(names)})


def _run_stage(run: Run[Any], stage: Stage, stages: Sequence[Stage], action: Action) -> None:
    folder = run.folder / stage.name
    if action == "redo":
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.rglob(".*.part"):
        if _PART.fullmatch(path.name):
            path.unlink()
    place = f" (stage {[other.name for other in stages].index(stage.name) + 1} of {len(stages)})"
    say(f"{stage.name}: {_STARTS[action]}{place if len(stages) > 1 else ''}")
    settings = setting_values(run.settings, stage.uses)
    inputs = _inputs(run, stage, stages)
    write_json(folder / _BEGUN, {"settings": settings})
    run.notes = {}
    started, clock = datetime.now(UTC), time.monotonic()
    try:
        stage.work(run, run.settings)
    except (KeyboardInterrupt, SystemExit):
        say(f"{stage.name} is not finished; resume with --resume {run.folder}.")
        raise
    evaluation = folder / "evaluation.json"
    record = {
        "stage": stage.name,
        "package": type(run.settings).__module__.rpartition(".")[0],
        "settings": settings,
        "inputs": inputs,
        "code": code_version(),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - clock, 3),  # of the last call, when there were several
        "interrupted_before": action == "resume",
        "energy_kwh": _energy_kwh(folder),
        **({"evaluation_sha256": compute_sha256(evaluation)} if evaluation.is_file() else {}),
        **run.notes,
    }
    write_json(folder / RECORD, record)


def _energy_kwh(folder: Path) -> float | None:
    """Of energy.json; None if it was not measured, or cannot be read, which must not undo the stage."""
    with suppress(UserError):
        return read_json(folder / "energy.json", "").get("energy_kwh")
    return None


_STARTS = {"start": "starts", "resume": "resumes", "redo": "starts again"}


def _run_on_rank(run: Run[Any], stages: Sequence[Stage], redo: Iterable[str]) -> None:
    """Take part in the stages on a rank other than 0; only rank 0 writes records, and all wait for them."""
    announced = os.environ.get(_PLAN)  # by rank 0, if Lightning started this process within a stage
    if announced is not None:
        pending = announced.split(",")
    else:  # torchrun or srun started all ranks: this one makes the same plan, from what rank 0 finds or has marked
        _wait_until((run.folder / SETTINGS_FILE).exists)
        pending = [name for name, action in _plan(run, stages, tuple(redo)).items() if action != "keep"]
    for stage in stages:
        folder = run.folder / stage.name
        if stage.name not in pending or (announced is not None and (folder / RECORD).exists()):
            continue
        if not stage.alone:
            if announced is None:
                _wait_until(partial(_is_begun, folder))
            if not run.folder.exists():  # --fast_check has ended
                return
            folder.mkdir(parents=True, exist_ok=True)
            stage.work(run, run.settings)
        _wait_until(partial(_is_over, folder))


def _is_begun(folder: Path) -> bool:
    """Whether rank 0 has started a stage, and cleared it if it runs again."""
    return (folder / _BEGUN).exists() and not (folder / RECORD).exists()


def _is_over(folder: Path) -> bool:
    """Whether rank 0 has finished a stage, or has removed the whole run after --fast_check."""
    return (folder / RECORD).exists() or not folder.parent.exists()


def _wait_until(happened: Callable[[], bool]) -> None:
    """Wait until a condition holds; exit when the parent process is gone."""
    parent = os.getppid()
    while not happened():
        if os.getppid() != parent:
            raise SystemExit(1)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _refuse_foreign(run: Run[Any], stages: Sequence[Stage]) -> None:
    """Refuse a folder that is not a run, or the run of another recipe."""
    visible = [path.name for path in run.folder.iterdir() if not path.name.startswith(".")]
    if visible and SETTINGS_FILE not in visible:
        raise UserError(
            f"{run.folder} is not a run folder: it has {visible[0]} but no {SETTINGS_FILE}. Choose another name."
        )
    names = [stage.name for stage in stages]
    for path in sorted(run.folder.glob(f"*/{RECORD}")):
        if path.parent.name not in names:
            raise UserError(
                f"{run.folder} is the run of another recipe: it has the stage {path.parent.name}, this one has "
                f"{', '.join(names)}. Choose another name (--name X)."
            )


def _write_settings(run: Run[Any]) -> None:
    write_text(run.folder / SETTINGS_FILE, dump_settings(run.settings))


def required_stages(stage: Stage, stages: Sequence[Stage]) -> list[str]:
    """Names of the earlier stages that a stage reads from."""
    names = [other.name for other in stages]
    earlier = names[: names.index(stage.name)]
    if stage.needs is None:
        return earlier
    assert set(stage.needs) <= set(earlier), f"stage {stage.name} needs {stage.needs}, before it come {earlier}"
    return list(stage.needs)


def _inputs(run: Run[Any], stage: Stage, stages: Sequence[Stage]) -> str:
    """SHA-256 of the settings that a stage uses and of the records of the stages that it needs."""
    records = {name: compute_sha256(run.folder / name / RECORD) for name in required_stages(stage, stages)}
    content = json.dumps([setting_values(run.settings, stage.uses), records], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
