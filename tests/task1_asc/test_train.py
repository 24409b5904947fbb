import multiprocessing
import os
import random
import time
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from common.errors import UserError
from common.models.network import ModelOutput
from common.runs.run import Run
from common.runs.stages import run_stages
from common.settings import load_settings
from common.training.checkpoints import read_checkpoint
from task1_asc.data.clips import open_clips, open_development
from task1_asc.data.tau2022 import CLASSES, development_folder, read_split
from task1_asc.evaluate import predict
from task1_asc.networks.build import load_run_model, make_model
from task1_asc.networks.classify import DeviceNetworks, InHalf, classify_with
from task1_asc.recipe import RECIPE
from task1_asc.settings import Task1Settings
from task1_asc.train import QuantizedSceneTraining, SceneTraining
from tests.support.places import ROOT

CONFIGS = sorted((ROOT / "task1_asc" / "configs").glob("*.yaml"))
SMALL = CONFIGS[0].with_name("small.yaml")
# Enough of everything that is random or has a state, in a network that takes milliseconds.
QUICK = {
    "subset": 5,
    "loader.batch_size": 32,
    "front_end.n_mels": 32,
    "front_end.n_fft": 1024,
    "front_end.win_length": 1024,
    "front_end.hop_length": 2000,
    "model.base_channels": 8,
    "augment.gain_db": 3.0,
    "augment.mixup_alpha": 0.3,
    "optim.average_decay": 0.9,
    "trainer.epochs": 2,
    "trainer.accelerator": "cpu",
    "trainer.measure_energy": False,
}


@pytest.fixture(scope="module")
def responses(tmp_path_factory):
    folder = tmp_path_factory.mktemp("responses")
    noise = np.random.default_rng(0)
    for name in ("one", "two"):
        response = noise.normal(size=400) * np.exp(-np.arange(400) / 50) / 10
        soundfile.write(folder / f"{name}.wav", response, 44100, subtype="PCM_24")
    return folder


@pytest.fixture
def quick(tiny_task1, tmp_path, responses):
    """Makes settings of a quick run, with all augmentation; overrides win."""

    def make(config=SMALL, **overrides):
        response = {"augment.impulse_responses.folder": str(responses)}
        places = {"data.root": str(tiny_task1), "runs": str(tmp_path), "name": "quick"}
        overrides = {name.replace("__", "."): value for name, value in overrides.items()}
        return load_settings(Task1Settings, config, {**QUICK, **response, **places, **overrides})

    return make


# distilled.yaml begins with released weights: see test_task1_distillation.py.
@pytest.mark.parametrize("config", [path for path in CONFIGS if path.stem != "distilled"], ids=lambda path: path.stem)
def test_every_configuration_does_two_steps_of_everything(config, tiny_task1, tmp_path, responses):
    overrides = {"data.root": str(tiny_task1), "runs": str(tmp_path), "subset": 5, "loader.batch_size": 8}
    overrides |= {"trainer.accelerator": "cpu", "trainer.measure_energy": False}
    if "_dir" in config.stem:
        overrides["augment.impulse_responses.folder"] = str(responses)
    RECIPE.check(load_settings(Task1Settings, config, overrides))
    assert list(tmp_path.iterdir()) == []


def test_the_published_recipe_is_the_fact_sheets():
    """Facts of CPJKU/dcase2024_task1_baseline: front end, network and training."""
    settings = load_settings(Task1Settings, SMALL.with_name("baseline.yaml"))
    front_end = settings.front_end.model_dump()
    assert front_end == {
        "mel_rate": 32000, "n_fft": 4096, "win_length": 3072, "hop_length": 500, "n_mels": 256, "f_min": 0,
        "f_max": 16000,
    }  # fmt: skip
    assert settings.model.model_dump() == {
        "name": "task1_baseline", "base_channels": 32, "channels_multiplier": 1.8, "expansion_rate": 2.1
    }  # fmt: skip
    augment = settings.augment
    assert augment.roll_seconds == 0.1
    assert (augment.frequency_mask, augment.time_mask) == (48, 0)
    assert (augment.freq_mixstyle.probability, augment.freq_mixstyle.alpha) == (0.4, 0.3)
    assert (augment.gain_db, augment.mixup_alpha, augment.impulse_responses) == (0, None, None)
    optim = settings.optim
    assert (optim.lr, optim.weight_decay, optim.warmup_steps) == (0.005, 1e-4, 2000)
    assert optim.average_decay is None
    assert (settings.trainer.epochs, settings.loader.batch_size, settings.trainer.precision) == (150, 256, "32-true")
    assert settings.trainer.gradient_clip is None
    assert settings.data.validation is None
    network = make_model(settings, 32000).network
    assert sum(parameter.numel() for parameter in network.parameters()) == 61148


