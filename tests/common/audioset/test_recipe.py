"""AudioSet training and fine-tuning from end to end, small."""

import copy
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.audioset import recipe
from common.audioset.as_model import load_run
from common.audioset.evaluate import open_tagging_run
from common.audioset.networks import load_trained, make_model, network_options, refuse_hot_kernels
from common.audioset.settings import FineTuneSettings, PretrainSettings
from common.audioset.tables import read_classes
from common.audioset.teachers import write_teacher_logits
from common.audioset.train import TaggingTraining
from common.data.keyed_outputs import KeyedOutputs
from common.errors import UserError
from common.inference.as_model import names_a_folder
from common.registry import load_audio_model
from common.registry.models import create_model
from common.settings import load_settings, parse_settings
from common.training.checkpoints import read_weights, save_checkpoint
from tests.support.verbs import verb

CONFIGS = Path("common/audioset/configs")
FINE_TUNING = ("esc50", "fsd50k", "openmic", "table")


def pretrain_settings(root, runs, **changes):
    plain = {
        "data.root": str(root), "data.seconds": 1.0, "runs": str(runs), "model.name": "mn01", "loader.batch_size": 8,
        "sampler.clips_per_epoch": 16, "trainer.epochs": 2, "trainer.validate_every": 1, "trainer.accelerator": "cpu",
        "trainer.measure_energy": False,
    }  # fmt: skip
    return load_settings(PretrainSettings, CONFIGS / "small.yaml", {**plain, **changes})


def same_weights(first, second):
    first, second = (read_weights(folder / "train" / "weights.pt") for folder in (first, second))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def trained(tiny_audioset, tmp_path_factory):
    """A finished run without teacher."""
    longer = {"trainer.epochs": 4, "sampler.clips_per_epoch": 40, "optim.lr": 0.02, "model.norm_momentum": 0.3}
    runs = tmp_path_factory.mktemp("runs")
    return recipe.RECIPE.run(pretrain_settings(tiny_audioset, runs, name="teacher", **longer))


