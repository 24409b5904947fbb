"""Files and records of a run, and the time left of runs and sweeps by a clock that the test moves."""

from types import SimpleNamespace

import pytest

from common.data.files import write_json
from common.errors import UserError
from common.inference.as_model import load_run
from common.output import Progress
from common.runs.run import Run, open_run, read_record, run_clock, seconds_before
from common.runs.stages import Stage, run_stages
from common.runs.sweep import SweepClock, parse_over, sweep
from common.settings import Settings


class Toy(Settings):
    """Settings of a run."""

    name: str = "toy"
    seed: int = 0


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    return clock


def test_files_of_a_run_come_sorted_and_their_absence_is_told(tmp_path):
    run = Run(tmp_path, Toy())
    for name in ("b", "a"):
        (tmp_path / f"{name}.ckpt").touch()
    assert [path.name for path in run.files("*.ckpt")] == ["a.ckpt", "b.ckpt"]
    with pytest.raises(UserError, match=r"has no teachers/\*/best\.ckpt"):
        run.files("teachers/*/best.ckpt")


def test_a_stage_that_is_not_finished_has_no_record(tmp_path):
    with pytest.raises(UserError, match="has no finished stage train"):
        read_record(tmp_path, "train")


def test_a_run_of_another_task_and_a_sweep_are_called_so(tmp_path):
    run, sweep_folder = tmp_path / "toy_seed0", tmp_path / "toy"
    write_json(run / "train" / "stage.json", {"settings": {}, "package": "task4_sed.baseline"})
    (run / "settings.yaml").write_text("name: toy\n")
    with pytest.raises(UserError, match=r"toy_seed0 is a run of task4_sed; use the verbs of `python -m task4_sed`"):
        open_run(run, Toy)
    write_json(sweep_folder / "sweep.json", {"over": ["seed"], "settings": {}, "runs": {"seed=0": "../toy_seed0"}})
    for refuse in (lambda folder: open_run(folder, Toy), load_run):
        with pytest.raises(UserError, match=r"toy is a sweep; name one of its runs, such as .*toy_seed0"):
            refuse(sweep_folder)


def test_a_run_takes_as_long_as_equal_runs_beside_it_took(tmp_path):
    facts = {"settings": {"seed": 0, "lr": 0.1}, "seconds": 30.0, "interrupted_before": False}
    write_json(tmp_path / "first" / "train" / "stage.json", facts)
    write_json(tmp_path / "resumed" / "train" / "stage.json", {**facts, "interrupted_before": True, "seconds": 2.0})
    mine = tmp_path / "second" / "train" / "stage.json"
    assert seconds_before(mine, {"seed": 1, "lr": 0.1}) == 30.0
    assert seconds_before(mine, {"seed": 1, "lr": 0.2}) is None
    assert seconds_before(tmp_path / "second" / "test" / "stage.json", {"seed": 1, "lr": 0.1}) is None


def test_the_time_left_of_a_run_is_its_stage_and_those_after_it(clock):
    left = run_clock(100.0, [20.0, 30.0])
    clock.now = 40.0
    assert left(10.0) == 110.0  # another training of the same stage follows the step
    assert left(80.0) == 130.0
    assert run_clock(100.0, [20.0, None])(10.0) == 10.0


def test_the_time_left_of_a_sweep_is_that_of_the_cells_still_to_come(clock):
    sweep_clock = SweepClock(4)
    clock.now = 10.0
    assert sweep_clock.left(10.0) == 70.0  # a cell takes 20 s, by its own estimate
    clock.now = 30.0
    assert sweep_clock.cell_is_done() == 90.0
    assert sweep_clock.left(5.0) == 65.0


def test_lines_of_a_training_in_a_sweep_tell_run_and_sweep(tmp_path, clock, capsys):
    """The second cell knows how long the stages of the first took: 80 and 20 s."""

    def train(run, settings):
        with Progress("Training", 4, "epochs") as progress:
            for _ in range(4):
                clock.now += 20.0
                progress.advance()

    def wait(run, settings):
        clock.now += 20.0

    def cell(settings):
        run_stages(Run(tmp_path / settings.name, settings), [Stage("train", train, ("seed",)), Stage("test", wait, ())])
        return {"figure": 1}

    sweep(Toy(), parse_over(["seed=0,1,2"]), cell, tmp_path / "sweep")
    lines = [line for line in capsys.readouterr().err.splitlines() if " left" in line]
    assert lines == [
        "Training: 2 of 4 epochs, about 40 s left (sweep: 3 min)",
        "Training: 3 of 4 epochs, about 20 s left (sweep: 3 min)",
        "1 of 3: seed=0 done, about 3 min left",
        "Training: 2 of 4 epochs, about 40 s left (run: 1 min, sweep: 3 min)",
        "Training: 3 of 4 epochs, about 20 s left (run: 40 s, sweep: 2 min)",
        "2 of 3: seed=1 done, about 2 min left",
        "Training: 2 of 4 epochs, about 40 s left (run: 1 min)",
        "Training: 3 of 4 epochs, about 20 s left (run: 40 s)",
    ]
