"""The whole recipe: stages, scores, pseudo-labels, a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import torch

from common.errors import UserError
from common.runs.run import Run, read_record
from common.runs.stages import run_stages
from common.settings import load_settings
from common.training.checkpoints import read_checkpoint
from common.training.seeds import derive_seed
from task4_sed.iterations.network import make_network
from task4_sed.iterations.recipe import make_stages, system_names
from task4_sed.iterations.train import StageTraining
from task4_sed.reports.report import figure_rows, stage_rows
from task4_sed.scores.store import ScoreStore
from task4_sed.systems import AnySystem, complexity_figures, load_recipe, predict, result_row
from tests.support.quick_iterations import QUICK, SMALL, TINY


@pytest.fixture(scope="module")
def finished(tiny_task4, tmp_path_factory) -> Run:
    """A whole run with two transformers."""
    places = {"data.root": str(tiny_task4), "runs": str(tmp_path_factory.mktemp("runs")), "name": "whole"}
    settings = load_settings(AnySystem, SMALL, {**QUICK, **places, "members": ["atst", "beats"]})
    return load_recipe().run(settings)


def test_the_whole_recipe_is_scored_stage_by_stage_with_ensembles(finished, tiny_task4):
    scores = finished.read_evaluation()
    names = system_names(finished.settings)
    assert names == [
        f"iteration{i}_stage{n}_{member}" for i in (1, 2) for n in (1, 2) for member in ("atst", "beats", "ensemble")
    ]
    assert list(scores["networks"]) == names
    assert scores["network"] == "iteration2_stage2_ensemble"
    handed_in = scores["networks"]["iteration2_stage2_ensemble"]["postprocessed"]
    assert set(handed_in) == {"validation", "maestro_validation", "public_evaluation"}
    assert handed_in["validation"]["psds1"]["interval"] is not None
    assert len(stage_rows(finished)) == 12
    assert figure_rows([finished])[0]["set"] == "DESED validation"
    assert result_row(finished)["train_seconds"] > 0
    folder = predict(finished, tiny_task4)
    stores = [ScoreStore(folder / f"logits{suffix}.h5") for suffix in ("", "_atst", "_beats")]
    clip = stores[0].filenames[0]
    torch.testing.assert_close(
        torch.from_numpy(stores[0][clip]),
        torch.from_numpy((stores[1][clip] + stores[2][clip]) / 2),
        atol=1e-4,
        rtol=1e-4,
    )
    assert (folder / "postprocessed" / f"{clip}.tsv").is_file()


def test_pseudo_labels_are_the_mean_of_the_logits_of_every_training_clip_in_the_published_layout(finished, tiny_task4):
    folder = finished.folder / "pseudo_labels"
    published = {"synth_train", "strong_train", "weak_train", "weak_val", "unlabeled_train", "maestro_real_train"}
    assert {path.stem for path in folder.glob("*.h5")} == published
    for name in published:
        with h5py.File(folder / f"{name}.h5") as file:
            assert file["strong_logits"].dtype == np.float32
            assert file["strong_logits"].shape[1:] == (156, 27)
    mean = ScoreStore(folder / "weak_train.h5")
    members = [
        ScoreStore(finished.folder / f"iteration1_scores_{name}" / "weak_train.h5") for name in ("atst", "beats")
    ]
    clip = mean.filenames[-1]
    np.testing.assert_allclose(mean[clip], (members[0][clip] + members[1][clip]) / 2, atol=1e-5)


def test_the_record_of_a_stage_says_what_it_used(finished):
    first = read_record(finished.folder, "iteration1_stage1_atst")
    assert first["started_from"] == {"transformer": "untrained"}
    assert first["clips"]["strong"] == 8
    assert first["estimated_bytes"] > 1e6
    assert first["processes"] == 1
    second = read_record(finished.folder, "iteration1_stage2_atst")
    assert second["started_from"]["file"] == "iteration1_stage1_atst/best.ckpt"
    distilled = read_record(finished.folder, "iteration2_stage1_beats")
    labels = read_record(finished.folder, "pseudo_labels")["sha256"]
    assert distilled["pseudo_labels"]["weak"] == labels["weak_train"]
    assert "stage2" not in first["settings"] and "stage2" in second["settings"]


def test_stage_2_begins_with_student_and_teacher_of_stage_1(finished):
    folder = finished.folder
    start = read_checkpoint(folder / "iteration1_stage1_beats" / "best.ckpt")["state_dict"]
    module = StageTraining(finished.settings, "beats", 1, 2, released=False)
    module.load_state_dict(start)
    assert torch.equal(module.teacher.crnn.strong_head.weight, start["teacher.crnn.strong_head.weight"])
    trained = read_checkpoint(folder / "iteration1_stage2_beats" / "best.ckpt")["state_dict"]
    key = "student.transformer.encoder.layers.1.mlp.fc1.weight"
    assert not torch.equal(start[key], trained[key])


def test_complexity_is_the_sum_over_what_is_handed_in(finished):
    figures = complexity_figures(finished.settings)
    counts = []
    for name in ("atst", "beats"):
        stage = finished.settings.stage(name, 2, 2)
        network = make_network(finished.settings, name, stage, released=False)
        counts.append(sum(parameter.numel() for parameter in network.parameters()))
    assert abs(figures["total_parameters"] - sum(counts)) <= TINY["dim"]  # a mask token that is never trained
    assert figures["macs"] > figures["total_parameters"]


def test_a_recipe_that_was_changed_in_the_middle_of_a_run_is_refused_with_what_changed(finished):
    plain = finished.settings
    changed = plain.model_copy(
        update={"stage2": plain.stage2.model_copy(update={"epochs": 2}), "teacher": plain.teacher}
    )
    expected = r"made with other settings: stage2.epochs: 1 -> 2.*--redo iteration1_stage2_atst"
    with pytest.raises(UserError, match=expected):
        load_recipe().run(changed, finished.folder)
    own = plain.transformers["beats"].model_copy(update={"stage1_distilled": {"epochs": 3}})
    changed = plain.model_copy(update={"transformers": {**plain.transformers, "beats": own}})
    with pytest.raises(UserError, match=r"transformers.beats.stage1_distilled.epochs.* -> 3.*iteration2_stage1_beats"):
        load_recipe().run(changed, finished.folder)


def test_what_is_done_is_kept_and_what_needs_a_redone_stage_is_done_again(finished, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder, ignore=shutil.ignore_patterns("test"))
    stages = make_stages(finished.settings)[:-1]
    run_stages(Run(folder, finished.settings), stages)
    assert capsys.readouterr().err.count("kept, its settings are the same") == len(stages)
    run_stages(Run(folder, finished.settings), stages, redo=["iteration2_stage2_beats"])
    told = capsys.readouterr().err
    assert "iteration2_stage2_beats: starts again" in told
    assert told.count("kept, its settings are the same") == len(stages) - 1


@pytest.mark.slow
def test_a_run_that_was_killed_within_a_stage_goes_on_and_ends_with_the_same_weights(quick, tmp_path):
    overrides = {"members": ["atst"], "stage1__epochs": 4, "validation": {"external": False}}
    whole = Run(tmp_path / "whole", quick(**overrides))
    stages = make_stages(whole.settings)
    run_stages(whole, stages[:2])
    killed = tmp_path / "killed"
    killed.mkdir()
    (killed / "settings.yaml").write_text((whole.folder / "settings.yaml").read_text())
    command = [sys.executable, "-m", "task4_sed", "train", "--resume", str(killed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=SMALL.parents[2], env=environment, stderr=subprocess.DEVNULL)
    table = killed / "iteration1_stage1_atst" / "metrics.csv"
    while not table.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "iteration1_stage1_atst" / "stage.json").exists()
    run_stages(Run(killed, whole.settings), stages[:2])
    assert json.loads((killed / "iteration1_stage1_atst" / "stage.json").read_text())["interrupted_before"]
    for stage in ("iteration1_stage1_atst", "iteration1_stage2_atst"):
        one, other = (read_checkpoint(folder / stage / "last.ckpt")["state_dict"] for folder in (whole.folder, killed))
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_iterations_and_stages_have_random_numbers_of_their_own(quick):
    seeds = {StageTraining(quick(), "atst", iteration, number).seed for iteration in (1, 2) for number in (1, 2)}
    assert len(seeds) == 4
    assert derive_seed(0, 1, 2) in seeds
