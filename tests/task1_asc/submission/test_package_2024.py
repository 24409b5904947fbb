"""From finished runs to a package and a report; the runs are made up, without training."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from common.data.files import write_json
from common.errors import UserError
from common.settings import dump_settings, load_settings
from common.settings.yaml_file import read_yaml
from submissions.package import check_package
from task1_asc.data.tau2022 import CLASSES, DEVICES, SUBSETS
from task1_asc.evaluate import write_predictions
from task1_asc.metrics import score_scenes
from task1_asc.recipe import RECIPE
from task1_asc.report import read_finished, result_rows, write_task1_report
from task1_asc.settings import Task1Settings
from task1_asc.submission.package_2024 import choose_runs, development_figures, package
from tests.support.places import ROOT

DEMO_META = ROOT / "submissions" / "templates" / "demo" / "task1_2024.yaml"
LABEL = "Lastname_INST_task1_1"


def write_run(folder: Path, subset: int, seed: int) -> Path:
    """A finished run whose scores and predictions come from random logits."""
    overrides = {"subset": subset, "seed": seed, "runs": str(folder.parent), "name": folder.name}
    settings = load_settings(Task1Settings, ROOT / "task1_asc" / "configs" / "small.yaml", overrides)
    folder.mkdir(parents=True)
    (folder / "settings.yaml").write_text(dump_settings(settings))
    random = np.random.default_rng([subset, seed])
    target = np.repeat(np.arange(len(CLASSES)), 2 * len(DEVICES))
    devices = np.tile(DEVICES, 2 * len(CLASSES))
    logits = random.normal(size=(len(target), len(CLASSES))) + (1 + subset / 50) * np.eye(len(CLASSES))[target]
    segments = [f"segment{number // 3}" for number in range(len(target))]
    scores = score_scenes(logits, target, devices, segments, random, resamples=20)
    facts = {"subset": subset, "seed": seed, "made_up": True, "float32": scores, "float16": scores}
    for stage in ("train", "test"):
        write_json(folder / stage / "stage.json", {"settings": {}, "seconds": 1.0, "energy_kwh": 0.001})
    write_json(folder / "test" / "evaluation.json", facts)
    write_json(folder / "train" / "energy.json", {"energy_kwh": 0.001, "seconds": 60.0, "components": {}})
    (folder / "train" / "metrics.csv").write_text("epoch,step,train_loss\n1,10,2.2\n2,20,2.0\n")
    names = [f"audio/{number}.wav" for number in range(30)]
    write_predictions(folder / "predictions" / "output.csv", names, random.normal(size=(30, len(CLASSES))))
    write_json(folder / "predictions" / "predictions.json", {"precision": "float16", "year": 2024, "made_up": True})
    return folder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    folders = {f"subset={s} seed={r}": str(write_run(runs / f"s{s}_{r}", s, r)) for s in SUBSETS for r in (3, 4)}
    write_json(runs / "sweep" / "sweep.json", {"over": ["subset", "seed"], "settings": {}, "runs": folders})
    return runs / "sweep"


def test_a_sweep_becomes_a_package_that_breaks_no_rule(sweep, tmp_path):
    zip_path = package([sweep], LABEL, DEMO_META, tmp_path)
    assert all(result.holds for result in check_package(zip_path)[1])
    meta = read_yaml(next(tmp_path.rglob("*.meta.yaml"))).data
    development = meta["results"]["development_dataset"]
    figures = re.findall(r"'(?:accuracy|logloss)': [\d.]+", str(development))
    assert len(figures) == 200
    complexity = meta["system"]["complexity"]
    assert complexity["total_model_size"] == 2 * complexity["total_parameters"]
    assert complexity["energy_consumption"]["training_kwh"] == pytest.approx(0.005)
    assert meta["submission"]["label"] == LABEL and meta["submission"]["authors"][0]["lastname"] == "Lastname"


def test_the_figures_are_those_of_the_run(sweep):
    scores = json.loads((sweep.parent / "s25_3" / "test" / "evaluation.json").read_text())["float16"]
    figures = development_figures(scores)
    assert figures["overall"]["accuracy"] == round(100 * scores["macro_accuracy"]["value"], 2)
    assert figures["device_wise"]["s6"]["logloss"] == round(scores["device_wise"]["s6"]["log_loss"], 4)


def test_the_lowest_seed_that_every_subset_has_is_taken(sweep):
    assert {run.settings.seed for run in choose_runs([sweep]).values()} == {3}
    assert {run.settings.seed for run in choose_runs([sweep], seed=4).values()} == {4}
    with pytest.raises(UserError, match="No seed 9"):
        choose_runs([sweep], seed=9)


def test_a_missing_subset_is_named(sweep):
    runs = [sweep.parent / f"s{subset}_3" for subset in (5, 25, 100)]
    with pytest.raises(UserError, match="no run of subset 10, 50; a submission needs all five"):
        choose_runs(runs)


def test_nothing_is_written_when_something_is_wrong(sweep, tmp_path):
    meta = tmp_path / "META.yaml"
    text = DEMO_META.read_text().replace("firstname", "fristname").replace("Example University", "FILL IN")
    meta.write_text(text)
    with pytest.raises(UserError) as told:
        package([sweep], LABEL, meta, tmp_path / "out")
    assert f"{meta}:6: submission.authors[0].firstname is missing" in str(told.value)
    assert "fristname is not a key of this file. Did you mean firstname?" in str(told.value)
    assert "institute: FILL IN is still to be filled in" in str(told.value)
    with pytest.raises(UserError, match="not a label"):
        package([sweep], "Lastname_task1", DEMO_META, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_package_is_not_overwritten_but_a_second_system_joins_it(sweep, tmp_path):
    package([sweep], LABEL, DEMO_META, tmp_path)
    with pytest.raises(UserError, match="exists"):
        package([sweep], LABEL, DEMO_META, tmp_path)
    zip_path = package([sweep], "Lastname_INST_task1_2", DEMO_META, tmp_path, seed=4)
    results = check_package(zip_path)[1]
    assert all(result.holds for result in results)
    assert len(list((tmp_path / "Lastname_INST_task1" / "task1").glob("*_task1_?"))) == 2


def test_runs_of_different_evaluation_sets_are_not_mixed(sweep, tmp_path):
    folder = shutil.copytree(sweep.parent / "s25_3", tmp_path / "s25_3")
    path = folder / "predictions" / "output.csv"
    path.write_text(path.read_text().replace("29.wav", "99.wav"))
    runs = [folder, *(sweep.parent / f"s{subset}_3" for subset in SUBSETS if subset != 25)]
    with pytest.raises(UserError, match="different evaluation sets"):
        package(runs, LABEL, DEMO_META, tmp_path / "out")


def test_the_report_has_our_figures_and_the_published_ones(sweep, tmp_path, capsys):
    text = write_task1_report([sweep], tmp_path / "report.html").read_text()
    assert "made-up data" in text and "56.99" not in text and "57.0" in text
    rows = result_rows(read_finished([sweep])[0], "float32")
    assert [row["subset"] for row in rows] == ["5 %", "10 %", "25 %", "50 %", "100 %", "rank score"]
    assert all(row["macro accuracy"] in text for row in rows)
    assert "MADE-UP DATA" in capsys.readouterr().out.replace("\n", " ")


def test_an_unfinished_run_is_left_out_and_named(sweep, tmp_path):
    unfinished = shutil.copytree(sweep.parent / "s5_3", tmp_path / "stopped")
    (unfinished / "test" / "stage.json").unlink()
    text = write_task1_report([sweep.parent / "s5_4", unfinished], tmp_path / "report.html").read_text()
    assert "Not finished and left out: stopped" in text
    with pytest.raises(UserError, match="No run in"):
        write_task1_report([unfinished])
    assert RECIPE.open(unfinished).settings.subset == 5
