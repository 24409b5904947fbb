"""Several processes, and the teacher that follows."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from common.settings import dump_settings
from common.training.checkpoints import read_checkpoint
from task4_sed.data.clips import GroupSampler
from task4_sed.iterations.data import SharedBatches
from task4_sed.iterations.train import StageTraining
from tests.support.quick_iterations import BATCH, SMALL


def test_processes_share_the_batches_of_one_process_and_no_other(monkeypatch):
    alone = [plan.seed for plan in GroupSampler([20, 14], [3, 2], seed=4)]
    assert len(alone) == 6
    found = {}
    for rank in range(4):
        monkeypatch.setattr("task4_sed.iterations.data.rank_and_count", lambda rank=rank: (rank, 4))
        shared = SharedBatches(GroupSampler([20, 14], [3, 2], seed=4))
        found[rank] = [plan.seed for plan in shared]
        assert len(shared) == len(found[rank]) == 1
        shared.set_epoch(1)
        assert [plan.seed for plan in shared] != found[rank]
    assert [found[rank][0] for rank in range(4)] == alone[:4]


PROGRAM = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from common.settings import load_settings
from common.runs.run import Run
from task4_sed.iterations.recipe import train_stage
from task4_sed.baseline.settings import Task4Settings
from task4_sed.systems import AnySystem
settings = load_settings(AnySystem, Path(sys.argv[1]))
for number in (1, 2):
    run = Run(Path(sys.argv[2]), settings)
    (run.folder / f"iteration1_stage{number}_atst").mkdir(parents=True, exist_ok=True)
    train_stage(run, settings, 1, number, "atst")
"""


@pytest.mark.slow
def test_two_processes_have_the_losses_and_weights_of_one_that_does_their_batches(quick, tmp_path):
    """Both stages by two processes (gloo) with one batch a step each, and by one process with two batches a step."""
    losses, weights = {}, {}
    shared = {"stage1__accumulate": 2, "stage2__accumulate": 2, "stage1__epochs": 2, "stage2__epochs": 2}
    validation = {"weak": False, "synthetic": False, "external": False, "maestro": False}
    small = dict.fromkeys(BATCH, 1)
    jobs = []
    for devices in (1, 2):
        settings = quick(
            **shared, trainer__devices=devices, validation=validation, stage1__batch=small, stage2__batch=small
        )
        folder = tmp_path / f"by{devices}"
        folder.mkdir()
        path = folder / "settings.yaml"
        path.write_text(dump_settings(settings))
        program = tmp_path / "program.py"
        program.write_text(PROGRAM)
        environment = {**os.environ, "PYTHONPATH": str(SMALL.parents[2]), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(program), str(path), str(folder)]
        jobs.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for devices, job in zip((1, 2), jobs):
        _, errors = job.communicate(timeout=300)
        assert job.returncode == 0, errors[-2000:]
        for number in (1, 2):
            folder = tmp_path / f"by{devices}" / f"iteration1_stage{number}_atst"
            rows = [line.split(",") for line in (folder / "metrics.csv").read_text().split()]
            kept = [place for place, name in enumerate(rows[0]) if name != "seconds"]
            losses[devices, number] = np.array([[float(row[place]) for place in kept] for row in rows[1:]])
            weights[devices, number] = read_checkpoint(folder / "last.ckpt")["state_dict"]
    for number in (1, 2):
        np.testing.assert_allclose(losses[1, number], losses[2, number], rtol=2e-4, atol=1e-6)
        for name, value in weights[1, number].items():
            if "running" in name or "num_batches" in name:
                continue  # of two batches at a time, not of one after the other
            torch.testing.assert_close(value, weights[2, number][name], rtol=1e-3, atol=2e-5)


def test_the_teacher_follows_once_in_a_step_however_many_batches_it_has(quick, monkeypatch):
    settings = quick(stage1__accumulate=3)
    module = StageTraining(settings, "atst", 1, 1)
    decays = []
    monkeypatch.setattr(
        "task4_sed.mean_teacher.training.update_teacher", lambda t, s, decay, statistics: decays.append(decay)
    )
    monkeypatch.setattr(StageTraining, "global_step", 0)
    module.on_train_start()
    steps = iter([0, 0, 1, 1, 1, 2])
    for _ in range(6):
        monkeypatch.setattr(StageTraining, "global_step", next(steps))
        module.on_before_zero_grad(None)
        module.on_train_batch_end(None, {}, 0)
    assert decays == pytest.approx([0, 1 / 2, 2 / 3])  # the first update overwrites the teacher
