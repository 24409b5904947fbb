"""Figures of a pre-training as rows of a table."""

from typing import Any

NAMES = {"psds1_macro": "PSDS1, mean of classes", "psds1": "PSDS1 with variance penalty", "pauroc": "segment pAUROC"}

OFFICE_NAMES = {
    "onset_f1": "onset F1, 200 ms",
    "onset_f1_50ms": "onset F1, 50 ms",
    "segment_error_rate": "segment error rate",
}


def figure_rows(found: dict[str, Any]) -> list[dict[str, str]]:
    """One row for each figure of test/evaluation.json, per cent with 95 % interval."""
    return [{"figure": label, "value": _shown(found[name])} for name, label in NAMES.items()]


def office_rows(found: dict[str, Any]) -> list[dict[str, str]]:
    """The same of a fine-tuning on DCASE 2016 Task 2."""
    return [{"figure": label, "value": _shown(found[name])} for name, label in OFFICE_NAMES.items()]


def title(found: dict[str, Any]) -> str:
    """What the figures are of."""
    made_up = "Made-up data: " if found["made_up"] else ""
    clips, classes = found["clips"]["evaluated"], len(found["psds1_macro"]["per_class"])
    return f"{made_up}{found['model']}, seed {found['seed']}, {clips:,} clips, {classes} classes; per cent"


def _shown(figure: dict[str, Any]) -> str:
    interval = figure["interval"]
    limits = "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    return f"{100 * figure['value']:.1f}{limits}"
