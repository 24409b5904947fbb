"""Events as targets on the grid of 64 ms frames.

Class and borders in frames of every event are computed once, when a set is opened. A batch is then a few array
operations; the crop of a long clip shifts the borders.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from common.errors import UserError, unknown
from task4_sed.labels import (
    CLASSES,
    CLIP_SECONDS,
    DESED_TO_MAESTRO,
    HOP_LENGTH,
    MAESTRO_CLASSES,
    MAESTRO_SYNTH_CLASSES,
    MAESTRO_TO_DESED,
    NUM_FRAMES,
    POOLING,
    SAMPLE_RATE,
    Domain,
    LabelSettings,
)


@dataclass(frozen=True)
class Targets:
    """Targets of a batch.

    strong: (clips, classes, frames) float32, 0..1. weak: (clips, classes) float32, 1 where the class is in the clip.
    valid: (clips, classes) bool, True where the class is annotated for the clip's data set.
    """

    strong: np.ndarray
    weak: np.ndarray
    valid: np.ndarray


class EventTargets:
    """Targets of one set of clips.

    `events` has the columns clip (index), onset, offset (seconds), event_label and, for soft labels, confidence; the
    order of the rows counts for `overlap: last`. For weak labels onset and offset are NaN. The domain decides which
    classes are valid and which labels have aliases.

    Raises:
        UserError: for a label that is neither a class of the system nor one of its data sets.
    """

    def __init__(self, num_clips: int, events: pd.DataFrame, domain: Domain, settings: LabelSettings):
        self.num_clips = num_clips
        self.classes = tuple(settings.classes)
        self.overlap = settings.overlap
        self.valid = valid_classes(domain, settings)
        events = with_aliases(events, domain, settings)
        place = {name: index for index, name in enumerate(self.classes)}
        label = events["event_label"].map(place)
        refuse_unknown_labels(events["event_label"][label.isna()], self.classes)
        events = events[label.notna().to_numpy()]
        label = label.dropna().to_numpy(dtype=np.int64)
        clip = events["clip"].to_numpy(dtype=np.int64)
        order = np.argsort(clip, kind="stable")
        self._label, clip = label[order], clip[order]
        self._onset = events["onset"].to_numpy(dtype=np.float64)[order]
        self._offset = events["offset"].to_numpy(dtype=np.float64)[order]
        confidence = events["confidence"].to_numpy(dtype=np.float64) if "confidence" in events else None
        self._value = np.ones(len(order)) if confidence is None else confidence[order]
        self._starts = np.searchsorted(clip, np.arange(num_clips + 1))
        every = np.arange(len(clip))
        kept, first, last = self._place(clip, every, self._onset, self._offset)
        self._kept = np.isin(every, kept)
        self._first, self._last = np.zeros((2, len(clip)), dtype=np.int64)
        self._first[kept], self._last[kept] = first, last

    def gather(self, clips: np.ndarray, crop_starts: np.ndarray | None = None) -> Targets:
        """Targets of clips (batch,), cropped at these seconds (batch,); None where none was."""
        clips = np.asarray(clips, dtype=np.int64)
        counts = self._starts[clips + 1] - self._starts[clips]
        row = np.repeat(np.arange(len(clips)), counts)
        event = ranges(self._starts[clips], counts)
        if crop_starts is not None and crop_starts.any():
            shift = np.round(crop_starts, 3)[row]
            kept, first, last = self._place(row, event, self._onset[event] - shift, self._offset[event] - shift)
            row, event = row[kept], event[kept]
        else:
            kept = self._kept[event]
            row, event = row[kept], event[kept]
            first, last = self._first[event], self._last[event]
        label, value = self._label[event], self._value[event]
        shape = (len(clips), len(self.classes))
        weak = np.zeros(shape, dtype=np.float32)
        timeless = np.isnan(self._onset[event])
        weak[row[timeless], label[timeless]] = 1
        strong = np.zeros((*shape, NUM_FRAMES), dtype=np.float32)
        lengths = np.where(timeless, 0, np.maximum(last - first, 0))
        cell = np.repeat((row * len(self.classes) + label) * NUM_FRAMES, lengths) + ranges(first, lengths)
        flat = strong.reshape(-1)
        if self.overlap == "last":
            flat[cell] = np.repeat(value, lengths)  # numpy keeps the last of equal indices
        else:
            np.maximum.at(flat, cell, np.repeat(value, lengths))
        np.maximum(weak, strong.max(axis=2) > 0, out=weak)
        valid = np.broadcast_to(self.valid, shape).copy()
        return Targets(strong * valid[..., None], weak * valid, valid)

    def _place(
        self, clip: np.ndarray, event: np.ndarray, onset: np.ndarray, offset: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places (in `event`) of the events that count, and their frames.

        Within the 10 s, events without length are dropped, and exact doubles of a clip (label, times, confidence) after
        the first, as published.
        """
        onset, offset = np.clip(onset, 0, CLIP_SECONDS), np.clip(offset, 0, CLIP_SECONDS)
        kept = np.flatnonzero(~(onset >= offset))  # weak labels have no times
        columns = (clip, self._label[event], onset, offset, self._value[event])
        table = pd.DataFrame({number: values[kept] for number, values in enumerate(columns)})
        kept = kept[~table.duplicated().to_numpy()]
        return kept, *frame_span(onset[kept], offset[kept])


