"""The report of Task 1: which runs make a rank score, and what its curve shows."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from task1_asc import report
from task1_asc.data.tau2022 import SUBSETS
from task1_asc.report import cost_rows, families, parts_part, read_finished, result_rows, results_part
from tests.support.finished_runs import write_task1_run, write_task1_sweep


@pytest.fixture(scope="module")
def systems(tmp_path_factory):
    return read_finished([write_task1_sweep(tmp_path_factory.mktemp("task1") / "sweep", SUBSETS, (0, 1))])[0]


def means(systems) -> list[float]:
    """Per cent of each system, mean over its seeds."""
    return [100 * np.mean([e["float32"]["macro_accuracy"]["value"] for e in s.evaluations]) for s in systems]


@pytest.fixture
def drawn(monkeypatch) -> list:
    """Plots that a part of the report holds."""
    found: list = []
    monkeypatch.setattr(report.html, "figure", lambda plot, _caption: found.append(plot) or "")
    return found


def test_a_rank_score_needs_all_five_subsets_and_is_their_mean(systems):
    rows = result_rows(systems, "float32")
    assert [row["subset"] for row in rows] == [*(f"{subset} %" for subset in SUBSETS), "rank score"]
    assert rows[-1]["macro accuracy"] == f"{np.mean(means(systems)):.1f}"
    assert [row["macro accuracy"].split()[0] for row in rows[:-1]] == [f"{value:.1f}" for value in means(systems)]
    assert float(rows[-1]["published"]) == pytest.approx(
        np.mean([float(row["published"]) for row in rows[:-1]]), abs=0.1
    )
    losses = [item["float32"]["log_loss"]["value"] for item in systems[0].evaluations]
    assert rows[0]["log loss"] == round(float(np.mean(losses)), 3)
    seen = [item["float32"]["groups"]["seen"]["accuracy"] for item in systems[0].evaluations]
    assert rows[0]["seen"] == f"{100 * np.mean(seen):.1f}"
    assert "rank score" not in [row["subset"] for row in result_rows(systems[1:], "float32")]


def test_systems_of_one_family_differ_in_the_subset_alone(systems, tmp_path, drawn):
    other = write_task1_run(tmp_path / "other", 5, 0)
    settings = (other / "settings.yaml").read_text()
    (other / "settings.yaml").write_text(settings.replace("  lr: 0.01", "  lr: 0.02"))
    mixed = [*systems[::-1], *read_finished([other])[0]]
    named = families(mixed)
    assert [len(members) for members in named.values()] == [5, 1] and list(named)[1] == "other"
    assert [report.subset_of(member) for member in next(iter(named.values()))] == list(SUBSETS)
    assert report.column_names(systems) == [f"{subset} %" for subset in SUBSETS]
    assert report.column_names(mixed) == [system.name for system in mixed]
    assert "system" not in result_rows(systems, "float32")[0]
    assert [row["system"] for row in result_rows(mixed, "float32")] == 6 * [next(iter(named))] + ["other"]
    results_part([], systems, "float32", made_up=True, unfinished=[])
    results_part([], mixed, "float32", made_up=True, unfinished=[])
    assert [[line.get_label() for line in plot.axes[0].lines] for plot in drawn] == [["ours"], list(named)]
    # Two of one name are told apart.
    assert [*families([*read_finished([other])[0], *renamed(systems, "other")])] == ["other", "other (1)"]


def renamed(systems, name: str) -> list:
    return [SimpleNamespace(**{**vars(system), "name": name}) for system in systems]


def test_the_curve_is_in_per_cent_over_a_logarithmic_axis_with_a_dot_for_each_run(systems, drawn):
    results_part([], systems, "float32", made_up=True, unfinished=[])
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == "log" and [text.get_text() for text in axes.get_xticklabels()] == list(
        map(str, SUBSETS)
    )
    (line,) = axes.lines
    np.testing.assert_allclose(line.get_xdata(), SUBSETS)
    np.testing.assert_allclose(line.get_ydata(), means(systems))
    band, dots = sorted(axes.collections, key=lambda found: "PathCollection" in type(found).__name__)
    limits = [e["float32"]["macro_accuracy"] for e in systems[0].evaluations]
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(100 * np.mean([one["low"] for one in limits]), abs=5)
    runs = [100 * e["float32"]["macro_accuracy"]["value"] for s in systems for e in s.evaluations]
    np.testing.assert_allclose(np.asarray(dots.get_offsets())[:, 1], runs)


def test_the_curve_has_no_band_where_a_limit_is_unknown_and_a_published_line_on_real_data(tmp_path, drawn):
    run = write_task1_run(tmp_path / "run", 25, 0)
    path = run / "test" / "evaluation.json"
    facts = json.loads(path.read_text())
    facts["float32"]["macro_accuracy"] |= {"low": float("nan"), "high": float("nan")}
    (found,) = read_finished([run])[0]
    found.evaluations = [facts]
    results_part([], [found], "float32", made_up=False, unfinished=[])
    axes = drawn[0].axes[0]
    assert [type(part).__name__ for part in axes.collections] == ["PathCollection"]  # the dot of the run
    assert [line.get_label() for line in axes.lines] == ["ours", "published"]
    np.testing.assert_allclose(axes.lines[1].get_xdata(), SUBSETS)


def test_classes_and_devices_are_means_over_runs_beside_what_was_published(systems):
    classes, devices = map(str, parts_part(systems[:1], "float32"))
    for table, group, name in ((classes, "class_wise", "airport"), (devices, "device_wise", "b")):
        value = np.mean([item["float32"][group][name]["accuracy"] for item in systems[0].evaluations])
        published = report.read_published()[group][5]
        assert f"{100 * value:.1f}" in table and f"{published[0]:.1f}" in table and "5 % publ." in table


def test_costs_name_energy_parameters_and_size(systems):
    row = cost_rows(systems[0].runs[:1])[0]
    assert (row["run"], row["in"]) == (systems[0].runs[0].folder.name, "float16")
    assert row["kB"] == row["parameters"] * 2 / 1000
    assert 0 < row["million MACs"] < 30