def test_a_run_ends_with_figures_logits_and_weights(trained, tiny_audioset):
    scores = trained.read_evaluation()
    assert (
        scores["made_up"] is True and 0 <= scores["mAP"]["low"] <= scores["mAP"]["value"] <= scores["mAP"]["high"] <= 1
    )
    with (trained.folder / "train" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and float(rows[-1]["val_mAP"]) == pytest.approx(scores["mAP"]["value"], abs=1e-4)
    table = KeyedOutputs(trained.folder / "test" / "logits.hdf", "logits", (16,))
    assert len(table) == scores["clips"]
    # The weights are of official names: whatever loads weights loads these.
    model = load_audio_model("mn01", trained.folder / "train" / "weights.pt", labels=read_classes(tiny_audioset).names)
    assert model.labels == read_classes(tiny_audioset).names


def test_distillation_takes_the_logits_of_a_run(trained, tiny_audioset, tmp_path):
    out = tmp_path / "teacher.hdf"
    count = write_teacher_logits(
        [str(trained.folder)], tiny_audioset, out, ["*train_segments_mp3.hdf"], seconds=1.0, batch_size=16
    )
    table = KeyedOutputs(out, "logits", (16,))
    assert len(table) == count
    settings = pretrain_settings(tiny_audioset, tmp_path, **{"name": "student", "teacher.logits": str(out)})
    finished = recipe.RECIPE.run(settings)
    with (finished.folder / "train" / "metrics.csv").open() as file:
        row = list(csv.DictReader(file))[-1]
    total = 0.1 * float(row["label_loss"]) + 0.9 * float(row["teacher_loss"])
    assert float(row["train_loss"]) == pytest.approx(total, abs=1e-5)


def test_two_teachers_are_averaged(trained, tiny_audioset, tmp_path):
    weights = trained.folder / "train" / "weights.pt"
    patterns = ["balanced_train_segments_mp3.hdf"]
    write_teacher_logits([str(trained.folder)], tiny_audioset, tmp_path / "one.hdf", patterns, 1.0)
    write_teacher_logits([str(trained.folder)] * 2, tiny_audioset, tmp_path / "two.hdf", patterns, 1.0)
    one, two = (KeyedOutputs(tmp_path / name) for name in ("one.hdf", "two.hdf"))
    assert np.array_equal(one.read(range(5)), two.read(range(5)))
    with pytest.raises(UserError, match="527 classes, the data have 16"):
        write_teacher_logits(["mn01=" + str(_random_mn01(tmp_path))], tiny_audioset, tmp_path / "x.hdf", patterns, 1.0)
    assert weights.is_file() and not (tmp_path / "x.hdf").exists()


def _random_mn01(folder):
    torch.save(create_model("mn01").state_dict(), folder / "mn01.pt")
    return folder / "mn01.pt"


@pytest.mark.parametrize("average", [pytest.param("swa", marks=pytest.mark.slow), "ema"])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(tiny_audioset, tmp_path, monkeypatch, average):
    averages = {"swa": {"optim.swa": {"start": 1, "every": 1}}, "ema": {"optim.ema_decay": 0.9}}[average]
    changes = {"trainer.epochs": 2, "augment.wavmix_probability": 0.5, "augment.gain_db": 3, "augment.roll": 100}
    changes |= averages | {"data.watch_test": False, "sampler.clips_per_epoch": 8, "loader.batch_size": 4}
    if average == "swa":
        changes |= {"model.name": "dymn04", "model.options": {"T_max": 2}}
    whole = recipe.RECIPE.run(pretrain_settings(tiny_audioset, tmp_path, name="whole", **changes))
    settings = pretrain_settings(tiny_audioset, tmp_path, name="stopped", **changes)
    start = TaggingTraining.on_train_epoch_start

    def stop(self):
        if self.current_epoch == 1:
            raise OSError("stopped")
        start(self)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="stopped"):
        patch.setattr(TaggingTraining, "on_train_epoch_start", stop)
        recipe.RECIPE.run(settings)
    assert not (settings.folder / "train" / "weights.pt").exists()
    resumed = recipe.RECIPE.run(settings)
    assert same_weights(whole.folder, resumed.folder)


def test_the_plain_mean_is_that_of_the_weights_at_the_start_of_epochs(tiny_audioset, tmp_path):
    settings = pretrain_settings(tiny_audioset, tmp_path, **{"optim.swa": {"start": 3, "every": 2}})
    module = TaggingTraining(settings, read_classes(tiny_audioset).names)
    parameter = module.network.classifier[-1].bias
    taken = []
    for epoch in range(9):
        module.__dict__["_trainer"] = type("T", (), {"current_epoch": epoch})()
        with torch.no_grad():
            parameter.fill_(float(epoch))
        module.on_train_epoch_start()
        taken.append(float(module.average.classifier[-1].bias[0]))
    # The third, fifth, ... epoch: 2, then (2 + 4) / 2, then (2 + 4 + 6) / 3, then (2 + 4 + 6 + 8) / 4.
    assert taken[2:] == pytest.approx([2, 2, 3, 3, 4, 4, 5])
    assert module.tested_prefix == "average."
    assert not any(parameter.requires_grad for parameter in module.average.parameters())


def test_dymn_cools_down_as_published():
    network = create_model("dymn04", num_classes=4, T_max=30.0)
    temperature = [network.temperature_in(epoch) for epoch in (0, 1, 28, 29, 199)]
    assert temperature == [30, 29, 2, 1, 1]
    path = CONFIGS / "dymn04.yaml"
    refuse_hot_kernels(load_settings(PretrainSettings, path))
    with pytest.raises(UserError, match=r"after 10 epochs .* would be 21, .*--model.options.T_max 10"):
        refuse_hot_kernels(load_settings(PretrainSettings, path, {"trainer.epochs": 10}))
    refuse_hot_kernels(load_settings(PretrainSettings, path, {"trainer.epochs": 10, "model.options.T_max": 10}))
    refuse_hot_kernels(load_settings(PretrainSettings, path, {"trainer.epochs": 1, "model": {"name": "mn04"}}))


