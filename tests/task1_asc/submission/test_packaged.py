"""The functions that an inference package brings, called in the kit."""

import warnings

import numpy as np
import pytest
import soundfile
import torch

from common.features.front_ends import KaldiLogMel, ResampledFirst
from common.settings import load_settings
from common.training.checkpoints import save_checkpoint
from task1_asc.settings import Task1Settings
from task1_asc.submission import package_2025
from task1_asc.submission.packaged import (
    PackagedModel,
    complexity,
    load_inputs,
    load_model,
    make_front_end,
    model_for_device,
    predict,
)
from tests.support.places import ROOT

RATE = 44_100


def specification(precision: str, config: str = "small", **changes):
    settings = load_settings(Task1Settings, ROOT / "task1_asc" / "configs" / f"{config}.yaml", changes)
    network, front_end = package_2025._targets(settings)
    return {
        "network": {"make": network, **package_2025._network_options(settings)},
        "front_end": {"make": front_end, **package_2025._front_end_options(settings)},
        "labels": [f"class {number}" for number in range(10)],
        "precision": precision,
        "devices": ["a", "s1"],
        "sample_rate": RATE,
        "input_shape": list(package_2025.input_shape(settings, RATE)),
        "kept_float": [f"{kind.__module__}:{kind.__name__}" for kind in package_2025.KEPT_FLOAT],
    }


@pytest.fixture
def sounds(tmp_path):
    """Three clips of a second."""
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.wav" for number in range(3)]
    for path in paths:
        soundfile.write(path, 0.1 * random.standard_normal(RATE), RATE)
    return paths


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_checkpoint_gives_the_networks_in_their_precision_and_logits_file_by_file(tmp_path, sounds, precision):
    torch.manual_seed(0)
    made = PackagedModel(specification(precision))
    assert (made.dtype == torch.float16) is (precision == "float16")
    save_checkpoint({"spec": made.spec, "state_dict": made.model.state_dict()}, tmp_path / "system.ckpt")
    with warnings.catch_warnings(action="error"):
        model = load_model(tmp_path / "system.ckpt")
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    floating = {value.dtype for value in model.model.state_dict().values() if isinstance(value, torch.Tensor)}
    assert (torch.float16 in floating) is (precision == "float16")
    inputs = load_inputs(sounds, model)
    assert {spectrogram.shape for spectrogram in inputs} == {torch.Size(model.spec["input_shape"])}
    assert {spectrogram.dtype for spectrogram in inputs} == {model.dtype}
    devices = ["a", "unknown", "s1"]
    logits, labels = predict(sounds, devices, tmp_path / "system.ckpt", use_cuda=True)
    assert labels == made.spec["labels"]
    for found, spectrogram, device in zip(logits, inputs, devices, strict=True):
        alone = model_for_device(model, device)(spectrogram)[0]
        assert found.shape == (10,) and found.dtype == torch.float32
        torch.testing.assert_close(found, alone.float(), atol=1e-2, rtol=0)


@pytest.mark.parametrize(("shape", "rate"), [((RATE,), 32_000), ((RATE, 2), RATE), ((RATE - 1,), RATE)])
def test_other_clips_are_refused(tmp_path, shape, rate):
    soundfile.write(tmp_path / "clip.wav", np.zeros(shape), rate)
    with pytest.raises(ValueError, match="expected one channel of one second at 44100 Hz"):
        load_inputs([tmp_path / "clip.wav"], PackagedModel(specification("float16")))


def test_a_front_end_of_another_rate_resamples_first():
    own = {"make": "common.features.front_ends:KaldiLogMel", "sample_rate": RATE}
    assert type(make_front_end(own, RATE)) is KaldiLogMel
    assert type(make_front_end({**own, "sample_rate": 32_000}, RATE)) is ResampledFirst


def test_the_baseline_has_the_official_complexity():
    """CPJKU/dcase2025_task1_baseline: 29.42 MMACs, 61,148 parameters in 16 bits."""
    model = PackagedModel(specification("float16", "baseline"))
    assert complexity(model, "a") == {"MACs": 29_419_156, "Params": 122_296}
