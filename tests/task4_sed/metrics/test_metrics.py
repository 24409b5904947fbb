"""Sound event detection metrics against the official packages, hand-made cases and bad input."""

import json

import numpy as np
import pandas as pd
import pytest

from common.errors import UserError
from task4_sed.data.annotations import read_events
from task4_sed.metrics import (
    PSDS1,
    PSDS1_MACRO,
    PSDS2,
    PsdsParameters,
    collar_f1,
    evaluation_set,
    intersection_f1,
    mean_partial_auc,
    polyphonic_scores,
    psds,
    rank_interval,
    rank_score,
    segment_f1,
)
from task4_sed.metrics.operating_points import (
    by_sed_scores_eval,
    collar_f1_of_points,
    intersection_f1_of_points,
    read_reference,
    score_frames,
)
from task4_sed.metrics.resampling import affordable_draws, interval, recording_weights
from task4_sed.metrics.segments import file_events, segment_evaluation_set, segment_tables
from task4_sed.scores.store import read_score_tables
from task4_sed.scores.tables import from_frames
from tests.support.golden_sed import arrays, expected, golden_scores, golden_set, golden_table
from tests.support.made_up_scores import frame_table, made_up_scores

CLOSE = 1e-9  # the fixture's own tolerance is 1e-6
CLIP_SETS = ("desed_public20", "ties")
PSDS_CASES = {
    "psds1": PSDS1,
    "psds2": PSDS2,
    "psds1_alpha_st_0": PSDS1_MACRO,
    "psds1_non_oracle": PsdsParameters(dtc=0.7, gtc=0.7, non_oracle=True),
}
INTERPOLATIONS = {"staircase": "staircase", "linear": "linear_interpolation"}


def assert_f1(found, figures: dict):
    assert found.value == pytest.approx(figures["f"]["macro_average"], abs=CLOSE)
    assert found.micro == pytest.approx(figures["f"]["micro_average"], abs=CLOSE)
    for name in found.per_class:
        assert found.per_class[name] == pytest.approx(figures["f"][name], abs=CLOSE)
        assert found.precision[name] == pytest.approx(figures["precision"][name], abs=CLOSE)
        assert found.recall[name] == pytest.approx(figures["recall"][name], abs=CLOSE)
        assert tuple(found.counts[name]) == tuple(figures["counts"][name][key] for key in ("tps", "fps", "n_ref"))
    for name, threshold in figures.get("threshold", {}).items():
        assert found.thresholds[name] == pytest.approx(threshold, abs=CLOSE)


@pytest.mark.parametrize("name", CLIP_SETS)
@pytest.mark.parametrize("case", PSDS_CASES)
def test_psds_equals_the_official_package(name, case):
    figures = expected(name)[case]
    found = polyphonic_scores(golden_set(name), [PSDS_CASES[case]], draws=0)[0]
    assert found.value == pytest.approx(figures["value"], abs=CLOSE)
    assert found.per_class == pytest.approx(figures["per_class"], abs=CLOSE)


@pytest.mark.parametrize("name", CLIP_SETS)
@pytest.mark.parametrize("case", ["psds1", "psds2", "psds1_alpha_st_0"])
def test_the_psd_roc_has_the_official_points(name, case):
    figures = expected(name)[case]
    found = polyphonic_scores(golden_set(name), [PSDS_CASES[case]], draws=0)[0]
    assert {label: len(curve.rate) for label, curve in found.class_curves.items()} == figures["per_class_points"]
    for rate, recall in figures["effective_tpr_at_efpr"].items():
        at = np.searchsorted(found.curve.rate, float(rate), side="right") - 1
        assert found.curve.recall[at] == pytest.approx(recall, abs=CLOSE)


