"""Figures of finished runs of `pretrain` and `finetune`, as tables."""

from pathlib import Path
from typing import Any

from common.audioset.settings import FineTuneSettings, PretrainSettings
from common.errors import UserError
from common.output import print_table
from common.reports.statistics import with_interval
from common.runs.run import Run, open_run


def open_tagging_run(folder: Path) -> Run[Any]:
    """The run of `pretrain` or `finetune` in a folder, or a UserError."""
    try:
        return open_run(folder, PretrainSettings)
    except UserError:
        return open_run(folder, FineTuneSettings)


def print_tagging(run: Run[Any], classes: bool = False) -> None:
    """Print the figures of a run; with `classes` also of each class."""
    scores = run.read_evaluation()
    title = f"{'Made-up data: ' if scores['made_up'] else ''}{run.folder.name}, {scores['clips']:,} test clips, "
    title += "95 % by bootstrap over clips"
    print_table(summary_rows(scores), title=title)
    if classes:
        figure = "accuracy" if "accuracy" in scores else "average precision"
        values = zip(scores["labels"], scores["class_wise"])
        rows = [{"class": name, figure: with_interval(value, scale=100)} for name, value in values]
        print_table(rows, title="Each class, per cent")


def summary_rows(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each figure (in %, with its interval), and for each fold."""
    name = "mAP" if "mAP" in scores else "accuracy"
    value, low, high = (scores[name][key] for key in ("value", "low", "high"))
    figures = {name: value, **{f"{name}, fold {fold}": own for fold, own in scores.get("folds", {}).items()}}
    if scores.get("roc_auc") is not None:
        figures["area under the ROC curve"] = scores["roc_auc"]
    rows = [{"figure": figure, "per cent": with_interval(share, scale=100)} for figure, share in figures.items()]
    rows[0]["per cent"] = with_interval(value, low, high, scale=100)
    return rows
