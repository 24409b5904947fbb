"""Cells and stages as jobs of SLURM, with programs that stand for sbatch, srun and squeue."""

import os

import pytest

from common.runs.processes import Executor
from common.runs.stages import read_record
from common.runs.tasks import SlurmSettings
from tests.support.places import ROOT
from tests.support.toy_task import RECIPE, ToySettings


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Executor:
    pytest.importorskip("submitit")
    (tmp_path / "jobs").mkdir()
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path / "jobs"))
    monkeypatch.setenv("PATH", f"{ROOT / 'tests' / 'support' / 'fake_slurm'}:{os.environ['PATH']}")
    return Executor(on="slurm", slurm=SlurmSettings(poll_s=0.2, cpus=1))


def test_cells_are_an_array_job_and_give_the_same_table(slurm, tmp_path, capfd):
    settings = ToySettings(name="toy_seed{seed}", runs=tmp_path / "slurm")
    folder, rows = RECIPE.sweep(settings, {"seed": [0, 1]}, slurm)
    assert "2 tasks submitted to SLURM as job 100" in capfd.readouterr().err
    here = settings.model_copy(update={"runs": tmp_path / "here"})
    assert RECIPE.sweep(here, {"seed": [0, 1]})[1] == rows
    # The table is lost, the results of the jobs are not.
    (folder / "results.csv").unlink()
    assert RECIPE.sweep(settings, {"seed": [0, 1]}, slurm)[1] == rows
    assert "seed=0: job 100_0 was submitted before" in capfd.readouterr().err


def test_stages_are_jobs_in_the_order_of_their_needs_and_a_redo_is_a_new_job(slurm, tmp_path, capfd):
    settings = ToySettings(name="stages", runs=tmp_path)
    run = RECIPE.run(settings, executor=slurm)
    told = capfd.readouterr().err
    assert told.index("as job 100") < told.index("train: done") < told.index("as job 200") < told.index("test: done")
    assert "train: starts" in (run.folder / "logs" / "train.txt").read_text()
    RECIPE.run(settings, redo=("test",), executor=slurm)
    assert "as job 300" in capfd.readouterr().err
    assert read_record(run.folder, "test")["stage"] == "test"