@pytest.mark.parametrize("name", CLIP_SETS)
def test_f1_equals_the_official_package(name):
    evaluation, figures = golden_set(name), expected(name)
    assert_f1(collar_f1(evaluation, draws=0), figures["collar_f1_at_0.5"])
    assert_f1(collar_f1(evaluation, threshold="best", draws=0), figures["collar_f1_best"])
    assert_f1(intersection_f1(evaluation, draws=0), figures["intersection_f1_at_0.5"])
    assert_f1(segment_f1(evaluation, draws=0), figures["segment_best_f1"])


@pytest.mark.parametrize("name", CLIP_SETS)
@pytest.mark.parametrize("how", INTERPOLATIONS)
def test_segment_auc_equals_the_version_that_its_interpolation_names(name, how):
    for key, max_fpr in (("segment_auroc", None), ("segment_pauroc_max_fpr_0.1", 0.1)):
        figures = dict(expected(name)[key][INTERPOLATIONS[how]])
        found = mean_partial_auc(golden_set(name), max_fpr=max_fpr, interpolation=how, draws=0)
        assert found.value == pytest.approx(figures.pop("mean"), abs=CLOSE)
        assert found.per_class == pytest.approx(figures, abs=CLOSE)


def test_maestro_windows_are_put_back_together_as_in_the_official_recipe():
    data, figures = arrays("maestro"), expected("maestro")
    arguments = (
        golden_scores("maestro"),
        golden_table("maestro", "ground_truth"),
        golden_table("maestro", "durations"),
    )
    evaluation = segment_evaluation_set(*arguments)
    for index, file in enumerate(evaluation.clips):
        difference = np.abs(evaluation.scores.scores_of(index) - data[f"segments_{file}"])
        assert difference.max() < 1e-8  # the fixture's tables have nine decimals
    merged = file_events(read_events(arguments[1])).events
    keys = ["onset", "offset", "event_label"]
    wanted = golden_table("maestro", "merged_ground_truth").sort_values(["filename", *keys])
    assert merged.sort_values(["clip", *keys])[keys].to_numpy().tolist() == wanted[keys].to_numpy().tolist()
    assert set(evaluation.classes) == set(figures["classes"])
    assert_f1(segment_f1(evaluation, draws=0), figures["segment_best_f1"])
    for how, key in INTERPOLATIONS.items():
        for name, max_fpr in (("segment_auroc", None), ("segment_pauroc_max_fpr_0.1", 0.1)):
            found = mean_partial_auc(*arguments, max_fpr=max_fpr, interpolation=how, draws=0)
            assert found.value == pytest.approx(figures[name][key]["mean"], abs=CLOSE)


@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("seed", [0, 1])
def test_random_scores_give_what_sed_scores_eval_gives_also_with_ties(decimals, seed):
    from sed_scores_eval import collar_based, intersection_based, segment_based

    scores, events, seconds = made_up_scores(25, 4, seed=seed)
    if decimals is not None:  # ties, in scores and in event borders on the frame grid
        for clip, table in scores.items():
            classes = list(table.columns[2:])
            scores[clip] = pd.concat([table[["onset", "offset"]], table[classes].round(decimals)], axis=1)
            events[clip] = [(round(a / 0.064) * 0.064, round(b / 0.064) * 0.064 + 0.064, c) for a, b, c in events[clip]]
    evaluation = evaluation_set(scores, events, seconds)
    frames, reference, durations = score_frames(evaluation), evaluation.reference(), evaluation.durations_by_clip()
    for parameters in (PSDS1, PSDS2, PsdsParameters(dtc=0.5, gtc=0.3, cttc=0.2, alpha_ct=1.0, alpha_st=0.5)):
        value, per_class = by_sed_scores_eval(evaluation, parameters)
        found = polyphonic_scores(evaluation, [parameters], draws=0)[0]
        assert found.value == pytest.approx(value, abs=CLOSE)
        assert found.per_class == pytest.approx(per_class, abs=CLOSE)
    collars = {"onset_collar": 0.2, "offset_collar": 0.2, "offset_collar_rate": 0.2}
    f, *_ = collar_based.fscore(frames, reference, 0.5, **collars)
    best, *_ = collar_based.best_fscore(frames, reference, **collars)
    crossed, *_ = intersection_based.fscore(frames, reference, 0.5, dtc_threshold=0.5, gtc_threshold=0.5)
    area, _ = segment_based.auroc(frames, reference, durations, segment_length=1.0, max_fpr=0.1)
    assert collar_f1(evaluation, draws=0).value == pytest.approx(f["macro_average"], abs=CLOSE)
    assert collar_f1(evaluation, threshold="best", draws=0).value == pytest.approx(best["macro_average"], abs=CLOSE)
    assert intersection_f1(evaluation, draws=0).value == pytest.approx(crossed["macro_average"], abs=CLOSE)
    assert mean_partial_auc(evaluation, draws=0).value == pytest.approx(area["mean"], abs=CLOSE)


