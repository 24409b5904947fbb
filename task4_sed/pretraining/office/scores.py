"""Events out of frame scores as HEAR finds them, and the figures of DCASE 2016 Task 2.

Equal to sed_eval's event-based F1 with onsets only and segment-based error rate, over all classes together, and to
hear-eval-kit's heareval/score.py.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from common.reports.statistics import bootstrap_interval
from task4_sed.pretraining.office.data import Event, Recordings
from task4_sed.pretraining.settings import OfficeEventSettings
from task4_sed.pretraining.targets import FRAME_SECONDS

COLLARS = {"onset_f1": 0.2, "onset_f1_50ms": 0.05}
FIGURES = (*COLLARS, "segment_error_rate")


def find_events(logits: NDArray, classes: Sequence[str], settings: OfficeEventSettings) -> list[Event]:
    """Events of a recording from frame logits (frames, classes).

    The median filter is scipy's: of an even number of frames it takes the upper of the two middle ones.
    """
    width = round(settings.median_ms / 1000 / FRAME_SECONDS)
    scores = median_filter(logits, size=(width, 1)) if width > 1 else logits
    if settings.scores == "probabilities":
        scores = 1 / (1 + np.exp(-scores.astype(np.float64)))
    active = np.pad(scores > settings.threshold, ((1, 1), (0, 0)))
    changes = np.diff(active.astype(np.int8), axis=0)
    events = []
    for index, label in enumerate(classes):
        first, last = np.flatnonzero(changes[:, index] == 1), np.flatnonzero(changes[:, index] == -1)
        if settings.borders == "centres":
            onsets, offsets = (first + 0.5) * FRAME_SECONDS, (last - 0.5) * FRAME_SECONDS
        else:
            onsets, offsets = first * FRAME_SECONDS, last * FRAME_SECONDS
        long = offsets - onsets >= settings.min_duration_ms / 1000 - 1e-9
        events += [(float(a), float(b), label) for a, b in zip(onsets[long], offsets[long])]
    return sorted(events)


def office_figures(found: Sequence[Sequence[Event]], recordings: Recordings, draws: int = 1000) -> dict[str, Any]:
    """Onset F1 with collars of 200 and 50 ms, and error rate of segments of 1 s: value and 95 % interval each.

    `found`: events of each recording; `draws`: resamplings of the recordings, 0 for none.
    """
    counts: dict[str, list[tuple[float, float]]] = {name: [] for name in FIGURES}
    for own, right in zip(found, recordings.events, strict=True):
        for name, collar in COLLARS.items():
            matched = sum(_matched(own, right, label, collar) for label in recordings.classes)
            counts[name].append((2 * matched, len(own) + len(right)))
        end = max((int(np.ceil(offset)) for _, offset, _ in (*own, *right)), default=0)
        detected, there = _activity(own, recordings.classes, end), _activity(right, recordings.classes, end)
        # Missed and false classes of one second make substitutions; the rest are deletions or insertions.
        errors = np.maximum((there & ~detected).sum(axis=1), (detected & ~there).sum(axis=1))
        counts["segment_error_rate"].append((float(errors.sum()), float(there.sum())))
    groups = np.arange(len(recordings))
    figures = {}
    for name, rows in counts.items():
        random = np.random.default_rng(0)
        value, low, high = bootstrap_interval(_ratio, np.array(rows, dtype=float), groups, random, max(draws, 2))
        figures[name] = {"value": value, "interval": None if np.isnan(low) or not draws else (low, high)}
    return figures


def _ratio(sums: NDArray) -> NDArray:
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def _matched(own: Sequence[Event], right: Sequence[Event], label: str, collar: float) -> int:
    """Most pairs of events whose onsets lie at most `collar` apart; each event is in one pair at most."""
    found = sorted(onset for onset, _, name in own if name == label)
    wanted = sorted(onset for onset, _, name in right if name == label)
    count = position = 0
    for onset in wanted:  # with one collar for all, taking the earliest that fits is best
        while position < len(found) and found[position] < onset - collar - 1e-9:
            position += 1
        if position < len(found) and found[position] <= onset + collar + 1e-9:
            count += 1
            position += 1
    return count


def _activity(events: Sequence[Event], classes: Sequence[str], seconds: int) -> NDArray[np.bool_]:
    active = np.zeros((seconds, len(classes)), dtype=bool)
    for onset, offset, label in events:
        active[int(np.floor(onset)) : int(np.ceil(offset)), classes.index(label)] = True
    return active
