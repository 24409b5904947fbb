"""Packaging for the challenge: raw and post-processed score tables of three runs, energy, and the meta file."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.data.files import read_json, write_text
from common.errors import UserError
from common.output import say
from common.runs.folder import run_folders
from common.runs.run import Run
from common.settings.yaml_file import to_yaml
from submissions.package import OUT, finish_package, new_system, team_name
from submissions.participant import join_meta, read_participant
from submissions.reading import EvaluationFiles
from submissions.rules import load_rules
from task4_sed.evaluate import PREDICTIONS
from task4_sed.systems import complexity_figures, load_recipe, predict

RULES = "task4_2024"
NUM_RUNS = 3
REFERENCE_EPOCHS = 10
ENERGY = ("training_kwh", "devtest_kwh")
"""Keys of the meta file: of all trainings, and of the inference on the development test sets."""


def package(paths: Sequence[Path], label: str, meta: Path, reference: Path, out: Path = OUT) -> Path:
    """Write a package of the 2024 challenge, check it, and zip it.

    Args:
        paths: a sweep over seeds, or three independent runs. Runs without predictions score the evaluation set below
            their data root first.
        label: Lastname_INST_task4_1.
        meta: META.yaml with names and methods.
        reference: run of the baseline for 10 epochs on the same machine, the reference for the energy.
        out: folder of the packages.

    Returns:
        The zip, beside its folder.

    Raises:
        UserError: if there are not three finished runs with measured energy, META.yaml has mistakes, or the package
            exists.
        CheckFailed: if the package breaks a rule; its folder stays for inspection.
    """
    rules = load_rules(RULES)
    participant = read_participant(meta, rules)
    runs = [_with_predictions(load_recipe().open(folder)) for folder in run_folders(paths)]
    if len(runs) != NUM_RUNS:
        raise UserError(f"A submission needs {NUM_RUNS} independent runs, found {len(runs)}; sweep over seed=0,1,2.")
    seeds = [run.settings.seed for run in runs]
    if len(set(seeds)) < NUM_RUNS:
        raise UserError(f"The three runs have the seeds {seeds}; independent runs have different ones.")
    keys = {"durations": dict, "made_up": bool}
    facts = [read_json(run.folder / PREDICTIONS / "predictions.json", "predict again", keys) for run in runs]
    for run, other in zip(runs, facts):
        if set(other["durations"]) != set(facts[0]["durations"]):
            raise UserError(
                f"{run.folder} and {runs[0].folder} predicted different evaluation sets. Make both again (`predict`)."
            )
    energy = energy_figures(runs[0], load_recipe().open(reference))
    figures = development_figures(runs)
    computed = {"complexity": complexity_figures(runs[0].settings), "energy": energy}
    content = join_meta(participant, label, computed, {"development_dataset": figures})
    durations = facts[0]["durations"]
    made_up = {"files": sorted(durations), "durations": durations} if any(fact["made_up"] for fact in facts) else None
    with new_system(label, rules, out, made_up) as folder:
        for number, run in enumerate(runs, start=1):
            for kind, suffix in (("postprocessed", ""), ("unprocessed", "_unprocessed")):
                shutil.copytree(run.folder / PREDICTIONS / kind, folder / f"{label}_run{number}{suffix}.output")
        for prefix, source in (("", runs[0]), ("reference_", load_recipe().open(reference))):
            for key in ENERGY:
                name = f"{label}.codecarbon.{prefix}{key.removesuffix('_kwh')}.csv"
                energy_table(source, key).to_csv(folder / name, index=False)
        write_text(folder / f"{label}.meta.yaml", to_yaml(content))
    evaluation = EvaluationFiles(files=sorted(durations), durations=durations, source=str(runs[0].settings.data.root))
    return finish_package(out / team_name(label), None if made_up else evaluation)


def development_figures(runs: Sequence[Run]) -> dict[str, Any]:
    """Mean over the runs of PSDS1 and mpAUC (post-processed) on the development test sets, and each run's."""
    every = []
    for run in runs:
        scores = run.read_evaluation()["networks"][run.settings.network]["postprocessed"]
        every.append((scores["validation"]["psds1"]["value"], scores["maestro_validation"]["mpauc"]["value"]))
    psds1, mpauc = (float(np.mean(values)) for values in zip(*every))
    return {
        "PSDS1": round(psds1, 4),
        "mpAUC": round(mpauc, 4),
        "runs": [{"PSDS1": round(first, 4), "mpAUC": round(second, 4)} for first, second in every],
    }


def energy_figures(run: Run, reference: Run) -> dict[str, Any]:
    """kWh of a training and of the inference on the development test sets, and relative to the reference.

    The figures of one run, with its complete csv files; the other runs took as much.

    Raises:
        UserError: if the energy was not measured.
    """
    if reference.settings.system != "baseline":
        raise UserError(f"{reference.folder} is no run of the baseline, the reference for the energy.")
    epochs = reference.settings.trainer.epochs
    if epochs != REFERENCE_EPOCHS:
        say(f"{reference.folder} has {epochs} epochs; the challenge asks for {REFERENCE_EPOCHS} of the baseline.")
    figures: dict[str, Any] = {}
    for prefix, source in (("", run), ("reference_", reference)):
        for key in ENERGY:
            rows = energy_table(source, key).groupby("run_id", sort=False)  # the last row of each tracker counts
            used = float(rows["energy_consumed"].last().sum())
            if not used > 0:
                raise UserError(
                    f"{source.folder}: {key} is {used:g}, codecarbon could measure nothing on this machine."
                )
            figures[prefix + key] = used
    for name in ("training", "devtest"):
        figures[f"{name}_ratio"] = round(figures[f"{name}_kwh"] / figures[f"reference_{name}_kwh"], 4)
    return figures


def energy_table(run: Run, key: str) -> pd.DataFrame:
    """CodeCarbon's rows for the stages of a run that a key of `ENERGY` covers.

    Raises:
        UserError: if a stage was not measured.
    """
    tables = []
    for stage in ["test"] if key == "devtest_kwh" else run.settings.training_stages:
        path = run.folder / stage / "emissions.csv"
        if not path.is_file():
            raise UserError(
                f"{path} is missing: the energy of {stage} was not measured, or the run is not finished. The challenge "
                "asks for it; run it again with --trainer.measure_energy true."
            )
        tables.append(pd.read_csv(path))
    return pd.concat(tables, ignore_index=True)


def _with_predictions(run: Run) -> Run:
    run.read_evaluation()
    if not (run.folder / PREDICTIONS / "predictions.json").is_file():
        say(f"{run.folder}: predicting the evaluation set below {run.settings.data.root}")
        predict(run, run.settings.data.root)
    return run
