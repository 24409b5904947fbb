"""Runs in groups of one configuration: those that differ in their seed belong together, all others do not."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.output import say
from common.reports.compare import Comparison, Measured, System, compare
from common.reports.html import cost
from common.runs.energy import read_energy
from common.runs.folder import SETTINGS_FILE, read_sweep, refuse_absent, run_folders
from common.runs.run import Run, is_done
from common.runs.sweep import sweep_name
from common.settings import MachineSettings, Settings, plain_settings

_NOT_OF_A_SYSTEM = ("name", "runs", "seed", "num_workers")


@dataclass
class Trained:
    """Finished runs of one configuration, by seed.

    name: for tables. variant: values of a sweep's settings, such as "subset=5"; empty where there are none.
    evaluations: the evaluation.json of each run.
    """

    name: str
    variant: str
    runs: list[Run[Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)


def read_systems(paths: Sequence[Path], open_one: Callable[[Path], Run[Any]]) -> tuple[list[Trained], list[Path]]:
    """Finished runs by configuration, and the folders of the others.

    Args:
        paths: folders of runs and sweeps; runs that differ in their seed only are one system.
        open_one: opens the run in a folder.

    Raises:
        UserError: if no run is finished.
    """
    found: dict[str, Trained] = {}
    unfinished = []
    for path in map(Path, paths):
        for variant, folder in _runs_of(path):
            run = open_one(folder)
            if not is_done(run, "test"):
                say(f"{folder} is not finished: left out")
                unfinished.append(folder)
                continue
            name = (f"{path.name} {variant}".strip() if len(paths) > 1 else variant) or path.name
            system = found.setdefault(configuration(run.settings), Trained(name, variant))
            system.runs.append(run)
            system.evaluations.append(run.read_evaluation())
    if not found:
        raise UserError(f"No run in {', '.join(map(str, paths))} is finished. Resume with `train --resume RUN`.")
    for system in found.values():
        order = sorted(range(len(system.runs)), key=lambda number: system.runs[number].settings.seed)
        system.runs = [system.runs[number] for number in order]
        system.evaluations = [system.evaluations[number] for number in order]
    return _with_names(list(found.values())), unfinished


def cost_rows(runs: Sequence[Run[Any]]) -> list[dict[str, Any]]:
    """Energy and time of each training of the runs."""
    return [
        {"run": run.folder.name, "stage": path.parent.name, **cost(read_energy(path.parent))}
        for run in runs
        for path in sorted(run.folder.glob("*/energy.json"))
    ]


def configuration(settings: Settings) -> str:
    """Text that is equal for runs that differ only in seed, name, folder and machine."""
    return json.dumps(_without_machine(settings, plain_settings(settings)), sort_keys=True)


def _without_machine(settings: Settings, plain: dict[str, Any]) -> dict[str, Any]:
    machine = (
        set(MachineSettings.model_fields) - {"precision", "validate_every"}
        if isinstance(settings, MachineSettings)
        else set()
    )
    kept = {}
    for name, value in plain.items():
        inner = getattr(settings, name, None)
        if name not in machine and name not in _NOT_OF_A_SYSTEM:
            kept[name] = _without_machine(inner, value) if isinstance(inner, Settings) else value
    return kept


def _runs_of(path: Path) -> list[tuple[str, Path]]:
    """Folders of runs with their variant."""
    if not (path / "sweep.json").is_file():
        return [("", folder) for folder in run_folders([path])]
    sweep = read_sweep(path)
    border = "|".join(re.escape(name) for name in sweep["over"])
    cells = []
    for title, folder in sweep["runs"].items():
        values = re.split(rf" (?=(?:{border})=)", title)
        variant = ", ".join(value for value in values if not value.startswith("seed="))
        if (folder / SETTINGS_FILE).is_file():
            cells.append((variant, folder))
    if not cells:
        run_folders([path])  # says that there are none
    return cells


def _with_names(systems: list[Trained]) -> list[Trained]:
    """Several runs that were given one by one are called by their name without the seed; equal names get a number."""
    for system in systems:
        if len(system.runs) > 1 and system.name in [run.folder.name for run in system.runs]:
            system.name = sweep_name(system.runs[0].settings.name)
    names = [system.name for system in systems]
    for number, system in enumerate(systems):
        if names.count(system.name) > 1:
            system.name = f"{system.name} ({names[: number + 1].count(system.name)})"
    return systems


def compare_paths(
    paths: Sequence[Path],
    open_one: Callable[[Path], Run[Any]],
    measure: Callable[[Run[Any]], Measured],
    measure_folder: Callable[[Path], Measured],
) -> list[Comparison]:
    """Compare runs, sweeps and folders of scores with the first of them.

    Sweeps over the same values are compared value by value; else each value of a sweep is a system of its own.

    Args:
        paths: folders.
        open_one: opens the run in a folder.
        measure: figures of a finished run.
        measure_folder: figures of a folder that is neither run nor sweep, or of a file.

    Raises:
        UserError: if there is nothing to compare, or test sets differ.
    """
    refuse_absent(paths)
    places: list[dict[str, System]] = []
    for path, name in zip(paths, distinct_names(paths)):
        if (path / SETTINGS_FILE).is_file() or (path / "sweep.json").is_file():
            trained, _ = read_systems([path], open_one)
            alone = len(trained) == 1
            systems = [System(name if alone else one.name, [measure(run) for run in one.runs]) for one in trained]
            places.append({one.variant: system for one, system in zip(trained, systems)})
        else:
            places.append({"": System(name, [measure_folder(path)])})
    variants = list(places[0])
    if len(places) > 1 and len(variants) > 1 and all(set(place) == set(variants) for place in places):
        named = [[replace(place[variant], name=name) for place, name in zip(places, distinct_names(paths))]
                 for variant in variants]  # fmt: skip
        return [compare(systems, variant) for systems, variant in zip(named, variants)]
    many = len(places) > 1
    flat = [
        replace(system, name=f"{name} {system.name}") if many and len(place) > 1 else system
        for place, name in zip(places, distinct_names(paths)) for system in place.values()
    ]  # fmt: skip
    return [compare(flat)]


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Names of folders, with as many of the folders above as they need to differ."""
    for count in range(1, max(len(path.absolute().parts) for path in paths) + 1):
        names = ["/".join(path.absolute().parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({number})" for number, path in enumerate(paths, start=1)]
