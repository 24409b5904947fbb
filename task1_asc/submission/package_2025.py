"""The inference package of 2025: a finished run as an installable Python package that needs nothing of this kit.

submissions/out/<Lastname>_<INST>_task1_2025/
    setup.py requirements.txt complexity.py test_complexity.py evaluate_submission.py
    <Lastname>_<INST>_task1/    <...>_1.py .. _4.py  models/ (modules that it needs)  resources/  ckpts/system_1.ckpt
    predictions/<...>_1/        complexity.json output.csv test_accuracy.json model_state_dict.pt, by its own scripts
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.data.audio import write_wav
from common.data.files import is_made_up, read_json, write_json, write_text
from common.errors import CheckFailed, UserError
from common.output import say
from common.registry.models import find_architecture, find_network
from common.runs.folder import run_folders
from common.training.checkpoints import save_checkpoint
from submissions.package import OUT, already_packaged, check_label, finish_package, team_name
from submissions.participant import TEMPLATES_FOLDER, placeholder_report
from submissions.reading import DECLARATION, EvaluationFiles
from submissions.rules import load_rules
from task1_asc.data.tau2022 import (
    CLASSES,
    SAMPLE_RATE,
    development_folder,
    evaluation_folder,
    is_made_up_data,
    read_evaluation,
    split_list,
)
from task1_asc.networks.build import KEPT_FLOAT, input_shape, load_int8_networks, load_run_networks
from task1_asc.recipe import RECIPE, Task1Run
from task1_asc.settings import Task1Settings

RULES, YEAR, SUBSET = "task1_2025", 2025, 25
TEMPLATE = TEMPLATES_FOLDER / RULES
ROOT_FILES = ("setup.py", "requirements.txt", "complexity.py", "test_complexity.py", "evaluate_submission.py")
KIT = Path(__file__).resolve().parents[2]
# Imported where they are used, not at the top of a module.
ALSO_NEEDED = ("common.inference.dynamic_inference",)
AGREEMENT = 0.5  # per cent by which the package's accuracy may differ from the run's: the packed clips have 16 bit


def package(paths: Sequence[Path], label: str, out: Path = OUT, seed: int | None = None) -> Path:
    """Write the inference package of a run, run it, check it, and zip it.

    A second system of the team joins the package that is there.

    Args:
        paths: a run on the 25 % subset, or a sweep that has one.
        label: Lastname_INST_task1_1.
        out: folder of the packages.
        seed: which of several runs; None takes the lowest seed.

    Returns:
        The zip. The folder lies beside it.

    Raises:
        UserError: if there is no such run, the label is wrong, or the system is in the package already.
        CheckFailed: if the package does not run, disagrees with the run, or breaks a rule.
    """
    final = place_of_package(label, out)
    run = choose_run(paths, seed)
    name, number = team_name(label), label.rpartition("_")[2]
    unfinished = out / f".{final.name}.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        if final.exists():
            shutil.copytree(final, unfinished)
        write_package(unfinished, name, run)
        write_system(unfinished, name, number, run)
        run_scripts(unfinished, name, number, run)
        compare_with_run(unfinished / "predictions" / label, run)
        evaluation = evaluation_files(run)
        if evaluation.made_up:
            write_json(unfinished / DECLARATION, {"made_up": True, "files": evaluation.files})
        shutil.rmtree(_replaced(final), ignore_errors=True)
        if final.exists():
            final.rename(_replaced(final))
        unfinished.rename(final)
        shutil.rmtree(_replaced(final), ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return finish_package(final, None if evaluation.made_up else evaluation, run_code=True)


def place_of_package(label: str, out: Path = OUT) -> Path:
    """The folder of a team's package.

    Raises:
        UserError: if the label is wrong, or the system is in the package already.
    """
    check_label(label, load_rules(RULES))
    place = out / f"{team_name(label)}_{YEAR}"
    if (replaced := _replaced(place)).exists() and not place.exists():
        replaced.rename(place)  # a kill came between the two renames of `package`
    if (place / team_name(label) / f"{label}.py").exists():
        raise already_packaged(place / team_name(label) / f"{label}.py", place, " --run_code")
    return place


def _replaced(place: Path) -> Path:
    """Where the package without its new system stands until the new one is in place."""
    return place.with_name(f".{place.name}.replaced")


def choose_run(paths: Sequence[Path], seed: int | None = None) -> Task1Run:
    """The run of the 25 % subset, the only one of 2025.

    Raises:
        UserError: if there is none.
    """
    runs = [RECIPE.open(folder) for folder in run_folders(paths)]
    fitting = [run for run in runs if run.settings.subset == SUBSET and seed in (None, run.settings.seed)]
    if not fitting:
        raise UserError(
            f"{', '.join(map(str, paths))} has no run of subset {SUBSET}{'' if seed is None else f' and seed {seed}'}; "
            f"the challenge of {YEAR} allows no other."
        )
    run = min(fitting, key=lambda run: run.settings.seed)
    run.read_evaluation()
    return run


def write_package(root: Path, name: str, run: Task1Run) -> None:
    """Files shared by all systems: scripts, needed modules, the dummy clip, the list of the test split."""
    inner = root / name
    for script in ROOT_FILES:
        _copy(TEMPLATE / script, root / script)
    write_text(inner / "__init__.py", f'"""Inference package of {name}, DCASE {YEAR} Task 1."""\n')
    network, front_end = (target.partition(":")[0] for target in _targets(run.settings))
    for module in modules_needed(("task1_asc.submission.packaged", network, front_end, *ALSO_NEEDED)):
        _copy_module(module, inner / "models", name)
    clip = 0.1 * np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
    write_wav(inner / "resources" / "dummy.wav", clip.clip(-1, 1), SAMPLE_RATE, "PCM_24")
    _copy(split_list(run.settings.data.root, "test"), inner / "resources" / "test.csv")
    report = root / f"{name}.technical_report.pdf"
    if not report.exists():
        report.write_bytes(placeholder_report(name))


def write_system(root: Path, name: str, number: str, run: Task1Run) -> None:
    """The module of a system and its checkpoint, in the submitted precision."""
    settings = run.settings
    _copy(TEMPLATE / "system.py", root / name / f"{name}_{number}.py")
    _, networks = load_run_networks(run, SAMPLE_RATE)
    networks = networks.cpu()
    if settings.precision == "int8":
        networks = load_int8_networks(run, networks, SAMPLE_RATE)
    else:
        networks = networks.half()
    network, front_end = _targets(settings)
    spec = {
        "network": {"make": network, **_network_options(settings)},
        "front_end": {"make": front_end, **_front_end_options(settings)},
        "labels": list(CLASSES),
        "precision": settings.precision,
        "devices": list(networks.device_models),
        "sample_rate": SAMPLE_RATE,
        "input_shape": list(input_shape(settings, SAMPLE_RATE)),
        "kept_float": [f"{kind.__module__}:{kind.__name__}" for kind in KEPT_FLOAT],
    }
    save_checkpoint(
        {"spec": spec, "state_dict": networks.state_dict()}, root / name / "ckpts" / f"system_{number}.ckpt"
    )


def run_scripts(root: Path, name: str, number: str, run: Task1Run) -> None:
    """Let the package measure its complexity, score the test split and predict the evaluation set.

    Raises:
        CheckFailed: if a script fails, with its last line on stderr.
    """
    data = run.settings.data.root
    folders = [str(folder.resolve()) for folder in (development_folder(data), evaluation_folder(data, YEAR))]
    places = ["--dev_set_dir", folders[0], "--eval_set_dir", folders[1]]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": "", "PYTHONWARNINGS": "ignore"}
    for script, arguments in (("test_complexity.py", list[str]()), ("evaluate_submission.py", places)):
        say(f"{name}_{number}: {script}")
        call = [sys.executable, script, "--submission_name", name, "--submission_index", number, *arguments]
        done = subprocess.run(call, cwd=root, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last_line = (done.stderr.strip() or "no output on stderr").splitlines()[-1]
            raise CheckFailed(f"{script} of the package failed: {last_line}")
        say(done.stdout.strip())


def compare_with_run(folder: Path, run: Task1Run) -> None:
    """Compare the package's accuracy on the test split with the run's.

    Raises:
        CheckFailed: if they differ.
    """
    told = read_json(folder / "test_accuracy.json", "package again", {"Test Accuracy": float})["Test Accuracy"]
    tested = 100 * run.read_evaluation()[run.settings.precision]["accuracy"]["value"]
    clips = run.read_evaluation()[run.settings.precision]["clips"]
    if abs(told - tested) > max(AGREEMENT, 200 / clips):
        raise CheckFailed(
            f"The package has an accuracy of {told:.2f} % on the test split, the run {run.folder} of {tested:.2f} %."
        )


def evaluation_files(run: Task1Run) -> EvaluationFiles:
    """The evaluation set below a run's data root."""
    data = run.settings.data.root
    return EvaluationFiles(
        files=read_evaluation(data, YEAR)["filename"].tolist(),
        made_up=is_made_up(evaluation_folder(data, YEAR)) or is_made_up_data(data),
        source=str(evaluation_folder(data, YEAR)),
    )


