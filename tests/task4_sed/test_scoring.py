"""Score tables from frames, and the figures of held-out sets that choose the best epoch."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from common.settings import load_settings
from task4_sed import scoring
from task4_sed.baseline.settings import Task4Settings
from task4_sed.data.annotations import Annotations
from task4_sed.labels import MAESTRO_EVALUATED, NUM_FRAMES
from task4_sed.metrics.evaluation_set import EvaluationSet
from task4_sed.scoring import (
    Reference,
    Scored,
    evaluated_classes,
    held_out_figures,
    make_reference,
    make_score_tables,
    objective,
    weak_f1,
)
from tests.support.places import ROOT

CLASSES = ["Speech", "Dog", "car", "footsteps"]


@pytest.fixture(scope="module")
def settings() -> Task4Settings:
    changes = {"labels.classes": CLASSES, "postprocessing.median_frames": 1}
    return load_settings(Task4Settings, ROOT / "task4_sed" / "configs" / "small.yaml", changes)


@pytest.mark.parametrize(
    ("seconds", "count", "before_last"),
    [(10.0, 156, 9.92), (9.984, 156, 9.92), (0.64, 10, 0.576), (0.641, 11, 0.64), (0.064, 1, 0.0), (0.01, 1, 0.0),
     (12.5, 156, 9.92)],
)  # fmt: skip
def test_a_clip_has_the_frames_that_it_fills_and_the_last_one_ends_with_it(seconds, count, before_last):
    frames = np.arange(NUM_FRAMES * 2, dtype=np.float64).reshape(1, NUM_FRAMES, 2)
    tables = make_score_tables(["a.wav"], frames, [seconds], ["Speech", "Dog"])
    borders = tables.borders_of(0)
    assert len(borders) == count + 1 and borders[-1] == seconds and borders[-2] == pytest.approx(before_last)
    np.testing.assert_allclose(borders[:-1], 0.064 * np.arange(count), atol=1e-9)
    np.testing.assert_array_equal(tables.scores_of(0), frames[0, :count])


def test_clips_are_sorted_and_a_repeated_one_is_there_once():
    frames = np.stack([np.full((NUM_FRAMES, 1), value) for value in (0.1, 0.2, 0.3)])
    tables = make_score_tables(["b.wav", "a.wav", "b.wav"], frames, [10.0] * 3, ["Speech"])
    assert tables.clips == ("a", "b") and [tables.scores_of(row)[0, 0] for row in (0, 1)] == [0.2, 0.3]


def test_the_f1_of_clips_counts_what_is_above_the_threshold_class_by_class():
    # First class: one hit, one false alarm; second: one miss; third: neither present nor detected; a half is not above.
    found = np.array([[0.9, 0.5, 0.1], [0.6, 0.4, 0.0]])
    target = np.array([[1.0, 1.0, 0.0], [0.5, 0.0, 0.0]])
    assert weak_f1(found, target) == pytest.approx((2 * 1 / (2 + 1) + 0 + 0) / 3)
    assert weak_f1(target, target) == pytest.approx(2 / 3)
    assert weak_f1(found, target, threshold=0.3) == pytest.approx((1 + 2 * 1 / (2 + 1)) / 3)


def test_desed_and_maestro_are_scored_on_their_own_classes(settings):
    assert evaluated_classes(settings, maestro=False) == ("Speech", "Dog")
    assert evaluated_classes(settings, maestro=True) == ("car", "footsteps")
    assert list(MAESTRO_EVALUATED).index("footsteps") > list(MAESTRO_EVALUATED).index("car")


def test_own_data_are_scored_on_all_their_classes_and_never_as_maestro():
    changes = {"data.table": "doors.tsv", "labels.classes": ["Door", "car"]}
    own = load_settings(Task4Settings, ROOT / "task4_sed" / "configs" / "own.yaml", changes)
    assert evaluated_classes(own, maestro=False) == ("Door", "car") and evaluated_classes(own, maestro=True) == ()


@pytest.mark.parametrize(("kind", "durations"), [("strong", {"a": 10.0}), ("soft", {}), ("weak", {})])
def test_a_reference_has_events_by_name_and_the_lengths_of_strongly_labelled_clips(
    settings, monkeypatch, kind, durations
):
    monkeypatch.setattr(scoring, "set_durations", lambda _root, name: {"a": 10.0} if name == "some" else None)
    events = pd.DataFrame({"clip": [1, 0], "onset": [0.0, 1.0], "offset": [2.0, 3.0], "event_label": ["Dog", "Speech"]})
    clips = SimpleNamespace(filenames=["a.wav", "b.wav"], events=events, name="some", layout=SimpleNamespace(kind=kind))
    found = make_reference(clips, settings)
    assert (found.name, found.durations, found.annotations.clips) == ("some", durations, ("a", "b"))
    assert found.annotations.events["clip"].tolist() == ["b", "a"]


def scored(*names: str, seconds: float = 10.0) -> list[Scored]:
    frames = np.full((len(names), NUM_FRAMES, len(CLASSES)), 0.9)
    weak = np.array([[0.9, 0.1, 0.1, 0.1]] * len(names))
    return [Scored([f"{name}.wav" for name in names], [seconds] * len(names), frames, weak, (weak > 0.5).astype(float))]


def reference(name: str, *events: tuple, durations: dict | None = None) -> Reference:
    columns = ["clip", "onset", "offset", "event_label", "confidence"][: len(events[0]) if events else 4]
    table = pd.DataFrame(list(events), columns=columns).assign(line=0)
    return Reference(name, Annotations(table, ("a", "b"), name), durations or {})


def test_windows_of_maestro_end_with_their_last_event_and_unsure_labels_do_not_count(settings):
    given: list[EvaluationSet] = []
    events = [("a", 0.0, 2.0, "car", 0.9), ("a", 1.0, 3.0, "footsteps", 0.51), ("a", 5.0, 9.0, "car", 0.5),
              ("a", 5.0, 9.0, "Speech", 1.0), ("b", 0.0, 4.0, "car", 0.2)]  # fmt: skip
    figures = held_out_figures(
        {"maestro_train": scored("a", "b")}, [reference("maestro_train", *events)], settings,
        lambda _: pytest.fail("these are no DESED clips"), lambda one: given.append(one) or 0.25,
    )  # fmt: skip
    assert figures == {"maestro_train": 0.25}
    (evaluation,) = given
    assert evaluation.clips == ("a",) and evaluation.durations.tolist() == [3.0] and evaluation.report.missing == ()
    assert sorted(evaluation.reference()["a"]) == [(0.0, 2.0, "car"), (1.0, 3.0, "footsteps")]


def test_desed_clips_are_scored_over_their_length_without_a_confidence(settings):
    given: list[EvaluationSet] = []
    events = [("a", 0.0, 2.0, "Speech"), ("a", 1.0, 3.0, "car")]
    figures = held_out_figures(
        {"synthetic_validation": scored("a", "b")},
        [reference("synthetic_validation", *events, durations={"a": 10.0, "b": 10.0})], settings,
        lambda one: given.append(one) or 0.5, lambda _: pytest.fail("this is no MAESTRO window"),
    )  # fmt: skip
    assert figures == {"synthetic_validation": 0.5}
    (evaluation,) = given
    assert evaluation.durations_by_clip()["a"] == 10.0 and evaluation.classes == ("Speech",)


def test_the_objective_is_the_sum_of_all_and_a_set_without_events_counts_0(settings):
    sets = {"weak": scored("a"), "synthetic_validation": scored("a", "b"), "maestro_train": scored("a")}
    strong = reference("synthetic_validation", ("a", 0.0, 10.0, "Speech"), durations={"a": 10.0, "b": 10.0})
    figures = objective(sets, [Reference("weak", strong.annotations, {}), strong, reference("maestro_train")], settings)
    assert figures["weak_f1"] == pytest.approx(1 / 4)  # one class of four, found
    assert figures["intersection_f1"] > 0 and figures["segment_f1"] == 0
    assert figures["objective"] == pytest.approx(figures["weak_f1"] + figures["intersection_f1"])
