"""Clips of a report: which are shown, and what is drawn of them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup

from task4_sed.metrics.evaluation_set import EvaluationSet, evaluation_set
from task4_sed.reports import clips
from task4_sed.reports.clips import _shown_classes, clip_agreement, clip_parts, draw_clip
from tests.support.golden_sed import expected, golden_set

CLASSES = ["Dog", "Cat", "Speech", "unheard"]
EVENTS = {"a": [(0.0, 2.0, "Dog"), (2.0, 4.0, "Cat")], "b": [(0.0, 1.0, "Speech"), (1.0, 4.0, "unheard")]}


def scored(**frames: list[tuple[float, ...]]) -> EvaluationSet:
    """Clips of four frames of a second, each with the scores of `CLASSES`."""
    borders = np.arange(4.0)
    tables = {name: pd.DataFrame(np.column_stack([borders, borders + 1, rows]), columns=["onset", "offset", *CLASSES])
              for name, rows in frames.items()}  # fmt: skip
    events = {name: EVENTS.get(name, EVENTS["a"]) for name in frames}
    return evaluation_set(tables, events, dict.fromkeys(frames, 4.0), classes=CLASSES)


QUIET = (0.0, 0.0, 0.0, 0.0)
DOG, CAT = (0.5, 0.0, 0.0, 0.0), (0.0, 0.9, 0.0, 0.0)


@pytest.mark.parametrize(
    ("frames", "agreement"),
    [
        ([DOG, DOG, CAT, CAT], 1.0),  # four frames within an event, the same four detected; 0.5 is a detection
        ([DOG, QUIET, CAT, QUIET], 2 * 2 / (4 + 2)),
        ([CAT, CAT, DOG, DOG], 0.0),
        ([QUIET] * 4, 0.0),
        ([(0.5, 0.5, 0.0, 0.0)] * 4, 2 * 4 / (4 + 8)),
        ([(0.499, 0.0, 0.0, 0.0)] * 4, 0.0),
    ],
)
def test_agreement_is_the_f1_of_the_frames_of_all_classes(frames, agreement):
    assert clip_agreement(scored(a=frames, b=[QUIET] * 4))[0] == pytest.approx(agreement)


def test_a_frame_whose_middle_is_the_onset_or_the_offset_is_within_the_event():
    events = {"a": [(0.5, 1.5, "Dog")]}
    tables = {"a": pd.DataFrame({"onset": [0.0, 1.0, 2.0], "offset": [1.0, 2.0, 3.0], "Dog": [1.0, 1.0, 0.0]})}
    evaluation = evaluation_set(tables, events, {"a": 3.0}, classes=["Dog"])
    assert clip_agreement(evaluation).tolist() == [1.0]


def test_both_psd_rocs_are_shown_beside_each_other_with_their_scores(monkeypatch):
    drawn = []
    monkeypatch.setattr(clips, "_evaluation", lambda *_: golden_set("ties"))
    monkeypatch.setattr(clips.html, "figure", lambda plot, *texts: drawn.append((plot, *texts)) or Markup("<i></i>"))
    (found,) = clips.psd_roc(None, None)
    assert found.count("<i></i>") == 2
    assert [texts[-1] for texts in drawn] == ["PSD-ROC of PSDS1", "PSD-ROC of PSDS2"]
    for (plot, caption, _), name in zip(drawn, ("psds1", "psds2"), strict=True):
        assert caption == f"{name.upper()} = {100 * expected('ties')[name]['value']:.1f}"
        assert plot.get_size_inches().tolist() == [5.4, 3.8] and len(plot.axes[0].lines) > 1


def test_labelled_classes_are_shown_first_then_detected_ones_from_the_highest_score_on():
    heard = scored(a=[(0.5, 0.9, 0.6, 0.499)] * 4, b=[QUIET] * 4)
    assert _shown_classes(heard, 0, set()) == ["Cat", "Speech", "Dog"]
    assert _shown_classes(heard, 0, {"unheard", "Dog"}) == ["Dog", "unheard", "Cat", "Speech"]
    assert _shown_classes(heard, 1, {"Speech"}) == ["Speech"]


def test_a_clip_is_drawn_over_its_seconds_with_scores_below_and_events_as_bars():
    heard = scored(a=[DOG, QUIET, CAT, CAT], b=[QUIET] * 4)
    tone = np.sin(2 * np.pi * 1000 * np.arange(4 * 16000) / 16000, dtype=np.float32)
    plot = draw_clip(tone, heard, 0)
    above, below = plot.axes
    picture = above.images[0]
    assert picture.get_extent() == [0, 4, 0, 128]
    shown = np.asarray(picture.get_array())
    assert abs(int(shown.mean(axis=1).argmax()) - 44) < 3  # mel band of 1 kHz, of 128 up to 8 kHz
    assert picture.get_clim() == (shown.max() - 70, shown.max())
    steps = {line.get_label(): line for line in below.lines if not line.get_label().startswith("_")}
    assert list(steps) == ["Cat", "Dog"]
    assert steps["Dog"].get_ydata().tolist() == [0.5, 0, 0, 0, 0] and steps["Dog"].get_drawstyle() == "steps-post"
    assert steps["Cat"].get_ydata().tolist() == [0, 0, 0.9, 0.9, 0.9]
    bars = {line.get_color(): line.get_xdata().tolist() for line in below.lines if line.get_linewidth() == 5}
    assert bars == {steps["Cat"].get_color(): [2, 4], steps["Dog"].get_color(): [0, 2]}
    heights = [line.get_ydata()[0] for line in below.lines if line.get_linewidth() == 5]
    assert 1 < heights[0] < heights[1] < below.get_ylim()[1]  # above the scores, one above the other
    assert below.get_xlim() == (0, 4) and below.get_xlabel() == "seconds"
    assert [line.get_ydata()[0] for line in below.lines if line.get_linestyle() == ":"] == [0.5]
    assert below.get_legend() is not None


def test_the_two_best_and_the_two_worst_clips_are_shown_and_loud_ones_played_at_full_scale(monkeypatch):
    right = [DOG, DOG, CAT, CAT]
    heard = {"a": [QUIET, *right[1:]], "best": right, "c": [QUIET] * 4, "d": [QUIET, QUIET, *right[2:]],
             "e": [*right[:1], QUIET, QUIET, QUIET]}  # fmt: skip
    shown, played = [], []
    evaluation = scored(**heard)
    loudness = {name: 4.0 if name == "best" else 0.5 for name in heard}
    monkeypatch.setattr(clips, "_evaluation", lambda _run, _finisher: evaluation)
    found = SimpleNamespace(filenames=[f"{name}.wav" for name in heard], folder=Path("audio"))
    monkeypatch.setattr(clips, "read_set", lambda *_where, **_how: found)
    monkeypatch.setattr(clips, "read_audio", lambda path, _rate: np.full(8, loudness[path.stem]))
    monkeypatch.setattr(clips, "draw_clip", lambda _waveform, _evaluation, row: evaluation.clips[row])
    monkeypatch.setattr(
        clips.html, "figure", lambda name, caption, _words, as_pixels: shown.append((name, caption)) or ""
    )
    monkeypatch.setattr(clips.html, "audio", lambda waveform, _rate: played.append(float(waveform.max())) or "")
    data, labels = SimpleNamespace(root=Path()), SimpleNamespace(classes=CLASSES)
    run = SimpleNamespace(settings=SimpleNamespace(own_data="", data=data, labels=labels))
    parts = clip_parts(run, None)
    assert [name for name, _ in shown] == ["best", "a", "c", "e"]
    assert [caption for _, caption in shown] == [
        "best: best, frame F1 100 %", "best: a, frame F1 86 %", "worst: c, frame F1 0 %", "worst: e, frame F1 40 %"
    ]  # fmt: skip
    assert played == [1.0, 0.5, 0.5, 0.5] and "Chosen by the F1 of frames at 0.5." in parts[0]
