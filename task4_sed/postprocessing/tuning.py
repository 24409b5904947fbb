"""Choice of event box settings on validation clips, by PSDS1 or collar F1, class by class or one for all.

Candidates depend on the filter length alone and are found once per length; joining them and counting is cheap. A fold
is a weight per clip, so one pass over the boxes scores a setting on all clips and on the clips outside each fold.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed

from common.errors import UserError
from task4_sed.metrics.detections import FALSE_POSITIVE, TRUE_POSITIVE, Collars, CountChanges, Runs, collar_changes
from task4_sed.metrics.evaluation_set import EvaluationSet, evaluation_set
from task4_sed.metrics.polyphonic import (
    PSDS1,
    ClassLevels,
    Psds,
    ReferenceTotals,
    area_over_classes,
    class_levels,
    polyphonic_scores,
)
from task4_sed.metrics.resampling import DRAWS
from task4_sed.postprocessing.event_boxes import BoxSettings, candidates, class_boxes, join

OBJECTIVES = ("psds1", "collar_f1")


class TunedBoxes(NamedTuple):
    """settings: by class name, chosen on all clips. value: the objective that they reach on these very clips.

    fold_settings: chosen without the clips of each fold. fold_of_clip: by clip name. cross_validated: PSDS1 of every
    clip with the settings that were chosen without it; None without folds.
    """

    settings: dict[str, BoxSettings]
    value: float
    per_class: dict[str, float]
    fold_settings: list[dict[str, BoxSettings]]
    fold_of_clip: dict[str, int]
    cross_validated: Psds | None


def box_grid(
    step_filter_lengths: Sequence[float],
    merge_thresholds_abs: Sequence[float],
    merge_thresholds_rel: Sequence[float],
    either: bool = True,
) -> list[BoxSettings]:
    """Settings in the order of the reference: filter length, then absolute, then relative thresholds.

    Args:
        step_filter_lengths, merge_thresholds_abs, merge_thresholds_rel: values to try.
        either: use the absolute or the relative threshold, the other being infinite; otherwise every pair.
    """
    if either:
        pairs = [(a, np.inf) for a in merge_thresholds_abs] + [(np.inf, r) for r in merge_thresholds_rel]
    else:
        pairs = [(a, r) for a in merge_thresholds_abs for r in merge_thresholds_rel]
    return [BoxSettings(float(length), float(a), float(r)) for length in step_filter_lengths for a, r in pairs]


GRID = box_grid((0.32, 0.48, 0.64), (0.15, 0.2, 0.3), (1.5, 2.0, 3.0))
"""Grid of the cSEBBs paper's code."""
WINNER_GRID = box_grid(
    np.round(np.arange(0.38, 0.67, 0.04), 2),
    np.round(np.arange(0.15, 0.33, 0.025), 3),
    np.round(np.arange(1.5, 3.3, 0.25), 2),
)
"""Grid of the system that won DCASE 2024 Task 4; 128 settings."""


def tune_boxes(
    scores: object,
    ground_truth: object = None,
    audio_durations: object = None,
    *,
    grid: Sequence[BoxSettings] = GRID,
    class_wise: bool = True,
    objective: str = "psds1",
    folds: int = 5,
    classes: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    jobs: int = 1,
) -> TunedBoxes:
    """Settings with the best objective; the first of equals wins.

    Args:
        scores, ground_truth, audio_durations, classes: as for `task4_sed.metrics.psds`; unprocessed scores.
        grid: settings to try.
        class_wise: choose for each class by its single-class score; otherwise one setting for all by the whole score.
        objective: "psds1", or "collar_f1" at its best threshold per class.
        folds: parts of the clips for the cross-validated score; 0 for none.
        draws: resamplings behind its interval. seed: of the folds. jobs: threads.
    """
    if objective not in OBJECTIVES:
        raise UserError(f"No objective named {objective}. There are: {', '.join(OBJECTIVES)}.")
    if not grid:
        raise UserError("The grid of box settings is empty.")
    evaluation = evaluation_set(scores, ground_truth, audio_durations, classes=classes, jobs=jobs)
    num_clips = len(evaluation.clips)
    if folds > num_clips or folds == 1:
        raise UserError(f"{folds} folds cannot be made of {num_clips} clips; take 2 to {num_clips}, or 0 for none.")
    fold = np.random.default_rng(seed).permutation(num_clips) % max(folds, 1)
    weights = np.ones((num_clips, 1 + folds))
    for number in range(folds):
        weights[fold == number, 1 + number] = 0
    table = _score_grid(evaluation, ReferenceTotals(evaluation, weights), grid, objective, jobs)
    chosen = _choose(table, class_wise, objective)  # (1 + folds, classes) index into grid
    settings = [{name: grid[at] for name, at in zip(evaluation.classes, row)} for row in chosen]
    best = table.values[chosen[0], np.arange(len(evaluation.classes)), 0]
    return TunedBoxes(
        settings=settings[0],
        value=_whole(table, chosen[0], 0, objective),
        per_class=dict(zip(evaluation.classes, best.tolist())),
        fold_settings=settings[1:],
        fold_of_clip=dict(zip(evaluation.clips, fold.tolist())),
        cross_validated=_cross_validate(evaluation, settings[1:], fold, draws, jobs) if folds else None,
    )