def modules_needed(names: Sequence[str]) -> list[str]:
    """These modules of the kit, and all modules that they import at the top."""
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = None
            waiting += _imports(_path_of(name))
    return sorted(found)


def _imports(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("common", "task1_asc"):
            yield node.module


def _path_of(module: str) -> Path:
    return (KIT / module.replace(".", "/")).with_suffix(".py")


def _copy_module(module: str, models: Path, name: str) -> None:
    """Copy a module of the kit; its imports of the kit become imports of the package."""
    text = _path_of(module).read_text(encoding="utf-8")
    text = re.sub(r"^(\s*from )(common|task1_asc)\b", rf"\1{name}.models.\2", text, flags=re.MULTILINE)
    path = (models / module.replace(".", "/")).with_suffix(".py")
    write_text(path, text)
    for folder in (path.parent, *path.parent.parents):
        if not folder.is_relative_to(models):
            break
        if not (folder / "__init__.py").exists():
            (folder / "__init__.py").write_text('"""Modules that the systems need."""\n', encoding="utf-8")


def _targets(settings: Task1Settings) -> tuple[str, str]:
    """Classes of network and front end as "module:name"."""
    network = find_network(find_architecture(settings.model.name).network).make
    published = "task1_baseline" if settings.front_end is not None else settings.model.name
    front_end = find_architecture(published).front_end["make"]
    return f"{network.__module__}:{network.__qualname__}", f"common.features.front_ends:{front_end}"


def _network_options(settings: Task1Settings) -> dict[str, Any]:
    widths = settings.model.model_dump(exclude={"name"})
    return {**find_architecture(settings.model.name).options, "num_classes": len(CLASSES), **widths}


def _front_end_options(settings: Task1Settings) -> dict[str, Any]:
    if settings.front_end is not None:
        return {"input_rate": SAMPLE_RATE, **settings.front_end.model_dump()}
    options = find_architecture(settings.model.name).front_end
    return {key: value for key, value in options.items() if key != "make"}


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
