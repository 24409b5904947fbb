"""From frame scores to events, block by block, for recordings of any length."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Event:
    """Seconds from the beginning of the recording, the index of the class, and the mean score over its frames."""

    onset: float
    offset: float
    index: int
    score: float


class EventFinder:
    """Runs of frames (`frame` seconds each) with a median-filtered score above a threshold.

    The filter, of an odd number of frames, repeats the first and the last frame beyond the ends of the recording.
    Events do not depend on where blocks are cut.
    """

    def __init__(self, frame: float, threshold: float = 0.5, median: int = 1):
        if median < 1 or median % 2 == 0:
            raise ValueError(f"a median filter has an odd number of frames, not {median}")
        self.frame, self.threshold, self.half = frame, threshold, median // 2
        self.waiting: Tensor | None = None  # frames that the filter still needs
        self.position = 0  # of the next filtered frame
        self.open: dict[int, tuple[int, float]] = {}  # class: first frame, sum of scores so far

    def add(self, scores: Tensor) -> list[Event]:
        """Scores (time, classes) of the next frames; the events that are known to have ended."""
        if len(scores) == 0:
            return []
        if self.waiting is None:
            scores = torch.cat([scores[:1].expand(self.half, -1), scores])
        else:
            scores = torch.cat([self.waiting, scores])
        kept = max(0, len(scores) - 2 * self.half)
        self.waiting = scores[kept:]
        return self._filtered(scores) if kept else []

    def finish(self, duration: float) -> list[Event]:
        """The last events of a recording of `duration` seconds; those that reach its end end there."""
        events: list[Event] = []
        if self.waiting is not None and self.half:
            events = self._filtered(torch.cat([self.waiting, self.waiting[-1:].expand(self.half, -1)]))
        for index, (first, total) in sorted(self.open.items()):
            events.append(Event(first * self.frame, duration, index, total / (self.position - first)))
        self.open.clear()
        return [replace(event, offset=min(event.offset, duration)) for event in events]

    def _filtered(self, scores: Tensor) -> list[Event]:
        filtered = scores.unfold(0, 2 * self.half + 1, 1).median(dim=-1).values if self.half else scores
        active = filtered > self.threshold
        events = []
        for index in sorted({*active.any(dim=0).nonzero().flatten().tolist(), *self.open}):
            events += self._runs(index, active[:, index], filtered[:, index])
        self.position += len(filtered)
        return sorted(events, key=lambda event: event.onset)

    def _runs(self, index: int, active: Tensor, scores: Tensor) -> list[Event]:
        """Events of one class that end in this block; an unfinished one stays open."""
        events = []
        before = torch.cat([torch.tensor([index in self.open]), active[:-1]])
        borders = (active != before).nonzero().flatten().tolist()
        start = 0
        for border in [*borders, len(active)]:
            if index in self.open:
                first, total = self.open[index]
                self.open[index] = first, total + float(scores[start:border].sum())
            if border == len(active):
                break
            if active[border]:
                self.open[index] = self.position + border, 0.0
            else:
                first, total = self.open.pop(index)
                length = self.position + border - first
                events.append(Event(first * self.frame, (first + length) * self.frame, index, total / length))
            start = border
        return events
