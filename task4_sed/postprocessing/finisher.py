"""Post-processing of a run: median filters, or event boxes that were tuned on the validation set."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from task4_sed.metrics.evaluation_set import evaluation_set
from task4_sed.postprocessing.event_boxes import BoxSettings
from task4_sed.postprocessing.filters import join_classes, to_event_boxes, to_segments
from task4_sed.postprocessing.tuning import box_grid, tune_boxes
from task4_sed.scores.median_filter import median_filter
from task4_sed.scores.tables import ScoreTables, from_frames, only_classes
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
    def read(cls, settings: SystemSettings, plain: Mapping[str, Any] | None) -> "Finisher":
        """The reverse of `plain_boxes`; None for median filters."""
        return cls(settings, None if plain is None else {name: _box(values) for name, values in plain.items()})

    def process_set(self, scores: ScoreTables, name: str) -> ScoreTables:
        """Post-process the scores of a test set; clips of the validation set with boxes tuned on the others."""
        if self.boxes is None or name != "validation" or self.fold_of_clip is None:
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
        """Boxes for the DESED classes, means per second for those of MAESTRO."""
        jobs = len(os.sched_getaffinity(0))
        desed = evaluated_classes(self.settings, maestro=False)
        complete = {name: boxes.get(name, BoxSettings()) for name in desed}
        parts = [to_event_boxes(only_classes(scores, desed), complete, fill_value=0.0, jobs=jobs)]
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


def _box(values: list[float | None]) -> BoxSettings:
    return BoxSettings(*(np.inf if value is None else float(value) for value in values))
