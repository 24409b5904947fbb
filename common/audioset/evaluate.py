"""Figures of finished runs of `pretrain` and `finetune`, as tables."""

import json
from pathlib import Path
from typing import Any

from common.audioset.finetune import SPLIT
from common.audioset.recipe import WEIGHTS
from common.audioset.settings import FineTuneSettings, PretrainSettings, TaggingSettings
from common.audioset.train import load_trained
from common.errors import UserError
from common.models.audio_model import AudioModel
from common.output import print_table
from common.runs.folder import SETTINGS_FILE
from common.runs.stages import open_run, read_record


def read_evaluation(folder: Path) -> dict[str, Any]:
    """The content of test/evaluation.json of a run.

    Raises:
        UserError: if the run is not finished.
    """
    path = Path(folder) / "test" / "evaluation.json"
    if not Path(folder).is_dir():
        raise UserError(f"There is no run folder {folder}.")
    read_record(Path(folder), "test")
    return json.loads(path.read_text(encoding="utf-8"))


def print_tagging(folder: Path, classes: bool = False) -> None:
    """Print the figures of a run; with `classes` also those of each class."""
    scores = read_evaluation(folder)
    title = f"{'Made-up data: ' if scores['made_up'] else ''}{Path(folder).name}, {scores['clips']:,} test clips"
    print_table(summary_rows(scores), title=title)
    if classes:
        figure = "accuracy" if "accuracy" in scores else "average precision"
        rows = [{"class": name, figure: value} for name, value in zip(scores["labels"], scores["class_wise"])]
        print_table(rows, title="Each class")


def summary_rows(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each figure (in %, with its interval), and for each fold."""
    rows = []
    for key, name in (("mAP", "mAP"), ("accuracy", "accuracy")):
        if key in scores:
            rows.append({"figure": name, "%": _percent(scores[key]["value"]), "95 %": _limits(scores[key])})
            rows += [
                {"figure": f"{name}, fold {fold}", "%": _percent(value)}
                for fold, value in scores.get("folds", {}).items()
            ]
    if scores.get("roc_auc") is not None:
        rows.append({"figure": "area under the ROC curve", "%": _percent(scores["roc_auc"])})
    return rows


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _limits(interval: dict[str, float]) -> str:
    low, high = interval["low"], interval["high"]
    return "" if low is None or low != low else f"{100 * low:.1f} .. {100 * high:.1f}"


def find_run(folder: Path) -> Path | None:
    """The run that a folder is, or is a part of (RUN/train/fold_1); None where it is none."""
    return next((place for place in (folder, *folder.parents[:2]) if (place / SETTINGS_FILE).is_file()), None)


def load_run(folder: Path) -> AudioModel:
    """The model of a finished run in evaluation mode, with the classes that it learned.

    Args:
        folder: of the run; of one that has several folds, that of one of its networks, RUN/train/fold_1.

    Raises:
        UserError: if it is no such run, is not finished, or has several networks.
    """
    run = find_run(folder)
    if run is None:
        raise UserError(f"{folder} is no run: neither it nor what it lies in has a {SETTINGS_FILE}.")
    labels = read_evaluation(run)["labels"]
    places = [folder, folder / "train", folder / "train" / SPLIT]
    weights = next((place / WEIGHTS for place in places if (place / WEIGHTS).is_file()), None)
    if weights is None:
        networks = sorted(path.parent for path in (run / "train").glob(f"*/{WEIGHTS}"))
        if not networks:
            raise UserError(f"{run} has no {WEIGHTS} in train/; it is no run of `pretrain` or `finetune`.")
        raise UserError(f"{run} has {len(networks)} networks, one for each fold; name one, such as {networks[0]}.")
    kind = PretrainSettings if weights.parent == run / "train" else FineTuneSettings
    settings = open_run(run, kind).settings
    assert isinstance(settings, TaggingSettings)
    return load_trained(settings, labels, weights)
