"""From a network's probabilities to score tables, and the objective that chooses the best epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from task4_sed.data.annotations import Annotations, clip_name
from task4_sed.data.sets import ClipSet
from task4_sed.labels import FRAME_SECONDS, MAESTRO_CLASSES, MAESTRO_EVALUATED, NUM_FRAMES
from task4_sed.metrics.evaluation_set import evaluation_set
from task4_sed.metrics.f1 import intersection_f1
from task4_sed.metrics.segments import segment_f1
from task4_sed.scores.median_filter import median_filter
from task4_sed.scores.tables import ScoreTables
from task4_sed.settings import SystemSettings


class Scored(NamedTuple):
    """A batch of scored clips: seconds, frames (clips, 156, classes), weak and weak_target (clips, classes)."""

    filenames: list[str]
    durations: list[float]
    frames: np.ndarray
    weak: np.ndarray
    weak_target: np.ndarray


@dataclass(frozen=True)
class Reference:
    """What a set's scores are compared with.

    name: of the set. annotations: of its clips. durations: seconds by clip.
    """

    name: str
    annotations: Annotations
    durations: dict[str, float]


def tables_of_scores(
    filenames: Sequence[str], frames: np.ndarray, durations: Sequence[float], classes: Sequence[str]
) -> ScoreTables:
    """Score tables of clips.

    Args:
        filenames: one per clip; a clip that comes again, as a padded batch of several processes has it, is left out.
        frames: (clips, 156, classes), probabilities of frames of 64 ms.
        durations: seconds of each clip. The last frame ends with the clip: a shorter clip has fewer frames, in one
            of more than 9.984 s the last score goes on.
        classes: names.
    """
    names = [clip_name(name) for name in filenames]
    order = sorted({name: row for row, name in enumerate(names)}.items())
    counts = np.array([count_frames(durations[row]) for _, row in order], dtype=np.int64)
    starts = np.concatenate(([0], np.cumsum(counts)))
    values = np.empty((len(classes), starts[-1]), dtype=np.float64)
    borders = []
    for index, (_, row) in enumerate(order):
        values[:, starts[index] : starts[index + 1]] = frames[row, : counts[index]].T
        edges = np.round(np.arange(counts[index] + 1) * FRAME_SECONDS, 6)
        edges[-1] = durations[row]
        borders.append(edges)
    return ScoreTables(tuple(name for name, _ in order), tuple(classes), starts, np.concatenate(borders), values)


def count_frames(duration: float) -> int:
    """Frames of a clip; those that begin after its end are padding."""
    return int(min(NUM_FRAMES, max(1, np.ceil(duration / FRAME_SECONDS - 1e-6))))


def objective(
    scored: dict[str, list[Scored]], references: Sequence[Reference], settings: SystemSettings
) -> dict[str, float]:
    """Weak macro F1, intersection macro F1 (both at 0.5), best segment macro F1 on MAESTRO, and their sum.

    As in the baseline, with median-filtered scores. The weak F1 is the mean over all classes of the system, where those
    that do not occur count 0; MAESTRO windows are compared one by one, up to the end of their last event.

    Args:
        scored: batches by name of the set.
        references: of the sets that are validated on.
        settings: classes and median filters.
    """
    figures = {}
    for reference in references:
        parts = scored[reference.name]
        if reference.name == "weak":
            figures["weak_f1"] = weak_f1(
                np.concatenate([part.weak for part in parts]), np.concatenate([part.weak_target for part in parts])
            )
            continue
        tables = median_filter(joined(parts, settings), settings.postprocessing.median_frames)
        maestro = reference.name.startswith("maestro")
        classes = evaluated_classes(settings, maestro)
        annotations = of_clips(reference.annotations, tables.clips, classes)
        if annotations.events.empty:
            figures["segment_f1" if maestro else "intersection_f1"] = 0.0
        elif maestro:
            figures["segment_f1"] = _segment_f1(tables, annotations, classes)
        else:
            evaluation = evaluation_set(tables, annotations, reference.durations, classes=classes)
            figures["intersection_f1"] = intersection_f1(evaluation, threshold=0.5, draws=0).value
    return {**figures, "objective": float(sum(figures.values()))}


def weak_f1(probabilities: np.ndarray, target: np.ndarray, threshold: float = 0.5) -> float:
    """Macro F1 of clips; (clips, classes). A class that is neither there nor detected counts 0."""
    detected, there = probabilities > threshold, target > threshold
    hits = (detected & there).sum(axis=0)
    either = detected.sum(axis=0) + there.sum(axis=0)
    return float(np.mean(2 * hits / np.maximum(either, 1)))


def evaluated_classes(settings: SystemSettings, maestro: bool) -> tuple[str, ...]:
    """Classes of the system that a data set is scored for."""
    if maestro:
        return tuple(name for name in MAESTRO_EVALUATED if name in settings.labels.classes)
    return tuple(name for name in settings.labels.classes if name not in MAESTRO_CLASSES)


def annotations_of(clips: ClipSet) -> Annotations:
    """The events of a set for the metrics."""
    names = [clip_name(name) for name in clips.filenames]
    events = clips.events.assign(clip=[names[index] for index in clips.events["clip"]], line=0)
    return Annotations(events.reset_index(drop=True), tuple(names), clips.name)


def of_clips(annotations: Annotations, clips: Sequence[str], classes: Sequence[str]) -> Annotations:
    """Only the events of some clips and classes; soft labels above 0.5 only."""
    events = annotations.events
    chosen = events["clip"].isin(clips) & events["event_label"].isin(classes)
    if "confidence" in events:
        chosen &= events["confidence"] > 0.5
    return Annotations(events[chosen].drop(columns="confidence", errors="ignore"), tuple(clips), annotations.source)


def _segment_f1(tables: ScoreTables, annotations: Annotations, classes: Sequence[str]) -> float:
    ends: pd.Series = annotations.events.groupby("clip")["offset"].max()
    with_events = Annotations(annotations.events, tuple(ends.index), annotations.source)
    evaluation = evaluation_set(tables.select(tuple(ends.index)), with_events, ends.to_dict(), classes=classes)
    return segment_f1(evaluation, threshold="best", draws=0).value


def joined(parts: Sequence[Scored], settings: SystemSettings) -> ScoreTables:
    names = [name for part in parts for name in part.filenames]
    durations = [seconds for part in parts for seconds in part.durations]
    frames = np.concatenate([part.frames for part in parts])
    return tables_of_scores(names, frames, durations, settings.labels.classes)
