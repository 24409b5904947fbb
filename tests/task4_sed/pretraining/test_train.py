"""The pre-training: every network learns, runs resume, processes share a batch, teachers teach, weights load."""

import csv
import json
import multiprocessing
import os
import random
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from torch.nn import functional as F

from common.cli import run as cli_run
from common.data.keyed_outputs import KeyedOutputs
from common.errors import UserError
from common.models.frame_prediction import FramePrediction
from common.registry import load_audio_model, load_released_state_dict
from common.registry.models import create_audio_model
from common.runs.run import Run, read_record
from common.runs.stages import Stage, run_stages
from common.settings import load_settings
from common.synthetic.synthesize import synthesize
from common.training.checkpoints import read_weights, save_checkpoint
from common.training.schedules import WarmupCosine
from common.training.trainer import leave_other_processes
from task4_sed.__main__ import VERBS
from task4_sed.pretraining import recipe
from task4_sed.pretraining.clips import CLASSES, OrderedBatches, StrongClips, read_training_set
from task4_sed.pretraining.networks import make_model, parameter_groups, start_from_weights
from task4_sed.pretraining.office import recipe as office
from task4_sed.pretraining.recipe import RECIPE, STAGES, load_module, make_stages
from task4_sed.pretraining.settings import ModelSettings, OfficeSettings, OptimSettings, PretrainSettings
from task4_sed.pretraining.train import FrameTraining, Pretraining, training_loss
from tests.support.places import ROOT

CONFIGS = ROOT / "task4_sed" / "configs"
SMALL = CONFIGS / "pretrain_small.yaml"
TINY = {"dim": 12, "depth": 1, "num_heads": 2}
TINY_OF = {
    "atst_frame": {**TINY, "depth": 2},
    "fpasst": TINY,
    "beats": {**TINY, "dim": 48, "hidden_dim": 16, "patch_dim": 8, "layer_drop": 0.0},
    "m2d": TINY,
    "asit": TINY,
    "frame_mn06": {"width_mult": 0.1},
    "frame_mn10": {"width_mult": 0.1},
}
QUICK = {
    "model.options": TINY,
    "data.batch_size": 10,
    "augmentation.mixup.probability": 0.6,
    "augmentation.mixstyle.probability": 0.6,
    "evaluation.draws": 0,
    "optim.warmup_steps": 2,
    "trainer.epochs": 2,
    "trainer.validate_every": 1,
    "trainer.accelerator": "cpu",
    "trainer.measure_energy": False,
}


@pytest.fixture
def quick(tiny_strong, tmp_path):
    """Makes settings of a quick run; overrides win."""

    def make(config=SMALL, **overrides):
        places = {"data.root": str(tiny_strong), "runs": str(tmp_path), "name": "quick"}
        return load_settings(
            PretrainSettings, config, {**QUICK, **places, **{n.replace("__", "."): v for n, v in overrides.items()}}
        )

    return make


def rows_of(run):
    with (run.folder / "train" / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def model_of(name, **options):
    return make_model(ModelSettings(name=name, untrained=True, options={**TINY_OF[name], **options}), CLASSES)


def batch_of(clips=2):
    target = torch.zeros(clips, 447, 250)
    target[:, 3, 20:90] = 1
    waveform = 0.1 * torch.randn(clips, 160_000, generator=torch.Generator().manual_seed(0))
    return {"waveform": waveform, "target": target, "first": 0, "joint": clips}


RNN = {"seq_model_type": "rnn", "rnn_dim": 4, "rnn_layers": 1}
OPTIONS_OF = {
    **TINY_OF,
    "teacher": {**TINY_OF["atst_frame"], **RNN},
    "ours": {**TINY_OF["beats"], "time_grid": "exact"},
}


@pytest.mark.parametrize("name", OPTIONS_OF)
def test_a_step_of_every_configuration_reaches_every_parameter(name, monkeypatch):
    overrides = {"model.options": OPTIONS_OF[name], "model.untrained": True}
    settings = load_settings(PretrainSettings, CONFIGS / f"pretrain_{name}.yaml", overrides)
    module = Pretraining(settings, make_model(settings.model, CLASSES))
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    batch = batch_of()
    taught = {} if settings.distillation is None else {"distilled": batch["target"] * 0.9}
    loss = module.training_step({**batch, **taught}, 0)
    loss.backward()
    learned = {n: p for n, p in module.network.named_parameters() if p.requires_grad}
    without = [n for n, p in learned.items() if p.grad is None]
    assert without == [] and torch.isfinite(loss)
    assert not any(name.startswith("weak_head") for name in learned)
    groups = parameter_groups(module.network, settings.optim)
    counted = [id(p) for group in groups for p in group["params"]]
    assert len(counted) == len(set(counted)) and set(counted) == {id(p) for p in learned.values()}


def test_the_loss_is_nine_tenths_teachers_and_one_tenth_labels():
    logits = torch.tensor([[[0.3, -1.0]]])
    target, distilled = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.6, 0.2]]])
    losses = training_loss(logits, target, distilled, 0.9)
    bce = F.binary_cross_entropy_with_logits
    assert float(sum(losses.values())) == pytest.approx(0.9 * float(bce(logits, distilled)) + 0.1 * float(bce(logits, target)))  # fmt: skip # noqa: E501
    assert float(training_loss(logits, target, None, 0.9)["labels"]) == pytest.approx(float(bce(logits, target)))


