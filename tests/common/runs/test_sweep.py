"""Sweeps: every cell once, also after a stop."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from common.errors import CheckFailed, UserError
from common.runs.processes import Executor
from common.runs.results_table import ResultsTable, shown_rows
from common.runs.sweep import SweepClock, _put, make_cells, parse_over, sweep
from common.runs.tasks import SlurmSettings
from common.settings import Settings, TrainerSettings
from tests.support.places import ROOT
from tests.support.sweep_cells import CellSettings, die, fail_sometimes, say_and_train, train

OVER = {"subset": [5, 25], "seed": [0, 1, 2]}
PROGRAM = """
import sys
from pathlib import Path
from common.runs.processes import Executor
from common.runs.sweep import sweep
from common.runs.tasks import SlurmSettings
from tests.support.sweep_cells import CellSettings, train
if __name__ == "__main__":
    folder, jobs, sleep_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    executor = Executor(jobs, sys.argv[4], SlurmSettings(poll_s=0.5, cpus=1))
    sweep(CellSettings(folder=folder, sleep_s=sleep_s), {"subset": [5, 25], "seed": [0, 1, 2]}, train, folder / "sweep",
          None if jobs == 1 and sys.argv[4] == "here" else executor)
"""


def started(folder: Path) -> Counter:
    calls = (folder / "calls.txt").read_text().splitlines() if (folder / "calls.txt").exists() else []
    return Counter(" ".join(call.split()[1:3]) for call in calls if call.startswith("started"))


def start(folder: Path, jobs: int = 1, sleep_s: float = 0.0, on: str = "here") -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM, str(folder), str(jobs), str(sleep_s), on]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def executor(jobs: int) -> Executor | None:
    return None if jobs == 1 else Executor(jobs)


def wait_for(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_options_are_read_as_in_yaml():
    assert parse_over(["subset=5,10", "optim.lr=1e-3", "data.packed=true"]) == {
        "subset": [5, 10],
        "optim.lr": [1e-3],
        "data.packed": [True],
    }


@pytest.mark.parametrize("options", [["subset"], ["subset="], ["=5"], ["seed=0,0"], ["seed=0", "seed=1"], []])
def test_an_option_that_is_none_is_refused(options):
    with pytest.raises(UserError, match=r"--over|A sweep needs"):
        parse_over(options)


def test_a_misspelled_setting_is_refused_with_the_real_one():
    with pytest.raises(UserError, match=r"subsett is not a setting\. Did you mean subset"):
        make_cells(CellSettings(), {"subsett": [5]})


def test_no_two_cells_share_a_name():
    cells = make_cells(CellSettings(name="run_{subset}"), {"subset": [5, 25], "optim.lr": [0.1, 0.2]})
    assert [cell.settings.name for cell in cells] == [
        "run_{subset}_lr0.1",
        "run_{subset}_lr0.2",
        "run_{subset}_lr0.1",
        "run_{subset}_lr0.2",
    ]
    assert [(cell.settings.subset, cell.settings.optim.lr) for cell in cells][2] == (25, 0.1)


def test_every_cell_is_a_row_in_the_order_of_the_grid(tmp_path):
    rows = sweep(CellSettings(folder=tmp_path), OVER, train, tmp_path / "sweep")
    assert [(row["subset"], row["seed"]) for row in rows] == [(s, r) for s in (5, 25) for r in (0, 1, 2)]
    text = (tmp_path / "sweep" / "results.csv").read_text().splitlines()
    assert text[0] == "subset,seed,accuracy,lr" and text[1] == f"5,0,{5 / 3!r},0.1"


def test_people_see_shares_in_per_cent_with_their_interval():
    row = {"optim.lr": 0.1, "macro_accuracy": 0.424, "macro_accuracy_low": 0.41, "macro_accuracy_high": 0.436}
    assert shown_rows([{**row, "log_loss": 0.9, "clips": 3}], ["optim.lr"]) == [
        {"optim.lr": 0.1, "macro accuracy": "42.4 [41.0, 43.6]", "log loss": 0.9, "clips": 3}
    ]


def test_cells_that_run_beside_each_other_put_their_name_before_their_lines(tmp_path, capfd):
    sweep(CellSettings(folder=tmp_path), {"seed": [0, 1]}, say_and_train, tmp_path / "sweep", Executor(2))
    told = capfd.readouterr().err
    assert "[seed=0] training" in told and "[seed=1] training" in told
    assert "2 of 2: " in told and "about" in told


def test_cells_that_are_done_are_not_run_again(tmp_path):
    settings = CellSettings(folder=tmp_path)
    sweep(settings, {**OVER, "seed": [0]}, train, tmp_path / "sweep")
    sweep(settings, OVER, train, tmp_path / "sweep")
    assert started(tmp_path) == dict.fromkeys(["5 0", "5 1", "5 2", "25 0", "25 1", "25 2"], 1)


class ManyDevices(Settings):
    """A part that trains on two devices."""

    trainer: TrainerSettings = TrainerSettings(epochs=1, devices=2)


class OfManyDevices(CellSettings):
    """Cells of a training that takes two devices."""

    stage: ManyDevices = ManyDevices()


@pytest.mark.parametrize("trainer", [{"devices": 2}, {"devices": -1}, {"num_nodes": 2}])
def test_cells_that_take_several_devices_are_refused(tmp_path, trainer):
    stage = ManyDevices(trainer=TrainerSettings(epochs=1, **trainer))
    with pytest.raises(UserError, match=r"stage\.trainer: a sweep trains each cell on one device"):
        sweep(OfManyDevices(folder=tmp_path, stage=stage), OVER, train, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_processes_give_the_same_table(tmp_path):
    for name, jobs in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        sweep(CellSettings(folder=tmp_path / name), OVER, train, tmp_path / name / "sweep", executor(jobs))
    texts = [(tmp_path / name / "sweep" / "results.csv").read_bytes() for name in ("one", "two")]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("jobs", [1, 2])
def test_failed_cells_are_named_and_do_not_stop_the_others(tmp_path, jobs):
    settings, folder = CellSettings(folder=tmp_path), tmp_path / "sweep"
    with pytest.raises(CheckFailed) as told:
        sweep(settings, {"seed": [0, 1, 2, 3]}, fail_sometimes, folder, executor(jobs))
    assert "2 of 4 cells failed" in str(told.value)
    assert "seed=1: clip a.wav is missing" in str(told.value)
    assert "seed=2: ZeroDivisionError: division by zero" in str(told.value)
    assert "Traceback" in (folder / "failed" / "seed=2.txt").read_text()
    assert len(ResultsTable(folder / "results.csv", ["seed"]).rows) == 2
    (tmp_path / "mended").touch()
    with pytest.raises(CheckFailed, match="1 of 4"):
        sweep(settings, {"seed": [0, 1, 2, 3]}, fail_sometimes, folder, executor(jobs))
    assert not (folder / "failed" / "seed=1.txt").exists()


def test_a_cell_that_kills_its_process_is_told(tmp_path):
    with pytest.raises(CheckFailed, match="seed=1: its process"):
        sweep(CellSettings(folder=tmp_path), {"seed": [1, 2]}, die, tmp_path / "sweep", Executor(2))


def test_other_settings_are_refused(tmp_path):
    sweep(CellSettings(folder=tmp_path), {"seed": [0]}, train, tmp_path / "sweep")
    with pytest.raises(UserError, match=r"other settings \(subset: 5 -> 10\)"):
        sweep(CellSettings(folder=tmp_path, subset=10), {"seed": [0]}, train, tmp_path / "sweep")
    with pytest.raises(UserError, match="other settings"):
        sweep(CellSettings(folder=tmp_path), {"subset": [5]}, train, tmp_path / "sweep")


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_sweep_goes_on(tmp_path, jobs):
    program = start(tmp_path, jobs, sleep_s=0.2)
    results = tmp_path / "sweep" / "results.csv"
    wait_for(lambda: results.exists() and len(results.read_text().splitlines()) >= 3)
    program.send_signal(signal.SIGKILL)
    program.communicate()
    workers = {int(call.split()[-1]) for call in (tmp_path / "calls.txt").read_text().splitlines()}
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    done = set(ResultsTable(results, ["subset", "seed"]).names())
    before = started(tmp_path)
    assert 2 <= len(done) < 6
    sweep(CellSettings(folder=tmp_path, sleep_s=0.2), OVER, train, tmp_path / "sweep", executor(jobs))
    after = started(tmp_path)
    assert all(after[" ".join(name)] == before[" ".join(name)] for name in done)
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    steps = Counter(call.rsplit(" ", 1)[0] for call in calls if "step" in call)
    assert len(steps) == 24 and max(steps.values()) <= 2  # a step may be lost, a training is not begun again

    other = tmp_path / "whole"
    other.mkdir()
    sweep(CellSettings(folder=other), OVER, train, other / "sweep")
    assert results.read_bytes() == (other / "sweep" / "results.csv").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [b"5,2", b"5,2,1.0,0.1", b"subset,seed,accuracy,lr\n", b"25,0,3.0\n", b"25,0,3.0,0.1,7\n"],
    ids=["cut off", "no line end", "header again", "too short", "too long"],
)
def test_a_damaged_table_is_mended(tmp_path, damage):
    settings = CellSettings(folder=tmp_path)
    sweep(settings, {"subset": [5], "seed": [0, 1]}, train, tmp_path / "sweep")
    path = tmp_path / "sweep" / "results.csv"
    whole = path.read_bytes()
    path.write_bytes(whole + damage)
    assert len(ResultsTable(path, ["subset", "seed"]).rows) == 2
    assert path.read_bytes() == whole


def test_a_row_with_a_new_column_widens_the_table(tmp_path):
    table = ResultsTable(tmp_path / "results.csv", ["seed"])
    table.append({"seed": 0, "accuracy": 0.5})
    table.append({"seed": 1, "accuracy": 0.25, "note": "a, b\nc"})
    assert (tmp_path / "results.csv").read_text() == 'seed,accuracy,note\n0,0.5,\n1,0.25,"a, b c"\n'


def test_two_sweeps_do_not_share_a_folder(tmp_path):
    program = start(tmp_path, sleep_s=0.3)
    wait_for(lambda: (tmp_path / "calls.txt").exists())
    with pytest.raises(UserError, match="is in use"):
        sweep(CellSettings(folder=tmp_path, sleep_s=0.3), OVER, train, tmp_path / "sweep")
    program.kill()
    program.communicate()


def test_slurm_without_slurm_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="sbatch"):
        sweep(CellSettings(folder=tmp_path), OVER, train, tmp_path / "sweep", Executor(on="slurm"))


@pytest.fixture(scope="module")
def slurm() -> None:
    pytest.importorskip("submitit")
    if not os.environ.get("SLURM_CONF") or not shutil.which("sinfo"):
        pytest.skip("no SLURM: SLURM_CONF is not set or sinfo is not installed")
    if subprocess.run(["sinfo"], capture_output=True).returncode != 0:
        pytest.skip("sinfo does not reach SLURM")


@pytest.mark.slurm
@pytest.mark.parametrize("how", ["preempted", "requeued"])
def test_slurm_gives_the_same_table_though_a_job_was_interrupted(slurm, tmp_path, how):
    for name in ("here", "slurm"):
        (tmp_path / name).mkdir()
    sweep(CellSettings(folder=tmp_path / "here"), OVER, train, tmp_path / "here" / "sweep")
    # On a requeue SLURM lets a job run on for KillWait (30 s) before it kills it: its steps must last longer.
    program = start(tmp_path / "slurm", sleep_s=15.0 if how == "requeued" else 1.0, on="slurm")
    calls = tmp_path / "slurm" / "calls.txt"
    wait_for(lambda: calls.exists() and "step1 5 0" in calls.read_text(), seconds=60)
    if how == "requeued":
        sent = json.loads((tmp_path / "slurm" / "sweep" / "slurm" / "submitted.json").read_text())
        subprocess.run(["scontrol", "requeue", sent["subset=5 seed=0"]], check=True)
    else:  # the signal that SLURM sends before it takes a job's place
        process = next(call.split()[-1] for call in calls.read_text().splitlines() if call.startswith("step1 5 0"))
        os.kill(int(process), signal.SIGUSR2)
    assert program.wait(timeout=500) == 0, program.stderr.read()
    texts = [(tmp_path / name / "sweep" / "results.csv").read_bytes() for name in ("here", "slurm")]
    assert texts[0] == texts[1]
    assert started(tmp_path / "slurm")["5 0"] == 2
    assert calls.read_text().count("step0 5 0") == 1  # it went on, it did not begin again


@pytest.mark.slurm
def test_a_killed_sweep_waits_for_the_jobs_it_had_sent(slurm, tmp_path):
    program = start(tmp_path, sleep_s=0.5, on="slurm")
    calls = tmp_path / "calls.txt"
    wait_for(lambda: calls.exists() and "step1" in calls.read_text(), seconds=60)
    program.kill()
    program.communicate()
    rows = sweep(
        CellSettings(folder=tmp_path, sleep_s=0.5), OVER, train, tmp_path / "sweep",
        Executor(on="slurm", slurm=SlurmSettings(poll_s=0.5, cpus=1)),
    )  # fmt: skip
    assert len(rows) == 6
    assert set(started(tmp_path).values()) == {1}


def test_the_time_left_of_a_sweep_counts_finished_cells_and_the_one_at_work(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    clock = SweepClock(4)
    now[0] = 110.0
    assert clock.left(30.0) == 30 + 40 * 3  # the first cell: 10 s so far and 30 to go, then three more like it
    now[0] = 140.0
    assert clock.cell_is_done() == 40 * 3
    now[0] = 150.0
    assert clock.left(30.0) == 30 + 40 * 2
    now[0] = 160.0
    assert clock.cell_is_done() == 30 * 2
    now[0] = 165.0
    assert clock.left(5.0) == 5 + 30 * 1


def test_a_swept_setting_fills_a_group_that_is_off_and_keeps_the_others():
    data = {"teacher": None, "optim": {"lr": 1.0}}
    _put(data, "teacher.decay", 0.9)
    _put(data, "optim.warmup.steps", 5)
    _put(data, "seed", 1)
    assert data == {"teacher": {"decay": 0.9}, "optim": {"lr": 1.0, "warmup": {"steps": 5}}, "seed": 1}


def test_cells_one_after_another_are_counted(tmp_path, capfd):
    sweep(CellSettings(folder=tmp_path), {"seed": [0, 1]}, train, tmp_path / "sweep")
    told = [line.partition(",")[0] for line in capfd.readouterr().err.splitlines() if " of 2: " in line]
    assert told == [f"{number} of 2: seed={number - 1} {state}" for number in (1, 2) for state in ("starts", "done")]
