"""Twenty further damages of each kind of package: each is found, and its place named."""

import shutil
from pathlib import Path

import pytest

from tests.support.damage import assert_found, broken, cell, content
from tests.support.damages.inference import INFERENCE
from tests.support.damages.retrieval import OUTPUT, RETRIEVAL, ranked
from tests.support.damages.task1 import TASK1
from tests.support.damages.task4 import TASK4
from tests.support.packages import write_inference, write_retrieval, write_task1, write_task4

KINDS = {
    "task1_2024": (write_task1, TASK1),
    "task1_2025": (write_inference, INFERENCE),
    "task4_2024": (write_task4, TASK4),
    "task8_2024": (lambda folder: write_retrieval(folder, "task8_2024"), {
        **RETRIEVAL,
        "True for a name": (ranked(cell(1, 2, "True")), "ranked_names", ".output.csv:3 'True' is no file of the set"),
        "a folder before a name": (content(OUTPUT, b"3 rain", b"audio/3 rain"), "ranked_names", "'audio/3 rain.wav'"),
        "another ending": (content(OUTPUT, b"3 rain.wav", b"3 rain.flac"), "ranked_names", "'3 rain.flac' is no file"),
    }),
    "task6_2025": (lambda folder: write_retrieval(folder, "task6_2025"), {
        **RETRIEVAL,
        "True for a similarity": (ranked(cell(1, 2, "True")), "numbers", ".output.csv:3 1 rain.wav is True"),
        "False for a whole row": (
            ranked(lambda table: table.iloc[[1]].assign(**dict.fromkeys(table.columns[1:], "False"))),
            "numbers",
            ".output.csv:2 0 rain.wav is False",
        ),
        "a decimal comma": (ranked(cell(3, 1, "0,5")), "numbers", ".output.csv:6 0 rain.wav is 0,5"),
    }),
}  # fmt: skip
CASES = [(kind, name) for kind, (_, damages) in KINDS.items() for name in damages]


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> dict[str, Path]:
    return {kind: write(tmp_path_factory.mktemp(kind)) for kind, (write, _) in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_valid_package_breaks_no_rule(valid, kind):
    assert broken(valid[kind]) == {}


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_every_damage_is_found_and_its_place_is_named(valid, tmp_path, kind, name):
    package = shutil.copytree(valid[kind], tmp_path / valid[kind].name)
    assert_found(package, KINDS[kind][1][name])


def test_there_are_at_least_20_damages_of_each_kind():
    assert all(len(damages) >= 20 for _, damages in KINDS.values())
