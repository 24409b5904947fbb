"""The package of 2024: output tables and a meta file of five runs, one per subset."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from common.data.files import compute_sha256, read_json, write_text
from common.errors import UserError
from common.output import say
from common.runs.folder import run_folders
from common.settings.yaml_file import to_yaml
from submissions.package import OUT, finish_package, new_system, place_of_system, team_name
from submissions.participant import join_meta, read_participant
from submissions.rules import load_rules
from task1_asc.data.tau2022 import CLASSES, DEVICES, SUBSETS
from task1_asc.evaluate import PREDICTIONS, predict
from task1_asc.recipe import RECIPE, Task1Run

RULES = "task1_2024"
TRAINING_STAGES = ("teachers", "train", "devices", "quantize")


@dataclass(frozen=True)
class SubsetRun:
    """A finished run, submitted for its subset.

    scores: figures in the precision of its predictions.
    facts: predictions.json.
    """

    run: Task1Run
    scores: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def output(self) -> Path:
        """The table of the evaluation set."""
        return self.run.folder / PREDICTIONS / "output.csv"


def package(paths: Sequence[Path], label: str, meta: Path | None, out: Path = OUT, seed: int | None = None) -> Path:
    """Write a package of the 2024 challenge, check it, and zip it.

    Args:
        paths: a sweep, or runs of all five subsets. Runs without predictions make them from the evaluation set below
            their data root.
        label: Lastname_INST_task1_1.
        meta: META.yaml with names and methods; required.
        out: folder of the packages.
        seed: of the runs to submit; None takes the lowest seed that all subsets have. It is not selected by test
            figures: the test split is for reporting only.

    Returns:
        The zip. The folder lies beside it.

    Raises:
        UserError: if a subset has no finished run, META.yaml has mistakes, or the package exists.
        CheckFailed: if the package breaks a rule; its folder stays.
    """
    rules = load_rules(RULES)
    participant = _read_meta(meta)
    runs = {subset: _with_predictions(run) for subset, run in choose_runs(paths, seed).items()}
    files = _same_files(runs)
    results = {f"split_{subset}": development_figures(chosen.scores) for subset, chosen in runs.items()}
    computed = {"complexity": complexity_figures(list(runs.values()))}
    content = join_meta(participant, label, computed, {"development_dataset": results})
    made_up = {"files": files} if any(chosen.facts["made_up"] for chosen in runs.values()) else None
    with new_system(label, rules, out, made_up) as folder:
        for subset, chosen in runs.items():
            shutil.copyfile(chosen.output, folder / f"{label}.output.split_{subset}.csv")
        write_text(folder / f"{label}.meta.yaml", to_yaml(content))
    return finish_package(out / team_name(label))


def check_before_training(label: str, meta: Path | None, out: Path = OUT) -> None:
    """Refuse what `package` would refuse after hours of training.

    Raises:
        UserError: if the label is wrong, its package exists, or META.yaml is missing or has mistakes.
    """
    place_of_system(label, load_rules(RULES), out)
    _read_meta(meta)


def _read_meta(meta: Path | None) -> dict[str, Any]:
    if meta is None:
        raise UserError(
            "A package of 2024 needs --meta META.yaml. Make it with `python -m submissions template task1_2024 "
            "--out META.yaml` and fill it in."
        )
    return read_participant(meta, load_rules(RULES))


def choose_runs(paths: Sequence[Path], seed: int | None = None) -> dict[int, Task1Run]:
    """One run for each subset, all of one seed.

    Raises:
        UserError: if a subset has none.
    """
    found: dict[int, dict[int, Task1Run]] = {subset: {} for subset in SUBSETS}
    for folder in run_folders(paths):
        run = RECIPE.open(folder)
        found[run.settings.subset].setdefault(run.settings.seed, run)
    missing = [str(subset) for subset, runs in found.items() if not runs]
    if missing:
        raise UserError(
            f"There is no run of subset {', '.join(missing)}; a submission needs all five. Give a sweep over "
            f"subset={','.join(map(str, SUBSETS))}, or a run of each subset."
        )
    common = set.intersection(*(set(runs) for runs in found.values()))
    chosen = seed if seed is not None else min(common, default=None)
    if chosen not in common:
        seeds = "; ".join(f"subset {subset}: {sorted(runs)}" for subset, runs in found.items())
        raise UserError(f"No seed{'' if seed is None else f' {seed}'} has a run of every subset ({seeds}).")
    return {subset: runs[chosen] for subset, runs in found.items()}


def development_figures(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The 40 figures of one subset: overall, class_wise, device_wise with accuracy (per cent) and log loss.

    The overall accuracy is the mean over classes, the challenge's ranking figure.

    Raises:
        UserError: if a class or device has no clip in the test split.
    """
    figures: dict[str, Any] = {
        "overall": _figures(scores["macro_accuracy"]["value"], scores["log_loss"]["value"]),
    }
    for group, names in (("class_wise", CLASSES), ("device_wise", DEVICES)):
        parts = scores[group]
        empty = [name for name in names if parts[name]["accuracy"] is None]
        if empty:
            raise UserError(f"The test split has no clips of {', '.join(empty)}; the meta file needs their figures.")
        figures[group] = {name: _figures(parts[name]["accuracy"], parts[name]["log_loss"]) for name in names}
    return figures


