"""From finished runs to a package and a report; the runs are made up, without training."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.data.files import compute_sha256, write_json
from common.errors import UserError
from common.settings import load_settings
from common.settings.yaml_file import read_yaml
from submissions.package import check_package
from task1_asc.data.tau2022 import SUBSETS
from task1_asc.recipe import RECIPE
from task1_asc.report import read_finished, result_rows, write_task1_report
from task1_asc.settings import Task1Settings
from task1_asc.submission import package_2024
from task1_asc.submission.package_2024 import check_before_training, choose_runs, development_figures, package
from tests.support.finished_runs import write_task1_sweep
from tests.support.places import ROOT

DEMO_META = ROOT / "submissions" / "templates" / "demo" / "task1_2024.yaml"
LABEL = "Lastname_INST_task1_1"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    return write_task1_sweep(tmp_path_factory.mktemp("runs") / "sweep", SUBSETS, (3, 4))


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


@pytest.mark.parametrize(
    ("file", "before", "after", "sentence"),
    [
        ("output.csv", "29.wav", "99.wav", "different evaluation sets"),
        ("predictions.json", "float16", "float32", "different evaluation sets or precisions"),
    ],
)
def test_runs_of_different_evaluation_sets_or_precisions_are_not_mixed(sweep, tmp_path, file, before, after, sentence):
    folder = shutil.copytree(sweep.parent / "s25_3", tmp_path / "s25_3")
    path = folder / "predictions" / file
    path.write_text(path.read_text().replace(before, after))
    runs = [folder, *(sweep.parent / f"s{subset}_3" for subset in SUBSETS if subset != 25)]
    with pytest.raises(UserError, match=sentence):
        package(runs, LABEL, DEMO_META, tmp_path / "out")


def test_the_report_has_our_figures_and_the_published_ones(sweep, tmp_path, capsys):
    text = write_task1_report([sweep], tmp_path / "report.html").read_text().replace("\u00a0", " ")
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


def energy_of(folder: Path, **stages) -> float | None:
    """What a distilled run declares whose stages took this energy; teachers, network, 8-bit network."""
    settings = load_settings(Task1Settings, ROOT / "task1_asc" / "configs" / "distilled_small.yaml")
    for name, kwh in stages.items():
        write_json(folder / name / "energy.json", {"energy_kwh": kwh, "seconds": 1.0, "components": {}})
    return package_2024._training_energy(SimpleNamespace(folder=folder, settings=settings))


def test_energy_is_that_of_all_trainings_and_unknown_where_one_was_not_measured(tmp_path, sweep):
    assert energy_of(tmp_path / "a", teachers=0.5, train=0.25, quantize=0.125, test=8.0) == 0.875
    assert energy_of(tmp_path / "b", train=0.25, quantize=0.5) is None
    assert energy_of(tmp_path / "c", teachers=0.5, train=None, quantize=0.5) is None
    runs = []
    for number, subset in enumerate(SUBSETS):
        run = shutil.copytree(sweep.parent / f"s{subset}_3", tmp_path / str(subset))
        write_json(run / "train" / "energy.json", {"energy_kwh": 10.0**number, "seconds": 1.0, "components": {}})
        scores = json.loads((run / "test" / "evaluation.json").read_text())["float16"]
        runs.append(package_2024.SubsetRun(RECIPE.open(run), scores, {"precision": "float16"}))
    figures = package_2024.complexity_figures(runs)
    assert figures["energy_consumption"]["training_kwh"] == 11111 and figures["precision"] == "float16"
    (tmp_path / "25" / "train" / "energy.json").unlink()
    assert package_2024.complexity_figures(runs)["energy_consumption"]["training_kwh"] == "not measured"


@pytest.mark.parametrize(("tested", "made_again"), [("absent", True), (None, False), ("this", False), ("other", True)])
def test_predictions_of_networks_that_were_trained_again_are_made_again(
    sweep, tmp_path, monkeypatch, tested, made_again
):
    run = RECIPE.open(shutil.copytree(sweep.parent / "s25_3", tmp_path / "run"))
    path, called = run.folder / "predictions" / "predictions.json", []
    facts = {"precision": "float32", "year": 2024, "made_up": False}
    if tested == "this":
        tested = compute_sha256(run.folder / "test" / "stage.json")
    write_json(path, facts | ({"tested_sha256": tested} if tested else {}))
    if tested == "absent":
        path.unlink()

    def predict(predicted, root):
        called.append(root)
        write_json(path, facts)

    monkeypatch.setattr(package_2024, "predict", predict)
    chosen = package_2024._with_predictions(run)
    assert called == [run.settings.data.root] * made_again
    assert chosen.scores == run.read_evaluation()["float32"]
    assert chosen.facts["made_up"]  # the figures are


def test_what_would_be_refused_after_the_training_is_refused_before(tmp_path):
    check_before_training(LABEL, DEMO_META, tmp_path)
    with pytest.raises(UserError, match="not a label"):
        check_before_training("Lastname_task1", DEMO_META, tmp_path)
    with pytest.raises(UserError, match=r"needs --meta META\.yaml"):
        check_before_training(LABEL, None, tmp_path)
    (tmp_path / "Lastname_INST_task1" / "task1" / LABEL).mkdir(parents=True)
    with pytest.raises(UserError, match="exists"):
        check_before_training(LABEL, DEMO_META, tmp_path)


def test_a_class_without_clips_has_no_figures_to_declare(sweep):
    scores = json.loads((sweep.parent / "s25_3" / "test" / "evaluation.json").read_text())["float16"]
    scores["device_wise"]["s6"] |= {"accuracy": None, "log_loss": None}
    with pytest.raises(UserError, match="no clips of s6; the meta file needs their figures"):
        development_figures(scores)
