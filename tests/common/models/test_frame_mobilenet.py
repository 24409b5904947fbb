"""The frame-level MobileNet: names, sizes, and where its frames lie."""

import pytest
import torch

from common.models.frame_mobilenet import frame_mobilenet, released_key
from common.registry import load_released_state_dict
from common.registry.models import create_audio_model
from tests.support.golden_case import GoldenCase


def test_parameters_have_the_official_names_and_shapes():
    case = GoldenCase("frame_mn06")
    model = create_audio_model("frame_mn06")
    official = {released_key(key): tuple(entry["shape"]) for key, entry in case.info["state_dict"].items()}
    assert {key: tuple(value.shape) for key, value in model.network.state_dict().items()} == official
    assert sum(parameter.numel() for parameter in model.network.parameters()) == case.info["num_parameters"]


def test_drawn_official_weights_load_and_give_250_frames_that_follow_the_input():
    case = GoldenCase("frame_mn06")
    model = create_audio_model("frame_mn06").eval()
    load_released_state_dict(model, case.state_dict())
    with torch.inference_mode():
        output = model(case.waveform())
    assert output.logits.shape == (2, 447) and output.frame_logits.shape == (2, 250, 447)
    assert output.frames.shape == (2, 250, 576)
    assert output.frame_logits.isfinite().all()
    assert (output.frames[0] - output.frames[1]).std() > 0.1


@pytest.mark.parametrize(("frames", "steps"), [(1000, 250), (998, 250), (500, 125), (401, 101)])
def test_four_spectrogram_frames_make_a_step_at_any_length(frames, steps):
    network = frame_mobilenet(width_mult=0.1, num_classes=3).eval()
    with torch.inference_mode():
        assert network.model(torch.zeros(1, 1, 128, frames)).shape == (1, steps, 96)


def test_a_click_lights_the_frame_it_falls_into():
    torch.manual_seed(0)
    network = frame_mobilenet(width_mult=0.4, num_classes=3).eval()
    silent = torch.zeros(1, 1, 128, 1000)
    click = silent.clone()
    click[..., 400] = 3.0  # 4 s
    with torch.inference_mode():
        change = (network(click).frames - network(silent).frames).norm(dim=-1)[0]
    assert abs(int(change.argmax()) - 100) <= 2


def test_every_parameter_gets_a_gradient():
    network = frame_mobilenet(width_mult=0.1, num_classes=3, seq_model_type="rnn", rnn_dim=8)
    output = network(torch.randn(2, 1, 128, 200))
    (output.logits.square().sum() + output.frame_logits.square().sum()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