def rates_of(network: FramePrediction, optim: OptimSettings):
    """Learning rate of each parameter by name."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = parameter_groups(network, optim)
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_the_rate_falls_block_by_block_and_what_is_below_learns_with_the_first_block():
    network = model_of("atst_frame", depth=3, seq_model_type="rnn", rnn_dim=4, rnn_layers=1).network
    optim = OptimSettings(lr=1.0, layer_decay=0.5, sequence_lr=0.7, algorithm="adamw", weight_decay=0.01)
    rates = {name: rate for name, (rate, _) in rates_of(network, optim).items()}
    assert rates["strong_head.weight"] == 1.0 and rates["seq_model.rnn.weight_ih_l0"] == 0.7
    assert rates["model.blocks.2.attn.qkv.weight"] == rates["model.norm_frame.weight"] == 0.5
    assert rates["model.blocks.1.attn.qkv.weight"] == 0.25
    assert rates["model.blocks.0.attn.qkv.weight"] == rates["model.pos_embed"] == 0.125
    assert rates["model.patch_embed.patch_embed.weight"] == 0.125
    decays = {name: decay for name, (_, decay) in rates_of(network, optim).items()}
    assert decays["strong_head.weight"] == 0.01 and decays["strong_head.bias"] == 0
    assert decays["model.norm_frame.weight"] == 0
    every = rates_of(network, optim.model_copy(update={"decayed": "all"}))
    assert {decay for _, decay in every.values()} == {0.01}


def test_the_rate_falls_over_the_17_stages_of_a_mobilenet():
    network = model_of("frame_mn10").network
    rates = {name: rate for name, (rate, _) in rates_of(network, OptimSettings(lr=1.0, layer_decay=0.9)).items()}
    assert rates["model.features.16.0.weight"] == pytest.approx(0.9)
    assert rates["model.features.0.0.weight"] == pytest.approx(0.9**17)


def test_only_the_head_learns_above_frozen_blocks(monkeypatch):
    settings = load_settings(OfficeSettings, CONFIGS / "finetune_dcase2016.yaml", {"optim.frozen": True})
    model = make_model(ModelSettings(name="beats", untrained=True, options=TINY_OF["beats"]), CLASSES[:11])
    module = FrameTraining(settings, model).train()
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    batch = batch_of()
    module.training_step({**batch, "target": batch["target"][:, :11]}, 0).backward()
    assert {n for n, p in module.network.named_parameters() if p.grad is not None} == {
        "strong_head.weight", "strong_head.bias",
    }  # fmt: skip
    assert not module.network.model.training  # no dropout below


@pytest.mark.parametrize("step", [0, 10_000, 20_000, 33_460, 46_920])
def test_the_rate_rises_over_20000_steps_and_falls_as_a_cosine(step):
    schedule = WarmupCosine(20_000, 46_920)
    expected = {0: 0, 10_000: 0.5, 20_000: 1, 33_460: 0.5, 46_920: 0}
    assert schedule(step) == pytest.approx(expected[step], abs=1e-9)
    # The teachers' 30 epochs end within the rise, at 4.1e-5 of 7e-5.
    assert WarmupCosine(20_000, 11_730)(11_730) * 7e-5 == pytest.approx(4.1e-5, rel=0.01)


def test_a_teacher_teaches_a_student_and_its_weights_load_elsewhere(quick, tmp_path):
    teacher = RECIPE.run(quick(name="teacher", model__options={**TINY, **RNN}))
    figures = teacher.read_evaluation()
    assert set(figures) >= {"psds1_macro", "psds1", "pauroc", "clips"} and figures["made_up"]
    assert figures["clips"]["comparable"] and figures["clips"]["evaluated"] <= 10
    distillation = {"weight": 0.9, "teachers": [str(teacher.folder), str(teacher.folder)]}
    student = RECIPE.run(quick(name="student", distillation=distillation, trainer__epochs=1))
    # The mean of two equal teachers is what one says of each clip; stored in half precision.
    stored = KeyedOutputs(student.folder / "targets" / "logits.h5", "strong_logits")
    module = load_module(teacher)
    clips = StrongClips(read_training_set(student.settings.data))
    plan = next(iter(OrderedBatches(len(clips), 3)))
    with torch.inference_mode():
        logits = module.detect(clips[plan]["waveform"]).mT.numpy()
    names = [clips.clips.events.clips[row] for row in plan.rows]
    assert stored.dtype == np.float16 and stored.shape == (447, 250)
    np.testing.assert_allclose(stored.read(stored.rows(names)), logits, atol=4e-3)
    assert rows_of(student)[0].keys() >= {"train_loss", "train_loss_labels", "train_loss_teachers"}
    assert read_record(student.folder, "targets")["teachers"][0]["run"] == str(teacher.folder)
    # The next network starts from the student's file: blocks are the same, heads are new.
    model_settings = ModelSettings(name="atst_frame", weights=student.folder / "train" / "weights.pt", options=TINY)
    model = make_model(model_settings, CLASSES[:5])
    head = model.network.strong_head.weight.clone()
    start_from_weights(model, model_settings)
    trained = read_weights(student.folder / "train" / "last.ckpt", "network.")
    for key, value in model.network.state_dict().items():
        if key.startswith("model."):
            assert torch.equal(value, trained[key])
    assert torch.equal(model.network.strong_head.weight, head)


def test_trained_weights_are_a_file_of_the_registry(tmp_path):
    model = make_model(ModelSettings(name="frame_mn04", untrained=True), CLASSES)
    path = tmp_path / "weights.pt"
    save_checkpoint(model.network.state_dict(), path)  # as `train_network` does
    loaded = load_audio_model("frame_mn04", weights=path)
    waveform = 0.1 * torch.randn(1, 32_000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        spectrogram = model.front_end.eval()(waveform)
        expected = model.network.eval()(spectrogram).frame_logits
        torch.testing.assert_close(loaded.network(spectrogram).frame_logits, expected)


@pytest.mark.parametrize("name", ["atst_frame", "fpasst", "beats", "m2d", "asit"])
def test_what_is_trained_loads_strictly_as_released_weights_do(name):
    trained = model_of(name).network.state_dict()
    model = create_audio_model(name, **TINY_OF[name])
    load_released_state_dict(model, trained)
    assert all(torch.equal(value, trained[key]) for key, value in model.network.state_dict().items())


class StopInSecondEpoch(Callback):
    """Ctrl-C."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 1:
            raise KeyboardInterrupt


