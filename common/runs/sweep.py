"""A grid over settings: one function run(settings) -> row, here or on SLURM.

    rows = sweep(settings, parse_over(["subset=5,25", "seed=0,1"]), train_and_score, folder, jobs=2)

<folder>/results.csv has one row per cell and goes on after a stop: cells in it are not run again. Cells that fail are
named at the end and do not stop the others; what went wrong is in <folder>/failed/. <folder>/sweep.json says what was
swept and where the run of each cell lies. `run` must go on where an earlier call with the same settings stopped.
"""

import itertools
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from common.errors import CheckFailed, UserError
from common.files import atomic_write, write_json
from common.output import say
from common.runs.cells import Cell, Outcome, RunFunction, SlurmSettings, end_with, run_cell
from common.runs.folder import lock_folder, prepare_folder
from common.runs.results_table import ResultsTable, as_text
from common.settings import AnySettings, Settings, changed_settings, parse_settings, plain_settings
from common.settings.trainer import MachineSettings
from common.settings.yaml_file import parse_value


def parse_over(options: Sequence[str]) -> dict[str, list[Any]]:
    """["subset=5,10", "seed=0,1"] to {"subset": [5, 10], "seed": [0, 1]}; values are written as in YAML.

    Raises:
        UserError: if an option is not of that form, or a setting or a value comes twice.
    """
    over: dict[str, list[Any]] = {}
    for option in options:
        name, equals, values = option.partition("=")
        found = parse_value(f"[{values}]")
        if not equals or not name or not isinstance(found, list) or not found:
            raise UserError(f"--over {option} is not of the form setting=value,value, such as --over seed=0,1,2.")
        texts = [as_text(value) for value in found]
        if name in over or len(set(texts)) < len(texts):
            raise UserError(f"--over {option} gives {name if name in over else 'a value'} twice.")
        over[name] = found
    if not over:
        raise UserError("A sweep needs what to go over, such as --over subset=5,25 --over seed=0,1.")
    return over


def make_cells(settings: AnySettings, over: Mapping[str, Sequence[Any]]) -> list[Cell]:
    """Every combination, the last setting changing fastest.

    Where the settings have a `name` (of the run's folder), each swept setting that it does not mention as {setting} is
    added to it, so that no two cells share a folder.

    Raises:
        SettingsError: if a swept name is no setting, or a value is not allowed.
    """
    cells = []
    for values in itertools.product(*over.values()):
        data = plain_settings(settings)
        for name, value in zip(over, values):
            _put(data, name, value)
        texts = tuple(as_text(value) for value in values)
        if isinstance(data.get("name"), str):
            missing = [
                f"{key.split('.')[-1]}{text}" for key, text in zip(over, texts) if f"{{{key}}}" not in data["name"]
            ]
            data["name"] = "_".join([data["name"], *missing]).replace("/", "-")
        cells.append(Cell(tuple(over), texts, parse_settings(type(settings), data, origin="--over")))
    return cells


def sweep(
    settings: AnySettings,
    over: Mapping[str, Sequence[Any]],
    run: RunFunction,
    folder: Path,
    *,
    jobs: int = 1,
    on: Literal["here", "slurm"] = "here",
    slurm: SlurmSettings | None = None,
) -> list[dict[str, Any]]:
    """Run the cells that are not in results.csv yet.

    Args:
        settings: of every cell, but for what is swept.
        over: dotted name of a setting to its values.
        run: see RunFunction.
        folder: of results.csv; a sweep of other settings or names is refused.
        jobs: processes on this machine, which share its cores; 1 runs in this process.
        on: this machine, or an array job of SLURM. After a stop, jobs that still run are waited for, not sent again.
        slurm: what to ask of SLURM.

    Returns:
        All rows of results.csv, in the order of the grid, with numbers read.

    Raises:
        UserError: if the folder cannot be used, or a cell would take several devices.
        CheckFailed: if cells failed, with their names; the others are in results.csv.
    """
    cells = make_cells(settings, over)
    for cell in cells:
        refuse_several_devices(cell.settings)
    prepare_folder(folder)
    with lock_folder(folder):
        _note_sweep(folder, settings, over, cells)
        table = ResultsTable(folder / "results.csv", list(over))
        done = table.names()
        missing = [cell for cell in cells if cell.values not in done]
        if len(missing) < len(cells):
            say(f"{len(cells) - len(missing)} of {len(cells)} cells are done already")
        failed = []
        for number, outcome in enumerate(_outcomes(missing, run, folder, jobs, on, slurm), start=1):
            if outcome.row is None:
                failed.append(outcome)
                _note_failure(folder, outcome)
            else:
                table.append({**dict(zip(outcome.cell.names, outcome.cell.values)), **outcome.row})
                _failure_path(folder, outcome.cell).unlink(missing_ok=True)
            state = "failed" if outcome.row is None else "done"
            say(f"{number} of {len(missing)}: {outcome.cell.title} {state}")
        table.sort([cell.values for cell in cells])
    if failed:
        told = [f"{outcome.cell.title}: {outcome.error}" for outcome in failed]
        lines = "\n  ".join(told)
        raise CheckFailed(f"{len(failed)} of {len(cells)} cells failed (see {folder / 'failed'}):\n  {lines}")
    return [{name: parse_value(text) for name, text in row.items()} for row in table.rows]


