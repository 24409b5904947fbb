"""ATST-F against what the official code computes, and its treatment of other lengths and batches."""

import pytest
import torch

from common.errors import UserError
from common.models.atst import atst_frame, released_key
from tests.support.frame_model_case import PARTS, FrameModelCase, layout_differences
from tests.support.golden_case import relative_error


@pytest.fixture(scope="module")
def atst() -> FrameModelCase:
    return FrameModelCase("atst_frame")


def test_names_shapes_and_parameter_counts_are_the_official_ones():
    assert layout_differences("atst_frame") == []


def test_features_are_the_official_ones(atst):
    assert atst.absolute_error("features") < 1e-3


@pytest.mark.parametrize("part", PARTS)
def test_every_step_computes_what_the_official_code_does(atst, part):
    assert atst.error(part) < 1e-4


def test_the_embedding_is_the_mean_over_frames(atst):
    assert torch.allclose(atst.embedding, atst.outputs["pooled"].mean(dim=1), atol=1e-6)


def test_on_ten_seconds_the_exact_time_grid_is_the_official_one(atst):
    atst.model.network.time_grid = "exact"
    with torch.inference_mode():
        output = atst.model.network(atst.outputs["features"][:1])
    atst.model.network.time_grid = "official"
    assert relative_error(output.frames, atst.outputs["pooled"][:1]) < 1e-4


def small(**options):
    """An ATST of two narrow blocks."""
    torch.manual_seed(0)
    return atst_frame(7, dim=16, depth=2, num_heads=2, **options).eval()


def test_the_official_grid_stretches_a_short_clip_and_the_exact_one_keeps_40_ms():
    spectrogram = torch.randn(2, 1, 64, 501)
    assert small().forward(spectrogram).frames.shape == (2, 250, 16)
    assert small(time_grid="exact").forward(spectrogram).frames.shape == (2, 125, 16)


def test_a_long_clip_is_refused_on_the_official_grid_and_cut_into_pieces_on_the_exact_one():
    spectrogram = torch.randn(1, 1, 64, 2501)
    with pytest.raises(UserError, match="positions for 250 steps of 40 ms, the spectrogram has 625"):
        small()(spectrogram)
    model = small(time_grid="exact")
    frames = model(spectrogram).frames
    assert frames.shape == (1, 625, 16)
    alone = model(spectrogram[..., : 208 * 4]).frames  # the first of three equal pieces
    assert torch.allclose(frames[:, :208], alone, atol=1e-5)


def test_a_clip_does_not_depend_on_its_batch():
    model, spectrogram = small(), torch.randn(3, 1, 64, 1001)
    assert torch.allclose(model(spectrogram).logits[1:2], model(spectrogram[1:2]).logits, atol=1e-5)


def test_every_trainable_parameter_gets_a_gradient_and_the_mask_embedding_is_not_trained():
    model = small().train()
    output = model(torch.randn(2, 1, 64, 1001))
    (output.logits.sum() + output.frame_logits.sum()).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == ["model.mask_embed"]
    assert not model.model.mask_embed.requires_grad


def test_an_unknown_option_is_refused_with_the_nearest_ones():
    with pytest.raises(UserError, match=r"No model option named drop_pathh\. Near it: drop_path"):
        atst_frame(drop_pathh=0.1)


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("model.atst.blocks.3.norm1.weight", "model.blocks.3.norm1.weight"),
        ("strong_head.bias", "strong_head.bias"),
        ("seq_model.rnn.weight_ih_l0", "seq_model.rnn.weight_ih_l0"),
        ("model.atst_mel.mel_transform.mel_scale.fb", None),
        ("model.teacher.encoder.norm.weight", "model.norm_frame.weight"),
        ("model.teacher.encoder.blocks.0.norm1.weight", "model.blocks.0.norm1.weight"),
        ("model.teacher.encoder.cls_token", None),
        ("encoder.encoder.frame_encoder.pos_embed", "model.pos_embed"),
        ("encoder.encoder.teacher_module.pos_embed", None),
    ],
)
def test_keys_of_the_files_that_people_have_are_understood(key, ours):
    assert released_key(key) == ours
