"""What the report of Task 4 shows: figures with their limits, published ones, curves and costs."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from common.data.files import write_json
from common.runs.systems import Trained
from task4_sed.reports import report
from task4_sed.systems import load_recipe
from tests.support.finished_runs import write_task4_run


@pytest.fixture
def finished(tmp_path):
    """Writes a run with these figures of the DESED validation set, and opens it."""

    def write(seed: int = 0, system: str = "baseline", **figures):
        folder = write_task4_run(tmp_path / f"run{seed}_{len(list(tmp_path.iterdir()))}", seed)
        path = folder / "test" / "evaluation.json"
        content = json.loads(path.read_text())
        for kinds in content["networks"].values():
            for sets in kinds.values():
                for name, value in figures.items():
                    sets["validation"][name] = {**sets["validation"]["psds2"], "value": value}
        path.write_text(json.dumps(content))
        return load_recipe().open(folder)

    return write


def shown(runs, kind="postprocessed"):
    return {(row["set"], row["figure"]): row for row in report.figure_rows(runs, kind)}


def test_limits_over_five_seeds_end_at_the_highest_value_that_a_figure_can_have(finished):
    ranks, psds = (1.0, 1.1, 1.2, 1.3, 1.4), (0.8, 0.85, 0.9, 0.95, 1.0)
    rows = shown([finished(seed, rank_score=r, psds1=p) for seed, (r, p) in enumerate(zip(ranks, psds))])
    # Student's t of four degrees of freedom, 2.776, times the standard error: sqrt(0.025) / sqrt(5) and half of that.
    assert rows["DESED validation", "rank score"]["value"] == "120.0 [100.4, 139.6]"
    assert rows["DESED validation", "PSDS1"]["value"] == "90.0 [80.2, 99.8]"
    highest = [(seed, {"rank_score": rank + 0.8, "psds1": min(1, rank - 0.3)}) for seed, rank in enumerate(ranks)]
    rows = shown([finished(seed, **figures) for seed, figures in highest])
    assert rows["DESED validation", "rank score"]["value"] == "200.0 [180.4, 200.0]"
    assert rows["DESED validation", "PSDS1"]["value"] == "88.0 [71.8, 100.0]"


def test_one_run_shows_its_own_limits_in_per_cent_beside_what_was_published(finished):
    rows = shown([finished(psds1=0.5)])
    assert rows["DESED validation", "PSDS1"] == {
        "set": "DESED validation", "figure": "PSDS1", "value": "50.0 [41.2, 50.1]", "published": "49.0",
        "clips": "1167 of 1168 clips, not comparable",
    }  # fmt: skip
    assert rows["MAESTRO Real validation", "mpAUC"]["published"] == "73.0"
    assert "published" not in rows["DESED public evaluation", "PSDS1"]  # the baseline's figure there is unknown
    assert "published" not in rows["DESED validation", "PSDS2"]


def test_published_figures_are_those_of_the_same_set(finished, monkeypatch):
    run = finished()
    monkeypatch.setattr(type(run.settings), "system", property(lambda own: "two_iterations"))
    rows = shown([run])
    assert rows["DESED validation", "PSDS1"]["published"] == "64.1"
    assert rows["DESED public evaluation", "PSDS1"]["published"] == "71.0"
    assert report.published_note(run.settings).startswith("Published: the winner of DCASE 2024 Task 4")
    monkeypatch.setattr(type(run.settings), "system", property(lambda own: "own_data"))
    assert report.published_note(run.settings) == "" and all("published" not in row for row in shown([run]).values())
    monkeypatch.setattr(type(run.settings), "own_data", property(lambda own: "doors"))
    assert report.set_title(run.settings, "own_test") == "doors test"


def test_a_figure_without_limits_has_none_and_complete_sets_say_nothing_more(finished):
    run = finished()
    path = run.folder / "test" / "evaluation.json"
    content = json.loads(path.read_text())
    for sets in content["networks"]["teacher"].values():
        sets["validation"]["psds1"] = {"value": 0.4, "interval": None, "per_class": {}}
        sets["validation"]["clips"] = {"scored": 10, "expected": 10, "comparable": True}
    path.write_text(json.dumps(content))
    row = shown([run])["DESED validation", "PSDS1"]
    assert (row["value"], row["clips"]) == ("40.0", "10 of 10 clips")


def test_tables_have_a_row_for_each_system_and_figure_in_their_order(finished):
    one, several = Trained("a", "", [finished()]), Trained("b", "", [finished(1), finished(2)])
    tables = report.figure_tables([one, several])
    assert [title.split(",")[0] for title in tables] == [
        "DESED validation", "MAESTRO Real validation", "DESED public evaluation"
    ]  # fmt: skip
    rows = next(iter(tables.values()))
    assert [(row["figure"], row["system"]) for row in rows] == [
        (figure, system)
        for figure in ("PSDS1", "PSDS2", "collar F1 at 0.5", "intersection F1 at 0.5", "rank score")
        for system in ("a", "b")
    ]
    assert [row["runs"] for row in rows[:2]] == ["seed 0", "2 seeds"]
    assert "system" not in next(iter(report.figure_tables([one]).values()))[0]


def test_stages_have_a_row_for_each_network_only_where_there_are_more_than_two(finished):
    run = finished(psds1=0.25)
    assert report.stage_rows(run) == []
    path = run.folder / "test" / "evaluation.json"
    content = json.loads(path.read_text())
    teacher = content["networks"]["teacher"]
    raw = {**teacher["raw"], "validation": {**teacher["raw"]["validation"], "psds1": {"value": float("nan")}}}
    content["networks"]["iteration1_stage2"] = {"raw": raw, "postprocessed": teacher["postprocessed"]}
    path.write_text(json.dumps(content))
    rows = report.stage_rows(run)
    assert [row["trained"] for row in rows] == ["student", "teacher", "iteration1 stage2"]
    assert rows[2]["validation PSDS1, raw"] is None and rows[2]["validation PSDS1, post-processed"] == "25.0"
    assert rows[1]["MAESTRO Real validation mpAUC, raw"] == "45.7"


def test_classes_have_their_figures_in_per_cent(finished):
    tables = report.class_rows(finished())
    assert list(tables) == ["DESED validation", "MAESTRO Real validation", "DESED public evaluation"]
    first = {"class": "a_long_name_of_class_0", "mpAUC": "12.3", "segment F1, best threshold": "12.3"}
    assert tables["MAESTRO Real validation"][0] == first
    assert list(tables["DESED validation"][0]) == [
        "class", "PSDS1", "PSDS2", "collar F1 at 0.5", "intersection F1 at 0.5"
    ]  # fmt: skip


LOG = "epoch,step,lr,train_loss,train_weak_loss,val_objective,val_weak_f1\n0,1,1,3,2,,\n1,2,1,2.5,1.5,0.4,0.3\n"


@pytest.fixture
def drawn(monkeypatch) -> list:
    """Plots that a part of the report holds."""
    found: list = []
    monkeypatch.setattr(report.html, "figure", lambda plot, **_options: found.append(plot) or "")
    return found


def trained(folder, *stages):
    """A run as far as its curves and costs go."""
    for stage in stages:
        (folder / stage).mkdir(parents=True)
        (folder / stage / "metrics.csv").write_text(LOG)
    return SimpleNamespace(folder=folder, settings=SimpleNamespace(training_stages=list(stages)))


def lines(plot) -> dict[str, tuple[list, list]]:
    axes = plot.axes[0]
    return {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines}


def test_curves_are_all_of_the_first_run_and_the_sums_of_the_others(tmp_path, drawn):
    report._curves_part([trained(tmp_path / "a", "train"), trained(tmp_path / "b", "train")])
    losses, validation = map(lines, drawn)
    assert losses == {
        "loss": ([0, 1], [3, 2.5]), "weak loss": ([0, 1], [2, 1.5]), "loss, b": ([0, 1], [3, 2.5])
    }  # fmt: skip
    assert validation == {"objective": ([1], [0.4]), "weak f1": ([1], [0.3]), "objective, b": ([1], [0.4])}
    assert [plot.axes[0].get_xlabel() for plot in drawn] == ["epoch", "epoch"]
    assert [plot.axes[0].get_ylabel() for plot in drawn] == ["loss", "validation"]
    assert {line.get_marker() for line in drawn[0].axes[0].lines} == {""}


def test_curves_of_many_trainings_are_the_sums_of_each_of_the_first_run(tmp_path, drawn):
    runs = [trained(tmp_path / name, "iteration1_stage1_atst", "iteration1_stage2_atst") for name in "ab"]
    report._curves_part(runs)
    assert list(lines(drawn[0])) == ["loss, iteration1 stage1 atst", "loss, iteration1 stage2 atst"]
    assert list(lines(drawn[1])) == ["objective, iteration1 stage1 atst", "objective, iteration1 stage2 atst"]


def test_a_training_without_validation_has_no_empty_plot(tmp_path, drawn):
    run = trained(tmp_path / "a", "train")
    (run.folder / "train" / "metrics.csv").write_text("epoch,train_loss\n0,3\n")
    report._curves_part([run])
    assert [list(lines(plot)) for plot in drawn] == [["loss"]]


def test_costs_are_sums_over_trainings_and_unmeasured_where_one_is(tmp_path):
    run = trained(tmp_path / "a", "first", "second")
    for stage, seconds, kwh in (("first", 1.04, 0.5), ("second", 2.0, 0.25), ("test", 7.0, None)):
        write_json(run.folder / stage / "stage.json", {"settings": {}, "seconds": seconds, "energy_kwh": kwh})
    assert report._cost_row(run) == {
        "run": "a", "train seconds": 3.0, "train kWh": 0.75, "test seconds": 7.0, "test kWh": "not measured"
    }  # fmt: skip


def test_per_cent_has_one_digit_and_nothing_where_there_is_no_number():
    assert [report._per_cent(value) for value in (0.12345, 1.0, None, np.nan)] == ["12.3", "100.0", None, None]


@pytest.fixture
def without_clips(monkeypatch):
    """Leaves out the parts of a report that need clips and scores."""
    for name in ("psd_roc", "clip_parts"):
        monkeypatch.setattr(report, name, lambda _run, _finisher: [])
    monkeypatch.setattr(report, "read_finisher", lambda _run: None)


def headings(page: str) -> list[str]:
    return re.findall(r"<h2[^>]*>([^<]*)</h2>", page)


def test_the_page_has_a_section_for_each_part_and_a_table_for_each_set(finished, without_clips, capsys):
    run = finished()
    write_json(run.folder / "train" / "stage.json", {"settings": {}, "seconds": 61.0, "energy_kwh": 0.5})
    path = report.write_task4_report([run.folder])
    assert path == run.folder / "report.html"
    page = path.read_text()
    usual = ["Results", "Classes", "PSD-ROC", "Clips", "Learning curves", "Energy", "Settings"]
    assert headings(page) == usual and "Published: the DCASE 2024 Task 4 baseline" in page
    for title in ("DESED validation", "MAESTRO Real validation", "DESED public evaluation"):
        whole = f"{title}, 1167 of 1168 clips, not comparable"
        assert page.count(f"<caption>{whole}</caption>") == 1
        assert page.count(f"<caption>{whole}, before post-processing</caption>") == 1
        assert page.count(f"<caption>{title}</caption>") == 1  # its classes
    assert page.count("<caption>Each run&#39;s training and test.</caption>") == 1
    assert f"Of the run {run.folder.name} (seed 0), per cent." in page and "DCASE Task 4, 1 run<" in page
    printed = capsys.readouterr().out
    assert "Sound events, post-processed, per cent: DESED validation" in printed and "MADE-UP DATA" in printed
    content = json.loads((run.folder / "test" / "evaluation.json").read_text())
    content["networks"]["ensemble"] = content["networks"]["teacher"]
    (run.folder / "test" / "evaluation.json").write_text(json.dumps(content))
    (run.folder.parent / "stopped").mkdir()
    (run.folder.parent / "stopped" / "settings.yaml").write_text((run.folder / "settings.yaml").read_text())
    other = finished(1)
    paths = [run.folder, other.folder, run.folder.parent / "stopped"]
    page = report.write_task4_report(paths, run.folder.parent / "all.html").read_text()
    assert headings(page) == [usual[0], "Stages", *usual[1:]] and "DCASE Task 4, 2 runs<" in page
    assert "Not finished and left out: stopped" in page


def test_the_figures_of_a_run_are_printed_set_by_set(finished, capsys):
    report.print_run(finished(psds1=0.25), "Run")
    printed = capsys.readouterr().out
    assert "Run: DESED validation, 1167 of 1168 clips" in printed and "25.0" in printed and "seed 0" not in printed
