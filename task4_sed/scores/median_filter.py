"""Median filter of score tables."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from common.errors import UserError, unknown
from task4_sed.scores.tables import ScoreTables, empty_values

T = TypeVar("T")


def median_filter(scores: ScoreTables, frames: int | Mapping[str, int]) -> ScoreTables:
    """Median over neighbouring frames, mirrored at the ends, as scipy's `median_filter` and the baseline do.

    Args:
        scores: tables whose frames are equally long.
        frames: length for all classes, or by class name.
    """
    from scipy.ndimage import median_filter as over_frames

    lengths = {name: choose_by_class(frames, name, "median filter length") for name in scores.classes}
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


def choose_by_class(values: T | Mapping[str, T], name: str, what: str) -> T:
    """The value of a class; `values` may be one for all classes."""
    if not isinstance(values, Mapping):
        return values
    if name not in values:
        raise unknown(f"class with a {what}", name, values)
    return values[name]
