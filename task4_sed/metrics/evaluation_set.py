"""Input of a metric: scores, events and durations of the same clips, and how complete they are."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from common.errors import UserError, nearest
from task4_sed.data.annotations import (
    Annotations,
    DurationsSource,
    GroundTruthSource,
    check_against_durations,
    merge_overlapping,
    read_durations,
    read_events,
)
from task4_sed.scores.store import read_score_tables
from task4_sed.scores.tables import ScoreTables


@dataclass(frozen=True)
class ClipReport:
    """Completeness of a score.

    expected: clips of the ground truth. scored: clips of these with scores. missing: clips without scores.
    unexpected: scored clips that are not in the ground truth. without_events: dropped before scoring, as in the
    official recipes. classes_without_reference: left out, since the scored clips have no event of them.
    """

    expected: int
    scored: int
    evaluated: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    without_events: tuple[str, ...]
    classes_without_reference: tuple[str, ...]

    @property
    def comparable(self) -> bool:
        """Whether the score is a score of the whole set."""
        return not set(self.missing) - set(self.without_events)

    def sentence(self) -> str:
        """`926 of 1168 clips, not comparable`."""
        return f"{self.scored} of {self.expected} clips" + ("" if self.comparable else ", not comparable")

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        lists = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return lists | {"comparable": self.comparable, "without_events": len(self.without_events)}


@dataclass(frozen=True)
class EvaluationSet:
    """Scores and reference of the clips that have events and scores; classes without events are left out.

    durations: (clips,) seconds.
    event_starts: (clips + 1,), first event of each clip; events are sorted by clip, then class, then onset.
    onsets, offsets: (events,) seconds. labels: (events,), index into `classes`.
    """

    scores: ScoreTables
    classes: tuple[str, ...]
    durations: np.ndarray
    event_starts: np.ndarray
    onsets: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    report: ClipReport
    notes: tuple[str, ...]

    @property
    def clips(self) -> tuple[str, ...]:
        """Names of the evaluated clips."""
        return self.scores.clips

    def event_counts(self) -> np.ndarray:
        """(clips, classes) events."""
        counts = np.zeros((len(self.clips), len(self.classes)), dtype=np.int64)
        np.add.at(counts, (self.event_clips(), self.labels), 1)
        return counts

    def event_seconds(self) -> np.ndarray:
        """(clips, classes) summed event durations."""
        seconds = np.zeros((len(self.clips), len(self.classes)))
        np.add.at(seconds, (self.event_clips(), self.labels), self.offsets - self.onsets)
        return seconds

    def event_clips(self) -> np.ndarray:
        """(events,) index of each event's clip."""
        return np.repeat(np.arange(len(self.clips)), np.diff(self.event_starts))

    def events_of_class(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(clips + 1,) starts, onsets and offsets of one class."""
        chosen = self.labels == index
        counts = np.bincount(self.event_clips()[chosen], minlength=len(self.clips))
        starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        return starts, self.onsets[chosen], self.offsets[chosen]

    def reference(self) -> dict[str, list[tuple[float, float, str]]]:
        """Events by clip in the form of sed_scores_eval."""
        events: dict[str, list[tuple[float, float, str]]] = {clip: [] for clip in self.clips}
        for clip, onset, offset, label in zip(self.event_clips(), self.onsets, self.offsets, self.labels):
            events[self.clips[clip]].append((float(onset), float(offset), self.classes[label]))
        return events

    def durations_by_clip(self) -> dict[str, float]:
        """Seconds by clip name."""
        return dict(zip(self.clips, self.durations.tolist()))


Scores: TypeAlias = EvaluationSet | ScoreTables | str | Path | Mapping[str, Any]
"""An evaluation set, or its scores: a folder or store of score tables, tables that were read, data frames by clip."""


def evaluation_set(
    scores: Scores,
    ground_truth: GroundTruthSource | None = None,
    durations: DurationsSource | None = None,
    *,
    classes: Sequence[str] | None = None,
    drop_clips_without_events: bool = True,
    jobs: int = 1,
) -> EvaluationSet:
    """Join scores, ground truth (a table, or events by clip) and durations (a table, or seconds by clip).

    Args:
        scores, ground_truth, durations: see above and `Scores`.
        classes: score only these; by default every class of the tables with an event.
        drop_clips_without_events: as the official recipes do before PSDS; segment scores of whole files keep them.
        jobs: processes that read tables.

    Raises:
        UserError: for mistakes in the files; missing clips are reported, not refused.
    """
    if isinstance(scores, EvaluationSet):
        return scores
    if ground_truth is None:
        raise UserError("No ground truth was given to compare the scores with.")
    if durations is None:
        raise UserError("The durations of the clips are missing; error rates per hour need them.")
    tables = read_score_tables(scores, jobs)
    annotations = read_events(ground_truth)
    seconds = read_durations(durations)
    if annotations.events.empty:
        raise UserError(f"{annotations.source} has no events, so there is nothing to evaluate.")
    chosen = _chosen_classes(annotations, tables.classes, classes)
    with_events = set(annotations.events["clip"])
    expected = set(annotations.clips)
    scored = expected & set(tables.clips)
    known = [clip for clip in tables.clips if clip in expected or clip in seconds]
    used = [clip for clip in known if clip in with_events] if drop_clips_without_events else known
    if not used:
        raise UserError(
            f"None of the {len(tables.clips)} score tables (such as {tables.clips[0]}) belongs to a clip with events "
            f"in {annotations.source} (such as {min(with_events)})."
        )
    events, notes = checked_events(annotations, used, seconds)
    present = set(events["event_label"])
    evaluated = tuple(name for name in chosen if name in present)
    absent = tuple(name for name in chosen if name not in present)
    if not evaluated:
        raise UserError(f"{annotations.source} has no event of {', '.join(chosen[:5])} in the scored clips.")
    if absent:
        notes.append(f"{len(absent)} classes without reference events are left out: {_few(absent)}.")
    without_events = tuple(sorted((expected | set(known)) - with_events))
    if drop_clips_without_events and without_events:
        notes.append(f"{len(without_events)} clips without events are dropped, as in the official recipes.")
    report = ClipReport(
        expected=len(expected),
        scored=len(scored),
        evaluated=len(used),
        missing=tuple(sorted(expected - scored)),
        unexpected=tuple(sorted(set(tables.clips) - set(known))),
        without_events=without_events,
        classes_without_reference=absent,
    )
    if report.missing:
        notes.append(f"{report.sentence()}; without scores: {_few(report.missing)}.")
    if extra := report.unexpected:
        notes.append(f"{len(extra)} score tables belong to no clip of the ground truth: {_few(extra)}.")
    tables, events = tables.select(used), events[events["event_label"].isin(evaluated)]
    clip = pd.Categorical(events["clip"], tables.clips).codes.astype(np.int64)
    label = pd.Categorical(events["event_label"], evaluated).codes.astype(np.int64)
    onset, offset = (events[name].to_numpy(dtype=np.float64) for name in ("onset", "offset"))
    order = np.lexsort((onset, label, clip))
    return EvaluationSet(
        scores=tables,
        classes=evaluated,
        durations=np.array([seconds[clip] for clip in tables.clips]),
        event_starts=np.searchsorted(clip[order], np.arange(len(tables.clips) + 1)),
        onsets=onset[order],
        offsets=offset[order],
        labels=label[order],
        report=report,
        notes=tuple(notes),
    )


def checked_events(
    annotations: Annotations, clips: Collection[str], seconds: Mapping[str, float]
) -> tuple[pd.DataFrame, list[str]]:
    """Events of some clips, merged where they overlap or touch; and notes on changes.

    Raises:
        UserError: if a clip has no duration, or an event lies after the end of its clip.
    """
    without = sorted(clip for clip in clips if clip not in seconds)
    if without:
        raise UserError(
            f"The durations are missing for {len(without)} of {len(clips)} clips of {annotations.source}; "
            f"the first is {without[0]}."
        )
    events = annotations.events[annotations.events["clip"].isin(set(clips))]
    long = events[events["offset"] > events["onset"]].reset_index(drop=True)
    notes = check_against_durations(Annotations(long, tuple(clips), annotations.source), seconds)
    if len(long) < len(events):
        notes.append(f"{len(events) - len(long)} events without length are left out.")
    merged, gone = merge_overlapping(long)
    if gone:
        notes.append(f"{gone} events that overlap or touch another of their class and clip were merged with it.")
    return merged, notes


def _chosen_classes(
    annotations: Annotations, columns: tuple[str, ...], classes: Sequence[str] | None
) -> tuple[str, ...]:
    if classes is not None:
        for name in classes:
            if name not in columns:
                near = nearest(name, columns, 1)
                hint = f" Did you mean {near[0]}?" if near else f" They have {_few(columns)}."
                raise UserError(f"The score tables have no column for the class {name}.{hint}")
        return tuple(dict.fromkeys(classes))
    unknown = ~annotations.events["event_label"].isin(columns)
    if unknown.any():
        row = int(np.flatnonzero(unknown)[0])
        label = annotations.events["event_label"].iloc[row]
        near = nearest(label, columns, 1)
        hint = f"Did you mean {near[0]}?" if near else f"The tables have {_few(columns)}; name the classes to score."
        raise UserError(f"{annotations.where(row)}: no score table has a column for the label {label}. {hint}")
    return columns


def _few(names: Sequence[str], count: int = 5) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
