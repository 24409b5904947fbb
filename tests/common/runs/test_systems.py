"""Runs of one configuration belong together, all others do not."""

from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from common.reports.compare import Measured
from common.runs.systems import compare_paths, distinct_names, read_systems
from common.settings import Field, Settings, TrainerSettings
from tests.support.toy_task import RECIPE, ToySettings


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A sweep over noise and seeds, another one, and two single runs."""
    folder = tmp_path_factory.mktemp("runs")
    for name, steps in (("toy", 5), ("long", 9)):
        settings = ToySettings(name=f"{name}_seed{{seed}}", runs=folder, steps=steps)
        RECIPE.sweep(settings, {"noise": [0.1, 0.2], "seed": [1, 0]})
    return folder


def names(*paths: Path) -> dict[str, list[int]]:
    systems, _ = read_systems(paths, RECIPE.open)
    return {one.name: [run.settings.seed for run in one.runs] for one in systems}


def test_each_value_of_a_sweep_is_a_system_and_its_seeds_belong_to_it(runs):
    assert names(runs / "toy") == {"noise=0.1": [0, 1], "noise=0.2": [0, 1]}


def test_several_folders_are_told_apart_and_equal_settings_are_pooled(runs):
    seeds = [runs / f"toy_seed{seed}_noise0.1" for seed in (1, 0)]
    assert names(*seeds) == {"toy_noise0.1": [0, 1]}
    assert names(runs / "toy", runs / "long_seed0_noise0.1") == {
        "toy noise=0.1": [0, 1], "toy noise=0.2": [0, 1], "long_seed0_noise0.1": [0],
    }  # fmt: skip


def test_an_unfinished_run_is_left_out(runs, tmp_path):
    RECIPE.run(ToySettings(name="stopped", runs=tmp_path))
    (tmp_path / "stopped" / "test" / "stage.json").unlink()
    systems, unfinished = read_systems([runs / "toy", tmp_path / "stopped"], RECIPE.open)
    assert unfinished == [tmp_path / "stopped"] and len(systems) == 2
    with pytest.raises(UserError, match="No run in"):
        read_systems([tmp_path / "stopped"], RECIPE.open)


def test_the_machine_makes_no_other_system(tmp_path):
    from common.runs.systems import configuration

    class Machine(Settings):
        trainer: TrainerSettings
        num_workers: int = 0
        lr: float = Field(0.1)

    plain = Machine(trainer=TrainerSettings(epochs=2))
    elsewhere = Machine(trainer=TrainerSettings(epochs=2, devices=4, country="DEU"), num_workers=3)
    assert configuration(plain) == configuration(elsewhere)
    assert configuration(plain) != configuration(Machine(trainer=TrainerSettings(epochs=3)))


def measure(run) -> Measured:
    draws = 1 - run.read_evaluation()["error"] - np.linspace(0, 0.1, 11)
    return Measured(run.folder.name, run.settings.seed, {"test": ["a"]}, "10 points", {"share": draws})


def test_sweeps_over_the_same_values_are_compared_value_by_value(runs):
    found = compare_paths([runs / "toy", runs / "long"], RECIPE.open, measure, lambda folder: measure(None))
    assert [one.title for one in found] == ["noise=0.1", "noise=0.2"]
    assert [system.name for system in found[0].systems] == ["toy", "long"]
    (alone,) = compare_paths([runs / "toy"], RECIPE.open, measure, lambda folder: measure(None))
    assert [system.name for system in alone.systems] == ["noise=0.1", "noise=0.2"]
    assert [len(system.runs) for system in alone.systems] == [2, 2]


def test_a_folder_that_is_not_there_is_named(runs):
    with pytest.raises(UserError, match="nowhere does not exist"):
        compare_paths([runs / "toy", runs / "nowhere"], RECIPE.open, measure, lambda folder: measure(None))


def test_names_have_as_many_folders_as_they_need():
    assert distinct_names([Path("/a/x"), Path("/a/y")]) == ["x", "y"]
    assert distinct_names([Path("/a/test"), Path("/b/test")]) == ["a/test", "b/test"]
    assert distinct_names([Path("/a"), Path("/a")]) == ["a (1)", "a (2)"]
