"""Change-point event boxes (cSEBBs) of score tables; the boxes themselves are `common.inference.event_boxes`."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from common.errors import UserError
from common.inference.event_boxes import BoxSettings, Candidates, find_candidates, join_candidates
from task4_sed.metrics.detections import Runs
from task4_sed.scores.tables import ScoreTables, choose_by_class, make_tables

ClassSettings = BoxSettings | Mapping[str, BoxSettings]
"""One setting for all classes, or settings by class name."""


def event_boxes(scores: ScoreTables, settings: ClassSettings = BoxSettings(), jobs: int = 1) -> pd.DataFrame:  # noqa: B008
    """Boxes of all clips and classes, from frame scores without -inf.

    Returns:
        Table with clip, onset, offset, event_label, confidence; sorted by clip, class (as in `scores`) and onset.
    """
    runs = Parallel(n_jobs=jobs, backend="threading")(
        delayed(_class_boxes)(scores, name, choose_by_class(settings, name, "box setting")) for name in scores.classes
    )
    clips = np.array(scores.clips, dtype=object)
    parts = []
    for number, (name, boxes) in enumerate(zip(scores.classes, runs)):
        index = np.repeat(np.arange(len(clips)), np.diff(boxes.starts))
        times = {"clip": clips[index], "onset": boxes.onsets, "offset": boxes.offsets, "event_label": name}
        order = index * len(scores.classes) + number
        parts.append(pd.DataFrame({**times, "confidence": boxes.high, "order": order}))
    table = pd.concat(parts).sort_values(["order", "onset"], kind="stable")
    return table.drop(columns="order").reset_index(drop=True)


def _class_boxes(scores: ScoreTables, name: str, settings: BoxSettings) -> Runs:
    return join(candidates(scores, name, settings.step_filter_length), settings)


def candidates(scores: ScoreTables, name: str, step_filter_length: float) -> Candidates:
    """Event candidates of one class: where the step filter turns from rising to falling, and back."""
    column = scores.column(name)
    if np.isneginf(column).any():
        raise UserError(f"The scores of {name} hold -inf; event boxes need the unprocessed scores.")
    return find_candidates(column, scores.starts, scores.borders, step_filter_length)


def join(found: Candidates, settings: BoxSettings) -> Runs:
    """Boxes from candidates without shallow gaps; each gap is judged before any joining."""
    starts, onsets, offsets, confidence = join_candidates(found, settings)
    return Runs(
        starts, onsets, offsets, confidence, np.full(len(onsets), -np.inf), np.ones(len(onsets), dtype=np.int32)
    )


def box_scores(scores: ScoreTables, boxes: pd.DataFrame, fill_value: float = -np.inf) -> ScoreTables:
    """Score tables with the confidence inside each box and `fill_value` elsewhere.

    Frames begin and end with the boxes of any class, so their lengths differ. `scores` gives clips, classes, start and
    end; -inf is never a detection, submissions need a number, 0.
    """
    number = {name: index for index, name in enumerate(scores.classes)}
    groups = dict(iter(boxes.groupby("clip", sort=False)))
    borders, values = [], []
    for index, clip in enumerate(scores.clips):
        ends = scores.borders_of(index)[[0, -1]]
        part = groups.get(clip)
        times = ends if part is None else np.concatenate((ends, part["onset"], part["offset"]))
        edges = np.unique(np.round(times, 8))
        frames = np.full((len(edges) - 1, len(scores.classes)), float(fill_value))
        if part is not None:
            first = np.searchsorted(edges, np.round(part["onset"].to_numpy(), 8))
            last = np.searchsorted(edges, np.round(part["offset"].to_numpy(), 8))
            labels = part["event_label"].map(number).to_numpy()
            for begin, end, label, confidence in zip(first, last, labels, part["confidence"].to_numpy()):
                frames[begin:end, label] = confidence
        borders.append(edges)
        values.append(frames)
    return make_tables(scores.clips, scores.classes, borders, values)