class _Table(NamedTuple):
    """values: (grid, classes, 1 + folds) objective of each class. levels: curves behind PSDS1, [grid][class]."""

    values: np.ndarray
    levels: list[list[ClassLevels]] | None


def _score_grid(
    evaluation: EvaluationSet, reference: ReferenceTotals, grid: Sequence[BoxSettings], objective: str, jobs: int
) -> _Table:
    lengths = list(dict.fromkeys(setting.step_filter_length for setting in grid))
    tasks = [(index, length) for length in lengths for index in range(len(evaluation.classes))]
    results = Parallel(n_jobs=jobs, backend="threading")(
        delayed(_score_class)(evaluation, reference, grid, objective, index, length) for index, length in tasks
    )
    values = np.full((len(grid), len(evaluation.classes), reference.weights.shape[1]), np.nan)
    levels: list[list] = [[None] * len(evaluation.classes) for _ in grid]
    for (index, _), found in zip(tasks, results):
        for number, value, of_class in found:
            values[number, index] = value
            levels[number][index] = of_class
    return _Table(values, levels if objective == "psds1" else None)


def _score_class(
    evaluation: EvaluationSet, reference: ReferenceTotals, grid: Sequence[BoxSettings], objective: str, index: int,
    length: float,
) -> list[tuple[int, np.ndarray, ClassLevels | None]]:  # fmt: skip
    """Number in the grid, (1 + folds,) objective and levels of one class for all settings with this filter length."""
    found = candidates(evaluation.scores, evaluation.classes[index], length)
    results = []
    for number, setting in enumerate(grid):
        if setting.step_filter_length != length:
            continue
        boxes = join(found, setting)
        if objective == "psds1":
            levels = class_levels(evaluation, reference, PSDS1, index, boxes)
            results.append((number, levels.areas, levels))
        else:
            changes = collar_changes(evaluation, index, Collars(), boxes)
            results.append((number, _best_f1(changes, reference.weights, reference.event_counts[index]), None))
    return results


def _best_f1(changes: CountChanges, weights: np.ndarray, references: np.ndarray) -> np.ndarray:
    """(columns,) F1 at the best threshold of each column of clip weights."""
    if not len(changes.score):
        return np.zeros(weights.shape[1])
    ends = np.flatnonzero(np.append(changes.score[1:] != changes.score[:-1], True))
    amount = weights[changes.clip] * changes.change[:, None]
    found = np.cumsum(amount * (changes.kind == TRUE_POSITIVE)[:, None], axis=0)[ends]
    false = np.cumsum(amount * (changes.kind == FALSE_POSITIVE)[:, None], axis=0)[ends]
    return (2 * found / np.maximum(found + false + references, 1)).max(axis=0)


def _choose(table: _Table, class_wise: bool, objective: str) -> np.ndarray:
    """(1 + folds, classes) index of the best setting; the first of equals."""
    num_settings, num_classes, num_columns = table.values.shape
    if class_wise:
        return np.argmax(np.nan_to_num(table.values, nan=-1.0), axis=0).T
    whole = np.array(
        [
            [_whole(table, np.full(num_classes, at), column, objective) for column in range(num_columns)]
            for at in range(num_settings)
        ]
    )
    return np.repeat(np.argmax(whole, axis=0)[:, None], num_classes, axis=1)


def _whole(table: _Table, chosen: np.ndarray, column: int, objective: str) -> float:
    """Objective over all classes with these settings, in one column of clip weights."""
    if objective == "psds1":
        levels = [table.levels[at][index] for index, at in enumerate(chosen)]
        return area_over_classes(levels, column, PSDS1)
    return float(np.nanmean([table.values[at, index, column] for index, at in enumerate(chosen)]))


def _cross_validate(
    evaluation: EvaluationSet, settings: list[dict[str, BoxSettings]], fold: np.ndarray, draws: int, jobs: int
) -> Psds:
    """PSDS1 of each fold's clips with the settings chosen without them, counted together."""

    def find(evaluation: EvaluationSet, index: int) -> Runs:
        name = evaluation.classes[index]
        return _by_fold([class_boxes(evaluation.scores, name, of_fold[name]) for of_fold in settings], fold)

    return polyphonic_scores(evaluation, [PSDS1], draws=draws, jobs=jobs, find=find)[0]


def _by_fold(boxes: list[Runs], fold: np.ndarray) -> Runs:
    """For each clip the boxes of its fold's setting."""
    clips = [np.repeat(np.arange(len(fold)), np.diff(of_fold.starts)) for of_fold in boxes]
    kept = [fold[clip] == number for number, clip in enumerate(clips)]
    clip = np.concatenate([clip[keep] for clip, keep in zip(clips, kept)])
    order = np.argsort(clip, kind="stable")
    parts = [
        np.concatenate([of_fold[field][keep] for of_fold, keep in zip(boxes, kept)])[order] for field in range(1, 6)
    ]
    starts = np.concatenate(([0], np.cumsum(np.bincount(clip, minlength=len(fold))))).astype(np.int64)
    return Runs(starts, *parts)
