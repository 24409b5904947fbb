"""The package of DCASE 2026 Task 1: a class and its probability for each clip of BSD2k, and 72 figures of BSD10k.

It reads of each run:

    test/evaluation.json            "set" (bsd10k), "parameters" (int, of all networks), "macs" (int or null)
    test/predictions.csv            sound_id, fold, class (truth), and a probability for each of the 23 codes
    test/bsd35k-cs_predictions.csv  the same of the crowd's set, where it was tested
    predictions/predictions.csv     anonymous_id, and a probability for each of the 23 codes (the verb `predict`)
    predictions/evaluation.json     "made_up" (bool), "runs" (names of the runs that answered)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.data.files import read_json, read_tsv, write_text
from common.errors import UserError
from common.output import say
from common.runs.folder import run_folders
from common.runs.run import Run, open_run
from common.settings.yaml_file import to_yaml
from submissions.package import OUT, finish_package, new_system, team_name
from submissions.participant import join_meta, read_participant
from submissions.reading import EvaluationFiles
from submissions.rules import load_rules
from task1_asc.broad_sounds.metrics import NAMES, hierarchical_scores, spell_missed
from task1_asc.broad_sounds.settings import SoundSettings
from task1_asc.broad_sounds.taxonomy import CODES

RULES = "task1_2026"
TESTED, TESTED_CROWD = "test/predictions.csv", "test/bsd35k-cs_predictions.csv"
TESTED_FIGURES = "test/evaluation.json"
PREDICTED = "predictions/predictions.csv"
PREDICT = "python -m task1_asc sounds predict RUN --root EVALUATION_SET"
SoundRun = Run[SoundSettings]


def package(folders: Sequence[Path], label: str, meta: Path, out: Path = OUT) -> Path:
    """Write the package of one system, check it, and zip it.

    Args:
        folders: runs or sweeps with predictions (`predict`); the system is the mean of their logits.
        meta: META.yaml with names and methods, from `python -m submissions template task1_2026`.
        out: folder of the packages.

    Returns:
        The zip; the folder lies beside it.

    Raises:
        UserError: if predictions are missing or of different clips, META.yaml has mistakes, or the package exists.
        CheckFailed: if the package breaks a rule; its folder stays for inspection.
    """
    runs, rules = [open_run(folder, SoundSettings) for folder in run_folders(folders)], load_rules(RULES)
    participant = read_participant(meta, rules)
    evaluations = [run.read_evaluation() for run in runs]
    for run, content in zip(runs, evaluations, strict=True):
        if content["set"] != "bsd10k":
            raise UserError(f"{run.folder} was tested on {content['set']}; the meta file asks for figures of BSD10k.")
    answers, probabilities, is_made_up = read_answers(runs)
    content = join_meta(
        participant,
        label,
        {"complexity": _complexity(evaluations)},
        {"development_datasets": {"bsd10k-v1.2": development_figures(runs),
                                  "bsd35k-cs": {"overall": crowd_figures(runs)}}},
    )  # fmt: skip
    ids = answers["anonymous_id"].tolist()
    with new_system(label, rules, out, {"files": ids} if is_made_up else None) as folder:
        write_text(folder / f"{label}.output.csv", output_csv(ids, probabilities))
        write_text(folder / f"{label}.meta.yaml", to_yaml(content))
    evaluation = EvaluationFiles(files=ids, source="the evaluation set of the predictions")
    return finish_package(out / team_name(label), None if is_made_up else evaluation)


def read_answers(runs: Sequence[SoundRun]) -> tuple[pd.DataFrame, NDArray[np.float64], bool]:
    """Clips of the evaluation set, their probabilities (clips, 23), and whether the set is made up.

    Raises:
        UserError: if predictions are missing, or of other runs.
    """
    paths, made_up = [], False
    for run in runs:
        path = run.folder / PREDICTED
        if not path.is_file():
            raise UserError(f"{path} does not exist. Make it with `{PREDICT}`.")
        known = read_json(path.with_name("evaluation.json"), f"call `{PREDICT}` again", {"made_up": bool, "runs": list})
        paths.append(path)
        made_up |= known["made_up"]
        if known["runs"] == [one.folder.name for one in runs]:
            break  # `predict` averaged these runs
        if known["runs"] != [run.folder.name]:
            raise UserError(f"{path} holds answers of {', '.join(map(str, known['runs']))}. Call `{PREDICT}` again.")
    return *read_probabilities(paths, ["anonymous_id"]), made_up


def read_probabilities(paths: Sequence[Path], keys: Sequence[str]) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """The columns `keys` of one or several tables, and the probabilities (clips, 23) of their mean logits.

    Raises:
        UserError: if a table is missing or damaged, or the tables are of different clips.
    """
    clips, logits = pd.DataFrame(), list[NDArray[np.float64]]()
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path} does not exist; test the run again with --redo test.")
        table = read_tsv(path, [*keys, *CODES], separator=",")
        values = table[list(CODES)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        rows = np.flatnonzero(~((values >= 0) & (values <= 1)).all(axis=1))
        if len(rows):
            raise UserError(f"{path}:{rows[0] + 2} holds a value that is no probability; write the file again.")
        own = table[list(keys)].reset_index(drop=True)
        if logits and not own.equals(clips):
            raise UserError(f"{path} is of other clips, folds or classes than {paths[0]}; make both again.")
        clips = own
        logits.append(np.log(np.maximum(values, 1e-12)))
    mean = np.mean(logits, axis=0)
    weights = np.exp(mean - mean.max(axis=1, keepdims=True))
    return clips, weights / weights.sum(axis=1, keepdims=True)


def score_folds(runs: Sequence[SoundRun], name: str) -> list[dict[str, Any]]:
    """The scores of the mean of the runs in each fold."""
    clips, probabilities = read_probabilities([run.folder / name for run in runs], ["sound_id", "fold", "class"])
    predicted = pd.Series(np.array(CODES)[probabilities.argmax(axis=1)])
    return [
        hierarchical_scores(part["class"].tolist(), predicted[part.index].tolist()) for _, part in clips.groupby("fold")
    ]


def crowd_figures(runs: Sequence[SoundRun]) -> dict[str, float | None]:
    """hP, hR, hF of BSD35k-CS as means over the folds; None where it was not tested."""
    if not all((run.folder / TESTED_CROWD).is_file() for run in runs):
        return dict.fromkeys(NAMES)
    return {name: _mean([fold[name] for fold in score_folds(runs, TESTED_CROWD)]) for name in NAMES}


def development_figures(runs: Sequence[SoundRun]) -> dict[str, Any]:
    """72 figures of the mean of the runs: hP, hR, hF overall and of each class, as means over the folds."""
    folds = score_folds(runs, TESTED)
    if len(folds) < 5:
        say(f"Figures of {len(folds)} of the five folds; the other systems of the challenge have five.")
    if any(run.settings.data.protocol != "published" for run in runs):
        say("These figures are of another protocol than the published one; say so in the technical report.")
    if missed := sorted({code for fold in folds for code in fold["never_predicted"]}, key=CODES.index):
        named = spell_missed(missed, runs[0].folder / TESTED_FIGURES if len(runs) == 1 else None)
        say(f"Never predicted in a fold: {named}. They count as 0; the official code leaves them out.")
    overall = {name: _mean([fold[name] for fold in folds]) for name in NAMES}
    # A miniature may have folds without a class; its figures are means over the other folds.
    classes = {
        code: {
            name: _mean([fold["per_class"][code][name] for fold in folds if code in fold["per_class"]])
            for name in NAMES
        }
        for code in CODES
    }
    return {"overall": overall, "class_wise": classes}


def output_csv(ids: Sequence[str], probabilities: NDArray[np.float64]) -> str:
    """Header id,predicted_bst_second_level_class,prediction_score; one row for each clip."""
    rows = [
        {"id": one, "predicted_bst_second_level_class": CODES[row.argmax()], "prediction_score": f"{row.max():.6f}"}
        for one, row in zip(ids, probabilities, strict=True)
    ]
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")


def _complexity(evaluations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    macs = [content.get("macs") for content in evaluations]
    total = None if None in macs else sum(filter(None, macs))
    return {"total_parameters": sum(content["parameters"] for content in evaluations), "MACS": total}


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)) if values else 0.0, 4)
