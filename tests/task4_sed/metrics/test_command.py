"""The verb `psds` on score tables, stores and operating points."""

import json

import numpy as np
import pandas as pd
import pytest

from common.cli import run
from task4_sed.__main__ import VERBS
from task4_sed.metrics.command import plot_psd_roc
from task4_sed.metrics.operating_points import detections_at
from task4_sed.metrics.polyphonic import Curve
from task4_sed.scores.store import read_score_tables
from tests.support.golden_sed import expected, golden_set, write_golden
from tests.support.made_up_scores import write_tables_as_store


def call(capsys, *words) -> tuple[int, str, str]:
    code = run("python -m task4_sed", VERBS, ["psds", *map(str, words)])
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture
def ties(tmp_path):
    scores, events, durations = write_golden("ties", tmp_path)
    return scores, "--ground_truth", events, "--durations", durations


def test_json_has_the_four_metrics_versions_and_clips(capsys, ties):
    code, out, err = call(capsys, *ties, "--json")
    result = json.loads(out)
    assert code == 0
    assert list(result) == ["psds1", "psds2", "collar_f1", "intersection_f1", "computed_by", "versions", "clips"]
    assert set(result["psds1"]) == {"value", "per_class", "interval"}
    assert result["psds1"]["value"] == pytest.approx(expected("ties")["psds1"]["value"])
    assert result["psds2"]["per_class"] == pytest.approx(expected("ties")["psds2"]["per_class"])
    assert result["collar_f1"]["value"] == pytest.approx(expected("ties")["collar_f1_at_0.5"]["f"]["macro_average"])
    low, high = result["psds2"]["interval"]
    assert low < result["psds2"]["value"] < high
    assert result["versions"]["sed_scores_eval"] == "0.0.4"
    assert "own kernels" in result["computed_by"] and "sed_scores_eval 0.0.4" in result["computed_by"]
    assert result["clips"]["comparable"] and result["clips"]["expected"] == 24
    assert "classes without reference events are left out: d" in err


def test_missing_clips_are_named_and_the_score_is_called_not_comparable(capsys, ties):
    (ties[0] / "tie_03.tsv").unlink()
    code, out, err = call(capsys, *ties, "--draws", 0)
    assert code == 0
    assert "23 of 24 clips, not comparable" in out
    assert "tie_03" in err


def test_a_store_is_scored_like_its_tables(capsys, ties, tmp_path):
    write_tables_as_store(read_score_tables(ties[0]), tmp_path / "scores.h5")
    values = []
    for scores in (ties[0], tmp_path / "scores.h5"):
        _, out, _ = call(capsys, scores, *ties[1:], "--json", "--draws", 0)
        values.append(json.loads(out)["psds1"]["value"])
    assert values[0] == pytest.approx(values[1])


def test_only_the_classes_that_are_named_are_scored(capsys, ties):
    _, out, _ = call(capsys, *ties, "--classes", "a", "--classes", "c", "--json", "--draws", 0)
    assert list(json.loads(out)["psds1"]["per_class"]) == ["a", "c"]


def test_the_cross_check_shows_both_packages_and_why_they_differ(capsys, ties):
    code, out, _ = call(capsys, *ties, "--cross_check", "--json", "--draws", 0)
    check = json.loads(out)["cross_check"]
    assert code == 0
    assert [row["package"] for row in check["scores"]] == ["sed_scores_eval", "psds_eval"]
    assert check["scores"][0]["psds2"] == pytest.approx(expected("ties")["psds2"]["value"])
    assert "50 thresholds" in check["why"]


