"""Three small runs as a package of the challenge, their report, and the commands."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from common.cli import run
from common.errors import UserError
from common.runs.systems import read_systems
from common.settings import load_settings
from common.settings.yaml_file import read_yaml
from submissions.package import check_package
from submissions.participant import TEMPLATES_FOLDER, write_template
from task4_sed import submission
from task4_sed.__main__ import VERBS
from task4_sed.baseline.settings import Task4Settings
from task4_sed.reports.report import class_rows, figure_rows, figure_tables, write_task4_report
from task4_sed.submission import package
from task4_sed.systems import load_recipe, prepare_stores
from tests.support.quick_task4 import QUICK, SMALL

LABEL = "Lastname_INST_task4_1"
META = TEMPLATES_FOLDER / "demo" / "task4_2024.yaml"


@pytest.fixture(scope="module")
def runs(tiny_task4, tmp_path_factory) -> list[Path]:
    """Three runs of one epoch, with energies as codecarbon writes them."""
    folder = tmp_path_factory.mktemp("runs")
    paths = []
    for seed in range(3):
        places = {"data.root": str(tiny_task4), "runs": str(folder), "name": "seed{seed}", "seed": seed}
        settings = load_settings(Task4Settings, SMALL, {**QUICK, **places, "trainer.epochs": 1})
        if seed == 0:
            prepare_stores(settings)
        paths.append(load_recipe().run(settings).folder)
        for stage, kwh in (("train", 0.5 + seed), ("test", 0.1)):
            # A tracker that is flushed writes the energy so far: the last row of a run counts.
            rows = {"run_id": ["x", "x"], "duration": [1.0, 2.0], "energy_consumed": [kwh / 2, kwh]}
            pd.DataFrame(rows).to_csv(paths[-1] / stage / "emissions.csv", index=False)
    return paths


def test_three_runs_make_a_package_that_keeps_every_rule(runs, tmp_path, capsys):
    zip_path = package(runs, LABEL, META, reference=runs[2], out=tmp_path)
    assert capsys.readouterr().err.count("predicting the evaluation set below") == 3
    for path in (zip_path, zip_path.with_suffix("")):
        _, results = check_package(path)
        assert [result.name for result in results if not result.holds] == []
    folder = tmp_path / "Lastname_INST_task4" / "task4" / LABEL
    meta = read_yaml(folder / f"{LABEL}.meta.yaml").data
    energy = meta["system"]["energy"]
    assert energy["training_kwh"] == pytest.approx(0.5)
    assert energy["reference_training_kwh"] == pytest.approx(2.5)
    assert energy["training_ratio"] == pytest.approx(0.2)
    assert energy["devtest_ratio"] == pytest.approx(1.0)
    assert meta["system"]["complexity"]["macs"] > meta["system"]["complexity"]["total_parameters"] > 100
    each = meta["results"]["development_dataset"]["runs"]
    assert meta["results"]["development_dataset"]["mpAUC"] == pytest.approx(sum(r["mpAUC"] for r in each) / 3, abs=1e-3)
    raw = pd.read_csv(next((folder / f"{LABEL}_run1_unprocessed.output").glob("*.tsv")), sep="\t")
    assert raw.shape[1] == 29
    assert raw["offset"].iloc[-1] == pytest.approx(10.0)
    assert (raw["onset"].iloc[1:].to_numpy() == raw["offset"].iloc[:-1].to_numpy()).all()


def test_the_evaluation_set_of_real_predictions_is_checked_with_its_durations(runs, tmp_path, monkeypatch):
    package(runs, LABEL, META, reference=runs[2], out=tmp_path / "made_up")
    found = [path / "predictions" / "predictions.json" for path in runs]
    kept = [path.read_text() for path in found]
    checked = []
    monkeypatch.setattr(submission, "finish_package", lambda folder, evaluation: checked.append(evaluation))
    try:
        for path, text in zip(found, kept):
            path.write_text(json.dumps(json.loads(text) | {"made_up": False}))
        package(runs, LABEL, META, reference=runs[2], out=tmp_path / "real")
    finally:
        for path, text in zip(found, kept):
            path.write_text(text)
    durations = json.loads(kept[0])["durations"]
    assert checked[0].durations == durations and checked[0].files == sorted(durations)
    assert checked[0].source == str(load_recipe().open(runs[0]).settings.data.root)


def test_declared_figures_are_means_with_four_digits():
    def finished(psds1, mpauc):
        scores = {"validation": {"psds1": {"value": psds1}}, "maestro_validation": {"mpauc": {"value": mpauc}}}
        content = {"networks": {"teacher": {"postprocessed": scores}}}
        return SimpleNamespace(settings=SimpleNamespace(network="teacher"), read_evaluation=lambda: content)

    assert submission.development_figures([finished(0.123456, 0.654321), finished(0.223456, 0.754321)]) == {
        "PSDS1": 0.1735, "mpAUC": 0.7043,
        "runs": [{"PSDS1": 0.1235, "mpAUC": 0.6543}, {"PSDS1": 0.2235, "mpAUC": 0.7543}],
    }  # fmt: skip


def test_a_package_needs_three_different_runs_with_measured_energy(runs, tmp_path):
    with pytest.raises(UserError, match="needs 3 independent runs, found 2"):
        package(runs[:2], LABEL, META, runs[0], out=tmp_path)
    with pytest.raises(UserError, match=r"have the seeds \[0, 1, 1\]"):
        package([runs[0], runs[1], runs[1]], LABEL, META, runs[0], out=tmp_path)
    moved = runs[0] / "train" / "emissions.csv"
    moved.rename(moved.with_suffix(".kept"))
    try:
        with pytest.raises(UserError, match="the energy of train was not measured"):
            package(runs, LABEL, META, runs[0], out=tmp_path)
        pd.DataFrame({"run_id": ["x"], "duration": [1.0], "energy_consumed": [0.0]}).to_csv(moved, index=False)
        with pytest.raises(UserError, match="training_kwh is 0, codecarbon could measure nothing"):
            package(runs, LABEL, META, runs[1], out=tmp_path)
    finally:
        moved.with_suffix(".kept").rename(moved)


def test_the_template_names_what_is_still_to_be_filled_in(runs, tmp_path):
    write_template("task4_2024", tmp_path / "META.yaml")
    with pytest.raises(UserError, match=r"META\.yaml:4: .*still to be filled in"):
        package(runs, LABEL, tmp_path / "META.yaml", runs[0], out=tmp_path)


def test_the_report_is_one_page_with_figures_classes_curves_clips_and_sounds(runs, tmp_path, capsys):
    page = write_task4_report(runs, tmp_path / "report.html").read_text()
    for part in ("Made-up data", "PSDS1", "mpAUC", "PSD-ROC", "Vacuum_cleaner", "birds_singing", "best:", "worst:"):
        assert part in page
    assert page.count("<audio") == 4
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "MADE-UP DATA" in capsys.readouterr().out


def test_a_run_shows_intervals_over_recordings_and_several_runs_over_seeds(runs):
    opened = [load_recipe().open(path) for path in runs]
    alone = {row["figure"]: row["value"] for row in figure_rows(opened[:1]) if row["set"] == "MAESTRO Real validation"}
    together = {row["figure"]: row["value"] for row in figure_rows(opened) if row["set"] == "MAESTRO Real validation"}
    assert alone["mpAUC"] != together["mpAUC"]
    assert "[" in alone["mpAUC"] and "[" in together["mpAUC"]
    assert set(class_rows(opened[0])) == {"DESED validation", "DESED public evaluation", "MAESTRO Real validation"}


def test_runs_of_different_test_sets_stand_in_one_report(runs, tmp_path):
    desed = shutil.copytree(runs[0], tmp_path / "desed")
    path, record = desed / "test" / "evaluation.json", desed / "test" / "stage.json"
    content = json.loads(path.read_text())
    for scores in content["networks"].values():
        for kind in scores.values():
            del kind["maestro_validation"], kind["validation"]["rank_score"]
    path.write_text(json.dumps(content))
    record.write_text(json.dumps(json.loads(record.read_text()) | {"evaluation_sha256": None}))
    settings = desed / "settings.yaml"
    settings.write_text(settings.read_text().replace("lr: ", "lr: 1"))
    for stage in desed.glob("*/stage.json"):
        stage.write_text(json.dumps(json.loads(stage.read_text()) | {"settings": {}}))
    systems, _ = read_systems([runs[0], desed], load_recipe().open)
    tables = figure_tables(systems)
    assert [row["system"] for row in tables[next(iter(tables))][:2]] == ["seed0", "desed"]
    (maestro,) = (rows for title, rows in tables.items() if title.startswith("MAESTRO"))
    assert {row["system"] for row in maestro} == {"seed0"}


def test_runs_are_compared_on_all_their_test_sets(runs, capsys):
    assert run("python -m task4_sed", VERBS, ["compare", *map(str, runs[:2]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["made_up"] and [one["name"] for one in found["systems"]] == ["seed0", "seed1"]
    figures = found["systems"][0]["figures"]
    assert next(iter(figures)) == "rank score" and {"PSDS1", "mpAUC", "public evaluation PSDS1"} <= set(figures)
    evaluation = json.loads((runs[0] / "test" / "evaluation.json").read_text())["networks"]["teacher"]["postprocessed"]
    for name, key in (("PSDS1", "psds1"), ("collar F1 at 0.5", "collar_f1"), ("rank score", "rank_score")):
        assert figures[name]["value"] == pytest.approx(evaluation["validation"][key]["value"])


def test_the_commands_answer(runs, capsys):
    assert run("python -m task4_sed", VERBS, ["evaluate", str(runs[0]), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["networks"]["teacher"]["postprocessed"]["validation"]["psds1"]["value"] >= 0
    assert run("python -m task4_sed", VERBS, ["evaluate", str(runs[0] / "train")]) == 2
    assert "is no run" in capsys.readouterr().err
    assert run("python -m task4_sed", VERBS, ["evaluate", str(runs[0])]) == 0
    assert "Made-up data: teacher" in capsys.readouterr().out
    help_text = subprocess.run(
        [sys.executable, "-m", "task4_sed", "--help"], capture_output=True, text=True, check=True
    )
    assert all(verb in help_text.stdout for verb in VERBS)
