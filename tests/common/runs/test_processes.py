"""Tasks in processes of their own: what each sees, what a failure costs; stages that do not need each other."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from common.errors import CheckFailed, UserError
from common.runs.processes import Executor
from common.runs.run import Run, read_record
from common.runs.stages import Stage, run_stages
from common.runs.tasks import SlurmSettings, Task, run_task
from common.settings import Settings


def own_process(_nothing: None) -> int:
    return os.getpid()


def fail_loudly(what: str) -> None:
    os.write(1, b"to stdout\n")
    os.write(2, b"to stderr\n")
    raise KeyError(what)


class Plain(Settings):
    """Settings of the stages below."""

    word: str = "a"
    """What is written."""


def write_word(run: Run, settings: Plain) -> None:
    run.notes["word"] = settings.word
    (run.folder / "one" / "word").write_text(settings.word)


def wait_for_each_other(run: Run, settings: Plain, own: str, other: str) -> None:
    (run.folder / own / "there").touch()
    until = time.monotonic() + 60
    while not (run.folder / other / "there").exists():
        assert time.monotonic() < until
        time.sleep(0.01)


def refuse(run: Run, settings: Plain) -> None:
    raise UserError("The clips are not there.")


def break_down(run: Run, settings: Plain) -> None:
    raise KeyError("clips")


def join_words(run: Run, settings: Plain) -> None:
    (run.folder / "both" / "word").write_text(2 * (run.folder / "one" / "word").read_text())


def environment_of_both(folder: Path) -> dict[str, str]:
    """Environment of this worker, once two workers are at work."""
    (folder / str(os.getpid())).touch()
    until = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    return {**os.environ, "PROCESS": str(os.getpid())}


def process_id(_: None) -> int:
    return os.getpid()


def die(_: None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def not_picklable(_: None) -> object:
    return lambda: None


@pytest.mark.parametrize(("visible", "expected"), [("2,5", {"2", "5"}), ("GPU-a", {"GPU-a"}), ("", {""})])
def test_each_worker_sees_one_gpu_and_takes_its_share_of_the_cores(tmp_path, monkeypatch, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (tmp_path / "workers").mkdir()
    tasks = [Task(name, environment_of_both, tmp_path / "workers") for name in ("one", "two")]
    seen = [outcome.value for outcome in Executor(2).run(tasks, tmp_path)]
    assert len({each["PROCESS"] for each in seen} - {str(os.getpid())}) == 2
    assert {each["CUDA_VISIBLE_DEVICES"] for each in seen} == expected
    assert {each["OMP_NUM_THREADS"] for each in seen} == {str(max(1, len(os.sched_getaffinity(0)) // 2))}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


def test_a_worker_stays_for_the_next_task_and_a_dead_one_fails_its_own_task_only(tmp_path):
    functions = {"first": process_id, "second": process_id, "dead": die, "odd": not_picklable, "last": process_id}
    tasks = [Task(name, function, None) for name, function in functions.items()]
    outcomes = {outcome.name: outcome for outcome in Executor(1).run(tasks, tmp_path)}
    assert outcomes["first"].value == outcomes["second"].value != os.getpid()
    assert "its process was killed (exit code -9" in outcomes["dead"].error
    assert "pickle" in outcomes["odd"].error
    assert outcomes["last"].value not in (outcomes["first"].value, os.getpid())


ONE = Stage("one", write_word, ("word",), ())
BOTH = Stage("both", join_words, ("word",), ("one",))


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(tmp_path / "run", Plain())


def test_a_stage_starts_when_those_that_it_needs_are_done_and_keeps_its_record(run, capfd):
    run_stages(run, [ONE, BOTH], executor=Executor(2))
    assert (run.folder / "both" / "word").read_text() == "aa"
    assert read_record(run.folder, "one")["word"] == "a"
    assert "one: starts" in (run.folder / "logs" / "one.txt").read_text()
    told = capfd.readouterr().err
    assert told.index("one: done") < told.index("both: starts")
    run_stages(run, [ONE, BOTH], executor=Executor(2))
    assert capfd.readouterr().err.count("kept, its settings are the same") == 2


def test_independent_stages_run_at_the_same_time(run):
    stages = [
        Stage(own, partial(wait_for_each_other, own=own, other=other), (), ())
        for own, other in (("left", "right"), ("right", "left"))
    ]
    run_stages(run, stages, executor=Executor(2))


def test_when_a_stage_fails_the_others_go_on_but_for_those_that_need_it(run):
    failing = Stage("failing", refuse, (), ())
    broken = Stage("broken", break_down, (), ())
    last = Stage("last", refuse, (), ("failing",))
    with pytest.raises(CheckFailed) as caught:
        run_stages(run, [failing, broken, ONE, BOTH, last], executor=Executor(1))
    told = str(caught.value)
    assert "2 stages failed" in told and "not started: last" in told
    assert "failing: The clips are not there." in told
    assert "broken: KeyError: 'clips'" in told
    assert "break_down" in (run.folder / "logs" / "broken.txt").read_text()
    assert (Path(run.folder) / "both" / "stage.json").is_file()


def test_workers_are_gone_when_the_last_task_has_ended(tmp_path):
    tasks = [Task(name, own_process, None) for name in "abc"]
    processes = {outcome.value for outcome in Executor(jobs=1).run(tasks, tmp_path)}
    assert len(processes) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(processes.pop(), 0)


@pytest.mark.parametrize("logged", [True, False])
def test_the_log_of_a_failed_task_has_the_trace_and_the_terminal_has_not(tmp_path, capfd, logged):
    log = tmp_path / "logs" / "a.txt" if logged else None
    outcome = run_task(Task("a", fail_loudly, "clips", log=log))
    assert outcome.error == "KeyError: 'clips'" and "in fail_loudly" in outcome.trace
    told = capfd.readouterr()
    if log is not None:
        assert told == ("", "") and {"to stdout", "to stderr", "KeyError: 'clips'"} <= set(log.read_text().splitlines())
        os.write(2, b"after")
        assert capfd.readouterr().err == "after"
    else:
        assert told == ("to stdout\n", "to stderr\n")


@pytest.mark.parametrize(
    "wrong", [{"minutes": 0}, {"gpus": -1}, {"cpus": 0}, {"memory_gb": 0}, {"at_once": 0}, {"poll_s": 0}]
)
def test_resources_are_positive(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SlurmSettings(**wrong)
    assert SlurmSettings(minutes=1, gpus=0, cpus=1, memory_gb=1, at_once=1).poll_s == 10.0
