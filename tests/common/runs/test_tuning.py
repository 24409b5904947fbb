"""A search with optuna on the toy task: validation decides, a stopped search goes on, other settings are refused."""

import json
from pathlib import Path

import pytest

from common.cli import run, sweep_verb
from common.errors import CheckFailed, UserError
from common.runs.processes import Executor
from common.runs.recipe import Objective, Recipe
from common.runs.run import Run
from common.runs.stages import Stage
from common.runs.tasks import run_task
from common.runs.tuning import Range, Search, _draw, parse_ranges
from tests.support.toy_task import ToySettings, is_made_up, result_row


def train(own: Run, settings: ToySettings, fast_check: bool = False) -> None:
    """A training whose validation is best at a noise of 0.01."""
    if settings.steps == 7 and not (settings.runs / "mended").exists() and len(list(settings.runs.glob("toy*"))) > 3:
        raise UserError("the disk is full")
    found = 1 - abs(settings.noise - 0.01)
    path = own.folder / "train" / "metrics.csv"
    path.write_text(f"epoch,step,val\n1,1,{found - 0.1}\n2,2,{found}\n3,3,{found - 0.2}\n")


def test_stage(own: Run, settings: ToySettings, fast_check: bool = False) -> None:
    raise AssertionError("a search does not test")


test_stage.__test__ = False


def stages(settings: ToySettings) -> list[Stage]:
    return [Stage("train", train, ("noise", "steps")), Stage("test", test_stage, ("noise",))]


def place(settings: ToySettings) -> str:
    return "train"


RECIPE = Recipe(ToySettings, stages, result_row, is_made_up, objective=Objective(place, "val"))
RANGES = {"noise": Range(True, 1e-4, 1.0)}


@pytest.fixture(autouse=True)
def optuna():
    return pytest.importorskip("optuna", reason="the package optuna is not installed")


def test_ranges_are_read_with_their_kind():
    assert parse_ranges(["optim.lr=log:1e-4:1e-2", "steps=range:2:9", "seed=0,1"]) == {
        "optim.lr": Range(True, 1e-4, 1e-2), "steps": Range(False, 2, 9),
    }  # fmt: skip
    kinds = [Range(False, *ends).distribution() for ends in ((2, 9), (2, 9.5), (1.5, 9))]
    assert [type(kind).__name__ for kind in kinds] == ["IntDistribution", "FloatDistribution", "FloatDistribution"]
    for option in ("lr=log:0:1", "lr=range:2:1", "lr=log:a:b"):
        with pytest.raises(UserError, match="needs two numbers, the lower first"):
            parse_ranges([option])


def test_the_figure_of_several_trainings_is_the_mean_of_their_best_epochs(tmp_path):
    for fold, values in ((0, (0.5, 0.7)), (1, (0.4, 0.2))):
        path = tmp_path / f"fold{fold}_final" / "member0" / "metrics.csv"
        path.parent.mkdir(parents=True)
        path.write_text("epoch,val\n" + "".join(f"{epoch},{value}\n" for epoch, value in enumerate(values, start=1)))
    objective = Objective(lambda settings: "fold*_final/member*", "val")
    assert objective.of(Run(tmp_path, ToySettings(name="toy"))) == pytest.approx((0.7 + 0.4) / 2)
    with pytest.raises(UserError, match="has no other; a search needs a training with validation"):
        Objective(lambda settings: "fold0_final/*", "other").of(Run(tmp_path, ToySettings(name="toy")))


def test_the_best_trial_comes_first_and_no_trial_is_tested(tmp_path):
    folder, rows = RECIPE.search(ToySettings(name="toy", runs=tmp_path), RANGES, 15)
    assert folder == tmp_path / "toy" and len(rows) == 15
    assert rows[0]["validation"] == max(row["validation"] for row in rows) > 0.99
    assert not list(tmp_path.glob("*/test/stage.json"))
    assert all(1e-4 <= row["noise"] <= 1 for row in rows)


def test_a_search_that_stops_goes_on_with_the_same_trials(tmp_path):
    settings = ToySettings(name="toy", runs=tmp_path, steps=7)
    with pytest.raises(CheckFailed, match="disk is full"):
        RECIPE.search(settings, RANGES, 6)
    begun = json.loads((tmp_path / "toy" / "trials.json").read_text())["trials"]
    (tmp_path / "mended").touch()
    RECIPE.search(settings, RANGES, 4)
    _, rows = RECIPE.search(settings, RANGES, 6)
    whole = {row["trial"]: row["noise"] for row in rows}
    assert [{"noise": whole[number]} for number in range(len(begun))] == begun
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "mended").touch()
    _, once = RECIPE.search(settings.model_copy(update={"runs": tmp_path / "second"}), RANGES, 6)
    assert {row["trial"]: row["noise"] for row in once} == whole


