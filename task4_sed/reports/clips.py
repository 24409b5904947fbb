"""Figures and sounds of a report: PSD-ROC, and clips with their spectrogram, scores and events."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from common.data.audio import read_audio
from common.reports import html
from common.reports.plots import axes
from common.runs.run import Run
from task4_sed.data.annotations import clip_name, read_events
from task4_sed.data.sets import label_file, read_set, set_durations
from task4_sed.labels import SAMPLE_RATE
from task4_sed.metrics.command import plot_psd_roc
from task4_sed.metrics.evaluation_set import EvaluationSet, evaluation_set
from task4_sed.metrics.polyphonic import PSDS1, PSDS2, polyphonic_scores
from task4_sed.postprocessing.finisher import Finisher
from task4_sed.scores.store import read_scores as read_store
from task4_sed.scoring import evaluated_classes

SHOWN = 2
"""Best and worst clips of each kind."""
THRESHOLD = 0.5


def psd_roc(run: Run, finisher: Finisher) -> list[Markup]:
    """Both PSD-ROCs on the validation set, per class and over all."""
    evaluation = _evaluation(run, finisher)
    parts = []
    found = polyphonic_scores(evaluation, [PSDS1, PSDS2], draws=0)
    for title, score in zip(("PSDS1", "PSDS2"), found, strict=True):
        with axes(5.4, 3.8) as (plot, grid):
            plot_psd_roc(grid, score.curve, score.class_curves)
        parts.append(html.figure(plot, f"{title} = {100 * score.value:.1f}", f"PSD-ROC of {title}"))
    return [html.side_by_side(*parts)]


def clip_parts(run: Run, finisher: Finisher) -> list[Markup]:
    """The clips of the validation set with the best and worst agreement of detections and events."""
    evaluation = _evaluation(run, finisher)
    agreement = clip_agreement(evaluation)
    order = np.argsort(-agreement, kind="stable")
    chosen = [("best", int(row)) for row in order[:SHOWN]] + [("worst", int(row)) for row in order[::-1][:SHOWN]]
    name = shown_set(run)
    clips = read_set(run.settings.data.root, name, allow_missing=True, classes=run.settings.labels.classes)
    paths = {clip_name(name): clips.folder / name for name in clips.filenames}
    parts = [
        html.paragraph(
            f"Chosen by the F1 of frames at {THRESHOLD}. Above: mel spectrogram. Below: post-processed scores; bars "
            "are the labelled events."
        )
    ]
    for kind, row in chosen:
        name = evaluation.clips[row]
        waveform = read_audio(paths[name], SAMPLE_RATE)
        caption = f"{kind}: {name}, frame F1 {100 * agreement[row]:.0f} %"
        parts.append(html.figure(draw_clip(waveform, evaluation, row), caption, caption, as_pixels=True))
        parts.append(html.audio(waveform / max(1.0, float(np.abs(waveform).max())), SAMPLE_RATE))
    return parts


def shown_set(run: Run) -> str:
    """The set whose clips are shown: the validation set of DESED, or the test recordings of own data."""
    return "own_test" if run.settings.own_data else "validation"


def clip_agreement(evaluation: EvaluationSet, threshold: float = THRESHOLD) -> np.ndarray:
    """(clips,) F1 of frames over all classes: detected against within an event."""
    scores = evaluation.scores
    rows = [scores.classes.index(name) for name in evaluation.classes]
    found = []
    for clip in range(len(evaluation.clips)):
        middles = (scores.borders_of(clip)[1:] + scores.borders_of(clip)[:-1]) / 2
        active = np.zeros((len(middles), len(rows)), dtype=bool)
        for event in range(evaluation.event_starts[clip], evaluation.event_starts[clip + 1]):
            inside = (middles >= evaluation.onsets[event]) & (middles <= evaluation.offsets[event])
            active[inside, evaluation.labels[event]] = True
        detected = scores.scores_of(clip)[:, rows] >= threshold
        found.append(2 * (active & detected).sum() / max(1, active.sum() + detected.sum()))
    return np.array(found)


def draw_clip(waveform: np.ndarray, evaluation: EvaluationSet, clip: int) -> Any:
    """Spectrogram over the scores of the classes that are labelled or detected, as a matplotlib figure."""
    import torch

    from common.features.front_ends import DesedMel

    front_end = DesedMel()
    with torch.no_grad():
        decibel = front_end.decibel(front_end.magnitude(torch.from_numpy(waveform)[None]))[0, 0].numpy()
    duration = len(waveform) / SAMPLE_RATE
    events = range(evaluation.event_starts[clip], evaluation.event_starts[clip + 1])
    shown = _shown_classes(evaluation, clip, {evaluation.classes[evaluation.labels[event]] for event in events})
    borders, scores = evaluation.scores.borders_of(clip), evaluation.scores.scores_of(clip)
    with axes(7.2, 4.2, nrows=2, sharex=True) as (plot, (above, below)):
        above.grid(False)
        top = decibel.max()
        above.imshow(
            decibel, origin="lower", aspect="auto", extent=(0, duration, 0, len(decibel)), vmin=top - 70, vmax=top
        )
        above.set_ylabel("mel band")
        for number, name in enumerate(shown):
            column = scores[:, evaluation.scores.classes.index(name)]
            line = below.step(
                borders, np.append(column, column[-1]), where="post", label=name.replace("_", " ").replace("$", r"\$")
            )[0]
            for event in events:
                if evaluation.classes[evaluation.labels[event]] == name:
                    times = [evaluation.onsets[event], evaluation.offsets[event]]
                    below.plot(
                        times, [1.06 + 0.07 * number] * 2, color=line.get_color(), linewidth=5, solid_capstyle="butt"
                    )
        below.axhline(THRESHOLD, color="#8a93a3", linewidth=0.7, linestyle=":")
        below.set(xlabel="seconds", ylabel="score", xlim=(0, duration), ylim=(0, 1.1 + 0.07 * max(1, len(shown))))
        below.set_yticks([0, 0.25, 0.5, 0.75, 1])
        if shown:
            below.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    return plot


def _shown_classes(evaluation: EvaluationSet, clip: int, labelled: set[str]) -> Sequence[str]:
    """Labelled classes, then evaluated ones with the highest scores above the threshold; at most six."""
    scores = evaluation.scores
    highest = dict(zip(scores.classes, scores.scores_of(clip).max(axis=0)))
    detected = [name for name in evaluation.classes if highest[name] >= THRESHOLD]
    return list(dict.fromkeys([*sorted(labelled), *sorted(detected, key=lambda name: -highest[name])]))[:6]


def _evaluation(run: Run, finisher: Finisher) -> EvaluationSet:
    """Post-processed scores of the validation set and its events, DESED classes only."""
    settings, name = run.settings, shown_set(run)
    raw = read_store(run.folder / "test" / "scores" / f"{name}_{settings.network}.h5")
    path = label_file(settings.data.root, name)
    classes = evaluated_classes(settings, maestro=False)
    durations = set_durations(settings.data.root, name)
    return evaluation_set(finisher.process(raw), read_events(path), durations, classes=classes)
