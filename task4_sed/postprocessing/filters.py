"""Post-processing of score tables: event boxes and segment means; every function takes and returns score tables."""

from collections.abc import Sequence

import numpy as np

from common.errors import UserError
from task4_sed.metrics.segments import segment_means
from task4_sed.postprocessing.event_boxes import ClassSettings, box_scores, event_boxes, make_tables
from task4_sed.scores.tables import ScoreTables, only_classes


def to_event_boxes(
    scores: ScoreTables, settings: ClassSettings, fill_value: float = -np.inf, jobs: int = 1
) -> ScoreTables:
    """Scores that are constant inside the boxes of `event_boxes`, and `fill_value` elsewhere."""
    return box_scores(scores, event_boxes(scores, settings, jobs), fill_value)


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
    """Tables of the same clips with the classes of all parts; frames have the borders of all parts.

    Args:
        parts: such as DESED classes as boxes and MAESTRO classes per segment. The last score of a part that ends before
            another is held.
        order: of the classes; None keeps the order of the parts.
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
