"""Median filters, event boxes, their tuning, segment means and ensembles."""

import numpy as np
import pandas as pd
import pytest

from common.errors import UserError
from common.inference.event_boxes import BoxSettings
from task4_sed.metrics import collar_f1, evaluation_set, psds
from task4_sed.postprocessing.event_boxes import box_scores, candidates, event_boxes
from task4_sed.postprocessing.finisher import (
    GRID,
    box_grid,
    join_classes,
    to_segments,
    tune_boxes,
)
from task4_sed.scores.store import ScoreStore, ScoreWriter, ensemble_stores
from task4_sed.scores.tables import ScoreTables, from_frames, median_filter, only_classes
from tests.support.golden_sed import expected, golden_scores, golden_set, golden_table
from tests.support.made_up_scores import made_up_scores
from tests.support.quick_task4 import BASELINE_MEDIAN_FRAMES

CLOSE = 1e-9


def one_clip(scores: list[float], seconds: float = 1.0, clip: str = "a", name: str = "dog") -> ScoreTables:
    borders = np.round(np.arange(len(scores) + 1) * seconds, 6)
    return from_frames({clip: pd.DataFrame({"onset": borders[:-1], "offset": borders[1:], name: scores})})


def score(tables: ScoreTables):
    reference = golden_table("desed_public20", "ground_truth"), golden_table("desed_public20", "durations")
    return evaluation_set(tables, *reference)


def settings_of_fixture(parameters: dict) -> BoxSettings | dict[str, BoxSettings]:
    keys = ("step_filter_length", "merge_threshold_abs", "merge_threshold_rel")
    if isinstance(parameters["step_filter_length"], dict):
        names = parameters["step_filter_length"]
        return {name: BoxSettings(*(float(parameters[key][name]) for key in keys)) for name in names}
    return BoxSettings(*(float(parameters[key]) for key in keys))


def test_the_published_median_filter_gives_the_official_scores():
    figures = expected("desed_public20")["after_frame_median_filter"]
    assert figures["frames_per_class"].items() <= BASELINE_MEDIAN_FRAMES.items()
    evaluation = score(median_filter(golden_scores("desed_public20"), BASELINE_MEDIAN_FRAMES))
    found = psds(evaluation, draws=0)
    assert found.value == pytest.approx(figures["psds1"], abs=CLOSE)
    assert found.per_class == pytest.approx(figures["psds1_per_class"], abs=CLOSE)
    second = psds(evaluation, dtc_threshold=0.1, gtc_threshold=0.1, cttc_threshold=0.3, alpha_ct=0.5, draws=0)
    assert second.value == pytest.approx(figures["psds2"], abs=CLOSE)
    assert collar_f1(evaluation, draws=0).value == pytest.approx(figures["collar_macro_f1_at_0.5"], abs=CLOSE)


def test_the_median_filter_mirrors_the_ends_and_keeps_clips_apart():
    tables = from_frames({**dict(one_clip([5, 1, 1, 9]).tables()), **dict(one_clip([7, 7, 0], clip="b").tables())})
    filtered = median_filter(tables, 3)
    assert filtered.values[0].tolist() == [5, 1, 1, 9, 7, 7, 0]
    assert median_filter(tables, {"dog": 1}).values.tolist() == tables.values.tolist()


def test_median_filters_refuse_lengths_that_make_no_sense():
    with pytest.raises(UserError, match="No class with a median filter length named dog"):
        median_filter(one_clip([1, 2]), {"cat": 3})
    with pytest.raises(UserError, match="must be 1 frame or more"):
        median_filter(one_clip([1, 2]), 0)


@pytest.mark.parametrize("name", ["global", "class_wise"])
def test_event_boxes_are_those_of_the_reference(name):
    figures = expected("desed_public20")["csebbs"][name]
    scores = golden_scores("desed_public20")
    boxes = event_boxes(scores, settings_of_fixture(figures["parameters"]), jobs=2)
    wanted = golden_table("desed_public20", f"csebbs_{name}")
    order = ["clip", "event_label", "onset"]
    boxes, wanted = (table.sort_values(order).reset_index(drop=True) for table in (boxes, wanted))
    assert boxes[order[:2]].equals(wanted[order[:2]])
    for column in ("onset", "offset", "confidence"):
        assert np.abs(boxes[column] - wanted[column]).max() < 1e-5
    found = psds(score(box_scores(scores, boxes)), draws=0)
    assert found.value == pytest.approx(figures["psds1"], abs=CLOSE)
    assert found.per_class == pytest.approx(figures["per_class"], abs=CLOSE)