def complexity_figures(runs: Sequence[SubsetRun]) -> dict[str, Any]:
    """Parameters, bytes and MACs of the largest of the runs' networks, and the energy of all trainings in kWh."""
    from task1_asc.networks.limits import measure_networks

    measured = measure_networks([chosen.run for chosen in runs], runs[0].facts["precision"])
    energy = [_training_energy(chosen.run) for chosen in runs]
    known = [kwh for kwh in energy if kwh is not None]
    return {
        "total_model_size": max(figures.bytes for figures in measured),
        "total_parameters": max(figures.parameters for figures in measured),
        "macs": max(figures.challenge_macs for figures in measured),
        "precision": runs[0].facts["precision"],
        "energy_consumption": {"training_kwh": sum(known) if len(known) == len(energy) else "not measured"},
    }


def _with_predictions(run: Task1Run) -> SubsetRun:
    scores = run.read_evaluation()
    path, keys = run.folder / PREDICTIONS / "predictions.json", {"precision": str, "made_up": bool}
    tested = (None, compute_sha256(run.folder / "test" / "stage.json"))
    # The networks may have been trained again after these predictions.
    if not path.is_file() or read_json(path, "predict again", keys).get("tested_sha256") not in tested:
        say(f"{run.folder}: predicting the evaluation set below {run.settings.data.root}")
        predict(run, run.settings.data.root)
    facts = read_json(path, "predict again", keys)
    return SubsetRun(run, scores[facts["precision"]], {**facts, "made_up": facts["made_up"] or scores["made_up"]})


def _same_files(runs: Mapping[int, SubsetRun]) -> list[str]:
    """File names of the evaluation set; a mixture of sets or precisions is refused."""
    first, *others = runs.values()
    files = pd.read_csv(first.output, sep="\t", usecols=["filename"], dtype=str)["filename"].tolist()
    for chosen in others:
        names = pd.read_csv(chosen.output, sep="\t", usecols=["filename"], dtype=str)["filename"].tolist()
        if names != files or chosen.facts["precision"] != first.facts["precision"]:
            raise UserError(
                f"{first.output} and {chosen.output} are of different evaluation sets or precisions. "
                "Make both again with `predict`."
            )
    return files


def _training_energy(run: Task1Run) -> float | None:
    """Energy of all training stages, teachers included; None if one was not measured."""
    trained = [run.folder / stage.name for stage in RECIPE.stages(run.settings) if stage.name in TRAINING_STAGES]
    files = [folder / "energy.json" for folder in trained]
    keys = {"energy_kwh": (int, float, type(None))}
    energy = [
        read_json(path, "delete it: the energy is not measured then", keys)["energy_kwh"]
        for path in files
        if path.is_file()
    ]
    return sum(energy) if len(energy) == len(trained) and None not in energy else None


def _figures(accuracy: float, loss: float) -> dict[str, float]:
    return {"accuracy": round(100 * accuracy, 2), "logloss": round(loss, 4)}
