"""Runs that are killed, terminated or started twice: what a later call finds, and who holds the lock."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.runs.folder import lock_folder
from common.runs.run import read_record
from tests.support.example_program import COMMAND, CONFIG, ENVIRONMENT


def start(tmp_path: Path, **environment: str) -> subprocess.Popen:
    words = [*COMMAND, "train", CONFIG, "--root", str(tmp_path), "--name", "run"]
    return subprocess.Popen(words, env=ENVIRONMENT | environment, stderr=subprocess.PIPE, text=True)


def finish(tmp_path: Path) -> str:
    with start(tmp_path) as process:
        told = process.stderr.read()
        assert process.wait(timeout=30) == 0, told
    return told


@pytest.mark.parametrize("step", ["1", "3", "5"])
def test_a_killed_run_goes_on_at_its_next_call(tmp_path, step):
    with start(tmp_path, STOP_AT=step, STOP_SIGNAL=str(int(signal.SIGKILL))) as process:
        process.stderr.read()
        assert process.wait(timeout=30) == -signal.SIGKILL
    assert not (tmp_path / "run" / "count" / "stage.json").exists()
    told = finish(tmp_path)
    assert "count: resumes" in told
    assert [line for line in told.splitlines() if line.startswith("step")] == [
        f"step {n}" for n in range(int(step) + 1, 6)
    ]
    assert (tmp_path / "run" / "double" / "double.txt").read_text() == "0.01"
    assert read_record(tmp_path / "run", "double")["energy_kwh"] == 0.25


def test_a_terminated_run_says_how_to_go_on(tmp_path):
    with start(tmp_path, STOP_AT="2", STOP_SIGNAL=str(int(signal.SIGTERM))) as process:
        told = process.stderr.read()
        assert process.wait(timeout=30) == 143
    assert told.endswith(f"count is not finished; resume with --resume {tmp_path / 'run'}.\nStopped by SIGTERM.\n")


def test_two_processes_do_not_fill_one_run_folder_and_a_dead_ones_lock_is_taken_over(tmp_path):
    with start(tmp_path, STEP_SECONDS="20") as first:
        while first.stderr.readline() != "step 1\n":
            pass
        with start(tmp_path) as second:
            told = second.stderr.read()
            assert second.wait(timeout=30) == 2
        assert told.startswith(f"{tmp_path / 'run'} is in use by process {first.pid} on ")
        first.kill()
    finish(tmp_path)


def test_a_worker_process_that_outlives_a_kill_does_not_hold_the_lock(tmp_path):
    script = f"""
import os, signal, time
from pathlib import Path
from common.runs.folder import lock_folder
with lock_folder(Path({str(tmp_path)!r})):
    if os.fork() == 0:
        time.sleep(5)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=False)
    assert killed.returncode == -signal.SIGKILL
    with lock_folder(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()