def test_tuning_chooses_what_the_reference_chose():
    figures = expected("desed_public20")["csebbs"]["tuned_class_wise"]
    tuned = tune_boxes(golden_set("desed_public20"), jobs=2)
    assert tuned.settings == settings_of_fixture(figures)
    assert tuned.per_class == pytest.approx(figures["best_per_class"], abs=CLOSE)
    scores = golden_scores("desed_public20")
    found = psds(score(box_scores(scores, event_boxes(scores, tuned.settings))), draws=0)
    assert found.value == pytest.approx(figures["psds1"], abs=CLOSE)


def test_the_grid_has_the_order_and_size_of_the_reference():
    assert GRID[:4] == [(0.32, 0.15, np.inf), (0.32, 0.2, np.inf), (0.32, 0.3, np.inf), (0.32, np.inf, 1.5)]
    assert len(GRID) == 18


def loud(scores: list[float], settings: BoxSettings) -> list[list[float]]:
    """Boxes with a confidence above 0.3; there are always boxes over silence too, at both ends."""
    boxes = event_boxes(one_clip(scores), settings)
    return boxes[boxes["confidence"] > 0.3][["onset", "offset", "confidence"]].to_numpy().tolist()


def test_a_clear_event_becomes_one_box_with_its_mean_as_confidence():
    ((onset, offset, confidence),) = loud([0, 0, 0, 0.9, 0.7, 0.8, 0, 0, 0], BoxSettings(1.0, 0.3, np.inf))
    assert (onset, offset) == (3.0, 6.0)
    assert confidence == pytest.approx(0.8, abs=1e-5)


def test_a_shallow_gap_disappears_and_a_deep_one_stays():
    shallow = [0, 0, 0.8, 0.8, 0.7, 0.8, 0.8, 0, 0]
    deep = [0, 0, 0.8, 0.8, 0.1, 0.8, 0.8, 0, 0]
    assert [box[:2] for box in loud(shallow, BoxSettings(1.0, 0.2, np.inf))] == [[2.0, 7.0]]
    assert [box[:2] for box in loud(deep, BoxSettings(1.0, 0.2, np.inf))] == [[2.0, 4.0], [5.0, 7.0]]
    assert [box[:2] for box in loud(shallow, BoxSettings(1.0, np.inf, 1.2))] == [[2.0, 7.0]]  # 0.8 / 0.7 < 1.2
    assert [box[:2] for box in loud(shallow, BoxSettings(1.0, np.inf, 1.1))] == [[2.0, 4.0], [5.0, 7.0]]


def test_box_scores_follow_each_other_without_a_gap_and_hold_the_fill_value():
    scores = golden_scores("desed_public20")
    boxes = event_boxes(scores, BoxSettings(0.48, 0.2, np.inf))
    tables = box_scores(scores, boxes, fill_value=0.0)
    for clip, table in tables.tables():
        assert table["onset"].iloc[0] == 0
        assert (table["onset"].to_numpy()[1:] == table["offset"].to_numpy()[:-1]).all()
        assert (table["offset"] > table["onset"]).all()
        assert table[list(scores.classes)].to_numpy().max() == boxes[boxes["clip"] == clip]["confidence"].max()
    assert tables.values.min() == 0


def test_boxes_that_begin_within_a_rounding_share_an_edge():
    scores = golden_scores("desed_public20")
    rows = [(scores.clips[0], onset, 2.0, name, 0.5) for onset, name in zip((1.0, 1 + 4e-9), scores.classes)]
    boxes = pd.DataFrame(rows, columns=["clip", "onset", "offset", "event_label", "confidence"])
    borders = box_scores(scores, boxes).borders_of(0)
    assert borders.tolist() == [scores.borders_of(0)[0], 1.0, 2.0, scores.borders_of(0)[-1]]


