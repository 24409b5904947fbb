"""Cells and stages as jobs of SLURM, with programs that stand for sbatch, srun and squeue."""

from common.runs.run import read_record
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
