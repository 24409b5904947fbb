"""Choice of event box settings on validation clips, class by class, by single-class PSDS1.

Candidates depend on the filter length alone and are found once per length; joining them and counting is cheap. A fold
is a weight per clip, so one pass over the boxes scores a setting on all clips and on the clips outside each fold.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed

from common.errors import UserError
from task4_sed.metrics.evaluation_set import EvaluationSet
from task4_sed.metrics.polyphonic import PSDS1, ReferenceTotals, class_levels
from task4_sed.postprocessing.event_boxes import BoxSettings, candidates, join


class TunedBoxes(NamedTuple):
    """Settings by class name.

    settings: chosen on all clips. per_class: PSDS1 on these very clips. fold_settings: chosen without the clips of each
    fold. fold_of_clip: by clip name.
    """

    settings: dict[str, BoxSettings]
    per_class: dict[str, float]
    fold_settings: list[dict[str, BoxSettings]]
    fold_of_clip: dict[str, int]


def box_grid(
    step_filter_lengths: Sequence[float], merge_thresholds_abs: Sequence[float], merge_thresholds_rel: Sequence[float]
) -> list[BoxSettings]:
    """Settings in the order of the reference: by filter length, first absolute, then relative thresholds.

    The threshold that a setting does not use is infinite.
    """
    pairs = [(a, np.inf) for a in merge_thresholds_abs] + [(np.inf, r) for r in merge_thresholds_rel]
    return [BoxSettings(float(length), float(a), float(r)) for length in step_filter_lengths for a, r in pairs]


GRID = box_grid((0.32, 0.48, 0.64), (0.15, 0.2, 0.3), (1.5, 2.0, 3.0))
"""Grid of the cSEBBs paper's code."""


def tune_boxes(
    evaluation: EvaluationSet, grid: Sequence[BoxSettings] = GRID, folds: int = 5, seed: int = 0, jobs: int = 1
) -> TunedBoxes:
    """Settings with the best PSDS1 of each class on unprocessed scores; the first of equals wins; 0 folds for none."""
    if not grid:
        raise UserError("The grid of box settings is empty.")
    num_clips = len(evaluation.clips)
    if folds > num_clips or folds == 1:
        raise UserError(f"{folds} folds cannot be made of {num_clips} clips; take 2 to {num_clips}, or 0 for none.")
    fold = np.random.default_rng(seed).permutation(num_clips) % max(folds, 1)
    weights = np.column_stack([np.ones(num_clips), *(fold != number for number in range(folds))])
    values = _score_grid(evaluation, ReferenceTotals(evaluation, weights), grid, jobs)
    chosen = np.argmax(np.nan_to_num(values, nan=-1.0), axis=0).T  # (1 + folds, classes), the first of equals
    settings = [{name: grid[at] for name, at in zip(evaluation.classes, row)} for row in chosen]
    best = values[chosen[0], np.arange(len(evaluation.classes)), 0]
    per_class = dict(zip(evaluation.classes, best.tolist()))
    return TunedBoxes(settings[0], per_class, settings[1:], dict(zip(evaluation.clips, fold.tolist())))


def _score_grid(
    evaluation: EvaluationSet, reference: ReferenceTotals, grid: Sequence[BoxSettings], jobs: int
) -> np.ndarray:
    """(grid, classes, 1 + folds) PSDS1 of each class."""
    lengths = list(dict.fromkeys(setting.step_filter_length for setting in grid))
    tasks = [(index, length) for length in lengths for index in range(len(evaluation.classes))]
    results = Parallel(n_jobs=jobs, backend="threading")(
        delayed(_score_class)(evaluation, reference, grid, index, length) for index, length in tasks
    )
    values = np.full((len(grid), len(evaluation.classes), reference.weights.shape[1]), np.nan)
    for (index, _), found in zip(tasks, results):
        for number, areas in found:
            values[number, index] = areas
    return values


def _score_class(
    evaluation: EvaluationSet, reference: ReferenceTotals, grid: Sequence[BoxSettings], index: int, length: float
) -> list[tuple[int, np.ndarray]]:
    """Number in the grid and (1 + folds,) PSDS1 of one class, for all settings with this filter length."""
    found = candidates(evaluation.scores, evaluation.classes[index], length)
    return [
        (number, class_levels(evaluation, reference, PSDS1, index, join(found, setting)).areas)
        for number, setting in enumerate(grid)
        if setting.step_filter_length == length
    ]