def test_psds_can_be_counted_by_hand():
    # one event of 1 s in 36 s of audio; the detection at 0.9 covers it, the one at 0.5 is false: 1 per 36 s = 100/h
    quiet = [0.0] * 10
    tables = {"a": frame_table(quiet + [0.9] * 10 + quiet + [0.5] * 10)}
    found = psds(tables, {"a": [(1.0, 2.0, "dog")]}, {"a": 36.0}, draws=0)
    assert found.value == 1.0
    assert found.curve.rate.tolist() == [0, 100]
    later = psds(
        {"a": frame_table(quiet + [0.5] * 10 + quiet + [0.9] * 10)}, {"a": [(1.0, 2.0, "dog")]}, {"a": 72.0}, draws=0
    )
    assert later.value == pytest.approx(0.5)  # found only from 1 false positive in 72 s = 50/h on


def test_an_event_is_matched_once_where_two_detections_hit_it():
    tables = {"a": frame_table([0.9, 0.0, 0.9, 0.9, 0.0, 0.0, 0.0, 0.0])}
    found = collar_f1(tables, {"a": [(0.1, 0.3, "dog")]}, {"a": 10.0}, draws=0)
    assert tuple(found.counts["dog"]) == (1, 1, 1)


def test_intervals_are_those_of_scoring_each_draw_again():
    evaluation = golden_set("ties")
    draws = 5
    weights = recording_weights(len(evaluation.clips), draws).astype(int)
    whole = golden_scores("ties")
    found = polyphonic_scores(evaluation, [PSDS1, PSDS2], draws=draws)
    area = mean_partial_auc(evaluation, draws=draws)
    best = collar_f1(evaluation, draws=draws)
    macro = []
    for draw in range(1, draws + 1):
        tables, events, durations = {}, {}, {}
        reference, frames = evaluation.reference(), dict(whole.tables())
        for clip, times in zip(evaluation.clips, weights[:, draw]):
            for copy in range(times):
                tables[f"{clip}_{copy}"] = frames[clip]
                events[f"{clip}_{copy}"] = reference[clip]
                durations[f"{clip}_{copy}"] = evaluation.durations_by_clip()[clip]
        again = evaluation_set(tables, events, durations)
        assert found[0].samples[draw - 1] == pytest.approx(
            polyphonic_scores(again, [PSDS1], draws=0)[0].value, abs=CLOSE
        )
        assert found[1].samples[draw - 1] == pytest.approx(
            polyphonic_scores(again, [PSDS2], draws=0)[0].value, abs=CLOSE
        )
        assert area.samples[draw - 1] == pytest.approx(mean_partial_auc(again, draws=0).value, abs=CLOSE)
        macro.append(collar_f1(again, draws=0).value)
    wanted = np.quantile(macro, (0.025, 0.975)) + best.value - np.median(macro)
    assert best.interval == pytest.approx(tuple(wanted), abs=CLOSE)