def test_the_baseline_with_impulse_responses_differs_in_its_augmentation_only():
    baseline = load_settings(Task1Settings, SMALL.with_name("baseline.yaml")).model_dump(exclude={"name"})
    for name, mixstyle in (("baseline_dir", False), ("baseline_dir_fms", True)):
        other = load_settings(Task1Settings, SMALL.with_name(f"{name}.yaml")).model_dump(exclude={"name"})
        augment = other.pop("augment")
        assert other == {key: value for key, value in baseline.items() if key != "augment"}
        response = augment.pop("impulse_responses")
        assert response["probability"] == 0.6
        assert response["recording_devices"] == ["a"]
        assert (response["level"], response["delay"], response["max_duration"]) == ("as_measured", "as_measured", None)
        expected = {**baseline["augment"], "freq_mixstyle": baseline["augment"]["freq_mixstyle"] if mixstyle else None}
        assert augment == {key: value for key, value in expected.items() if key != "impulse_responses"}


def _train_in_process(settings, folder):
    torch.set_num_threads(1)  # the threads of the parent are not there after a fork
    run_stages(Run(folder, settings), RECIPE.stages(settings)[:1])


def test_a_run_that_was_killed_three_times_ends_with_the_same_weights(quick, tmp_path):
    settings = quick(trainer__epochs=12)
    torch.set_num_threads(1)
    run_stages(Run(tmp_path / "whole", settings), RECIPE.stages(settings)[:1])
    # Forked from this process, which has imported everything: starts in milliseconds.
    context = multiprocessing.get_context("fork")
    place = random.Random(os.environ.get("PYTEST_KILL_SEED", "0"))
    table = tmp_path / "killed" / "train" / "metrics.csv"
    for epochs_before in (0, 3, 7):
        process = context.Process(target=_train_in_process, args=(settings, tmp_path / "killed"))
        process.start()
        begun = tmp_path / "killed" / "train" / ".begun.json"
        while not begun.exists() or (epochs_before and _num_rows(table) < epochs_before):
            assert process.is_alive()
            time.sleep(0.002)
        time.sleep(place.uniform(0, 0.15))
        process.kill()
        process.join()
        assert process.exitcode == -9, "the run had ended before it was killed"
    assert _num_rows(table) < 12
    run_stages(Run(tmp_path / "killed", settings), RECIPE.stages(settings)[:1])
    whole, killed = (read_checkpoint(tmp_path / name / "train" / "last.ckpt") for name in ("whole", "killed"))
    assert whole["global_step"] == killed["global_step"] == 12 * 4
    assert whole["state_dict"].keys() == killed["state_dict"].keys()
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, killed["state_dict"][name]), name


def _num_rows(table):
    return len(table.read_text().splitlines()) - 1 if table.exists() else 0


def test_a_run_is_trained_tested_and_can_be_opened_again(quick):
    settings = quick(subset=100, data__validation={"share": 0.4})
    run = RECIPE.run(settings)
    names = {path.name for path in (run.folder / "train").iterdir()}
    assert {"best.ckpt", "last.ckpt", "metrics.csv", "stage.json"} <= names
    scores = RECIPE.open(run.folder).read_evaluation()
    assert scores["float32"]["clips"] == 100
    assert scores["made_up"]
    saved = np.load(run.folder / "test" / "logits.npz")
    np.testing.assert_allclose(saved["float16"], saved["float32"], atol=0.05)
    assert (saved["float32"].argmax(axis=1) == saved["target"]).mean() == scores["float32"]["accuracy"]["value"]
    row = RECIPE.result_row(run)
    assert row["macro_accuracy"] == scores["float32"]["macro_accuracy"]["value"]
    # What differs from machine to machine has no place in the table of a sweep.
    assert not any("seconds" in name or "kwh" in name for name in row)


