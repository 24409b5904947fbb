"""Score tables from a network's probabilities, and the objective that chooses the best epoch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from task4_sed.data.annotations import Annotations, clip_name
from task4_sed.data.sets import ClipSet, set_durations
from task4_sed.labels import FRAME_SECONDS, MAESTRO_CLASSES, MAESTRO_EVALUATED, NUM_FRAMES
from task4_sed.metrics.evaluation_set import EvaluationSet, evaluation_set
from task4_sed.metrics.f1 import intersection_f1
from task4_sed.metrics.segments import segment_f1
from task4_sed.scores.tables import ScoreTables, make_tables, median_filter
from task4_sed.settings import SystemSettings


class Scored(NamedTuple):
    """A batch of clips: seconds, probabilities of frames (clips, 156, classes), weak, weak_target (clips, classes)."""

    filenames: list[str]
    durations: list[float]
    frames: np.ndarray
    weak: np.ndarray
    weak_target: np.ndarray


class Reference(NamedTuple):
    """Ground truth of a set; durations: seconds by clip."""

    name: str
    annotations: Annotations
    durations: dict[str, float]


def make_score_tables(
    filenames: Sequence[str], frames: np.ndarray, durations: Sequence[float], classes: Sequence[str]
) -> ScoreTables:
    """Score tables of clips from probabilities of frames of 64 ms, (clips, 156, classes).

    The last frame ends with the clip: a shorter clip has fewer frames, and beyond 9.984 s the last score is held. A
    repeated clip, from the padded batch of several processes, is left out.
    """
    names = [clip_name(name) for name in filenames]
    order = sorted({name: row for row, name in enumerate(names)}.items())
    borders, scores = [], []
    for _, row in order:
        count = int(np.clip(np.ceil(durations[row] / FRAME_SECONDS - 1e-6), 1, NUM_FRAMES))
        borders.append(np.append(np.round(np.arange(count) * FRAME_SECONDS, 6), durations[row]))
        scores.append(frames[row, :count])
    return make_tables((name for name, _ in order), classes, borders, scores)


def objective(
    scored: dict[str, list[Scored]], references: Sequence[Reference], settings: SystemSettings
) -> dict[str, float]:
    """Weak macro F1, intersection macro F1 (both at 0.5), best segment macro F1 on MAESTRO, and their sum.

    As in the baseline, with median-filtered scores; `scored` has batches by name of the set.
    """
    found = held_out_figures(
        scored, references, settings,
        lambda evaluation: intersection_f1(evaluation, threshold=0.5, draws=0).value,
        lambda evaluation: segment_f1(evaluation, threshold="best", draws=0).value,
    )  # fmt: skip
    names = {"weak": "weak_f1", "synthetic_validation": "intersection_f1", "own_validation": "intersection_f1"}
    figures = {names.get(name, "segment_f1"): value for name, value in found.items()}
    return {**figures, "objective": float(sum(figures.values()))}


def held_out_figures(
    scored: dict[str, list[Scored]], references: Sequence[Reference], settings: SystemSettings,
    desed: Callable[[EvaluationSet], float], maestro: Callable[[EvaluationSet], float],
) -> dict[str, float]:  # fmt: skip
    """One figure of each held-out set by its name, from median-filtered scores; of weak clips the macro F1.

    A set without events counts 0. MAESTRO windows are scored one by one, up to the end of their last event. `desed` and
    `maestro` compute the figure of a DESED set, and of MAESTRO windows.
    """
    figures = {}
    for reference in references:
        name, parts = reference.name, scored[reference.name]
        if name == "weak":
            weak, target = (np.concatenate([getattr(part, key) for part in parts]) for key in ("weak", "weak_target"))
            figures[name] = weak_f1(weak, target)
            continue
        names = [file for part in parts for file in part.filenames]
        seconds = [duration for part in parts for duration in part.durations]
        frames = np.concatenate([part.frames for part in parts])
        tables = make_score_tables(names, frames, seconds, settings.labels.classes)
        tables = median_filter(tables, settings.postprocessing.median_frames)
        is_maestro, durations = name.startswith("maestro"), reference.durations
        classes = evaluated_classes(settings, is_maestro)
        figures[name] = 0.0
        events = reference.annotations.events
        chosen = events["clip"].isin(tables.clips) & events["event_label"].isin(classes)
        if "confidence" in events:
            chosen &= events["confidence"] > 0.5
        if not chosen.any():
            continue
        events = events[chosen].drop(columns="confidence", errors="ignore")
        annotations = Annotations(events, tables.clips, reference.annotations.source)
        if is_maestro:
            ends: pd.Series = annotations.events.groupby("clip")["offset"].max()
            annotations, durations = replace(annotations, clips=tuple(ends.index)), ends.to_dict()
            tables = tables.select(annotations.clips)
        evaluation = evaluation_set(tables, annotations, durations, classes=classes)
        figures[name] = (maestro if is_maestro else desed)(evaluation)
    return figures


def weak_f1(probabilities: np.ndarray, target: np.ndarray, threshold: float = 0.5) -> float:
    """Macro F1 of clips; (clips, classes). A class neither present nor detected counts 0, as in the baseline."""
    detected, present = probabilities > threshold, target > threshold
    hits = (detected & present).sum(axis=0)
    either = detected.sum(axis=0) + present.sum(axis=0)
    return float(np.mean(2 * hits / np.maximum(either, 1)))


def evaluated_classes(settings: SystemSettings, maestro: bool) -> tuple[str, ...]:
    """Classes of the system that are scored on MAESTRO, or on DESED; of own data all."""
    if settings.own_data:
        return () if maestro else tuple(settings.labels.classes)
    if maestro:
        return tuple(name for name in MAESTRO_EVALUATED if name in settings.labels.classes)
    return tuple(name for name in settings.labels.classes if name not in MAESTRO_CLASSES)


def make_reference(clips: ClipSet, settings: SystemSettings) -> Reference:
    """Events and durations of a held-out set."""
    names = [clip_name(name) for name in clips.filenames]
    events = clips.events.assign(clip=[names[index] for index in clips.events["clip"]], line=0)
    annotations = Annotations(events.reset_index(drop=True), tuple(names), clips.name)
    durations = set_durations(settings.data.root, clips.name) if clips.layout.kind == "strong" else {}
    return Reference(clips.name, annotations, durations)