def test_an_interval_holds_its_score_also_where_every_draw_is_lower():
    assert interval(np.array([0.5, 0.1, 0.2, 0.3])) == pytest.approx((0.405, 0.595))
    assert interval(np.array([0.9, 0.3, 0.5, 0.7])) == (pytest.approx(0.71), 1.0)
    assert interval(np.array([0.9])) is None
    found = psds(*made_up_scores(30, 8), draws=200)
    assert found.interval[0] < found.value < found.interval[1]


def test_the_mean_over_many_classes_keeps_few_draws_only_where_they_would_not_fit():
    assert affordable_draws(1000, 4000) == 1000
    assert 50 <= affordable_draws(1000, 1_000_000) < 100
    assert affordable_draws(0, 1_000_000) == 0


def test_the_rank_score_is_the_sum_of_psds1_and_mpauc():
    assert rank_score(0.5, 0.7) == pytest.approx(1.2)
    evaluation = golden_set("ties")
    first, area = psds(evaluation, draws=50), mean_partial_auc(evaluation, draws=40)
    low, high = rank_interval(first, area)
    assert low < first.value + area.value < high
    assert rank_interval(first, mean_partial_auc(evaluation, draws=0)) is None


def test_clips_are_named_when_they_are_missing_on_either_side():
    scores, events, seconds = made_up_scores(6, 3)
    del scores["clip_00001"]
    scores["stranger"] = scores["clip_00002"]
    evaluation = evaluation_set(scores, events, seconds)
    assert evaluation.report.missing == ("clip_00001",)
    assert evaluation.report.unexpected == ("stranger",)
    assert evaluation.report.sentence() == "5 of 6 clips, not comparable"
    assert any("stranger" in note for note in evaluation.notes)


def test_a_missing_clip_without_events_does_not_make_a_score_incomparable(tmp_path):
    table = tmp_path / "events.tsv"
    table.write_text("filename\tonset\toffset\tevent_label\na.wav\t1\t2\tdog\nsilent.wav\t\t\t\n")
    evaluation = evaluation_set({"a": frame_table([0.5] * 100)}, table, {"a": 10.0, "silent": 10.0})
    assert evaluation.report.comparable
    assert evaluation.report.expected == 2
    assert evaluation.report.without_events == ("silent",)


def test_hundreds_of_classes_are_scored_one_after_the_other_from_disk(monkeypatch, tmp_path):
    import task4_sed.scores.tables as module

    scores, events, seconds = made_up_scores(8, 60, events_per_clip=6)
    in_memory = psds(scores, events, seconds, alpha_st=0.0, draws=20)
    monkeypatch.setattr(module, "LARGEST_IN_MEMORY", 1000)
    tables = from_frames(scores)
    assert isinstance(tables.values, np.memmap)
    on_disk = psds(tables, events, seconds, alpha_st=0.0, draws=20, jobs=2)
    assert on_disk.value == in_memory.value
    assert on_disk.value == pytest.approx(np.mean(list(on_disk.per_class.values())))
    assert on_disk.interval == in_memory.interval


def test_collar_f1_of_1168_real_clips_is_the_published_figure(shared):
    folder = shared / "reference/metrics/sed"
    labels = folder / "real_ground_truth"
    reference = read_reference(labels / "desed_validation.tsv", labels / "desed_validation_durations.tsv")
    value, _ = collar_f1_of_points(read_events(folder / "desed_2021_predictions_at_0.5.tsv").events, reference)
    assert value == pytest.approx(0.3987, abs=1e-3)


