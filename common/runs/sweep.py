"""A grid over settings: one function run(settings) -> row.

    rows = sweep(settings, parse_over(["subset=5,25", "seed=0,1"]), train_and_score, folder, Executor(jobs=2))

<folder>/results.csv has one row per cell; a call after an interruption skips the cells in it. Cells that fail are named
at the end and do not stop the others; their traces are in <folder>/failed/. <folder>/sweep.json holds the settings, the
grid and the folder of each cell's run. `run` must resume where an earlier call with the same settings stopped.
"""

import itertools
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.files import write_json, write_text
from common.errors import CheckFailed, UserError
from common.output import part_of, say, spell_time
from common.runs.folder import lock_folder, prepare_folder, read_sweep
from common.runs.processes import Executor
from common.runs.results_table import ResultsTable, as_text
from common.runs.tasks import Outcome, Task, run_task
from common.settings import AnySettings, MachineSettings, Settings, changed_settings, parse_settings, plain_settings
from common.settings.yaml_file import parse_value

RunFunction = Callable[[Any], Mapping[str, Any]]
"""Trains and scores one cell; at the top of a module, so that other processes find it. Its row has names and figures,
nothing that differs from machine to machine (times, energy), so that equal sweeps give equal files."""


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


def parse_over(options: Sequence[str]) -> dict[str, list[Any]]:
    """["subset=5,10", "seed=0,1"] to {"subset": [5, 10], "seed": [0, 1]}; values are written as in YAML.

    Raises:
        UserError: if an option is not of that form, or a setting or a value is repeated.
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
        raise UserError("A sweep needs settings to vary, such as --over subset=5,25 --over seed=0,1.")
    return over


def make_cells(settings: AnySettings, over: Mapping[str, Sequence[Any]]) -> list[Cell]:
    """Every combination, the last setting changing fastest.

    If the settings have a `name` (of the run's folder), each swept setting that it does not contain as {setting} is
    appended, so that no two cells share a folder.

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
            data["name"] = "_".join([data["name"], *(re.sub(r"[{}/\\\x00-\x1f]", "-", text) for text in missing)])
        cells.append(Cell(tuple(over), texts, parse_settings(type(settings), data, origin="--over")))
    return cells


def sweep_name(name: str) -> str:
    """The name of a run without its parts that differ from cell to cell: small_subset{subset}_seed{seed} to small."""
    return re.sub(r"[_-]?[a-z0-9.]*\{[^}]*\}", "", name).strip("_-") or "sweep"


def sweep(
    settings: AnySettings,
    over: Mapping[str, Sequence[Any]],
    run: RunFunction,
    folder: Path,
    executor: Executor | None = None,
) -> list[dict[str, Any]]:
    """Run the cells that are not in results.csv yet.

    Args:
        settings: of every cell, apart from the swept ones.
        over: dotted name of a setting to its values.
        run: see RunFunction.
        folder: of results.csv; refused when it holds a sweep of other settings or names.
        executor: runs cells in other processes, or on SLURM; None runs one after another in this process.

    Returns:
        All rows of results.csv, in the order of the grid, with numbers read.

    Raises:
        UserError: if the folder cannot be used, or a cell would take several devices.
        CheckFailed: if cells failed, with their names; the others are in results.csv.
    """
    cells = {cell.title: cell for cell in make_cells(settings, over)}
    for cell in cells.values():
        refuse_several_devices(cell.settings, "a sweep trains each cell on one device")
    prepare_folder(folder)
    with lock_folder(folder):
        _note_sweep(folder, settings, over, list(cells.values()))
        table = ResultsTable(folder / "results.csv", list(over))
        done = table.names()
        tasks = [Task(title, run, cell.settings) for title, cell in cells.items() if cell.values not in done]
        if len(tasks) < len(cells):
            say(f"{len(cells) - len(tasks)} of {len(cells)} cells are finished already")
        failed = []
        clock = SweepClock(len(tasks))
        outcomes = _one_by_one(tasks, clock) if executor is None else executor.run(tasks, folder / "slurm")
        for number, outcome in enumerate(outcomes, start=1):
            cell = cells[outcome.name]
            if outcome.error:
                failed.append(outcome)
                _note_failure(folder, outcome)
            else:
                table.append({**dict(zip(cell.names, cell.values)), **outcome.value})
                _failure_path(folder, outcome.name).unlink(missing_ok=True)
            left, state = clock.cell_is_done(), "failed" if outcome.error else "done"
            rest = f", about {spell_time(left)} left" if number < len(tasks) else ""
            say(f"{number} of {len(tasks)}: {outcome.name} {state}{rest}")
        table.sort([cell.values for cell in cells.values()])
    if failed:
        lines = "\n  ".join(f"{outcome.name}: {outcome.error}" for outcome in failed)
        raise CheckFailed(f"{len(failed)} of {len(cells)} cells failed (see {folder / 'failed'}):\n  {lines}")
    return [{name: parse_value(text) for name, text in row.items()} for row in table.rows]


def _one_by_one(tasks: Sequence[Task], clock: SweepClock) -> Iterator[Outcome]:
    """Run cells in this process."""
    for number, task in enumerate(tasks, start=1):
        say(f"{number} of {len(tasks)}: {task.name} starts")
        with part_of("sweep", clock.left):
            outcome = run_task(task)
        yield outcome


def refuse_several_devices(settings: Settings, because: str, prefix: str = "") -> None:
    """Refuse settings with several devices: Lightning would start their processes with this process's command line.

    Raises:
        UserError: if some part of the settings trains on more than one device.
    """
    for name in type(settings).model_fields:
        part = getattr(settings, name)
        if isinstance(part, MachineSettings) and (part.devices not in ("auto", 1) or part.num_nodes > 1):
            raise UserError(
                f"{prefix}{name}: {because}; leave devices and num_nodes out, and run several at the same time with "
                "--jobs or --on slurm."
            )
        if isinstance(part, Settings):
            refuse_several_devices(part, because, f"{prefix}{name}.")


def _note_sweep(folder: Path, settings: Settings, over: Mapping[str, Sequence[Any]], cells: list[Cell]) -> None:
    """Write sweep.json, unless the folder holds a sweep of other settings."""
    path = folder / "sweep.json"
    base = plain_settings(settings)
    for name in over:
        _put(base, name, "swept")
    runs = {cell.title: cell.settings.folder for cell in cells if hasattr(cell.settings, "folder")}
    if path.exists():
        before = read_sweep(folder)
        changed = changed_settings(before["settings"], base)
        if changed or before["over"] != list(over):
            what = "; ".join(changed) or f"over {', '.join(before['over'])} -> {', '.join(over)}"
            raise UserError(f"{folder} holds a sweep of other settings ({what}). Give this one another --name.")
        runs = {**before["runs"], **runs}
    # Relative to the sweep, so that they hold in any working directory.
    places = {title: os.path.relpath(run, folder) for title, run in runs.items()}
    write_json(path, {"over": list(over), "settings": base, "runs": places})


def _note_failure(folder: Path, outcome: Outcome) -> None:
    write_text(_failure_path(folder, outcome.name), f"{outcome.name}\n{outcome.error}\n\n{outcome.trace}")


def _failure_path(folder: Path, title: str) -> Path:
    return folder / "failed" / f"{title.replace(' ', '_').replace('/', '-')}.txt"


def _put(data: dict[str, Any], name: str, value: Any) -> None:
    *groups, last = name.split(".")
    for group in groups:
        inner = data.get(group)
        if not isinstance(inner, dict):
            inner = data[group] = {}
        data = inner
    data[last] = value