def test_a_dymn_starts_hot_from_random_weights_only(tmp_path):
    def options(**model):
        return network_options(
            parse_settings(PretrainSettings, {"name": "x", "trainer": {"epochs": 1}, "model": model})
        )

    assert options(name="dymn04") == {"T_max": 30.0}
    assert options(name="dymn04", options={"T_max": 5}) == {"T_max": 5}
    assert options(name="dymn04", weights=str(tmp_path / "weights.pt")) == options(name="dymn04.as") == {}
    assert create_model("dymn04.im").temperature_in(0) == 30 and create_model("dymn04.as").temperature_in(0) == 1


def test_every_step_of_an_epoch_runs_at_its_temperature(tiny_audioset, tmp_path):
    settings = pretrain_settings(tiny_audioset, tmp_path, **{"model.name": "dymn04", "model.options": {"T_max": 4}})
    module = TaggingTraining(settings, read_classes(tiny_audioset).names)
    for epoch, temperature in enumerate((4, 3, 2, 1, 1)):
        module.__dict__["_trainer"] = type("T", (), {"current_epoch": epoch})()
        module.on_train_epoch_start()
        assert module.network.layers[0].depth_conv.temperature == temperature


@pytest.mark.parametrize(("bias", "warned"), [(0.0, False), (40.0, True)])
def test_large_logits_in_evaluation_are_logged_and_warned_of(tiny_audioset, tmp_path, capsys, bias, warned):
    module = TaggingTraining(pretrain_settings(tiny_audioset, tmp_path), read_classes(tiny_audioset).names).eval()
    module.network.classifier[-1].bias.data.fill_(bias)
    logged: dict[str, float] = {}
    replaced = {"_trainer": type("T", (), {"current_epoch": 2})(), "log_dict": logged.update, "log": logged.__setitem__,
                "all_gather": lambda value: value}  # fmt: skip
    module.__dict__.update(replaced)
    with torch.no_grad():
        module.validation_step(
            {"waveform": 0.1 * torch.randn(3, 32000), "target": torch.eye(3, 16), "weight": torch.ones(3, 16),
             "index": torch.arange(3)}, 0,
        )  # fmt: skip
    module.on_validation_epoch_end()
    assert logged["val_largest_logit"] == pytest.approx(bias, abs=5) and logged["val_loss"] > 0
    assert ("Epoch 3: the largest logit of the validation clips is" in capsys.readouterr().err) == warned


def test_passt_learns_with_patchout_and_leaves_none_out_in_evaluation(tiny_audioset, tmp_path):
    options = {"depth": 1, "input_tdim": 100, "s_patchout_t": 3, "s_patchout_f": 2}
    settings = load_settings(
        PretrainSettings, CONFIGS / "passt.yaml",
        {"data.root": str(tiny_audioset), "data.seconds": 1.0, "model.options": options, "loader.batch_size": 4},
    )  # fmt: skip
    module = TaggingTraining(settings, read_classes(tiny_audioset).names)
    spectrogram = torch.randn(2, 1, 128, 100)
    assert module.network.train().tokens(spectrogram).shape[1] == 2 + (12 - 2) * (9 - 3)
    assert module.network.eval().tokens(spectrogram).shape[1] == 2 + 12 * 9
    assert not module.network.head_dist.weight.requires_grad  # it would keep several devices waiting