def test_the_best_epoch_is_tested_when_clips_are_held_out_and_the_last_one_otherwise(quick):
    for name, validation, expected in (("held", {"share": 0.4}, "best.ckpt"), ("all", None, "last.ckpt")):
        settings = quick(subset=100, data__validation=validation, name=name)
        run = RECIPE.run(settings)
        weights = read_checkpoint(run.folder / "train" / expected)["state_dict"]
        model = load_run_model(run, 32000)
        for key, value in model.network.state_dict().items():
            assert torch.equal(value, weights[f"average.{key}"])


def test_predictions_follow_the_list_of_the_evaluation_set(quick, tiny_task1):
    run = RECIPE.run(quick())
    path = predict(run, tiny_task1)
    listed = next(tiny_task1.glob("*2024*/evaluation_setup/fold1_test.csv")).read_text().splitlines()[1:]
    lines = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    assert [line[0] for line in lines] == [line.split("\t")[0].removeprefix("audio/") for line in listed]
    for line in lines:
        probabilities = np.array(line[2:], dtype=float)
        assert probabilities.sum() == pytest.approx(1, abs=1e-7)
        assert line[1] == CLASSES[probabilities.argmax()]


def test_packed_clips_and_wav_files_give_the_same_scores(quick, tiny_task1):
    settings = quick(data__sample_rate=44100)
    model = make_model(settings, 44100).eval()
    clips = read_split(tiny_task1, "test").iloc[:20]
    folder = development_folder(tiny_task1)
    networks = {"float32": DeviceNetworks(model.network)}
    logits = [
        classify_with(model.front_end, networks, [dataset.gather(range(20))])[0]["float32"]
        for dataset in (open_development(settings, clips), open_clips(clips, folder))
    ]
    # The store rounds to 16 bit; the files have 24.
    np.testing.assert_allclose(*logits, atol=0.05)


def batch_of(num_clips=4, samples=32000):
    waveform = 0.1 * torch.randn(num_clips, samples, generator=torch.Generator().manual_seed(0))
    target = torch.arange(num_clips) % 10
    return {"waveform": waveform, "target": target, "recording_device": ["a", "b", "a", "s1"][:num_clips]}


def captured_input(module, batch):
    """What the network is given for a batch in training."""
    seen = []
    handle = module.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module.log = lambda *_, **__: None
    module.train()
    module.training_step(batch, 0)
    handle.remove()
    return seen[0]


OFF = {
    "augment.gain_db": 0.0,
    "augment.mixup_alpha": None,
    "augment.roll_seconds": 0.0,
    "augment.frequency_mask": 0,
    "augment.freq_mixstyle": None,
    "augment.impulse_responses": None,
}


@pytest.fixture
def module_with(tiny_task1):
    """Makes a training module in which only the given augmentation is on."""

    def make(**augment):
        overrides = {**QUICK, **OFF, "data.root": str(tiny_task1)}
        overrides |= {f"augment.{name}": value for name, value in augment.items()}
        overrides["optim.average_decay"] = None
        return SceneTraining(load_settings(Task1Settings, SMALL, overrides), 32000)

    return make


def test_without_augmentation_training_sees_what_testing_sees(module_with):
    module, batch = module_with(), batch_of()
    seen = captured_input(module, batch)
    module.eval()
    torch.testing.assert_close(seen, module.front_end(batch["waveform"]))


def test_the_mask_is_put_on_the_power_before_the_logarithm(module_with):
    """A silenced cell becomes ln(1e-5) = -11.51."""
    seen = captured_input(module_with(frequency_mask=20), batch_of())
    silenced = torch.isclose(seen, torch.tensor(1e-5).log())
    assert silenced.any()
    assert (silenced.all(dim=3) == silenced.any(dim=3)).all()


def test_impulse_responses_come_before_roll_and_spectrogram_and_change_device_a_only(module_with, responses):
    response = {"folder": str(responses), "probability": 1.0}
    module, batch = module_with(impulse_responses=response), batch_of()
    seen = captured_input(module, batch)
    module.eval()
    plain = module.front_end(batch["waveform"])
    changed = (seen - plain).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert changed.tolist() == [True, False, True, False]


def test_the_tested_network_is_not_augmented(module_with):
    module, batch = module_with(frequency_mask=20, freq_mixstyle={"probability": 1.0, "alpha": 0.3}), batch_of()
    captured_input(module, batch)
    module.eval()
    torch.testing.assert_close(module.front_end(batch["waveform"]), module.front_end(batch["waveform"]))
    assert not torch.isclose(module.front_end(batch["waveform"]), torch.tensor(1e-5).log()).any()


