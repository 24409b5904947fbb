"""Packages of Task 1 of 2026 from runs: the class of each clip, and 72 figures out of the predictions of the folds."""

import json

import numpy as np
import pandas as pd
import pytest

from common.errors import UserError
from common.runs.run import Run
from common.settings import dump_settings
from common.settings.yaml_file import read_yaml
from submissions.package import check_package
from submissions.participant import TEMPLATES_FOLDER
from task1_asc.broad_sounds.metrics import NAMES, hierarchical_scores
from task1_asc.broad_sounds.settings import SoundSettings
from task1_asc.broad_sounds.submission import package
from task1_asc.broad_sounds.taxonomy import CODES

LABEL = "Lastname_INST_task1_1"
META = TEMPLATES_FOLDER / "demo" / "task1_2026.yaml"
IDS = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(40)]


def write_probabilities(path, keys, seed, right=None):
    """A table with random probabilities; those of the class `right` are raised in most rows."""
    generator = np.random.default_rng(seed)
    values = generator.dirichlet(np.full(len(CODES), 0.3), len(next(iter(keys.values()))))
    if right is not None:
        rows = generator.random(len(values)) < 0.7
        values[rows] = 0.5 * values[rows] + 0.5 * np.eye(len(CODES))[right][rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(keys).join(pd.DataFrame(values, columns=list(CODES)))
    table.to_csv(path, index=False, float_format="%.7g")
    return table


def write_run(folder, seed, folds=5, answers=IDS, answered_by=None, **facts):
    """A finished run with `predict`; returns it and its test predictions."""
    run = Run(folder, SoundSettings(data={"curated": folder.parent / "BSD10k"}, name=folder.name))
    (folder / "test").mkdir(parents=True)
    (folder / "settings.yaml").write_text(dump_settings(run.settings))
    (folder / "test" / "stage.json").write_text('{"settings": {}}')
    content = {"set": "bsd10k", "made_up": True, "parameters": 1000, "macs": 900, **facts}
    (folder / "test" / "evaluation.json").write_text(json.dumps(content))
    truth = np.tile(np.arange(len(CODES)), 2 * folds)
    keys = {
        "sound_id": range(len(truth)),
        "fold": np.repeat(range(folds), 2 * len(CODES)),
        "class": np.array(CODES)[truth],
    }
    tested = write_probabilities(folder / "test" / "predictions.csv", keys, seed, truth)
    if answers:
        write_probabilities(folder / "predictions" / "predictions.csv", {"anonymous_id": answers}, seed + 100)
        facts = {"made_up": True, "runs": answered_by or [folder.name]}
        (folder / "predictions" / "evaluation.json").write_text(json.dumps(facts))
    return folder, tested


def read_package(zip_path):
    folder = zip_path.with_suffix("") / "task1" / LABEL
    return pd.read_csv(folder / f"{LABEL}.output.csv"), read_yaml(folder / f"{LABEL}.meta.yaml").data


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [write_run(folder / f"run_{seed}", seed) for seed in (0, 1)]


def test_every_rule_holds_and_the_figures_are_the_means_of_the_folds(runs, tmp_path):
    folder, tested = runs[0]
    zip_path = package([folder], LABEL, META, tmp_path)
    opened, results = check_package(zip_path)
    assert opened.rules.name == "task1_2026" and all(result.holds for result in results)
    assert {result.name for result in results if result.findings} <= {
        "technical_report",
        "evaluation_list",
    }
    table, meta = read_package(zip_path)
    answers = pd.read_csv(folder / "predictions" / "predictions.csv")
    assert table["id"].tolist() == IDS
    assert table["predicted_bst_second_level_class"].tolist() == answers[list(CODES)].idxmax(axis=1).tolist()
    assert table["prediction_score"].tolist() == pytest.approx(answers[list(CODES)].max(axis=1).tolist(), abs=1e-6)
    folds = [hierarchical_scores(part["class"].tolist(), part[list(CODES)].idxmax(axis=1).tolist())
             for _, part in tested.groupby("fold")]  # fmt: skip
    figures = meta["results"]["development_datasets"]["bsd10k-v1.2"]
    for name in NAMES:
        assert figures["overall"][name] == pytest.approx(np.mean([fold[name] for fold in folds]), abs=6e-5)
    means = [np.mean([fold["per_class"][code]["hF"] for fold in folds]) for code in CODES]
    assert [figures["class_wise"][code]["hF"] for code in CODES] == pytest.approx(means, abs=6e-5)
    assert sum(len(one) for one in figures["class_wise"].values()) + len(figures["overall"]) == 72
    assert meta["system"]["complexity"] == {"total_parameters": 1000, "MACS": 900}
    assert meta["results"]["development_datasets"]["bsd35k-cs"]["overall"] == dict.fromkeys(NAMES)


def test_several_runs_average_their_logits(runs, tmp_path):
    zip_path = package([folder for folder, _ in runs], LABEL, META, tmp_path)
    table, meta = read_package(zip_path)
    logits = sum(np.log(pd.read_csv(folder / "predictions" / "predictions.csv")[list(CODES)]) for folder, _ in runs)
    assert table["predicted_bst_second_level_class"].tolist() == logits.idxmax(axis=1).tolist()
    assert meta["system"]["complexity"]["total_parameters"] == 2000
    tested = sum(np.log(table[list(CODES)]) for _, table in runs).idxmax(axis=1)
    folds = runs[0][1].assign(predicted=tested).groupby("fold")
    scores = [hierarchical_scores(part["class"].tolist(), part["predicted"].tolist())["hF"] for _, part in folds]
    figures = meta["results"]["development_datasets"]["bsd10k-v1.2"]["overall"]
    assert figures["hF"] == pytest.approx(np.mean(scores), abs=6e-5)


def test_answers_that_predict_averaged_are_taken_from_the_first_run(tmp_path):
    folders = [
        write_run(tmp_path / "a", 0, answered_by=["a", "b"])[0],
        write_run(tmp_path / "b", 1, answers=None)[0],
    ]
    table, _ = read_package(package(folders, LABEL, META, tmp_path / "out"))
    answers = pd.read_csv(folders[0] / "predictions" / "predictions.csv")
    assert table["predicted_bst_second_level_class"].tolist() == answers[list(CODES)].idxmax(axis=1).tolist()
    with pytest.raises(
        UserError, match=r"predictions.csv holds answers of a, b. Call `python -m task1_asc sounds predict"
    ):
        package(folders[:1], LABEL, META, tmp_path / "another")


def test_figures_of_the_crowd_are_filled_in_where_it_was_tested(tmp_path):
    folder, tested = write_run(tmp_path / "a", 0)
    tested.to_csv(folder / "test" / "bsd35k-cs_predictions.csv", index=False)
    _, meta = read_package(package([folder], LABEL, META, tmp_path / "out"))
    sets = meta["results"]["development_datasets"]
    assert sets["bsd35k-cs"]["overall"] == sets["bsd10k-v1.2"]["overall"]


def test_a_real_set_is_checked_by_its_list(tmp_path):
    folder, _ = write_run(tmp_path / "a", 0)
    (folder / "predictions" / "evaluation.json").write_text('{"made_up": false, "runs": ["a"]}')
    zip_path = package([folder], LABEL, META, tmp_path / "out")
    assert not (zip_path.with_suffix("") / "made_up_evaluation_set.json").exists()
    evaluation_set = zip_path.with_name("Lastname_INST_task1.evaluation_set.json")
    assert all(result.holds for result in check_package(zip_path, evaluation_set=evaluation_set)[1])


BAD = {
    "no predictions": (
        lambda f: (f / "predictions" / "predictions.csv").unlink(),
        r"predictions.csv does not exist. Make it with",
    ),
    "no test": (
        lambda f: (f / "test" / "predictions.csv").unlink(),
        r"test/predictions.csv does not exist; test the run again",
    ),
    "another set": (
        lambda f: (f / "test" / "evaluation.json").write_text('{"set": "bsd35k-cs", "parameters": 1, "macs": null}'),
        "was tested on bsd35k-cs; the meta file asks for figures of BSD10k",
    ),
    "a probability of 2": (
        lambda f: edit(f, lambda table: table.assign(**{"m-m": 2.0})),
        r"predictions.csv:2 holds a value that is no probability",
    ),
    "a code missing": (
        lambda f: edit(f, lambda table: table.drop(columns="fx-n")),
        "predictions.csv:1 has no column fx-n",
    ),
    "a damaged list": (
        lambda f: (f / "predictions" / "evaluation.json").write_text("{}"),
        r"evaluation.json .*call `python -m task1_asc sounds predict",
    ),
}


def edit(folder, change):
    path = folder / "predictions" / "predictions.csv"
    change(pd.read_csv(path)).to_csv(path, index=False)


@pytest.mark.parametrize("name", BAD)
def test_what_is_missing_or_damaged_is_named_and_nothing_is_left(tmp_path, name):
    damage, told = BAD[name]
    folder, _ = write_run(tmp_path / "a", 0)
    damage(folder)
    with pytest.raises(UserError, match=told):
        package([folder], LABEL, META, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_of_other_clips_are_refused(tmp_path):
    folders = [write_run(tmp_path / "a", 0)[0], write_run(tmp_path / "b", 1, answers=IDS[::-1])[0]]
    with pytest.raises(UserError, match="is of other clips, folds or classes than"):
        package(folders, LABEL, META, tmp_path / "out")


def test_few_folds_and_classes_without_predictions_are_told(tmp_path, capsys):
    folder, _ = write_run(tmp_path / "a", 0, folds=2)
    path = folder / "test" / "predictions.csv"
    pd.read_csv(path).assign(**{"m-m": 0.0}).to_csv(path, index=False)
    _, meta = read_package(package([folder], LABEL, META, tmp_path / "out"))
    told = capsys.readouterr().err
    assert "Figures of 2 of the five folds" in told
    assert "Never predicted in a fold: m-m" in told
    assert meta["results"]["development_datasets"]["bsd10k-v1.2"]["class_wise"]["m-m"]["hF"] == 0