def test_the_settings_of_a_fold_are_chosen_without_its_clips():
    evaluation = evaluation_set(*made_up_scores(24, 2, seed=3))
    grid = box_grid([0.3, 0.6], [0.2], [2.0])
    tuned = tune_boxes(evaluation, grid=grid, folds=3)
    assert sorted(set(tuned.fold_of_clip.values())) == [0, 1, 2]
    reference, durations = evaluation.reference(), evaluation.durations_by_clip()
    for fold, settings in enumerate(tuned.fold_settings):
        outside = [clip for clip in evaluation.clips if tuned.fold_of_clip[clip] != fold]
        others = evaluation_set(
            evaluation.scores.select(outside),
            {clip: reference[clip] for clip in outside},
            {clip: durations[clip] for clip in outside},
        )
        assert tune_boxes(others, grid=grid, folds=0).settings == settings


def test_mistakes_in_tuning_are_told():
    evaluation = golden_set("ties")
    with pytest.raises(UserError, match="The grid of box settings is empty"):
        tune_boxes(evaluation, grid=[])
    with pytest.raises(UserError, match="40 folds cannot be made of 23 clips"):
        tune_boxes(evaluation, folds=40)
    with pytest.raises(UserError, match="hold -inf"):
        candidates(one_clip([0.1, -np.inf]), "dog", 0.5)
    with pytest.raises(UserError, match="must be positive"):
        candidates(one_clip([0.1, 0.2]), "dog", 0)
    with pytest.raises(UserError, match="No class with a box setting named dog"):
        event_boxes(one_clip([0.1, 0.2]), {"cat": BoxSettings()})


def test_joining_judges_every_gap_on_what_it_was_before():
    # the gaps are 0.5 below the higher of their own neighbours; a joined event is not asked again
    peaks = [0, 0.9, 0.4, 0.5, 0.4, 0.9, 0]
    assert [box[:2] for box in loud(peaks, BoxSettings(1.0, 0.51, np.inf))] == [[1.0, 6.0]]
    assert [box[:2] for box in loud(peaks, BoxSettings(1.0, 0.49, np.inf))] == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    first_deeper = [0, 0.9, 0.3, 0.5, 0.4, 0.9, 0]
    assert [box[:2] for box in loud(first_deeper, BoxSettings(1.0, 0.55, np.inf))] == [[1.0, 2.0], [3.0, 6.0]]


def test_segment_means_are_weighted_by_time():
    table = pd.DataFrame({"onset": [0.0, 0.75], "offset": [0.75, 1.5], "dog": [0.2, 1.0]})
    segments = to_segments(from_frames({"a": table}))
    assert segments.borders.tolist() == [0, 1, 1.5]
    assert segments.values[0] == pytest.approx([0.75 * 0.2 + 0.25, 1.0])


def test_classes_with_different_frames_can_be_joined():
    dog, cat = one_clip([0.1, 0.2]), one_clip([0.5, 0.6, 0.7, 0.8], seconds=0.5, name="cat")
    joined = join_classes([dog, cat], order=["cat", "dog"])
    assert joined.borders.tolist() == [0, 0.5, 1, 1.5, 2]
    assert joined.values.tolist() == [[0.5, 0.6, 0.7, 0.8], [0.1, 0.1, 0.2, 0.2]]
    with pytest.raises(UserError, match="The class dog is in two"):
        join_classes([dog, dog])
    with pytest.raises(UserError, match="No class named cow"):
        only_classes(dog, ["cow"])


def test_an_ensemble_of_stores_averages_logits_whatever_the_order(tmp_path):
    generator = np.random.default_rng(0)
    values = generator.normal(0, 6, size=(2, 3, 4, 2)).astype(np.float32)
    orders = [[0, 1, 2], [2, 0, 1]]
    for number, order in enumerate(orders):
        with ScoreWriter(tmp_path / f"{number}.h5", ["dog", "cat"], dtype="float32") as writer:
            writer.write([f"clip{index}.wav" for index in order], values[number, order])
    ensemble_stores([tmp_path / "0.h5", tmp_path / "1.h5"], tmp_path / "mean.h5")
    mean = ScoreStore(tmp_path / "mean.h5")
    assert mean.kind == "logits"
    assert mean.read(["clip0", "clip1", "clip2"]) == pytest.approx(values.mean(axis=0), abs=1e-6)
    with ScoreWriter(tmp_path / "other.h5", ["dog", "cat"], dtype="float32") as writer:
        writer.write(["clip0.wav"], values[0, :1])
    with pytest.raises(UserError, match="differs from the first member of the ensemble in 2 clips, as clip1"):
        ensemble_stores([tmp_path / "0.h5", tmp_path / "other.h5"], tmp_path / "mean.h5")