def frame_span(onset: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First frame, and frame after the last, that events touch: onset down, offset up, within the 156 frames.

    Seconds that are not numbers (weak labels) give an empty range.
    """
    per_second = SAMPLE_RATE / HOP_LENGTH / POOLING
    with np.errstate(invalid="ignore"):
        first = np.floor(np.clip(np.asarray(onset) * per_second, 0, NUM_FRAMES))
        last = np.ceil(np.clip(np.asarray(offset) * per_second, 0, NUM_FRAMES))
    return np.nan_to_num(first).astype(np.int64), np.nan_to_num(last).astype(np.int64)


def valid_classes(domain: Domain, settings: LabelSettings) -> np.ndarray:
    """(classes,) bool: the classes annotated for a data set: in own data all; else other classes count as DESED's."""
    if domain == "own":
        return np.ones(len(settings.classes), dtype=bool)
    names = set(settings.classes) - set(MAESTRO_CLASSES) if domain == "desed" else set(MAESTRO_CLASSES)
    if domain == "maestro" and settings.maestro_to_desed:
        names |= {"Speech", "Dishes"}
    if domain == "maestro" and settings.dog_in_maestro:
        names.add("Dog")
    if domain == "desed" and settings.desed_to_maestro:
        names |= set(DESED_TO_MAESTRO.values())
    return np.array([name in names for name in settings.classes])


def with_aliases(events: pd.DataFrame, domain: Domain, settings: LabelSettings) -> pd.DataFrame:
    """Events, then copies under the labels of the other data set where the settings ask for them.

    Copies come after all events, class by class in the order of the map, as published; the order counts where labels
    overlap.
    """
    aliases: dict[str, str] = {}
    if domain == "maestro" and settings.maestro_to_desed:
        aliases = MAESTRO_TO_DESED
    if domain == "desed" and settings.desed_to_maestro:
        aliases = DESED_TO_MAESTRO
    copies = [events[events["event_label"] == name].assign(event_label=alias) for name, alias in aliases.items()]
    return pd.concat([events, *(rows for rows in copies if len(rows))])


def refuse_unknown_labels(
    labels: Collection[str], classes: Collection[str] = CLASSES, place: Callable[[int], str] | None = None
) -> None:
    """Demand that labels are classes of DESED, MAESTRO or of the system.

    Raises:
        UserError: for the first that is none, with the nearest ones and the `place` of its row.
    """
    known = {*CLASSES, *MAESTRO_SYNTH_CLASSES, *classes}
    for row, name in enumerate(labels):
        if name not in known:
            error = unknown("class", name, list(dict.fromkeys([*classes, *CLASSES])))
            raise error if place is None else UserError(f"{place(row)}: {error}")


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """start, start + 1, ... of each range, one after another."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts - starts, counts)
