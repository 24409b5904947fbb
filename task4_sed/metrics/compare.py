"""Systems of sound event detection beside each other, from their score tables."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.output import say
from common.reports.compare import Comparison, Draws, Measured, System, compare
from task4_sed.metrics.command import FIGURE_NAMES, all_scores, psds_parameters
from task4_sed.metrics.evaluation_set import EvaluationSet, evaluation_set
from task4_sed.metrics.operating_points import is_detection_table
from task4_sed.scores.tables import score_files


def compare_scores(
    sources: Sequence[Path], ground_truth: Path, durations: Path, *, classes: Sequence[str] = (), alpha_st: float = 1.0,
    draws: int = 1000, jobs: int = 0,
) -> Comparison:  # fmt: skip
    """Compare folders or stores of score tables on one ground truth."""
    from common.runs.systems import distinct_names

    measured = [
        measure_scores(source, ground_truth, durations, classes=classes, alpha_st=alpha_st, draws=draws, jobs=jobs)
        for source in sources
    ]
    return compare([System(name, [one]) for name, one in zip(distinct_names(sources), measured)])


def measure_scores(
    source: Path, ground_truth: Path, durations: Path, *, classes: Sequence[str] = (), alpha_st: float = 1.0,
    draws: int = 1000, jobs: int = 0,
) -> Measured:  # fmt: skip
    """PSDS1, PSDS2 and F1 of score tables.

    Raises:
        UserError: for detections at fixed thresholds, which have no intervals, and for mistakes in the files.
    """
    is_store = source.is_file() and source.suffix not in (".tsv", ".csv")
    if not is_store and is_detection_table(source if source.is_file() else score_files(source)[0]):
        raise UserError(f"{source} holds detections at fixed thresholds; give score tables, which can be compared.")
    evaluation = evaluation_set(source, ground_truth, durations, classes=classes or None, jobs=jobs or available())
    for note in evaluation.notes:
        say(f"{source}: {note}")
    return of_evaluation(str(source), evaluation, alpha_st, draws, jobs)


def of_evaluation(
    name: str, evaluation: EvaluationSet, alpha_st: float = 1.0, draws: int = 1000, jobs: int = 0
) -> Measured:
    """Figures of one set of score tables."""
    scores = all_scores(evaluation, psds_parameters(alpha_st), draws, jobs or available())
    figures, parts = draws_of(scores)
    test_sets = {"scores": [*evaluation.clips, *evaluation.classes]}
    return Measured(name, None, test_sets, f"{len(evaluation.clips):,} recordings", figures, parts)


def draws_of(scores: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Draws], dict[str, dict[str, Draws]]]:
    """Draws of figures, and of the first one's classes.

    As in `resampling.interval`, draws are shifted so that their median is the figure.
    """
    figures = {f"{prefix}{FIGURE_NAMES[key]}": _centred(one.value, one.samples) for key, one in scores.items()}
    first = next(iter(scores))
    rows = zip(scores[first].per_class.items(), scores[first].class_samples)
    classes = {name: _centred(value, samples) for (name, value), samples in rows}
    return figures, {f"{prefix}{FIGURE_NAMES[first]} of each class": classes}


def available() -> int:
    """Processors of this process."""
    return len(os.sched_getaffinity(0))


def _centred(value: float, samples: np.ndarray) -> Draws:
    known = samples[np.isfinite(samples)]
    return np.append(value, samples + (value - np.median(known)) if len(known) else samples)