def _outcomes(
    cells: list[Cell],
    run: RunFunction,
    folder: Path,
    jobs: int,
    on: str,
    slurm: SlurmSettings | None,
) -> Iterator[Outcome]:
    if not cells:
        return iter(())
    if on == "slurm":
        from common.runs.slurm import run_on_slurm

        return run_on_slurm(cells, run, folder / "slurm", slurm or SlurmSettings())
    if jobs == 1:
        return (run_cell(run, cell) for cell in cells)
    return _run_in_processes(cells, run, jobs)


def _run_in_processes(cells: list[Cell], run: RunFunction, jobs: int) -> Iterator[Outcome]:
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    waiting = list(cells)
    try:
        with parallel_config(backend="loky", inner_max_num_threads=threads):
            parallel = Parallel(n_jobs=min(jobs, len(cells)), return_as="generator_unordered", batch_size=1)
            for outcome in parallel(delayed(_run_cell_apart)(run, cell, os.getpid()) for cell in cells):
                waiting = [cell for cell in waiting if cell.values != outcome.cell.values]
                yield outcome
    except TerminatedWorkerError:
        error = "its process, or one beside it, was killed (out of memory?); start the sweep again"
        yield from (Outcome(cell, error=error) for cell in waiting)


def _run_cell_apart(run: RunFunction, cell: Cell, parent: int) -> Outcome:
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    return run_cell(run, cell)


def refuse_several_devices(settings: Settings, prefix: str = "") -> None:
    """Lightning starts the processes of further devices with this one's command line, which sweeps.

    Raises:
        UserError: if some part of the settings trains on more than one device.
    """
    for name in type(settings).model_fields:
        part = getattr(settings, name)
        if isinstance(part, MachineSettings) and (part.devices not in ("auto", 1) or part.num_nodes > 1):
            raise UserError(
                f"{prefix}{name}: a sweep trains each cell on one device; leave devices and num_nodes out, and train "
                "cells side by side with --jobs or --on slurm."
            )
        if isinstance(part, Settings):
            refuse_several_devices(part, f"{prefix}{name}.")


def _note_sweep(folder: Path, settings: Settings, over: Mapping[str, Sequence[Any]], cells: list[Cell]) -> None:
    """Write sweep.json, unless the folder holds a sweep of other settings."""
    path = folder / "sweep.json"
    base = plain_settings(settings)
    for name in over:
        _put(base, name, "swept")
    runs = {cell.title: str(getattr(cell.settings, "folder", "")) for cell in cells}
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = changed_settings(before["settings"], base)
        if changed or before["over"] != list(over):
            what = "; ".join(changed) or f"over {', '.join(before['over'])} -> {', '.join(over)}"
            raise UserError(f"{folder} holds a sweep of other settings ({what}). Give this one another --name.")
        runs = {**before["runs"], **runs}
    write_json(path, {"over": list(over), "settings": base, "runs": runs})


def _note_failure(folder: Path, outcome: Outcome) -> None:
    with atomic_write(_failure_path(folder, outcome.cell)) as file:
        file.write(f"{outcome.cell.title}\n{outcome.error}\n\n{outcome.trace}")


def _failure_path(folder: Path, cell: Cell) -> Path:
    return folder / "failed" / f"{cell.title.replace(' ', '_').replace('/', '-')}.txt"


def _put(data: dict[str, Any], name: str, value: Any) -> None:
    *groups, last = name.split(".")
    for group in groups:
        inner = data.get(group)
        if not isinstance(inner, dict):
            inner = data[group] = {}
        data = inner
    data[last] = value
