"""Post-processing of a run: median filters, or event boxes that were tuned on the validation set."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from common.errors import UserError
from common.inference.event_boxes import BoxSettings
from task4_sed.metrics.evaluation_set import EvaluationSet, evaluation_set
from task4_sed.metrics.polyphonic import PSDS1, ReferenceTotals, class_levels
from task4_sed.metrics.segments import segment_means
from task4_sed.postprocessing.event_boxes import box_scores, candidates, event_boxes, join
from task4_sed.scores.tables import ScoreTables, from_frames, make_tables, median_filter, only_classes
from task4_sed.scoring import evaluated_classes
from task4_sed.settings import SystemSettings

Boxes = dict[str, BoxSettings]


@dataclass(frozen=True)
class Finisher:
    """From raw to post-processed scores.

    settings: of the run. boxes: by DESED class; None for median filters. fold_boxes: tuned without the validation clips
    of each fold. fold_of_clip: by clip name.
    """

    settings: SystemSettings
    boxes: Boxes | None = None
    fold_boxes: tuple[Boxes, ...] = ()
    fold_of_clip: Mapping[str, int] | None = None

    @classmethod
    def read(cls, settings: SystemSettings, plain: Mapping[str, Any]) -> "Finisher":
        """The reverse of `plain_boxes`."""
        numbers = {name: [np.inf if value is None else float(value) for value in box] for name, box in plain.items()}
        return cls(settings, {name: BoxSettings._make(box) for name, box in numbers.items()})

    def process_set(self, scores: ScoreTables, name: str) -> ScoreTables:
        """Post-process the scores of a test set; clips used for tuning get boxes that were tuned on the other clips."""
        if self.boxes is None or name not in ("validation", "own_test") or self.fold_of_clip is None:
            return self.process(scores)
        frames: dict[str, pd.DataFrame] = {}
        for fold, boxes in enumerate(self.fold_boxes):
            clips = [clip for clip in scores.clips if self.fold_of_clip.get(clip, 0) == fold]
            if clips:
                frames |= dict(self._boxed(scores.select(clips), boxes).tables())
        return from_frames(frames)

    def process(self, scores: ScoreTables) -> ScoreTables:
        """Post-process the scores of any other clips."""
        if self.boxes is None:
            return median_filter(scores, self.settings.postprocessing.median_frames)
        return self._boxed(scores, self.boxes)

    def _boxed(self, scores: ScoreTables, boxes: Boxes) -> ScoreTables:
        """Boxes for the DESED classes, means per second for the MAESTRO classes."""
        jobs = len(os.sched_getaffinity(0))
        desed = evaluated_classes(self.settings, maestro=False)
        complete = {name: boxes.get(name, BoxSettings()) for name in desed}
        raw = only_classes(scores, desed)
        parts = [box_scores(raw, event_boxes(raw, complete, jobs), fill_value=0.0)]
        others = [name for name in scores.classes if name not in desed]
        if others:
            parts.append(to_segments(only_classes(scores, others)))
        return join_classes(parts, scores.classes)


def tune_finisher(raw: ScoreTables | None, events: Any, durations: Any, settings: SystemSettings) -> Finisher:
    """The post-processing of the settings; event boxes are tuned on the raw scores of the validation set."""
    wanted = settings.postprocessing.boxes
    if wanted is None or raw is None:
        return Finisher(settings)
    grid = box_grid(wanted.step_filter_lengths, wanted.merge_thresholds_abs, wanted.merge_thresholds_rel)
    evaluation = evaluation_set(raw, events, durations, classes=evaluated_classes(settings, False))
    folds = min(wanted.folds, len(evaluation.clips))
    tuned = tune_boxes(evaluation, grid, folds, jobs=len(os.sched_getaffinity(0)))
    return Finisher(settings, tuned.settings, tuple(tuned.fold_settings), tuned.fold_of_clip)


def plain_boxes(boxes: Boxes) -> dict[str, list[float | None]]:
    """For JSON: filter length, absolute and relative threshold by class; null is no threshold."""
    return {name: [value if np.isfinite(value) else None for value in box] for name, box in boxes.items()}


def to_segments(scores: ScoreTables, segment_length: float = 1.0) -> ScoreTables:
    """Time-weighted mean per segment of each clip: the winner's post-processing of MAESTRO classes."""
    borders, values = [], []
    for index in range(len(scores.clips)):
        edges = scores.borders_of(index)
        means = segment_means(edges, scores.scores_of(index), edges[-1], segment_length)
        borders.append(np.minimum(np.arange(len(means) + 1) * segment_length, edges[-1]))
        values.append(means)
    return make_tables(scores.clips, scores.classes, borders, values)


def join_classes(parts: Sequence[ScoreTables], order: Sequence[str] | None = None) -> ScoreTables:
    """Tables of the same clips with the classes of all parts, in an order; frames have the borders of all parts.

    The last score of a part that ends before another is held.
    """
    clips = parts[0].clips
    for part in parts[1:]:
        if part.clips != clips:
            other = sorted(set(part.clips) ^ set(clips))
            raise UserError(f"Score tables of different clips cannot be joined; {other[0]} is in one of them only.")
    classes = tuple(name for part in parts for name in part.classes)
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise UserError(f"The class {twice} is in two of the score tables that are to be joined.")
    borders, values = [], []
    for index in range(len(clips)):
        edges = np.unique(np.round(np.concatenate([part.borders_of(index) for part in parts]), 8))
        columns = []
        for part in parts:
            own = np.round(part.borders_of(index), 8)
            frame = np.clip(np.searchsorted(own, edges[:-1], side="right") - 1, 0, len(own) - 2)
            columns.append(part.scores_of(index)[frame])
        borders.append(edges)
        values.append(np.concatenate(columns, axis=1))
    joined = make_tables(clips, classes, borders, values)
    return joined if order is None else only_classes(joined, order)


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
