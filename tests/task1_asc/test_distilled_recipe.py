"""The published recipe with teachers against its fact sheet, and the loss of the student number by number."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.settings import load_settings
from common.training.schedules import ExponentialWarmupLinearDown
from task1_asc.recipe import RECIPE
from task1_asc.settings import DistillationSettings, Task1Settings
from task1_asc.train import SceneTraining, distillation_loss
from tests.support.quick_distillation import CONFIGS, published, quick


def test_the_loss_is_the_published_one_number_by_number():
    """fschmid56/cpjku_dcase23: 0.02 CE + 0.98 * 4 * mean over clips and classes of p_t (log p_t - log p_s), T 2."""
    settings = DistillationSettings(logits=Path("x"))
    assert (settings.temperature, settings.label_weight) == (2.0, 0.02)
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(5, 10)) * 3, random.normal(size=(5, 10)) * 3
    labels = np.array([0, 9, 3, 3, 7])

    def softmax(values):
        exponents = np.exp(values - values.max(axis=1, keepdims=True))
        return exponents / exponents.sum(axis=1, keepdims=True)

    p_s, p_t = softmax(student / 2), softmax(teacher / 2)
    divergence = sum(p_t[i, k] * (np.log(p_t[i, k]) - np.log(p_s[i, k])) for i in range(5) for k in range(10)) / 50
    entropy = -np.mean([np.log(softmax(student)[i, label]) for i, label in enumerate(labels)])
    expected = 0.02 * entropy + 0.98 * 4 * divergence
    taught = (torch.tensor(teacher) / 2).softmax(dim=1)
    one_hot = F.one_hot(torch.tensor(labels), 10).double()
    given = distillation_loss(torch.tensor(student), one_hot, taught, settings)
    assert float(given) == pytest.approx(expected, rel=1e-12)
    # In terms of the usual batch mean the weights are 0.02 and 0.392.
    batch_mean = F.kl_div(torch.tensor(np.log(p_s)), torch.tensor(p_t), reduction="batchmean")
    assert float(given) == pytest.approx(0.02 * entropy + 0.392 * float(batch_mean), rel=1e-9)


def test_a_student_that_says_what_the_teacher_says_has_only_the_labels_loss():
    settings = DistillationSettings(logits=Path("x"))
    logits, labels = torch.randn(4, 10), F.one_hot(torch.arange(4), 10).float()
    loss = distillation_loss(logits, labels, (logits / 2).softmax(dim=1), settings)
    assert float(loss) == pytest.approx(0.02 * float(F.cross_entropy(logits, torch.arange(4))), rel=1e-4)


def test_the_student_is_the_fact_sheets():
    settings = published()
    assert settings.model.name == "cp_mobile" and settings.front_end is None
    assert (settings.model.base_channels, settings.model.channels_multiplier) == (32, 2.3)
    optim = settings.optim
    assert (optim.lr, optim.weight_decay, optim.decay) == (9e-4, 1e-4, "l2")
    assert (optim.rise_epochs, optim.fall_from, optim.fall_epochs, optim.floor) == (14, 50, 84, 0.005)
    assert (settings.trainer.epochs, settings.loader.batch_size) == (150, 256)
    augment = settings.augment
    assert (augment.freq_mixstyle.probability, augment.freq_mixstyle.alpha) == (0.4, 0.3)
    assert (augment.impulse_responses.probability, augment.impulse_responses.recording_devices) == (0.6, ["a"])
    assert augment.roll_seconds * 32000 == 4000
    assert augment.frequency_mask == 48
    distillation = settings.distillation
    assert (distillation.temperature, distillation.label_weight) == (2.0, 0.02)
    training = settings.quantization.training
    assert (training.epochs, training.lr, training.fall_from, training.fall_epochs) == (20, 5e-5, 1, 16)
    assert (training.floor, training.frozen_epochs) == (0.1, 4)


def test_the_teachers_are_the_fact_sheets():
    """Three PaSST and three CP-ResNet, all with DIR and Freq-MixStyle."""
    passt, cp_resnet = published().distillation.teachers
    assert (passt.model, passt.count, passt.epochs, passt.batch_size) == ("passt_s_swa", 3, 25, 80)
    assert (passt.optim.lr, passt.optim.weight_decay) == (1e-5, 1e-3)
    assert passt.augment.roll_seconds * 32000 == 10_000
    assert (passt.augment.time_mask, passt.augment.impulse_responses.probability) == (20, 0.6)
    assert (passt.augment.freq_mixstyle.probability, passt.augment.freq_mixstyle.alpha) == (0.4, 0.4)
    assert (cp_resnet.model, cp_resnet.count, cp_resnet.epochs, cp_resnet.batch_size) == ("cp_resnet_128k", 3, 150, 256)
    optim = cp_resnet.optim
    assert (optim.lr, optim.weight_decay, optim.decay) == (1e-3, 1e-3, "l2")
    assert (optim.rise_epochs, optim.fall_from, optim.fall_epochs, optim.floor) == (15, 50, 85, 0.005)
    assert (cp_resnet.augment.freq_mixstyle.probability, cp_resnet.augment.freq_mixstyle.alpha) == (0.8, 0.4)
    assert cp_resnet.augment.impulse_responses.probability == 0.4


def test_the_learning_rate_follows_the_published_ramps():
    optim = published().optim
    factor = ExponentialWarmupLinearDown(optim.rise_epochs, optim.fall_from, optim.fall_epochs, optim.floor)
    assert factor(0) == pytest.approx(np.exp(-5 * (1 - 0.5 / 14) ** 2))
    assert factor(7) == pytest.approx(np.exp(-1.25))
    assert factor(14) == factor(50) == 1
    assert factor(92) == pytest.approx(0.005 + 0.995 / 2)
    assert factor(134) == factor(149) == pytest.approx(0.005)


def test_a_training_with_ramps_uses_adam_and_steps_once_an_epoch(tiny_task1, tmp_path):
    ramps = {"lr": 9e-4, "weight_decay": 1e-4, "rise_epochs": 14, "fall_from": 50, "fall_epochs": 84}
    settings = quick(tiny_task1, tmp_path, optim=ramps)
    made = SceneTraining(settings, 32000).configure_optimizers()
    assert type(made["optimizer"]) is torch.optim.Adam
    assert made["optimizer"].defaults["weight_decay"] == 1e-4
    assert made["lr_scheduler"]["interval"] == "epoch"
    rates = []
    for _ in range(150):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert rates[14:51] == pytest.approx([9e-4] * 37)
    assert rates[92] == pytest.approx(9e-4 * 0.5025)
    assert rates[149] == pytest.approx(9e-4 * 0.005)
    decoupled = quick(tiny_task1, tmp_path, optim={**ramps, "decay": "decoupled"})
    assert type(SceneTraining(decoupled, 32000).configure_optimizers()["optimizer"]) is torch.optim.AdamW


def test_the_published_configuration_does_two_steps_of_everything(tiny_task1, tmp_path):
    """With a PaSST of one narrow block in place of the released one."""
    responses = tmp_path / "micirp"
    responses.mkdir()
    from common.data.audio import write_wav

    write_wav(responses / "one.wav", np.eye(1, 64, dtype=np.float32)[0], 44100, "PCM_24")
    narrow = {"s_patchout_f": 6, "depth": 1, "embed_dim": 24, "num_heads": 2}
    overrides = {
        "data.root": str(tiny_task1), "runs": str(tmp_path / "runs"), "subset": 5, "loader.batch_size": 4,
        "trainer.accelerator": "cpu", "trainer.measure_energy": False, "model.base_channels": 8,
        "augment.impulse_responses.folder": str(responses), "quantization.training.epochs": 1,
        "distillation.teachers.0.weights": None, "distillation.teachers.0.options": narrow,
    }  # fmt: skip
    for teacher in (0, 1):
        place = f"distillation.teachers.{teacher}"
        overrides |= {f"{place}.augment.impulse_responses.folder": str(responses)}
        overrides |= {f"{place}.count": 1, f"{place}.batch_size": 4}
    settings = load_settings(Task1Settings, CONFIGS / "distilled.yaml", overrides)
    assert [stage.name for stage in RECIPE.stages(settings)] == ["teachers", "logits", "train", "quantize", "test"]
    RECIPE.check(settings)
