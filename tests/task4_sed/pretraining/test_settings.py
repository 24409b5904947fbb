"""The published settings of the pre-training (sed_transformers.md, 3 and 5.2) stand in the YAML files, one by one."""

import pytest

from common.registry.models import find_architecture, find_released
from common.settings import SettingsError, load_settings
from task4_sed.pretraining.settings import (
    DistillationSettings,
    EvaluationSettings,
    OfficeDataSettings,
    OfficeEventSettings,
    OfficeSettings,
    OptimSettings,
    PretrainSettings,
    SamplerSettings,
    StrongDataSettings,
)
from tests.support.places import ROOT

CONFIGS = ROOT / "task4_sed" / "configs"
TRANSFORMERS = ("atst_frame", "fpasst", "beats", "m2d", "asit")

# 3.1 to 3.5: what all published trainings share.
SHARED = {
    "data.long_clips": "random",  # random crop to 10 s when longer, labels are not moved
    "data.allow_missing": True,  # clips that are not in the HDF5 are left out
    "data.num_workers": 16,
    "model.head_bias": None,
    "sampler.replacement": False,
    "sampler.draws": 100_000,
    "augmentation.wavmix.alpha": 2.0,
    "augmentation.frame_shift": 0.125,
    "augmentation.mixup.probability": 0.3,
    "augmentation.mixup.alpha": 0.2,
    "augmentation.mixstyle.alpha": 0.4,
    "augmentation.time_mask.smallest": 0.05,
    "augmentation.time_mask.largest": 0.0,
    "augmentation.time_mask.pseudo_labels": "kept",
    "augmentation.filter.bands": (3, 5),
    "augmentation.filter.min_width": 6,
    "augmentation.filter.decibels": 6.0,
    "augmentation.filter.on_log_mels": "multiply",
    "augmentation.frequency_warp.smallest": 0.6,
    "optim.algorithm": "adam",
    "optim.weight_decay": 0.0,
    "optim.warmup_steps": 20_000,
    "optim.frozen": False,
    "evaluation.median_frames": 9,
    "trainer.precision": "16-mixed",
    "trainer.validate_every": 5,
}
STUDENT = {
    "sampler.weights": "uniform",
    "augmentation.wavmix.probability": 0.5,
    "augmentation.mixstyle.probability": 0.0,
    "augmentation.filter.probability": 0.0,
    "augmentation.frequency_warp.probability": 0.0,
    "distillation.weight": 0.9,
    "trainer.epochs": 120,
}
TEACHER = {
    "sampler.weights": "temporal",
    "sampler.offset": 30,
    "augmentation.wavmix.probability": 1.0,
    "augmentation.mixstyle.probability": 0.3,
    "augmentation.filter.probability": 0.8,
    "augmentation.frequency_warp.probability": 0.8,
    "data.batch_size": 256,
    "optim.lr": 7e-5,
    "optim.layer_decay": 1.0,
    "model.options": {"seq_model_type": "rnn", "rnn_type": "BiGRU", "rnn_layers": 2, "rnn_dim": 2048, "rnn_dropout": 0},
    "distillation": None,
    "trainer.epochs": 30,
    "trainer.accumulate": 1,
}
OFFICE = {
    "data.batch_size": 256,
    "augmentation.wavmix.probability": 0.5,
    "augmentation.wavmix.alpha": 0.2,
    "augmentation.frame_shift": 0.0,
    "augmentation.mixup.probability": 0.5,
    "augmentation.mixup.alpha": 0.2,
    "augmentation.mixstyle": None,
    "augmentation.time_mask": None,
    "augmentation.filter": None,
    "augmentation.frequency_warp": None,
    "optim.algorithm": "adamw",
    "optim.lr": 1.06e-4,
    "optim.weight_decay": 1e-3,
    "optim.warmup_steps": 4000,
    "optim.layer_decay": 0.95,
    "events.median_ms": 250,
    "events.min_duration_ms": 125,
    "events.threshold": 0.5,
    "events.scores": "logits",
    "events.borders": "centres",
    "trainer.epochs": 300,
    "trainer.precision": "16-mixed",
    "trainer.validate_every": 10,
}


def value_of(settings, name):
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings


def differences(settings, wanted):
    return {name: value_of(settings, name) for name, value in wanted.items() if value_of(settings, name) != value}


@pytest.mark.parametrize("model", TRANSFORMERS)
def test_the_students_of_the_transformers_are_trained_as_published(model):
    settings = load_settings(PretrainSettings, CONFIGS / f"pretrain_{model}.yaml")
    own = {"data.batch_size": 256, "optim.lr": 1e-4, "optim.layer_decay": 1.0, "trainer.accumulate": 1}
    assert differences(settings, SHARED | STUDENT | own) == {}
    assert settings.model.name == f"{model}.weak" and settings.model.options == {} and not settings.model.untrained
    assert find_released(settings.model.name).backbone_only
    assert settings.model.front_end == ({"batch_floor": True} if model == "atst_frame" else {})


def test_the_teachers_are_trained_as_published():
    settings = load_settings(PretrainSettings, CONFIGS / "pretrain_teacher.yaml")
    assert differences(settings, SHARED | TEACHER) == {}
    assert settings.model.name == "atst_frame.weak"


