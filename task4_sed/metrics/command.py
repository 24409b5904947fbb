"""The verb `psds`: score any system's folder of score tables, or of detections at fixed thresholds."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.data.files import new_folder
from common.errors import UserError
from common.output import print_json, print_table, print_text, say
from common.reports.statistics import with_interval
from task4_sed.metrics.evaluation_set import EvaluationSet, evaluation_set
from task4_sed.metrics.f1 import collar_f1, intersection_f1
from task4_sed.metrics.operating_points import (
    WHY,
    Reference,
    collar_f1_of_points,
    computed_by,
    cross_check,
    intersection_f1_of_points,
    is_detection_table,
    psds_of_points,
    read_operating_points,
    read_reference,
    versions,
)
from task4_sed.metrics.polyphonic import PSDS1, PSDS2, Curve, PsdsParameters, polyphonic_scores
from task4_sed.metrics.resampling import plain_figures
from task4_sed.scores.tables import score_files

FIGURE_NAMES = {
    "psds1": "PSDS1",
    "psds2": "PSDS2",
    "collar_f1": "collar F1 at 0.5",
    "intersection_f1": "intersection F1 at 0.5",
    "mpauc": "mpAUC",
    "segment_f1": "segment F1, best threshold",
}
"""What tables call the figures, F1 with its threshold."""

Curves = dict[str, tuple[Curve, dict[str, Curve]]]
"""By metric: the curve of all classes, and the curve of each class."""


def score(
    scores: Path,
    ground_truth: Path,
    durations: Path,
    *,
    classes: tuple[str, ...] = (),
    alpha_st: float = 1.0,
    draws: int = 1000,
    jobs: int = 0,
    plots: bool = False,
    out: Path | None = None,
    with_cross_check: bool = False,
    as_json: bool = False,
) -> None:
    """Score and print; see the verb in `__main__` for the arguments."""
    jobs = jobs or len(os.sched_getaffinity(0))
    parameters = psds_parameters(alpha_st)
    tables = not scores.is_file() or scores.suffix in (".tsv", ".csv")
    if tables and is_detection_table(scores if scores.is_file() else score_files(scores)[0]):
        if with_cross_check:
            raise UserError("Operating points can only be scored with psds_eval; a cross-check needs score tables.")
        result, curves = score_operating_points(scores, ground_truth, durations, classes or None, parameters, jobs)
    else:
        evaluation = evaluation_set(scores, ground_truth, durations, classes=classes or None, jobs=jobs)
        result, curves = score_tables(evaluation, parameters, draws, jobs)
        for note in evaluation.notes:
            say(note)
        if with_cross_check:
            result["cross_check"] = {"scores": cross_check(evaluation, parameters, jobs), "why": WHY}
    if plots:
        folder = out or new_folder(Path("runs") / "task4_sed" / "psds" / scores.stem)
        for path in draw_curves(curves, folder):
            say(f"Drawn: {path}")
    if as_json:
        print_json(result)
    else:
        print_scores(result, str(scores))


def psds_parameters(alpha_st: float = 1.0) -> dict[str, PsdsParameters]:
    """Those of PSDS1 and PSDS2, by name."""
    if alpha_st < 0:
        raise UserError(f"alpha_st is the weight of the deviation over classes and cannot be {alpha_st:g}.")
    return {"psds1": replace(PSDS1, alpha_st=alpha_st), "psds2": replace(PSDS2, alpha_st=alpha_st)}


def score_tables(
    evaluation: EvaluationSet, parameters: Mapping[str, PsdsParameters], draws: int, jobs: int
) -> tuple[dict[str, Any], Curves]:
    """All figures of score tables, and the curves behind them by metric."""
    scores = all_scores(evaluation, parameters, draws, jobs)
    result: dict[str, Any] = plain_figures(scores)
    result |= {"computed_by": computed_by(operating_points=False), "versions": versions()}
    result["clips"] = evaluation.report.as_json()
    curves = {name: (scores[name].curve, scores[name].class_curves) for name in parameters}
    return result, curves


def all_scores(
    evaluation: EvaluationSet, parameters: Mapping[str, PsdsParameters], draws: int, jobs: int
) -> dict[str, Any]:
    """A `Psds` for each set of parameters, and both `F1` at the threshold 0.5."""
    found = polyphonic_scores(evaluation, list(parameters.values()), draws=draws, jobs=jobs)
    f1: dict[str, Any] = {"collar_f1": collar_f1, "intersection_f1": intersection_f1}
    return dict(zip(parameters, found)) | {
        name: function(evaluation, draws=draws, jobs=jobs) for name, function in f1.items()
    }


def score_operating_points(
    scores: Path, ground_truth: Path, durations: Path, classes: tuple[str, ...] | None,
    parameters: Mapping[str, PsdsParameters], jobs: int,
) -> tuple[dict[str, Any], Curves]:  # fmt: skip
    """All figures of operating points: PSDS by psds_eval, collar F1 of the table nearest to 0.5 by sed_eval."""
    reference = read_reference(ground_truth, durations, classes)
    for note in reference.notes:
        say(note)
    points = read_operating_points(scores)
    clips = _report_points(points, reference)
    result: dict[str, Any] = {}
    curves: Curves = {}
    for name, wanted in parameters.items():
        found = psds_of_points(points, reference, wanted, jobs)
        result[name] = {"value": found.value, "per_class": found.per_class, "interval": None}
        curves[name] = (Curve(*found.curve), {})
    middle = min(points, key=lambda threshold: (abs(threshold - 0.5), threshold))
    if middle != 0.5:
        say(f"No table is at the threshold 0.5; the F1 values are of the one at {middle:g}.")
    for name, function in (("collar_f1", collar_f1_of_points), ("intersection_f1", intersection_f1_of_points)):
        value, per_class = function(points[middle], reference)
        result[name] = {"value": value, "per_class": per_class, "interval": None}
    result |= {"computed_by": computed_by(operating_points=True), "versions": versions()}
    result["clips"] = {**clips, "f1_threshold": middle, "operating_points": len(points)}
    say("Tables of detections have no intervals.")
    return result, curves


def print_scores(result: Mapping[str, Any], title: str) -> None:
    """Print one row per metric, then one per class."""
    threshold = result["clips"].get("f1_threshold", 0.5)
    names = {key: name.replace("at 0.5", f"at {threshold:g}") for key, name in FIGURE_NAMES.items() if key in result}
    clips = result["clips"]
    whole = f"{clips['scored']} of {clips['expected']} clips" + ("" if clips["comparable"] else ", not comparable")
    rows = []
    for key, name in names.items():
        limits = result[key]["interval"] or (None, None)
        rows.append({"metric": name, "value": with_interval(result[key]["value"], *limits, scale=100)})
    kind = "95 % by bootstrap over recordings" if rows and result["psds1"]["interval"] else "without intervals"
    print_table(rows, title=f"{title}: {whole}; per cent, {kind}")
    table = [
        {"class": label, **{name: _per_cent(result[key]["per_class"].get(label)) for key, name in names.items()}}
        for label in result["psds1"]["per_class"]
    ]
    print_table(table, title="Each class, per cent")
    if "cross_check" in result:
        scores = [
            {name: _per_cent(value) if isinstance(value, float) else value for name, value in row.items()}
            for row in result["cross_check"]["scores"]
        ]
        print_table(scores, title="Cross-check, per cent")
        print_text(result["cross_check"]["why"])
    print_text(result["computed_by"])


def _per_cent(share: float | None) -> str:
    return with_interval(share, scale=100)


def plot_psd_roc(plot: Any, whole: Curve, per_class: Mapping[str, Curve]) -> None:
    """Plot the curves of up to 20 classes, and of all classes, on axes of matplotlib."""
    for label, curve in list(per_class.items())[:20]:
        rate, recall = np.append(curve.rate, whole.rate[-1]), np.append(curve.recall, curve.recall[-1])
        plot.step(rate, recall, where="post", linewidth=0.8, label=label.replace("$", r"\$"))
    plot.step(whole.rate, whole.recall, where="post", color="black", linewidth=2, label="all classes (effective)")
    plot.set(xlabel="effective false positives per hour", ylabel="true positive rate", ylim=(0, 1.02))
    plot.set_xlim(0, whole.rate[-1])
    plot.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))


def draw_curves(curves: Curves, folder: Path) -> list[Path]:
    """Draw the PSD-ROC of each metric to <folder>/<metric>.png, with the curves of up to 20 classes."""
    from common.data.files import atomic_path
    from common.reports.plots import axes

    paths = []
    for name, (whole, per_class) in curves.items():
        path = folder / f"{name}.png"
        with axes(8, 5) as (figure, plot), atomic_path(path) as temporary:
            plot_psd_roc(plot, whole, per_class)
            plot.set_title(name)
            figure.savefig(temporary, format="png", dpi=120)
        paths.append(path)
    return paths


def _report_points(points: Mapping[float, Any], reference: Reference) -> dict[str, Any]:
    """Report clips without detections: tables of detections do not tell a silent clip from a missing one."""
    seen = set().union(*(set(table["clip"]) for table in points.values()))
    expected = set(reference.durations["filename"])
    unexpected = sorted(seen - expected)
    silent = sorted(expected - seen)
    if unexpected:
        raise UserError(
            f"{len(unexpected)} clips with detections are not in the ground truth, such as {unexpected[0]}; "
            "are these tables of another set?"
        )
    if silent:
        say(f"{len(silent)} of {len(expected)} clips have no detection at any threshold, such as {silent[0]}.")
    count = len(expected)
    return {"expected": count, "scored": count, "comparable": True, "without_detections": silent}