def test_an_executor_gets_as_many_trials_as_it_has_jobs(tmp_path):
    asked = []

    class Beside(Executor):
        def run(self, tasks, folder):
            asked.append((len(tasks), folder))
            return map(run_task, tasks)

    folder, rows = RECIPE.search(ToySettings(name="toy", runs=tmp_path), RANGES, 3, Beside(2))
    assert asked == [(2, folder / "slurm"), (1, folder / "slurm")]
    assert sorted(row["trial"] for row in rows) == [0, 1, 2]


def test_later_trials_learn_from_the_finished_ones():
    search = Search(ToySettings(name="toy"), RANGES, stages, lambda run: 0.0)
    values = [{"noise": 10 ** -(4 * number / 39)} for number in range(40)]
    done = {number: 1 - abs(each["noise"] - 0.01) for number, each in enumerate(values)}
    drawn = [each["noise"] for each in _draw(search, values, done, 20)]
    assert sum(0.003 < noise < 0.03 for noise in drawn) > 10  # near the best; without a figure a quarter of them
    assert drawn != [each["noise"] for each in _draw(search, values, {}, 20)]


@pytest.mark.slow
def test_trials_run_beside_each_other(tmp_path):
    _, rows = RECIPE.search(ToySettings(name="toy", runs=tmp_path), RANGES, 3, Executor(2))
    assert sorted(row["trial"] for row in rows) == [0, 1, 2]


@pytest.mark.slow
def test_trials_are_jobs_of_slurm_and_a_second_call_takes_their_results(fake_slurm, tmp_path, capfd):
    settings = ToySettings(name="toy", runs=tmp_path / "runs")
    folder, rows = RECIPE.search(settings, RANGES, 3, fake_slurm)
    told = capfd.readouterr().err
    assert "2 tasks submitted to SLURM as job 100" in told and "1 tasks submitted to SLURM as job 200" in told
    assert sorted(row["trial"] for row in rows) == [0, 1, 2]
    (folder / "results.csv").unlink()
    assert RECIPE.search(settings, RANGES, 3, fake_slurm)[1] == rows
    assert "submitted before" in capfd.readouterr().err


def test_a_search_refuses_the_folder_of_another_one(tmp_path):
    settings = ToySettings(name="toy", runs=tmp_path)
    RECIPE.search(settings, RANGES, 1)
    with pytest.raises(UserError, match="trials of other settings or ranges"):
        RECIPE.search(settings, {"noise": Range(True, 1e-3, 1.0)}, 2)
    with pytest.raises(UserError, match="trials of other settings or ranges"):
        RECIPE.search(settings.model_copy(update={"points": 30}), RANGES, 2)
    (tmp_path / "toy" / "trials.json").unlink()
    with pytest.raises(UserError, match="holds a sweep"):
        RECIPE.search(settings, RANGES, 2)


def test_a_search_over_what_is_no_setting_writes_nothing(tmp_path):
    with pytest.raises(UserError, match="nois is not a setting"):
        RECIPE.search(ToySettings(name="toy", runs=tmp_path / "runs"), {"nois": Range(True, 1e-3, 1.0)}, 2)
    assert not (tmp_path / "runs").exists()


def test_the_verb_names_the_best_and_what_it_needs(tmp_path, capsys):
    path = tmp_path / "toy.yaml"
    path.write_text(f"name: toy\nruns: {tmp_path / 'runs'}\n")
    verbs = {"sweep": sweep_verb(ToySettings, lambda: RECIPE)}
    call = f"sweep {path} --over noise=log:1e-4:1 --trials 3"
    assert run("toy", verbs, call.split()) == 0
    told = capsys.readouterr()
    assert "Search" in told.out and "Train and test the best under another name: --noise " in told.err
    for words in (call.removesuffix(" --trials 3"), f"{call} --over seed=0,1", call.replace("trials 3", "trials -3")):
        assert run("toy", verbs, words.split()) == 2
        assert "A search takes ranges and a number" in capsys.readouterr().err
    assert run("toy", verbs, f"sweep {path} --over seed=0,1 --jobs 0".split()) == 2
    assert "--jobs is 0; ask for at least 1." in capsys.readouterr().err


def test_task_1_searches_with_held_out_clips_only(capsys):
    from task1_asc.__main__ import VERBS

    words = "sweep task1_asc/configs/small.yaml --over optim.lr=log:1e-4:1e-2 --trials 2"
    assert run("python -m task1_asc", VERBS, words.split()) == 2
    assert "--data.validation.share 0.2" in capsys.readouterr().err
    assert not Path("runs/task1_asc/small/trials.json").exists()
