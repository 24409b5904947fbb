"""Packages of Task 6 of 2026 from a run: ten windows without scores, and figures that follow from its predictions."""

import json

import numpy as np
import pytest

from common.errors import CheckFailed, UserError
from common.runs.run import Run
from common.settings import dump_settings
from common.settings.yaml_file import read_yaml
from retrieval.moments.annotations import read_queries, write_predictions
from retrieval.moments.settings import MomentSettings
from retrieval.moments.submission import package
from submissions.package import check_package
from submissions.participant import TEMPLATES_FOLDER

LABEL = "Lastname_INST_task6_1"
META = TEMPLATES_FOLDER / "demo" / "task6_2026.yaml"


def write_queries(path, count, truth):
    """Queries with one true window each, 10 to 20 s."""
    lines = [{"qid": f"{path.stem}_{n}", "query": f"Sound {n}", "duration": 60, "vid": f"{path.stem}_v{n // 2}"}
             for n in range(count)]  # fmt: skip
    lines = [line | {"relevant_windows": [[10, 20]]} for line in lines] if truth else lines
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return read_queries(path, with_windows=truth)


@pytest.fixture
def run(tmp_path):
    """A finished run that hits 3 of 4 test queries at 0.5 and 1 of 4 at 0.7, with answers to 3 queries."""
    root, folder = tmp_path / "data", tmp_path / "run"
    for place in (root, folder / "test", folder / "predictions"):
        place.mkdir(parents=True)
    tested, asked = write_queries(root / "test.jsonl", 4, True), write_queries(root / "asked.jsonl", 3, False)
    source = {"root": root, "annotations": "test.jsonl"}
    settings = MomentSettings(
        name="run",
        data={"training": source, "validation": source, "evaluation": source},
        system={"kind": "similarity"},
    )
    (folder / "settings.yaml").write_text(dump_settings(settings))
    (folder / "test" / "stage.json").write_text('{"settings": {}}')
    figures = {"similarity": {"R1@0.5": {"value": 0.75}, "R1@0.7": {"value": 0.25}}}
    (folder / "test" / "evaluation.json").write_text(json.dumps({"figures": figures, "made_up": True}))
    first = ([10, 19, 0.9], [10, 16, 0.9], [14, 20, 0.9], [40, 50, 0.9])
    write_predictions(
        folder / "test" / "predictions.jsonl",
        tested,
        {one.qid: np.array([window]) for one, window in zip(tested, first)},
    )
    windows = {one.qid: np.array([[start + number, start + 7.25, 0.5] for start in range(12)])
               for number, one in enumerate(asked)}  # fmt: skip
    write_predictions(folder / "predictions" / "predictions.jsonl", asked, windows)
    known = {"annotations": str(root / "asked.jsonl"), "made_up": True}
    (folder / "predictions" / "evaluation.json").write_text(json.dumps(known))
    return Run(folder, settings)


def answers(run):
    return run.folder / "predictions" / "predictions.jsonl"


def change_answers(run, line, windows):
    rows = [json.loads(row) for row in answers(run).read_text().splitlines()]
    rows[line]["pred_relevant_windows"] = windows
    answers(run).write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def read_package(zip_path):
    folder = zip_path.with_suffix("") / "task6" / LABEL
    lines = (folder / f"{LABEL}.output.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], read_yaml(folder / f"{LABEL}.meta.yaml").data


def test_every_rule_holds_and_the_figures_are_those_of_the_run(run, tmp_path):
    zip_path = package([run.folder], LABEL, META, tmp_path / "out")
    opened, results = check_package(zip_path)
    assert opened.rules.name == "task6_2026" and all(result.holds for result in results)
    warned = {result.name for result in results for one in result.findings if one.kind == "warning"}
    assert warned == {"technical_report"}
    rows, meta = read_package(zip_path)
    assert rows[1]["pred_relevant_windows"] == [[start + 1, start + 7.25] for start in range(10)]
    assert [list(row) for row in rows] == 3 * [["qid", "query", "vid", "pred_relevant_windows"]]
    assert meta["results"]["development_testing"] == {"Recall1@0.7": 25.0, "Recall1@0.5": 75.0}
    assert meta["system"]["model"]["trainable_parameters"] == 0


def test_doubled_and_late_windows_are_mended(run, tmp_path):
    change_answers(run, 0, [[0, 300, 0.9], [0, 300, 0.8], [5, 61, 0.7], [60, 70, 0.6], [1, 2, 0.5]])
    rows, _ = read_package(package([run.folder], LABEL, META, tmp_path / "out"))
    assert rows[0]["pred_relevant_windows"] == [[0, 60], [5, 61], [1, 2]]


def test_a_query_without_windows_breaks_a_rule(run, tmp_path):
    change_answers(run, 0, [])
    with pytest.raises(CheckFailed, match="breaks windows"):
        package([run.folder], LABEL, META, tmp_path / "out")


def test_a_real_set_is_checked_by_its_list(run, tmp_path):
    known = json.loads((run.folder / "predictions" / "evaluation.json").read_text()) | {"made_up": False}
    (run.folder / "predictions" / "evaluation.json").write_text(json.dumps(known))
    zip_path = package([run.folder], LABEL, META, tmp_path / "out")
    evaluation_set = zip_path.with_name("Lastname_INST_task6.evaluation_set.json")
    assert all(result.holds for result in check_package(zip_path, evaluation_set=evaluation_set)[1])


def test_edited_figures_are_refused(run, tmp_path):
    path = run.folder / "test" / "evaluation.json"
    path.write_text(path.read_text().replace("0.25", "0.5"))
    with pytest.raises(UserError, match=r"gives R1@0.7 = 0.2500, but the run's evaluation.json 0.5000; score it again"):
        package([run.folder], LABEL, META, tmp_path / "out")


def test_what_is_missing_is_named(run, tmp_path):
    with pytest.raises(UserError, match="2 runs are given; windows of several runs cannot be averaged"):
        package([run.folder, run.folder], LABEL, META, tmp_path / "out")
    kept = answers(run).read_text()
    answers(run).write_text(kept.partition("\n")[0])
    with pytest.raises(UserError, match=r"has no answer to asked_1 of .*call `python -m retrieval moments predict"):
        package([run.folder], LABEL, META, tmp_path / "out")
    answers(run).unlink()
    with pytest.raises(UserError, match=r"predictions.jsonl does not exist. Make it with `python -m retrieval moments"):
        package([run.folder], LABEL, META, tmp_path / "out")
    assert not (tmp_path / "out").exists()