@pytest.mark.parametrize("name", CLIP_SETS)
def test_the_cross_check_gives_what_psds_eval_and_sed_eval_gave(name):
    from task4_sed.metrics.operating_points import cross_check, detections_at, evaluated_reference

    evaluation, figures = golden_set(name), expected(name)
    rows = cross_check(evaluation, {"psds1": PSDS1, "psds2": PSDS2})
    assert rows[0]["psds1"] == pytest.approx(figures["psds1"]["value"], abs=CLOSE)
    assert rows[1]["psds1"] == pytest.approx(figures["psds_eval"]["psds1"], abs=CLOSE)
    assert rows[1]["psds2"] == pytest.approx(figures["psds_eval"]["psds2"], abs=CLOSE)
    at_half, reference = detections_at(evaluation, 0.5), evaluated_reference(evaluation)
    macro, _ = intersection_f1_of_points(at_half, reference)
    assert macro == pytest.approx(figures["psds_eval"]["intersection_macro_f1_at_0.5"]["macro"], abs=CLOSE)
    macro, per_class = collar_f1_of_points(at_half, reference)
    assert macro == pytest.approx(figures["sed_eval"]["event_based"]["macro_f1"], abs=CLOSE)
    assert per_class == pytest.approx(figures["sed_eval"]["event_based"]["per_class_f1"], abs=CLOSE)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.wav\t-1\t2\tdog", "events.tsv:3: the event dog of a starts before its clip"),
        ("a.wav\t3\t2\tdog", "events.tsv:3: the event dog of a ends at 2 s, before its onset at 3 s"),
        ("a.wav\tx\t2\tdog", "events.tsv:3: the event dog of a has an onset or offset that is not a number"),
        ("a.wav\t1\t2\t", "events.tsv:3: the event of a has times but no event_label"),
        ("a.wav\t9\t12\tdog", "events.tsv:3: the event dog of a lasts from 9 to 12 s, but the clip ends at 10 s"),
        ("a.wav\t1\t2\tdogg", "events.tsv:3: no score table has a column for the label dogg. Did you mean dog"),
    ],
)
def test_ground_truth_that_cannot_be_scored_is_refused_with_its_line(tmp_path, row, message):
    table = tmp_path / "events.tsv"
    table.write_text(f"filename\tonset\toffset\tevent_label\na.wav\t5\t6\tdog\n{row}\n")
    with pytest.raises(UserError) as refusal:
        evaluation_set({"a": frame_table([0.5] * 100)}, table, {"a": 10.0})
    assert message in str(refusal.value)


def test_published_events_that_end_slightly_late_are_kept_and_told():
    evaluation = evaluation_set({"a": frame_table([0.5] * 100)}, {"a": [(5, 9.6, "dog")]}, {"a": 9.5})
    assert evaluation.offsets.tolist() == [9.6]
    assert "1 events end up to 0.10 s after their clip" in evaluation.notes[0]


def test_nothing_to_evaluate_and_missing_durations_are_told():
    tables = {"a": frame_table([0.5] * 100)}
    with pytest.raises(UserError, match="has no events"):
        evaluation_set(tables, {"a": []}, {"a": 10.0})
    with pytest.raises(UserError, match="durations of the clips are missing"):
        evaluation_set(tables, {"a": [(1, 2, "dog")]})
    with pytest.raises(UserError, match="durations are missing for 1 of 1 clips"):
        evaluation_set(tables, {"a": [(1, 2, "dog")]}, {"b": 10.0})
    with pytest.raises(UserError, match="None of the 1 score tables"):
        evaluation_set(tables, {"b": [(1, 2, "dog")]}, {"b": 10.0})
    with pytest.raises(UserError, match="There are no score tables"):
        evaluation_set({}, {"a": [(1, 2, "dog")]}, {"a": 10.0})
    with pytest.raises(UserError, match="no column for the class Cat"):
        evaluation_set(tables, {"a": [(1, 2, "dog")]}, {"a": 10.0}, classes=["Cat"])


def test_the_fixtures_kept_here_are_those_of_the_reference_folder(shared):
    assert json.loads((shared / "reference/metrics/sed/expected.json").read_text())["sets"]["ties"] == expected("ties")
    tables = read_score_tables(shared / "reference/metrics/sed/desed_public20/scores")
    assert np.array_equal(tables.values, golden_scores("desed_public20").values)