@pytest.mark.parametrize(("model", "lr"), [("frame_mn06", 6e-3), ("frame_mn10", 3e-3)])
def test_the_mobilenets_are_trained_as_in_their_successor(model, lr):
    settings = load_settings(PretrainSettings, CONFIGS / f"pretrain_{model}.yaml")
    own = {
        "data.batch_size": 64, "trainer.accumulate": 4, "optim.lr": lr, "optim.sequence_lr": 3e-3,
        "optim.layer_decay": 0.9,
    }  # fmt: skip
    assert differences(settings, SHARED | STUDENT | own) == {}
    assert settings.model.name == f"{model}.fmn_weak"


def test_the_jitter_of_the_mel_bank_is_the_published_one():
    for model in ("fpasst", "frame_mn06", "frame_mn10"):
        front_end = find_architecture(model).front_end
        assert (front_end["f_min_jitter"], front_end["f_max_jitter"], front_end["f_max"]) == (10, 2000, 7000.0)


def test_the_fine_tuning_is_the_published_one():
    settings = load_settings(OfficeSettings, CONFIGS / "finetune_dcase2016.yaml")
    assert differences(settings, OFFICE) == {}
    assert settings.model.name == "atst_frame.strong"


def test_our_own_file_has_none_of_the_oddities():
    settings = load_settings(PretrainSettings, CONFIGS / "pretrain_ours.yaml")
    ours = {
        "data.long_clips": "start", "sampler.replacement": True, "augmentation.time_mask": None,
        "augmentation.filter.on_log_mels": "add", "optim.warmup_steps": 5000, "model.front_end": {},
    }  # fmt: skip
    assert differences(settings, ours) == {}
    assert settings.model.options["time_grid"] == "exact"


def test_a_run_is_named_after_its_model_without_the_tag():
    assert load_settings(PretrainSettings, CONFIGS / "pretrain_beats.yaml", {"seed": 3}).folder.name == "beats_seed3"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"optim.weight_decay": 0.1}, "weight_decay needs algorithm adamw"),
        ({"distillation.teachers": ["runs/a"]}, "either targets"),
        ({"evaluation.median_frames": 8}, "odd number"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides, sentence):
    with pytest.raises(SettingsError, match=sentence):
        load_settings(PretrainSettings, CONFIGS / "pretrain_beats.yaml", overrides)


BOUNDS = {  # refused, accepted
    "sampler.draws": ([0], [1]),
    "sampler.offset": ([-1], [0]),
    "optim.lr": ([0], [1e-9]),
    "optim.sequence_lr": ([0], [1e-9]),
    "optim.warmup_steps": ([-1], [0]),
    "optim.layer_decay": ([0, 1.01], [0.01, 1]),
    "data.batch_size": ([0], [1]),
    "data.num_workers": ([-1], [0]),
    "data.scoring_batch": ([0], [1]),
    "distillation.weight": ([-0.01, 1.01], [0, 1]),
    "evaluation.median_frames": ([-1, 0], [1]),
    "evaluation.draws": ([-1], [0]),
}
OFFICE_BOUNDS = {
    "optim.weight_decay": ([-0.1], [0]),
    "events.median_ms": ([-1], [0]),
    "events.min_duration_ms": ([-1], [0]),
    "data.batch_size": ([0], [1]),
    "data.num_workers": ([-1], [0]),
    "data.scoring_batch": ([0], [1]),
}


@pytest.mark.parametrize(
    ("settings_class", "config", "bounds"),
    [(PretrainSettings, "pretrain_beats.yaml", BOUNDS), (OfficeSettings, "finetune_dcase2016.yaml", OFFICE_BOUNDS)],
)
def test_values_beyond_their_bounds_are_refused_and_the_bounds_are_not(settings_class, config, bounds):
    for name, (refused, accepted) in bounds.items():
        for value in accepted:
            assert value_of(load_settings(settings_class, CONFIGS / config, {name: value}), name) == value
        for value in refused:
            with pytest.raises(SettingsError, match=name):
                load_settings(settings_class, CONFIGS / config, {name: value})


def test_what_a_file_leaves_out_has_the_documented_value():
    optim = OptimSettings(lr=1.0)
    assert (optim.algorithm, optim.warmup_steps, optim.weight_decay, optim.decayed) == ("adam", 20_000, 0, "matrices")
    assert (optim.layer_decay, optim.frozen, optim.sequence_lr) == (1, False, None)
    sampler = SamplerSettings()
    assert (sampler.weights, sampler.replacement, sampler.draws, sampler.offset) == ("uniform", False, 100_000, 30)
    data = StrongDataSettings(root="data")
    assert (data.batch_size, data.num_workers, data.scoring_batch) == (256, 0, 64)
    assert (data.allow_missing, data.long_clips) == (False, "start")
    office, events = OfficeDataSettings(root="data"), OfficeEventSettings()
    assert (office.batch_size, office.num_workers, office.scoring_batch) == (256, 0, 32)
    assert (events.median_ms, events.min_duration_ms, events.threshold) == (250, 125, 0.5)
    assert (events.scores, events.borders) == ("probabilities", "frames")
    evaluation = EvaluationSettings()
    assert (evaluation.median_frames, evaluation.draws) == (9, 1000)
    assert DistillationSettings(targets="a.h5").weight == 0.9