def test_a_folder_of_responses_that_is_not_there_is_told_with_its_setting(module_with, tmp_path):
    with pytest.raises(UserError, match=r"augment\.impulse_responses\.folder: There is no folder"):
        module_with(impulse_responses={"folder": str(tmp_path / "micirp")})


def logits_of(classes):
    """Logits (clips, 10) with a margin of 2 for one class each."""
    logits = torch.zeros(len(classes), 10)
    logits[torch.arange(len(classes)), torch.tensor(classes)] = 2.0
    return ModelOutput(logits, embedding=logits)


def replace(module, **parts):
    """Put functions in the place of parts, which torch refuses for modules."""
    for name, part in parts.items():
        module._modules.pop(name, None)
        object.__setattr__(module, name, part)


def validated(module, batches):
    """The figures that a module logs for batches of (predicted, target)."""
    logged = {}
    replace(module, front_end=lambda waveform: waveform)
    module.log = logged.__setitem__
    module.all_gather = lambda counts: counts
    for predicted, target in batches:
        module.validation_step({"waveform": predicted, "target": torch.tensor(target)}, 0)
    module.on_validation_epoch_end()
    return {name: float(value) for name, value in logged.items()}


def test_the_validation_counts_correct_clips_of_each_class_over_all_batches(module_with):
    module = module_with()
    replace(module, network=logits_of)
    # Class 0: 2 of 3 correct, class 1: 1 of 1, class 2: 0 of 2; the other classes have no clip.
    batches = [([0, 0, 1], [0, 0, 1]), ([3, 3, 3], [0, 2, 2])]
    right, wrong = (-np.log(np.exp(value) / (np.exp(2) + 9)) for value in (2.0, 0.0))
    figures = {"val_macro_accuracy": (2 / 3 + 1 + 0) / 3, "val_loss": (3 * right + 3 * wrong) / 6}
    assert validated(module, batches) == pytest.approx(figures, rel=1e-5)
    # The next epoch begins at zero.
    assert validated(module, [([5, 5], [5, 6])])["val_macro_accuracy"] == pytest.approx(0.5)


def test_the_moving_average_is_validated_where_there_is_one(module_with):
    module = module_with()
    replace(module, network=lambda _: logits_of([9]), average=logits_of)
    assert validated(module, [([4], [4])])["val_macro_accuracy"] == 1.0


@pytest.mark.parametrize(("frozen_epochs", "frozen"), [(2, [4, 5]), (0, []), (6, [1, 2, 3, 4, 5])])
def test_the_last_epochs_of_8_bit_training_are_frozen_but_never_the_first(frozen_epochs, frozen, monkeypatch):
    networks = []
    monkeypatch.setattr("common.inference.quantize.freeze", networks.append)
    for epoch in range(6):
        training = SimpleNamespace(
            current_epoch=epoch, trainer=SimpleNamespace(max_epochs=6), frozen_epochs=frozen_epochs, network=epoch
        )
        QuantizedSceneTraining.on_train_epoch_start(training)
    assert networks == frozen


def test_the_scores_in_half_precision_are_the_half_precision_networks(module_with):
    settings = module_with().settings
    model = make_model(settings, 32000).eval()
    batch = {**batch_of(), "filename": list("abcd")}
    single = DeviceNetworks(model.network)
    logits, names = classify_with(model.front_end, {"single": single, "half": InHalf(single)}, [batch])
    assert (logits["single"].dtype, logits["half"].dtype, names) == (np.float32, np.float16, list("abcd"))
    assert next(model.network.parameters()).dtype == torch.float32


def test_another_run_with_other_settings_is_refused_with_what_changed(quick):
    RECIPE.run(quick())
    with pytest.raises(UserError, match=r"optim\.lr: 0\.01 -> 0\.02"):
        RECIPE.run(quick(optim__lr=0.02))


def test_a_damaged_checkpoint_is_told_when_the_run_goes_on(quick, tmp_path):
    settings = quick()
    run_stages(Run(tmp_path / "quick", settings), RECIPE.stages(settings)[:1])
    (tmp_path / "quick" / "train" / "stage.json").unlink()
    last = tmp_path / "quick" / "train" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"last\.ckpt is cut off"):
        RECIPE.run(settings)
