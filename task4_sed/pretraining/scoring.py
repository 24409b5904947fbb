"""PSDS1 on the evaluation clips of AudioSet strong, in bounded memory: scores of a large set are kept on disk.

As published: the classes with clips in both parts (407), without clips that have no events of these, logits after a
median filter of 360 ms, merged events, all 250 frames of every clip. PSDS1 (macro) is the plain mean of the classes'
scores; the other PSDS1 has the usual penalty for their variance.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from task4_sed.metrics.evaluation_set import ClipReport, EvaluationSet
from task4_sed.metrics.polyphonic import PSDS1, PSDS1_MACRO, polyphonic_scores
from task4_sed.metrics.resampling import plain_figures
from task4_sed.metrics.segments import mean_partial_auc
from task4_sed.pretraining.tables import FRAME_SECONDS, FRAMES, StrongEvents
from task4_sed.scores.tables import ScoreTables, empty_values

FIGURES = ("psds1_macro", "psds1", "pauroc")


class EvaluationScores:
    """Scores of all clips of a set, class by class.

    Args:
        events: of the clips, with their 456 classes. durations: seconds by clip.
        classes: columns of the logits that are added. scored: classes to score, without those that have no events.
        median_frames: length of the median filter, odd.
        missing: clips of the table without audio, for the report.
    """

    def __init__(
        self, events: StrongEvents, durations: Mapping[str, float], classes: Sequence[str], scored: Sequence[str],
        median_frames: int, missing: Sequence[str] = (),
    ):  # fmt: skip
        there = events.only_classes(scored)
        self.classes = tuple(name for index, name in enumerate(scored) if (there.label == index).any())
        self.columns = torch.tensor([list(classes).index(name) for name in self.classes], dtype=torch.long)
        self.rows = np.flatnonzero(np.diff(there.starts) > 0)
        """Clips of the set that are scored."""
        self.events = there.select(self.rows).only_classes(self.classes)
        self.durations = np.array([durations[name] for name in self.events.clips])
        self.median_frames = median_frames
        self.absent = tuple(sorted(set(scored) - set(self.classes)))
        self.missing = tuple(missing)
        self.dropped = tuple(events.clips[row] for row in np.flatnonzero(np.diff(there.starts) == 0))
        self._place = np.full(len(events), -1)
        self._place[self.rows] = np.arange(len(self.rows))
        self._values: np.ndarray | None = None
        self._added = np.zeros(len(self.rows), dtype=bool)

    @torch.no_grad()
    def prepare(self, logits: Tensor) -> Tensor:
        """(clips, 250, classes of the network) to filtered scores (clips, scored classes, 250), on the device."""
        chosen = logits.float().mT[:, self.columns.to(logits.device)]
        return median_filter(chosen, self.median_frames)

    def add(self, rows: Tensor, scores: Tensor) -> None:
        """Keep the scores of `prepare` for these clips of the set; clips that are not scored are left out."""
        if self._values is None:
            self._values = empty_values(len(self.classes), len(self.rows) * FRAMES, np.float32)
        places = self._place[rows.cpu().numpy()]
        values = scores.cpu().numpy()
        for place, clip in zip(places.tolist(), values):
            if place >= 0:
                self._values[:, place * FRAMES : (place + 1) * FRAMES] = clip
                self._added[place] = True

    def figures(self, draws: int = 0, with_segments: bool = True) -> dict[str, Any]:
        """psds1_macro, psds1 and (with segments of 1 s) pauroc: value, per_class, interval; and clips.

        pauroc is the area under the segment-based ROC up to a false positive rate of 0.1.
        """
        evaluation = self.evaluation_set()
        jobs = len(os.sched_getaffinity(0))
        macro, penalised = polyphonic_scores(evaluation, [PSDS1_MACRO, PSDS1], draws=draws, jobs=jobs)
        found: dict[str, Any] = {"psds1_macro": macro, "psds1": penalised}
        if with_segments:
            found["pauroc"] = mean_partial_auc(evaluation, max_fpr=0.1, draws=draws)
        return {**plain_figures(found), "clips": evaluation.report.as_json()}

    def evaluation_set(self) -> EvaluationSet:
        """Scores and events for the metrics; only clips that were added."""
        assert self._values is not None, "no scores were added"
        events, values, durations = self.events, self._values, self.durations
        if not self._added.all():  # two steps of everything
            kept = np.flatnonzero(self._added)
            events, durations = events.select(kept), durations[kept]
            values = values.reshape(len(self.classes), -1, FRAMES)[:, kept].reshape(len(self.classes), -1)
        count = len(events)
        borders = np.tile(np.round(np.arange(FRAMES + 1) * FRAME_SECONDS, 6), count)
        tables = ScoreTables(events.clips, self.classes, np.arange(count + 1) * FRAMES, borders, values)
        report = ClipReport(
            expected=len(self.rows) + len(self.dropped) + len(self.missing), scored=count + len(self.dropped),
            evaluated=count, missing=self.missing, unexpected=(), without_events=self.dropped,
            classes_without_reference=self.absent,
        )  # fmt: skip
        return EvaluationSet(
            scores=tables, classes=self.classes, durations=durations, event_starts=events.starts, onsets=events.onset,
            offsets=events.offset, labels=events.label, report=report, notes=(),
        )  # fmt: skip


def median_filter(values: Tensor, length: int) -> Tensor:
    """Median over an odd number of neighbouring frames (..., frames), mirrored at the ends (scipy's `reflect`)."""
    half = length // 2
    if half == 0:
        return values
    if values.shape[-1] < half:
        raise ValueError(f"{values.shape[-1]} frames are too few for a median over {length}")
    mirrored = torch.cat([values[..., :half].flip(-1), values, values[..., -half:].flip(-1)], dim=-1)
    return mirrored.unfold(-1, length, 1).median(dim=-1).values
