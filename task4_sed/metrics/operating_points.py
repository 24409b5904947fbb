"""Scores by the packages of the field: psds_eval and sed_eval at fixed thresholds, sed_scores_eval at all of them.

A folder of operating points holds one table per threshold with the columns event_label, onset, offset, filename; the
threshold is the last number of the file's name.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from common.errors import UserError
from task4_sed.data.annotations import DurationsSource, GroundTruthSource, read_durations, read_events
from task4_sed.metrics.detections import class_runs
from task4_sed.metrics.evaluation_set import EvaluationSet, checked_events
from task4_sed.metrics.polyphonic import PsdsParameters
from task4_sed.scores.tables import score_files

THRESHOLDS = np.round(np.arange(0.01, 1, 0.02), 2)
"""The 50 thresholds of the DCASE baselines."""
NUMBER = re.compile(r"\d+(?:\.\d+)?")


class PointScore(NamedTuple):
    """PSDS from operating points. curve: (2, points) effective true positive rate and false positives per hour."""

    value: float
    per_class: dict[str, float]
    curve: np.ndarray


class Reference(NamedTuple):
    """Reference of detections. events, durations: tables as psds_eval takes them; notes: on changes of the events."""

    events: pd.DataFrame
    durations: pd.DataFrame
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def is_detection_table(path: Path) -> bool:
    """Whether a table holds detections, not scores."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return "event_label" in re.split(r"[\t,]", file.readline().rstrip("\r\n"))


def read_operating_points(source: Path) -> dict[float, pd.DataFrame]:
    """Detections by threshold, from a folder or a single table.

    Raises:
        UserError: with file and line, for wrong columns or times, a file name without a threshold, a threshold twice.
    """
    points: dict[float, pd.DataFrame] = {}
    for path in [source] if source.is_file() else score_files(source):
        numbers = NUMBER.findall(path.stem)
        if not numbers:
            raise UserError(f"{path} has no number in its name, so the threshold of its detections is unknown.")
        threshold = float(numbers[-1])
        if threshold in points:
            raise UserError(f"{path.parent} holds two tables for the threshold {threshold:g}, one of them {path.name}.")
        points[threshold] = read_events(path).events[["clip", "onset", "offset", "event_label"]]
    return dict(sorted(points.items()))


def read_reference(
    ground_truth: GroundTruthSource, durations: DurationsSource, classes: Sequence[str] | None = None
) -> Reference:
    """Ground truth and durations of all clips, also without events, as the baselines pass them to psds_eval."""
    annotations, seconds = read_events(ground_truth), read_durations(durations)
    events, notes = checked_events(annotations, annotations.clips, seconds)
    if classes is not None:
        events = events[events["event_label"].isin(classes)].reset_index(drop=True)
    if events.empty:
        raise UserError(f"{annotations.source} has no events to evaluate.")
    table = pd.DataFrame({"filename": annotations.clips, "duration": [seconds[clip] for clip in annotations.clips]})
    return Reference(_named(events), table, tuple(sorted(set(events["event_label"]))), tuple(notes))


def psds_of_points(
    points: Mapping[float, pd.DataFrame], reference: Reference, parameters: PsdsParameters, jobs: int = 1
) -> PointScore:
    """PSDS by psds_eval: staircase between the operating points, no rounding of times.

    `points`: detections by threshold (clip, onset, offset, event_label); classes without reference are ignored.
    """
    tables = [table[table["event_label"].isin(reference.classes)] for table in points.values()]
    shares = [tables[start::jobs] for start in range(min(jobs, len(tables)))]
    parts = Parallel(n_jobs=jobs)(delayed(_count)(share, reference, parameters) for share in shares)
    evaluator = _evaluator(reference, parameters)
    evaluator.operating_points = pd.concat(parts, ignore_index=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        score = evaluator.psds(alpha_ct=parameters.alpha_ct, alpha_st=parameters.alpha_st, max_efpr=parameters.max_efpr)
        _, _, curves = evaluator.psd_roc_curves(parameters.alpha_ct)
    inside = curves.xp <= parameters.max_efpr
    widths = np.diff(np.append(curves.xp[inside], parameters.max_efpr))
    areas = np.nan_to_num(curves.yp[:, inside]) @ widths / parameters.max_efpr
    curve = np.stack((score.plt.yp[inside], score.plt.xp[inside]))
    return PointScore(float(score.value), dict(zip(reference.classes, areas.tolist())), curve)


def intersection_f1_of_points(detections: pd.DataFrame, reference: Reference) -> tuple[float, dict[str, float]]:
    """Macro and per-class F1 by psds_eval with dtc = gtc = 0.5; classes without detections are left out of the mean."""
    parameters = PsdsParameters(dtc=0.5, gtc=0.5)
    table = _named(detections[detections["event_label"].isin(reference.classes)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        macro, per_class = _evaluator(reference, parameters).compute_macro_f_score(table)
    return float(macro), {name: float(value) for name, value in per_class.items()}


def collar_f1_of_points(detections: pd.DataFrame, reference: Reference) -> tuple[float, dict[str, float]]:
    """Macro and per-class F1 by sed_eval: collars of 0.2 s and 20 % of the event, times not rounded."""
    import sed_eval

    found = dict(iter(_named(detections).groupby("filename")))
    events = dict(iter(reference.events.groupby("filename")))
    metrics = sed_eval.sound_event.EventBasedMetrics(
        event_label_list=list(reference.classes), t_collar=0.2, percentage_of_length=0.2,
        empty_system_output_handling="zero_score",
    )  # fmt: skip
    for clip in reference.durations["filename"]:
        metrics.evaluate(_event_list(events.get(clip)), _event_list(found.get(clip), reference.classes))
    per_class = metrics.results_class_wise_metrics()
    scores = {name: float(np.nan_to_num(per_class[name]["f_measure"]["f_measure"])) for name in reference.classes}
    return float(metrics.results_class_wise_average_metrics()["f_measure"]["f_measure"]), scores


def _event_list(table: pd.DataFrame | None, classes: Sequence[str] | None = None) -> object:
    import dcase_util

    rows = [] if table is None else table.to_dict("records")
    if classes is not None:
        rows = [row for row in rows if row["event_label"] in classes]
    return dcase_util.containers.MetaDataContainer(rows)


def _named(table: pd.DataFrame) -> pd.DataFrame:
    renamed = table.rename(columns={"clip": "filename"})[["filename", "onset", "offset", "event_label"]]
    return renamed.reset_index(drop=True)


def _evaluator(reference: Reference, parameters: PsdsParameters) -> Any:
    from psds_eval import PSDSEval

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PSDSEval(
            dtc_threshold=parameters.dtc, gtc_threshold=parameters.gtc, cttc_threshold=parameters.cttc or 0.3,
            ground_truth=reference.events, metadata=reference.durations,
        )  # fmt: skip


def _count(tables: list[pd.DataFrame], reference: Reference, parameters: PsdsParameters) -> pd.DataFrame:
    """Counts and rates of these operating points."""
    evaluator = _evaluator(reference, parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for table in tables:
            evaluator.add_operating_point(_named(table))
    return evaluator.operating_points


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
