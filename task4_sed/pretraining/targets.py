"""Events as frames of 40 ms, and the sampling weights of clips; no audio is decoded."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from task4_sed.labels import SAMPLE_RATE, ranges
from task4_sed.pretraining.tables import StrongEvents

FRAME_SECONDS = 0.04
FRAMES = 250
FRAME_SAMPLES = 640


class FrameTargets:
    """Frame targets of clips.

    A frame is on from floor(onset / 40 ms) up to, not including, ceil(offset / 40 ms).

    Args:
        events: of the clips.
        classes: columns of the targets; events of other classes are left out.
    """

    def __init__(self, events: StrongEvents, classes: Sequence[str]):
        events = events.only_classes(classes)
        self.num_classes = len(classes)
        self._starts, self._label = events.starts, events.label
        self._first, self._last = event_frames(events.onset, events.offset)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def gather(self, rows: Sequence[int] | NDArray) -> NDArray[np.float32]:
        """(rows, classes, 250), 0 or 1."""
        rows = np.asarray(rows, dtype=np.int64)
        target = np.zeros((len(rows), self.num_classes, FRAMES), dtype=np.float32)
        counts = self._starts[rows + 1] - self._starts[rows]
        events = ranges(self._starts[rows], counts)
        places = zip(
            np.repeat(np.arange(len(rows)), counts).tolist(), self._label[events].tolist(),
            self._first[events].tolist(), self._last[events].tolist(),
        )  # fmt: skip
        for row, label, first, last in places:
            target[row, label, first:last] = 1
        return target

    def active_frames(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Clip, class and number of active frames of every event; a frame of two events counts once."""
        clip = np.repeat(np.arange(len(self)), np.diff(self._starts))
        before = np.append(0, self._last[:-1]) if len(clip) else self._last
        same = np.append(False, (clip[1:] == clip[:-1]) & (self._label[1:] == self._label[:-1]))[: len(clip)]
        first = np.where(same, np.maximum(self._first, before), self._first)
        return clip, self._label, np.maximum(self._last - first, 0)


def event_frames(onset: NDArray, offset: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First frame, and frame after the last, within the 250 of a clip."""
    # Counted in samples, as published: of the multiples of 40 ms only 8.04 and 8.12 s begin a frame early.
    first = np.floor(np.asarray(onset) * SAMPLE_RATE / FRAME_SAMPLES).clip(0, FRAMES)
    last = np.ceil(np.asarray(offset) * SAMPLE_RATE / FRAME_SAMPLES).clip(0, FRAMES)
    return first.astype(np.int64), last.astype(np.int64)


def temporal_weights(targets: FrameTargets, offset: float) -> NDArray[np.float64]:
    """(clips,) sum over classes of the clip's active frames * 1000 / (offset + active frames of the class).

    PretrainedSED, data_util/audioset_strong.py.
    """
    clip, label, frames = targets.active_frames()
    of_class = np.bincount(label, weights=frames, minlength=targets.num_classes)
    shares = frames * 1000 / (offset + of_class[label])
    return np.bincount(clip, weights=shares, minlength=len(targets)).astype(np.float64)