def test_a_run_that_was_stopped_ends_like_one_that_was_not(quick, monkeypatch):
    whole = RECIPE.run(quick(name="whole"))
    settings = quick(name="stopped")
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "make_trainer", partial(recipe.make_trainer, callbacks=[StopInSecondEpoch()]))
        with pytest.raises(KeyboardInterrupt):
            RECIPE.run(settings)
    assert not (settings.folder / "train" / "stage.json").exists()
    run = RECIPE.run(settings)
    expected, found = (read_weights(r.folder / "train" / "last.ckpt", "network.") for r in (whole, run))
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in rows_of(r)] for r in (whole, run)]
    assert rows[0] == rows[1]
    before = (run.folder / "train" / "stage.json").stat().st_mtime_ns
    RECIPE.run(settings, redo=("test",))
    assert (run.folder / "train" / "stage.json").stat().st_mtime_ns == before


def work_in_process(rank, port, settings):
    """One of two processes that torchrun would start."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    torch.set_num_threads(1)
    RECIPE.run(settings)
    assert "pt_gloo_runloop" in names_of_threads() or sys.platform != "linux"
    leave_other_processes()  # as at the process's end, where threads that go on would abort it now and then
    assert "pt_gloo_runloop" not in names_of_threads()


def names_of_threads():
    names = []
    for thread in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # it has ended
            names.append(thread.read_text().strip())
    return names


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_with_the_joint_batch(quick):
    one = RECIPE.run(quick(name="one"))
    settings = quick(name="two", trainer__devices=2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    arguments = [(rank, port, settings) for rank in range(2)]
    processes = [context.Process(target=work_in_process, args=each, daemon=True) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0, 0]
    alone, together = rows_of(one), rows_of(Run(settings.folder, settings))
    assert len(alone) == len(together) == 2 and alone[1]["step"] == together[1]["step"] == 6
    for name in ("train_loss", "val_psds1_macro", "lr"):
        assert [row[name] for row in together] == pytest.approx([row[name] for row in alone], rel=1e-5), name
    expected = read_weights(one.folder / "train" / "last.ckpt", "network.")
    found = read_weights(settings.folder / "train" / "last.ckpt", "network.")
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=2e-5)  # Adam amplifies rounding where it is small


def test_weights_that_are_absent_or_of_another_network_are_told(quick, tmp_path, monkeypatch):
    monkeypatch.setenv("DCASE_KIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("pooch.retrieve", _no_network)
    with pytest.raises(UserError, match=r"ATST-F_weak.pt cannot be downloaded .* put ATST-F_weak.pt into"):
        start_from_weights(model_of("atst_frame"), ModelSettings(name="atst_frame.weak"))
    with pytest.raises(UserError, match=r"names no weights; take atst_frame.weak, give model.weights a file"):
        start_from_weights(model_of("atst_frame"), ModelSettings(name="atst_frame"))
    with pytest.raises(UserError, match="There is no checkpoint"):
        start_from_weights(model_of("atst_frame"), ModelSettings(name="atst_frame", weights=tmp_path / "absent.pt"))
    save_checkpoint(model_of("atst_frame", dim=24).network.state_dict(), tmp_path / "wide.pt")
    with pytest.raises(UserError, match=r"wide.pt does not fit atst_frame .* \(first model.mask_embed\)"):
        start_from_weights(model_of("atst_frame"), ModelSettings(name="atst_frame", weights=tmp_path / "wide.pt"))
    save_checkpoint(model_of("m2d").network.state_dict(), tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"other.pt (cannot be used for|does not fit) atst_frame"):
        start_from_weights(model_of("atst_frame"), ModelSettings(name="atst_frame", weights=tmp_path / "other.pt"))
    with pytest.raises(UserError, match="gives one vector per clip"):
        make_model(ModelSettings(name="mn04", untrained=True), CLASSES)


def _no_network(*_, **__):
    import requests

    raise requests.ConnectionError


def test_a_student_needs_finished_teachers(quick, tmp_path):
    distillation = {"weight": 0.9, "teachers": [str(tmp_path / "absent")]}
    with pytest.raises(UserError, match="absent is no run"):
        RECIPE.run(quick(distillation=distillation))
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "settings.yaml").write_text(SMALL.read_text())
    with pytest.raises(UserError, match="begun has no finished stage test"):
        RECIPE.run(quick(name="second", distillation={"weight": 0.9, "teachers": [str(begun)]}))


def stop_after_an_epoch(run, settings):
    (run.folder / "train" / "last.ckpt").touch()
    raise ZeroDivisionError


def test_other_settings_in_the_middle_of_a_run_are_refused(quick):
    settings = quick()
    with pytest.raises(ZeroDivisionError):
        run_stages(Run(settings.folder, settings), [Stage("train", stop_after_an_epoch, make_stages(settings)[0].uses)])
    with pytest.raises(UserError, match=r"made with other settings: optim.lr: 0.005 -> 0.5.*--redo train"):
        RECIPE.run(quick(optim__lr=0.5))


def test_the_stages_are_targets_training_and_test(quick):
    assert [stage.name for stage in STAGES] == ["targets", "train", "test"]
    assert [stage.name for stage in make_stages(quick())] == ["train", "test"]


@pytest.fixture(scope="module")
def office_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("office")
    random.seed(0)
    synthesize("dcase2016_task2", root, clips=2)
    return root


def test_the_downstream_training_runs_from_pretrained_weights(office_root, tmp_path):
    save_checkpoint(model_of("atst_frame", depth=1).network.state_dict(), tmp_path / "weights.pt")
    overrides = {
        "data.root": str(office_root), "runs": str(tmp_path), "model.weights": str(tmp_path / "weights.pt"),
        "model.options": TINY, "trainer.epochs": 2, "trainer.validate_every": 1, "trainer.accelerator": "cpu",
        "trainer.measure_energy": False,
    }  # fmt: skip
    settings = load_settings(OfficeSettings, CONFIGS / "finetune_dcase2016_small.yaml", overrides)
    run = office.RECIPE.run(settings)
    rows = rows_of(run)
    assert rows[1]["step"] == 4  # 2 recordings of 120 s: 24 clips, 16 in a batch
    assert rows[1].keys() >= {"val_onset_f1", "val_onset_f1_50ms", "val_segment_error_rate"}
    figures = run.read_evaluation()
    assert figures["recordings"] == 2 and 0 <= figures["onset_f1"]["value"] <= 1
    assert set(json.loads((run.folder / "test" / "events.json").read_text())) == {"test_001.wav", "test_002.wav"}  # fmt: skip # noqa: E501


def test_the_downstream_training_is_checked_without_trained_weights(office_root, tmp_path, capfd):
    words = ["finetune_dcase2016", "--fast_check", "--data.root", str(office_root), "--trainer.accelerator", "cpu"]
    assert cli_run("python -m task4_sed", VERBS, [*words, "--model.weights", str(tmp_path / "absent.pt")]) == 0
    assert "Two steps of everything worked" in capfd.readouterr().err
