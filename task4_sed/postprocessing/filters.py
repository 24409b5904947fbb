"""From raw scores to the scores that are handed in: median filters, event boxes, segment means.

Every function takes score tables and gives score tables, so that steps combine. Event boxes are in `event_boxes`,
their tuning in `tuning`, means over several systems in `ensemble`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from joblib import Parallel, delayed

from common.errors import UserError, unknown
from task4_sed.metrics.segments import segment_means
from task4_sed.postprocessing.event_boxes import ClassSettings, box_scores, event_boxes, tables_of
from task4_sed.scores.tables import ScoreTables, empty_values

BASELINE_MEDIAN_FRAMES = {
    "Alarm_bell_ringing": 3,
    "Blender": 9,
    "Cat": 9,
    "Dishes": 5,
    "Dog": 5,
    "Electric_shaver_toothbrush": 5,
    "Frying": 9,
    "Running_water": 7,
    "Speech": 11,
    "Vacuum_cleaner": 9,
    "cutlery and dishes": 7,
    "furniture dragging": 3,
    "people talking": 9,
    "children voices": 13,
    "coffee machine": 7,
    "footsteps": 1,
    "large_vehicle": 13,
    "car": 3,
    "brakes_squeaking": 13,
    "cash register beeping": 7,
    "announcement": 5,
    "shopping cart": 5,
    "metro leaving": 1,
    "metro approaching": 13,
    "door opens/closes": 17,
    "wind_blowing": 13,
    "birds_singing": 15,
}
"""Filter lengths of the DCASE 2024 Task 4 baseline, in frames of 64 ms."""


def median_filter(scores: ScoreTables, frames: int | Mapping[str, int]) -> ScoreTables:
    """Median over neighbouring frames, mirrored at the ends, as scipy's `median_filter` and the baseline do.

    Args:
        scores: tables whose frames are equally long.
        frames: length for all classes, or by class name (`BASELINE_MEDIAN_FRAMES`).
    """
    from scipy.ndimage import median_filter as over_frames

    lengths = {name: _of_class(frames, name, "median filter length") for name in scores.classes}
    counts = np.diff(scores.starts)
    values = empty_values(len(scores.classes), int(scores.starts[-1]), scores.values.dtype)
    for index, name in enumerate(scores.classes):
        if lengths[name] < 1 or lengths[name] != int(lengths[name]):
            raise UserError(f"The median filter of {name} must be 1 frame or more, not {lengths[name]}.")
        column = np.asarray(scores.values[index])
        for count in np.unique(counts):  # clips of one length together
            rows = scores.starts[:-1][counts == count, None] + np.arange(count)
            values[index][rows] = over_frames(column[rows], size=(1, int(lengths[name])), mode="reflect")
    return scores.with_values(values)


def median_filter_seconds(scores: ScoreTables, seconds: float | Mapping[str, float], jobs: int = 1) -> ScoreTables:
    """Median over a window of time, exact for frames of any length; sed_scores_eval's `medfilt`.

    The median changes between frame borders, so the tables get other frames than they had.

    Args:
        scores: tables. seconds: length for all classes, or by class name; 0 leaves a class as it is.
        jobs: processes.
    """
    lengths = [float(_of_class(seconds, name, "median filter length")) for name in scores.classes]
    if min(lengths) < 0:
        raise UserError("The median filter length cannot be negative.")
    if max(lengths) == 0:
        return scores
    blocks = np.array_split(np.arange(len(scores.clips)), max(1, min(4 * jobs, len(scores.clips))))
    filtered = Parallel(n_jobs=jobs)(
        delayed(_filter_clips)([(scores.scores_of(i), scores.borders_of(i)) for i in block], lengths)
        for block in blocks
    )
    pairs = [pair for block in filtered for pair in block]
    return tables_of(scores.clips, scores.classes, [borders for _, borders in pairs], [values for values, _ in pairs])


def to_event_boxes(
    scores: ScoreTables, settings: ClassSettings, fill_value: float = -np.inf, jobs: int = 1
) -> ScoreTables:
    """Scores that are constant inside the boxes of `event_boxes` and `fill_value` elsewhere."""
    return box_scores(scores, event_boxes(scores, settings, jobs), fill_value)


def to_segments(scores: ScoreTables, segment_length: float = 1.0) -> ScoreTables:
    """Time-weighted mean per segment of each clip: the winner's post-processing of MAESTRO classes."""
    borders, values = [], []
    for index in range(len(scores.clips)):
        edges = scores.borders_of(index)
        means = segment_means(edges, scores.scores_of(index), edges[-1], segment_length)
        borders.append(np.minimum(np.arange(len(means) + 1) * segment_length, edges[-1]))
        values.append(means)
    return tables_of(scores.clips, scores.classes, borders, values)


def only_classes(scores: ScoreTables, classes: Sequence[str]) -> ScoreTables:
    """The same tables with only these classes, in this order."""
    for name in classes:
        if name not in scores.classes:
            raise unknown("class", name, scores.classes)
    rows = [scores.classes.index(name) for name in classes]
    return ScoreTables(scores.clips, tuple(classes), scores.starts, scores.borders, np.asarray(scores.values[rows]))


def join_classes(parts: Sequence[ScoreTables], order: Sequence[str] | None = None) -> ScoreTables:
    """Tables of the same clips with different classes put side by side; frames are cut where any part has a border.

    Args:
        parts: such as DESED classes as boxes and MAESTRO classes per segment. Where a part ends before another, its
            last score goes on.
        order: of the classes; as they come when None.
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
    joined = tables_of(clips, classes, borders, values)
    return joined if order is None else only_classes(joined, order)


def _of_class(values: float | Mapping[str, float], name: str, what: str) -> float:
    if not isinstance(values, Mapping):
        return values
    if name not in values:
        raise unknown(f"class with a {what}", name, values)
    return values[name]


def _filter_clips(clips: list[tuple[np.ndarray, np.ndarray]], lengths: list[float]) -> list[tuple]:
    from sed_scores_eval.base_modules.cy_medfilt import cy_medfilt

    return [cy_medfilt(np.array(scores, dtype=np.float64), borders, np.array(lengths)) for scores, borders in clips]
