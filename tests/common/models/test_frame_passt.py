"""fPaSST against what the official code computes, built without network, and its start from an image model."""

import pytest
import torch

from common.errors import UserError
from common.models.frame_passt import fpasst, released_key
from tests.support.frame_model_case import PARTS, FrameModelCase, layout_differences


@pytest.fixture(scope="module")
def frame_passt() -> FrameModelCase:
    return FrameModelCase("fpasst")


def test_names_shapes_and_parameter_counts_are_the_official_ones():
    assert layout_differences("fpasst") == []


def test_features_are_the_official_ones(frame_passt):
    assert frame_passt.absolute_error("features") < 1e-3


@pytest.mark.parametrize("part", PARTS)
def test_every_step_computes_what_the_official_code_does(frame_passt, part):
    # Tokens carry the float noise of the features (largest at the quietest cells); later steps average it out.
    assert frame_passt.error(part) < (3e-4 if part == "tokens" else 1e-4)


def small(**options):
    """An fPaSST of two narrow blocks."""
    torch.manual_seed(0)
    return fpasst(7, dim=16, depth=2, num_heads=2, **options)


def test_building_opens_no_connection(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    small()


def test_a_short_clip_takes_the_first_positions_in_evaluation_and_a_random_place_in_training():
    model = small().model
    assert torch.equal(model.eval()._time_positions(100), model.time_new_pos_embed[..., :100])
    starts = set()
    for seed in range(20):
        torch.manual_seed(seed)
        taken = model.train()._time_positions(100)
        starts |= {s for s in range(151) if torch.equal(taken, model.time_new_pos_embed[..., s : s + 100])}
    assert len(starts) > 10


def test_a_long_clip_is_refused_instead_of_cut_silently():
    with pytest.raises(UserError, match="positions for 250 steps of 40 ms, the spectrogram has 251"):
        small().eval()(torch.randn(1, 1, 128, 1004))


def test_the_exact_grid_takes_any_length():
    model = small(time_grid="exact").eval()
    assert [model(torch.randn(1, 1, 128, n)).frames.shape[1] for n in (3, 100, 1000, 2600)] == [1, 25, 250, 650]


def test_every_parameter_gets_a_gradient():
    model = small().train()
    output = model(torch.randn(2, 1, 128, 400))
    (output.logits.sum() + output.frame_logits.sum()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("key", ["model.fpasst.conv_in_1.weight", "model.conv_in_1.weight"])
def test_wrapped_and_unwrapped_files_are_understood(key):
    assert released_key(key) == "model.conv_in_1.weight"
