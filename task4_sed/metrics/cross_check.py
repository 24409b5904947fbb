"""The same scores by the packages of the field: sed_scores_eval at every threshold, psds_eval at 50."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pandas as pd

from task4_sed.metrics.detections import class_runs
from task4_sed.metrics.evaluation_set import EvaluationSet
from task4_sed.metrics.operating_points import THRESHOLDS, Reference, psds_of_points
from task4_sed.metrics.polyphonic import PsdsParameters

WHY = (
    "sed_scores_eval takes every distinct score as a threshold and rounds times to 6 decimals, as this kit does; the "
    "two agree to 1e-9. psds_eval knows 50 thresholds, 0.01 to 0.99, so its curve has fewer steps and its score is "
    "lower, most where scores crowd near 0 or 1; and it does not round times, which matters where borders coincide."
)


def versions() -> dict[str, str]:
    """Versions of the packages that compute figures, or that the kit's own kernels are checked against."""
    found = {}
    for name in ("sed_scores_eval", "psds_eval", "sed_eval", "numba", "numpy", "pandas"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def computed_by(operating_points: bool) -> str:
    """What computed the figures of score tables, or of detections at fixed thresholds."""
    package = {name: f"{name} {number}" for name, number in versions().items()}
    if operating_points:
        return f"PSDS and intersection F1 computed by {package['psds_eval']}, collar F1 by {package['sed_eval']}."
    return (
        f"Computed by the kit's own kernels ({package['numba']}), checked against {package['sed_scores_eval']} and "
        f"{package['psds_eval']}."
    )


def cross_check(
    evaluation: EvaluationSet, parameters: Mapping[str, PsdsParameters], jobs: int = 1
) -> list[dict[str, object]]:
    """One row per package: its name, version and PSDS for each set of parameters, on the same clips and classes."""
    thresholds = {"sed_scores_eval": "all", "psds_eval": str(len(THRESHOLDS))}
    rows: list[dict[str, object]] = [
        {"package": name, "version": versions()[name], "thresholds": count} for name, count in thresholds.items()
    ]
    points = {float(threshold): detections_at(evaluation, float(threshold)) for threshold in THRESHOLDS}
    reference = evaluated_reference(evaluation)
    for name, wanted in parameters.items():
        rows[0][name] = by_sed_scores_eval(evaluation, wanted, jobs)[0]
        rows[1][name] = psds_of_points(points, reference, wanted, jobs).value
    return rows


def by_sed_scores_eval(
    evaluation: EvaluationSet, parameters: PsdsParameters, jobs: int = 1
) -> tuple[float, dict[str, float]]:
    """PSDS and single-class scores by sed_scores_eval itself."""
    from sed_scores_eval import intersection_based

    value, per_class, *_ = intersection_based.psds(
        score_frames(evaluation), evaluation.reference(), evaluation.durations_by_clip(),
        dtc_threshold=parameters.dtc, gtc_threshold=parameters.gtc, cttc_threshold=parameters.cttc,
        alpha_ct=parameters.alpha_ct, alpha_st=parameters.alpha_st, max_efpr=parameters.max_efpr, num_jobs=jobs,
    )  # fmt: skip
    return float(value), {name: float(score) for name, score in per_class.items()}


def score_frames(evaluation: EvaluationSet) -> dict[str, pd.DataFrame]:
    """Score tables of the evaluated classes in the form of sed_scores_eval."""
    columns = ["onset", "offset", *evaluation.classes]
    return {clip: table[columns] for clip, table in evaluation.scores.tables()}


def detections_at(evaluation: EvaluationSet, threshold: float) -> pd.DataFrame:
    """Detections with score > threshold: clip, onset, offset, event_label."""
    clips = np.array(evaluation.clips, dtype=object)
    parts = []
    for index, name in enumerate(evaluation.classes):
        runs = class_runs(evaluation, index)
        active = (runs.low <= threshold) & (runs.high > threshold)
        clip = np.repeat(np.arange(len(clips)), np.diff(runs.starts))[active]
        table = {"clip": clips[clip], "onset": runs.onsets[active], "offset": runs.offsets[active], "event_label": name}
        parts.append(pd.DataFrame(table))
    return pd.concat(parts, ignore_index=True)


def evaluated_reference(evaluation: EvaluationSet) -> Reference:
    """The evaluated clips and events as tables for psds_eval."""
    clips = np.array(evaluation.clips, dtype=object)
    events = pd.DataFrame(
        {
            "filename": clips[evaluation.event_clips()],
            "onset": evaluation.onsets,
            "offset": evaluation.offsets,
            "event_label": np.array(evaluation.classes, dtype=object)[evaluation.labels],
        }
    )
    durations = pd.DataFrame({"filename": clips, "duration": evaluation.durations})
    return Reference(events, durations, tuple(sorted(evaluation.classes)), ())
