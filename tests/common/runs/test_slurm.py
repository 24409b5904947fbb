"""Cells and stages as jobs of SLURM, with programs that stand for sbatch, srun and squeue."""

from pathlib import Path
from unittest.mock import MagicMock, call

import pytest

from common.runs import slurm
from common.runs.run import read_record
from common.runs.tasks import Outcome, SlurmSettings, Task
from tests.support.toy_task import RECIPE, ToySettings


def test_cells_are_an_array_job_and_give_the_same_table(fake_slurm, tmp_path, capfd):
    settings = ToySettings(name="toy_seed{seed}", runs=tmp_path / "slurm")
    folder, rows = RECIPE.sweep(settings, {"seed": [0, 1]}, fake_slurm)
    assert "2 tasks submitted to SLURM as job 100" in capfd.readouterr().err
    here = settings.model_copy(update={"runs": tmp_path / "here"})
    assert RECIPE.sweep(here, {"seed": [0, 1]})[1] == rows
    # The table is lost, the results of the jobs are not.
    (folder / "results.csv").unlink()
    assert RECIPE.sweep(settings, {"seed": [0, 1]}, fake_slurm)[1] == rows
    assert "seed=0: job 100_0 was submitted before" in capfd.readouterr().err


def test_stages_are_jobs_in_the_order_of_their_needs_and_a_redo_is_a_new_job(fake_slurm, tmp_path, capfd):
    settings = ToySettings(name="stages", runs=tmp_path)
    run = RECIPE.run(settings, executor=fake_slurm)
    told = capfd.readouterr().err
    assert told.index("as job 100") < told.index("train: done") < told.index("as job 200") < told.index("test: done")
    assert "train: starts" in (run.folder / "logs" / "train.txt").read_text()
    RECIPE.run(settings, redo=("test",), executor=fake_slurm)
    assert "as job 300" in capfd.readouterr().err
    assert read_record(run.folder, "test")["stage"] == "test"


@pytest.mark.parametrize(
    ("earlier", "queued", "finished", "counts", "cancelled"),
    [
        ("keep", True, False, True, False), ("wait", True, False, True, False), ("cancel", True, False, False, True),
        ("keep", False, True, True, False), ("wait", False, True, False, False), ("cancel", False, True, False, False),
        ("keep", True, True, True, False), ("cancel", True, True, False, False), ("keep", False, False, False, False),
    ],
)  # fmt: skip
def test_an_earlier_job_counts_while_it_runs_or_where_its_result_is_kept(
    monkeypatch, earlier, queued, finished, counts, cancelled
):
    """One whose result is there has ended, whatever the queue says."""
    pytest.importorskip("submitit")
    job = MagicMock()
    job.paths.result_pickle.exists.return_value = finished
    job.exception.return_value = None
    job.result.return_value = Outcome("a", 1)
    monkeypatch.setattr("submitit.SlurmJob", MagicMock(return_value=job))
    monkeypatch.setattr(slurm, "_queued_jobs", lambda: {"7"} if queued else set())
    found = slurm._earlier_job(Task("a", print, None, earlier=earlier), Path("logs"), "7")
    assert found is (job if counts else None)
    assert job.cancel.call_args_list == ([call()] if cancelled else [])


def test_jobs_get_the_resources_that_are_asked_for():
    plain = slurm._parameters(SlurmSettings())
    assert plain == {
        "name": "dcase_kit", "timeout_min": 1440, "cpus_per_task": 2, "slurm_array_parallelism": 64,
        "slurm_setup": ["export OMP_NUM_THREADS=2"],
    }  # fmt: skip
    more = slurm._parameters(SlurmSettings(partition="gpu", gpus=1, memory_gb=32, minutes=60, cpus=8, at_once=4))
    assert more == {
        "name": "dcase_kit", "timeout_min": 60, "cpus_per_task": 8, "slurm_array_parallelism": 4,
        "slurm_setup": ["export OMP_NUM_THREADS=8"], "slurm_partition": "gpu", "gpus_per_node": 1, "mem_gb": 32,
    }  # fmt: skip
