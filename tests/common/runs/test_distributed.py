"""Recipes of several stages on two processes that Lightning starts: one folder, one voice, nothing done twice."""

import os
import subprocess
import sys

import pytest

from common.synthetic.synthesize import synthesize
from tests.support.places import ROOT

CALLS = {
    "task1_asc": ["train", "task1_asc/configs/distilled_small.yaml", "--data.root", "DATA", "--trainer.devices", "2"],
    "retrieval": [
        "train", "retrieval/configs/small.yaml", "--data.validation.root", "DATA", "--data.evaluation.root", "DATA",
        "--data.training", "[{dataset: clotho, root: DATA, split: development}]",
        "--data.relevance", "DATA/relevance_evaluation.csv", "--data.cache", "DATA/cache",
        "--trainer.devices", "2",
    ],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("task", CALLS)
def test_two_steps_of_every_stage_on_two_processes(task, tmp_path):
    data = tmp_path / "data"
    synthesize(task, data, clips=100)
    words = [word.replace("DATA", str(data)) for word in CALLS[task]]
    command = [sys.executable, "-m", task, *words, "--fast_check"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    stages = [line for line in lines if ": starts" in line]
    assert len(stages) == len(set(stages)) >= 5, done.stderr
    assert lines.count("Two steps of everything worked.") == 1 and "has no" not in done.stderr