def test_image_weights_start_a_passt(tmp_path):
    network = create_model("passt_s_swa", depth=1, embed_dim=768, num_classes=5)
    state = {name: value.clone() for name, value in network.state_dict().items() if not name.startswith("head")}
    for name in ("freq_new_pos_embed", "time_new_pos_embed", "new_pos_embed"):
        state.pop(name)
    state["patch_embed.proj.weight"] = torch.ones(768, 3, 16, 16)
    state["pos_embed"] = torch.randn(1, 2 + 24 * 24, 768)
    torch.save(state, tmp_path / "deit.pt")
    settings = parse_settings(
        PretrainSettings,
        {"name": "x", "trainer": {"epochs": 1},
         "model": {"name": "passt_s_swa", "weights": str(tmp_path / "deit.pt"), "options": {"depth": 1}}},
    )  # fmt: skip
    model = make_model(settings, ["a", "b", "c"])
    assert (model.network.patch_embed.proj.weight == 3).all()
    assert torch.equal(model.network.new_pos_embed, state["pos_embed"][:, :2])
    assert model.network.head[1].weight.shape == (3, 768)


def test_official_names_and_strides_of_released_weights_hold(tmp_path):
    model = {"name": "passt_s_swa.s16_ap473", "options": {"depth": 1}}
    settings = parse_settings(PretrainSettings, {"name": "x", "trainer": {"epochs": 1}, "model": model})
    weights = create_model("passt_s_swa.s16_ap473", num_classes=1, depth=1).state_dict()
    save_checkpoint(weights, tmp_path / "passt.pt")
    assert load_trained(settings, ["a"], tmp_path / "passt.pt").network.patch_embed.proj.stride == (16, 16)
    torch.save(create_model("mn04").state_dict(), tmp_path / "mn04.pt")
    for name in ("mn04.as", "mn04_as"):
        model = {"name": name, "weights": str(tmp_path / "mn04.pt")}
        settings = parse_settings(PretrainSettings, {"name": "x", "trainer": {"epochs": 1}, "model": model})
        weight = make_model(settings, ["a", "b"]).network.features[0][0].weight
        assert torch.equal(weight, torch.load(tmp_path / "mn04.pt")["features.0.0.weight"])


def test_weights_are_taken_over_with_a_new_classifier(trained, tmp_path):
    weights = trained.folder / "train" / "weights.pt"
    model = {"name": "mn01", "weights": str(weights), "options": {"dropout": 0.5}}
    made = make_model(
        parse_settings(PretrainSettings, {"name": "x", "trainer": {"epochs": 1}, "model": model}), ["a", "b"]
    )
    assert torch.equal(made.network.features[0][0].weight, read_weights(weights)["features.0.0.weight"])
    assert made.network.classifier[5].weight.shape[0] == 2
    wrong = copy.deepcopy(model) | {"options": {"se_dims": "none"}}
    settings = parse_settings(PretrainSettings, {"name": "x", "trainer": {"epochs": 1}, "model": wrong})
    with pytest.raises(UserError, match=r"model\.options do not fit the weights of mn01"):
        make_model(settings, ["a", "b"])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_loads_and_names_a_model(path):
    cls = FineTuneSettings if path.stem.split("_")[0] in FINE_TUNING else PretrainSettings
    settings = load_settings(cls, path)
    with torch.device("meta"):
        network = create_model(settings.model.name, **{"num_classes": 3, **settings.model.options})
    assert sum(parameter.numel() for parameter in network.parameters()) > 0
    refuse_hot_kernels(settings)


@pytest.mark.parametrize(
    ("name", "lr", "decay", "optimiser"), [("mn10", 8e-4, 0, "adam"), ("dymn10", 1e-3, 1e-4, "adamw")]
)
def test_the_published_settings_are_in_the_files(name, lr, decay, optimiser):
    settings = load_settings(PretrainSettings, CONFIGS / f"{name}.yaml")
    assert (settings.optim.name, settings.optim.lr, settings.optim.weight_decay) == (optimiser, lr, decay)
    assert (settings.loader.batch_size, settings.trainer.epochs, settings.sampler.clips_per_epoch) == (
        120,
        200,
        100_000,
    )
    assert settings.teacher.label_weight == 0.1 and settings.teacher.temperature == 1
    assert settings.augment.mixup_alpha == 0.3 and settings.augment.roll == settings.augment.gain_db == 0


