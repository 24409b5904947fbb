"""Programs that stand for sbatch, srun and squeue."""

import os

import pytest

from common.runs.processes import Executor
from common.runs.tasks import SlurmSettings
from tests.support.places import ROOT


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch) -> Executor:
    """An executor whose jobs are processes of this machine."""
    pytest.importorskip("submitit")
    (tmp_path / "jobs").mkdir()
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path / "jobs"))
    monkeypatch.setenv("PATH", f"{ROOT / 'tests' / 'support' / 'fake_slurm'}:{os.environ['PATH']}")
    return Executor(jobs=2, on="slurm", slurm=SlurmSettings(poll_s=0.2, cpus=1))