def test_curves_are_drawn_into_the_folder_that_is_named(capsys, ties, tmp_path):
    code, _, err = call(capsys, *ties, "--plots", "--out", tmp_path / "plots", "--draws", 0)
    assert code == 0
    for name in ("psds1.png", "psds2.png"):
        assert (tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG")
        assert name in err


def test_operating_points_are_scored_with_psds_eval(capsys, ties, tmp_path):
    evaluation = golden_set("ties")
    folder = tmp_path / "points"
    folder.mkdir()
    for threshold in (0.15, 0.35, 0.5, 0.75):
        table = detections_at(evaluation, threshold).rename(columns={"clip": "filename"})
        table["filename"] += ".wav"
        table.to_csv(folder / f"detections_{threshold}.tsv", sep="\t", index=False)
    code, out, _ = call(capsys, folder, *ties[1:], "--json")
    result = json.loads(out)
    assert code == 0
    assert result["psds1"]["interval"] is None
    assert result["clips"]["f1_threshold"] == 0.5
    sed_eval = expected("ties")["sed_eval"]["event_based"]
    assert result["collar_f1"]["per_class"] == pytest.approx(sed_eval["per_class_f1"])
    code, out, _ = call(capsys, folder / "detections_0.5.tsv", *ties[1:], "--json")
    assert json.loads(out)["collar_f1"]["value"] == pytest.approx(sed_eval["macro_f1"])
    (folder / "other_0.5.tsv").write_text((folder / "detections_0.5.tsv").read_text())
    code, _, err = call(capsys, folder, *ties[1:])
    assert code == 2
    assert "two tables for the threshold 0.5" in err


def test_operating_points_of_another_set_are_refused(capsys, ties, tmp_path):
    folder = tmp_path / "points"
    folder.mkdir()
    rows = {"filename": ["x.wav"], "onset": [0.0], "offset": [1.0], "event_label": ["a"]}
    pd.DataFrame(rows).to_csv(folder / "at_0.5.tsv", sep="\t", index=False)
    code, _, err = call(capsys, folder, *ties[1:])
    assert code == 2
    assert "1 clips with detections are not in the ground truth, such as x" in err


def test_mistakes_exit_with_2_and_one_sentence(capsys, ties, tmp_path):
    for words, message in (
        ((tmp_path / "none", *ties[1:]), "There is no folder of score tables"),
        ((ties[0], "--ground_truth", tmp_path / "none.tsv", *ties[3:]), "There is no ground truth table"),
        ((ties[0], *ties[1:3], "--durations", tmp_path / "none.tsv"), "There is no durations table"),
        ((*ties, "--alpha_st", "-1"), "cannot be -1"),
        ((*ties, "--classes", "dog"), "no column for the class dog"),
    ):
        code, out, err = call(capsys, *words)
        assert code == 2
        assert out == ""
        assert message in err
        assert "Traceback" not in err


@pytest.mark.slow
def test_operating_points_of_1168_real_clips_give_the_published_figures(capsys, shared):
    folder = shared / "reference/metrics/sed"
    labels = folder / "real_ground_truth"
    code, out, _ = call(
        capsys, folder / "desed_2021_operating_points", "--ground_truth", labels / "desed_validation.tsv",
        "--durations", labels / "desed_validation_durations.tsv", "--json",
    )  # fmt: skip
    result = json.loads(out)
    assert code == 0
    assert result["psds1"]["value"] == pytest.approx(0.3345, abs=1e-3)
    assert result["psds2"]["value"] == pytest.approx(0.5281, abs=1e-3)
    assert result["clips"]["expected"] == 1168


def write_points(folder, *thresholds):
    folder.mkdir()
    for threshold in thresholds:
        table = detections_at(golden_set("ties"), threshold).rename(columns={"clip": "filename"})
        table.to_csv(folder / f"at_{threshold}.tsv", sep="\t", index=False)
    return folder


def test_f1_is_of_the_table_nearest_to_one_half_the_lower_of_two(capsys, ties, tmp_path):
    code, out, err = call(capsys, write_points(tmp_path / "points", 0.1, 0.35, 0.65), *ties[1:])
    assert code == 0
    assert "No table is at the threshold 0.5; the F1 values are of the one at 0.35." in err
    assert "collar F1 at 0.35" in out and "without intervals" in out
    assert "Tables of detections have no intervals." in err
    code, _, err = call(capsys, write_points(tmp_path / "middle", 0.35, 0.5), *ties[1:])
    assert code == 0 and "No table is at the threshold" not in err


def test_people_see_intervals_and_each_class(capsys, ties):
    code, out, _ = call(capsys, *ties, "--draws", 20, "--alpha_st", 0)
    assert code == 0 and "95 % by bootstrap over recordings" in out and "collar F1 at 0.5" in out
    table = out.partition("Each class, per cent")[2]
    assert all(f"\n{label}" in table for label in "abc")
    assert "Computed by the kit's own kernels" in out
    code, out, _ = call(capsys, *ties, "--draws", 0)
    assert code == 0 and "without intervals" in out
    found = json.loads(call(capsys, *ties, "--draws", 0, "--json")[1])
    values = [found[key]["value"] for key in ("psds1", "psds2", "collar_f1", "intersection_f1")]
    assert max(values) > 0.5 and all(f"\t{100 * value:.1f}\n" in out for value in values)


def test_the_plot_of_curves_has_a_line_of_each_class_and_of_all(ties):
    from matplotlib.figure import Figure

    whole = Curve(recall=np.array([0.2, 0.6, 0.8]), rate=np.array([0.0, 1.0, 3.0]))
    one = Curve(recall=np.array([0.4]), rate=np.array([0.5]))
    plot = Figure().subplots()
    plot_psd_roc(plot, whole, {"$a": one})
    of_class, of_all = plot.get_lines()
    assert of_class.get_xydata().tolist() == [[0.5, 0.4], [3.0, 0.4]] and of_class.get_label() == r"\$a"
    assert of_all.get_xydata().tolist() == [[0.0, 0.2], [1.0, 0.6], [3.0, 0.8]]
    assert plot.get_xlim() == (0, 3) and plot.get_ylim() == (0, 1.02)
    assert plot.get_xlabel() == "effective false positives per hour" and plot.get_ylabel() == "true positive rate"
