"""What a task gets from its settings, stages, data set and metric alone."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from common.cli import run
from common.runs.processes import Executor
from common.runs.recipe import Objective
from tests.support.places import ROOT
from tests.support.toy_task import RECIPE, VERBS, ToySettings

CONFIG = "name: toy_seed{seed}\npoints: 20\nnoise: 0.1\n"


def call(words: str) -> int:
    return run("toy", VERBS, words.split())


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(f"{CONFIG}runs: {tmp_path / 'runs'}\n")
    return path


def read_evaluation(folder: Path) -> dict:
    return json.loads((folder / "test" / "evaluation.json").read_text())


def start(words: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tests.support.toy_task", *words.split()]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_a_toy_task_has_fewer_than_120_lines():
    assert len((ROOT / "tests" / "support" / "toy_task.py").read_text().splitlines()) < 120


def test_train_runs_the_stages_and_shows_the_figures(config, tmp_path, capfd):
    assert call(f"train {config} --seed 1") == 0
    told = capfd.readouterr()
    assert "error" in told.out and f"The run is in {tmp_path / 'runs' / 'toy_seed1'}" in told.err
    assert read_evaluation(tmp_path / "runs" / "toy_seed1")["error"] < 0.5
    assert call(f"train {config} --seed 1 --steps 6") == 2
    assert "steps: 5 -> 6" in capfd.readouterr().err
    assert call(f"train --resume {tmp_path / 'runs' / 'toy_seed1'} --redo test") == 0
    assert "train: kept" in capfd.readouterr().err


def test_a_killed_run_resumes_and_ends_as_an_uninterrupted_one(config, tmp_path):
    assert start(f"train {config}", KILL_AT="3").returncode == -signal.SIGKILL
    killed = tmp_path / "runs" / "toy_seed0"
    assert len((killed / "train" / "slope.txt").read_text().split()) == 4
    assert call(f"train --resume {killed}") == 0
    assert call(f"train {config} --name whole") == 0
    assert read_evaluation(killed) == read_evaluation(tmp_path / "runs" / "whole")


def test_fast_check_leaves_nothing(config, tmp_path, capfd):
    assert call(f"train {config} --fast_check") == 0
    assert "Two steps of everything worked." in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_sweep_gives_each_cell_a_gpu_and_the_report_shows_them_all(config, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-4,GPU-7")
    assert call(f"sweep {config} --over seed=0,1,2,3 --jobs 2") == 0
    folder = tmp_path / "runs" / "toy"
    rows = (folder / "results.csv").read_text().splitlines()
    assert rows[0] == "seed,error" and len(rows) == 5
    gpus = [read_evaluation(tmp_path / "runs" / f"toy_seed{seed}")["gpu"] for seed in range(4)]
    assert set(gpus) == {"GPU-4", "GPU-7"}
    assert call(f"report {folder}") == 0
    assert all(f"toy_seed{seed}" in (folder / "report.html").read_text() for seed in range(4))


def test_stages_run_in_processes_of_their_own(config, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert call(f"train {config} --jobs 2") == 0
    run_folder = tmp_path / "runs" / "toy_seed0"
    assert read_evaluation(run_folder)["gpu"] in ("0", "1")
    assert "train: starts" in (run_folder / "logs" / "train.txt").read_text()


@pytest.mark.parametrize("what", ["run", "sweep", "search"])
@pytest.mark.parametrize("beside", [True, False])
def test_inputs_are_refused_before_a_folder_is_made_and_prepared_once_for_several_processes(
    tmp_path, monkeypatch, what, beside
):
    seen = []
    objective = Objective(lambda settings: "train", "error") if what == "search" else None
    recipe = replace(
        RECIPE,
        refuse_early=lambda run: seen.append(("refuse", run.folder.name, run.folder.exists())),
        prepare=lambda settings: seen.append(("prepare", settings.points)),
        objective=objective,
    )
    for name in ("common.runs.recipe.run_stages", "common.runs.sweep.sweep", "common.runs.tuning.tune"):
        monkeypatch.setattr(name, lambda *given: seen.append(("start", given[-1])))
    settings = ToySettings(name="toy_{seed}", runs=tmp_path, points=7)
    executor = Executor(jobs=2) if beside else None
    if what == "run":
        recipe.run(settings, executor=executor)
    elif what == "sweep":
        recipe.sweep(settings, {"seed": [3, 4]}, executor)
    else:
        recipe.search(settings, {}, 3, executor)
    name = "toy_3" if what == "sweep" else "toy_0"
    assert seen == [("refuse", name, False), *([("prepare", 7)] if beside else []), ("start", executor)]
