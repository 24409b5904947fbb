"""Runs beside folders of score tables, on one ground truth."""

import pytest

from common.errors import UserError
from task4_sed.reports import compare
from task4_sed.systems import load_recipe
from tests.support.finished_runs import write_task4_run
from tests.support.golden_sed import golden_scores, golden_table, write_golden


def test_a_run_is_scored_on_the_ground_truth_that_is_given(tmp_path, monkeypatch):
    scores, truth, durations = write_golden("ties", tmp_path)
    run, tables = write_task4_run(tmp_path / "run"), golden_scores("ties")
    monkeypatch.setattr(compare, "finished_scores", lambda run: {"validation": tables, "maestro_validation": None})
    monkeypatch.setattr(compare, "evaluated_classes", lambda settings, maestro: None if maestro else tables.classes)
    (found,) = compare.compare_systems([run, scores], truth, durations)
    assert [system.name for system in found.systems] == ["run", "scores"]
    assert {"PSDS1", "PSDS2"} <= set(found.figures)
    for name, (first, second) in found.figures.items():
        assert first.own.value == second.own.value and second.difference.value == 0, name


def test_both_tables_are_needed_or_none(tmp_path):
    _, truth, durations = write_golden("ties", tmp_path)
    for tables in ((truth, None), (None, durations)):
        with pytest.raises(UserError, match="belong together: give both tables, or none"):
            compare.compare_systems([tmp_path / "scores"], *tables)


def test_a_rank_score_takes_both_data_sets(tmp_path, monkeypatch):
    run, tables = write_task4_run(tmp_path / "run"), golden_scores("ties")
    for name, value in {
        "finished_scores": lambda run: {"validation": tables},
        "evaluated_classes": lambda settings, maestro: tables.classes,
        "label_file": lambda root, name: name,
        "read_events": lambda name: golden_table("ties", "ground_truth"),
        "set_durations": lambda root, name: golden_table("ties", "durations"),
    }.items():
        monkeypatch.setattr(compare, name, value)
    found = compare.measure(load_recipe().open(run))
    assert "PSDS1" in found.figures and "rank score" not in found.figures
    assert found.made_up and found.counted == "23 recordings"
