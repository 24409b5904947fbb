"""The run on a GPU, on fake tensors: it works from end to end, and no training step copies more than twice."""

import json
from functools import partial

import pytest
import torch

from tests.gpu import __main__ as run
from tests.gpu.checks import PARTS, Device, front_ends, networks, repeated, times, training_steps
from tests.gpu.devices import fake_cuda
from tests.gpu.steps import CASES

MOST_COPIES = 2
QUICK = ("task1 responses", "task1 mixup", "task4 baseline", "task4 stage 2 atst", "frame fpasst")


@pytest.fixture
def on():
    with fake_cuda() as device:
        yield Device(device, fake=True)


def assert_few_copies(on, names, **options):
    rows = list(training_steps(on, False, names, **options))
    assert {row["item"]: row["copies"] for row in rows if row["copies"] > MOST_COPIES} == {}
    assert {row["item"]: row["waits"] for row in rows if row["waits"]} == {}
    assert len(rows) == len(names) * len({row["precision"] for row in rows})


@pytest.mark.parametrize("name", QUICK)
def test_a_training_step_copies_its_random_numbers_at_once_and_never_waits(on, name):
    assert_few_copies(on, (name,), precisions=("32-true",))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_no_training_step_of_any_kind_waits_in_either_precision(on, name):
    assert_few_copies(on, (name,))


def test_every_other_part_gives_its_rows(on):
    assert len(list(front_ends(on, False))) == 12
    assert len(list(networks(on, False, ("task1_baseline",)))) == 3
    assert [row["item"] for row in repeated(on, False, ("task1 baseline",))] == ["task1 baseline"]
    assert [row["ms"] for row in times(on, False, ("task1 baseline",))] == [None, None]


def test_a_part_ends_with_its_seconds_and_an_error_is_a_row(capsys):
    rows = [{"item": number} for number in range(3)]
    assert list(run.limited("times", partial(iter, rows), 60.0)) == rows
    assert list(run.limited("times", partial(iter, rows), -1.0)) == [*rows[:1], {"item": "stopped after -1 s"}]
    (failed,) = run.limited("times", lambda: 1 // 0, 60.0)
    assert failed["error"].startswith("ZeroDivisionError")
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed[0] == {"part": "times", "item": 0} and len(printed) == 6


def test_the_parts_take_nine_minutes():
    assert sum(seconds for seconds, _ in PARTS.values()) == 540


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("part", PARTS)
def test_no_part_fails_on_a_gpu(part):
    rows = run.run(part, Device(torch.device("cuda", 0)), full=False)
    assert [row for row in rows if "error" in row] == []