def test_classes_choose_what_is_scored():
    scores = {"a": frame_table([0.1, 0.9, 0.2], 1.0).assign(cat=[0.8, 0.1, 0.2])}
    reference = ({"a": [(1.0, 2.0, "dog"), (2.0, 3.0, "cat")]}, {"a": 3.0})
    for metric in (collar_f1, intersection_f1, segment_f1, mean_partial_auc, psds):
        assert set(metric(scores, *reference, classes=["dog"], draws=0).per_class) == {"dog"}
        assert set(metric(scores, *reference, draws=0).per_class) == {"dog", "cat"}
    assert collar_f1(scores, *reference, classes=["dog"], draws=0).value == 1.0
    assert collar_f1(scores, *reference, draws=0).value == 0.5


def test_micro_f1_and_counts_are_of_all_recordings_also_with_draws():
    hits = {f"hit{index}": frame_table([0.1, 0.9, 0.2], 1.0) for index in range(3)}
    scores = {**hits, "miss": frame_table([0.1, 0.2, 0.9], 1.0)}
    reference = ({clip: [(1.0, 2.0, "dog")] for clip in scores}, dict.fromkeys(scores, 3.0))
    found = collar_f1(scores, *reference, draws=50)
    assert found.counts["dog"] == (3, 1, 4)
    assert found.micro == found.value == pytest.approx(0.75)
    assert found.precision["dog"] == found.recall["dog"] == pytest.approx(0.75)
    whole = intersection_f1(golden_set("ties"), draws=20)
    alone = intersection_f1(golden_set("ties"), draws=0)
    assert (whole.micro, whole.counts, whole.per_class) == (alone.micro, alone.counts, alone.per_class)


def test_a_rate_at_the_very_end_of_the_curve_belongs_to_it():
    # One false positive in 36 s is exactly 100 an hour, the end of the curve.
    scores = {"a": frame_table([0.9, 0.1, 0.8, 0.1], 9.0)}
    reference = ({"a": [(18.0, 27.0, "dog")]}, {"a": 36.0})
    for non_oracle in (False, True):
        curve = psds(scores, *reference, draws=0, non_oracle=non_oracle).class_curves["dog"]
        assert curve.rate[-1] == 100.0 and curve.recall[-1] == 1.0
        shorter = psds(scores, *reference, draws=0, non_oracle=non_oracle, max_efpr=99.0).class_curves["dog"]
        assert shorter.rate[-1] < 99.0 and shorter.recall[-1] == 0.0


def test_an_unknown_interpolation_and_a_name_without_times_are_refused():
    scores, reference = {"a": frame_table([0.1, 0.9], 1.0)}, ({"a": [(1.0, 2.0, "dog")]}, {"a": 2.0})
    with pytest.raises(UserError, match=r"No interpolation named cubic. There are: staircase, linear"):
        mean_partial_auc(scores, *reference, interpolation="cubic")
    tables = from_frames({"cafe_01-000000-001000": frame_table([0.1] * 10, 1.0), "cafe": frame_table([0.1], 1.0)})
    with pytest.raises(UserError, match=r"cafe is no window file-start-end of a file with a known duration"):
        segment_tables(tables, {"cafe_01": 10.0})
    with pytest.raises(UserError, match=r"cafe_01-000000-001000 is no window"):
        segment_tables(tables.select(tables.clips[1:]), {"cafe": 10.0})


def test_windows_that_start_after_200_s_lie_where_their_names_say():
    frames = {"x-000000-001000": [0.1] * 10, "x-020500-021500": [*([0.2] * 4), 0.9, *([0.2] * 5)]}
    tables = from_frames({name: frame_table(values, 1.0) for name, values in frames.items()})
    joined = segment_tables(tables, {"x": 215.0})
    values = joined.scores_of(0)[:, 0]
    assert np.flatnonzero(values == 0.9).tolist() == [209]
    assert values[:10].tolist() == pytest.approx([0.1] * 10)
    assert np.flatnonzero(values).tolist() == [*range(10), *range(205, 215)]
