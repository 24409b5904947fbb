"""The test of a run, killed at random places: score stores are whole or absent, and the next call gives the same."""

import json
import multiprocessing
import random
import shutil
import time

import pytest
import torch

from common.runs.run import Run
from common.runs.stages import run_stages
from common.settings import load_settings
from task4_sed.baseline.recipe import STAGES
from task4_sed.baseline.settings import Task4Settings
from task4_sed.scores.store import ScoreStore
from tests.support.quick_task4 import QUICK, SMALL

KILLS = 10


def run_in_process(settings, folder, started):
    torch.set_num_threads(1)
    started.set()
    run_stages(Run(folder, settings), STAGES)


def evaluation(folder) -> dict:
    return json.loads((folder / "test" / "evaluation.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("boxes", [None, {}], ids=["score_stores", "tuning"])
def test_a_test_that_is_killed_ten_times_gives_the_same_figures(tiny_task4, tmp_path, boxes):
    places = {"data.root": str(tiny_task4), "runs": str(tmp_path), "name": "quick", "trainer.epochs": 1}
    settings = load_settings(Task4Settings, SMALL, {**QUICK, **places, "postprocessing.boxes": boxes})
    torch.set_num_threads(1)
    run_stages(Run(tmp_path / "whole", settings), STAGES[:1])
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    begin = time.perf_counter()
    run_stages(Run(tmp_path / "whole", settings), STAGES)
    seconds = time.perf_counter() - begin
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["task4_sed.baseline.recipe", "lightning.pytorch"])
    drawn, killed = random.Random(0), 0
    while killed < KILLS:
        started = context.Event()
        process = context.Process(target=run_in_process, args=(settings, tmp_path / "killed", started))
        process.start()
        assert started.wait(120)
        time.sleep(drawn.uniform(0, seconds))
        process.kill()
        process.join()
        for path in (tmp_path / "killed/test").rglob("*.h5"):
            store = ScoreStore(path)  # there under its name, so it can be read to the end
            assert store.read(store.filenames).shape[0] == len(store) > 0
        if (tmp_path / "killed/test/evaluation.json").exists():
            evaluation(tmp_path / "killed")
        if process.exitcode == -9:
            killed += 1
        else:  # it had ended before: begin again, and kill earlier
            shutil.rmtree(tmp_path / "killed/test")
            seconds *= 0.7
    run_stages(Run(tmp_path / "killed", settings), STAGES)
    assert evaluation(tmp_path / "killed") == evaluation(tmp_path / "whole")
    stores = [{path.name for path in (tmp_path / name / "test/scores").glob("*.h5")} for name in ("whole", "killed")]
    assert stores[0] == stores[1]
    if boxes is not None:
        found = [(tmp_path / name / "test/boxes.json").read_text() for name in ("whole", "killed")]
        assert found[0] == found[1]