def test_a_trained_network_tags_and_embeds_by_the_folder_of_its_run(trained, tones, tmp_path, capsys, monkeypatch):
    path = tones / "audio" / "0.wav"
    assert verb("tag", path, "--model", trained.folder, "--top", 3, "--json") == 0
    [row] = json.loads(capsys.readouterr().out)
    names = trained.read_evaluation()["labels"]
    model = load_run(trained.folder)
    logits = model.clip_scores(path).logits[0]
    scores = [float(logits.sigmoid()[names.index(tag["label"])]) for tag in row["tags"]]
    assert [tag["score"] for tag in row["tags"]] == pytest.approx(scores, abs=1e-4)
    assert scores == pytest.approx(logits.sigmoid().topk(3).values.tolist(), abs=1e-4)  # two of them may be equal
    assert verb("embed", tones / "audio", "--model", trained.folder, "--out", tmp_path / "e.npz") == 0
    assert np.load(tmp_path / "e.npz")["embedding"].shape == (24, model.clip_scores(path).embedding.shape[1])
    assert names_a_folder(str(tones / "audio"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mn04.as").mkdir()
    assert not names_a_folder("mn04.as")  # the registry's name goes first
    assert verb("tag", path, "--model", tones / "audio") == 2
    assert "audio is no run" in capsys.readouterr().err


def test_the_commands_work_and_tell_mistakes(tiny_audioset, trained, tmp_path, capsys):
    assert verb("audioset", "check", "--root", tiny_audioset, "--json", "--decode", 2) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == [] and found["splits"][2]["split"] == "eval"
    assert verb("audioset", "evaluate", trained.folder, "--json") == 0
    assert json.loads(capsys.readouterr().out)["classes"] <= 16
    assert verb("audioset", "evaluate", trained.folder) == 0
    assert "Made-up data" in capsys.readouterr().out
    small = CONFIGS / "small.yaml"
    for mistake in (("--data.root", tmp_path), ("--data.root", tiny_audioset, "--teacher.logits", tmp_path / "t.hdf")):
        assert verb("pretrain", small, "--runs", tmp_path / "runs", *mistake) == 2
    told = capsys.readouterr().err
    assert "has no balanced_train_segments_mp3*.hdf" in told and "There is no file" in told
    assert not (tmp_path / "runs").exists()  # a mended call is not refused for its other settings
    assert verb("finetune", CONFIGS / "esc50.yaml", "--data.root", tmp_path, "--runs", tmp_path / "r") == 2
    assert "esc50.csv does not exist" in capsys.readouterr().err
    assert verb("audioset", "pack", "--root", tiny_audioset, "--audio", tmp_path / "none", "--split", "eval") == 2
    assert "There is no folder" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_together(tiny_audioset, tmp_path):
    words = [
        "pretrain", CONFIGS / "small.yaml", "--data.root", tiny_audioset, "--data.seconds", 1.0, "--runs", tmp_path,
        "--model.name", "mn01", "--loader.batch_size", 4, "--sampler.clips_per_epoch", 16, "--trainer.epochs", 2,
        "--trainer.accelerator", "cpu", "--trainer.devices", 2, "--trainer.validate_every", 1, "--optim.ema_decay", 0.9,
        "--trainer.measure_energy", "true",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "common", *map(str, words)], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("clips an epoch") == 1 and "has no" not in done.stderr  # one process tells
    assert len(json.loads((tmp_path / "small" / "train" / "energy.json").read_text())["sessions"]) == 1
    scores = open_tagging_run(tmp_path / "small").read_evaluation()
    with (tmp_path / "small" / "train" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(float(row["step"])) for row in rows] == [2, 4]  # 16 clips, two processes of 4
    # Gathered over both processes, each clip once.
    assert float(rows[-1]["val_mAP"]) == pytest.approx(scores["mAP"]["value"], abs=1e-4)
