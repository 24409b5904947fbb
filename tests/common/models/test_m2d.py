"""M2D against plain loops written from its description (no official outputs are at hand), and the official layout."""

import pytest
import torch
from torch.nn import functional as F

from common.models.m2d import M2d, m2d, released_key
from tests.support.frame_model_case import layout_differences
from tests.support.plain_transformer import plain_block


def test_names_shapes_and_parameter_counts_are_the_official_ones():
    assert layout_differences("m2d") == []


def small(**options):
    """An M2D of two narrow blocks with parameters that all matter."""
    torch.manual_seed(0)
    model = m2d(7, dim=16, depth=2, num_heads=2, **options).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


def plain_m2d(model: M2d, spectrogram: torch.Tensor) -> torch.Tensor:
    """The sequence (steps, 5 * dim) of one spectrogram (80, at most 1001), patch by patch."""
    weight, bias = model.patch_embed.proj.weight, model.patch_embed.proj.bias
    steps = spectrogram.shape[1] // 16
    tokens = [model.cls_token[0, 0] + model.pos_embed[0, 0]]
    for band in range(5):
        for step in range(steps):
            patch = spectrogram[16 * band : 16 * band + 16, 16 * step : 16 * step + 16]
            position = model.pos_embed[0, 1 + 62 * band + step]
            tokens.append((weight[:, 0] * patch).sum(dim=(1, 2)) + bias + position)
    sequence = torch.stack(tokens)
    for block in model.blocks:
        sequence = plain_block(block, sequence, eps=1e-6)
    sequence = F.layer_norm(sequence, (16,), model.norm.weight, model.norm.bias, 1e-6)[1:]
    return torch.stack([torch.cat([sequence[band * steps + step] for band in range(5)]) for step in range(steps)])


@torch.no_grad()
def test_the_sequence_equals_plain_loops():
    model = small()
    spectrogram = torch.randn(1, 1, 80, 1001).double()
    sequence = plain_m2d(model.model, spectrogram[0, 0])
    assert sequence.shape == (62, 80)
    assert torch.allclose(model.model(spectrogram)[0], sequence, atol=1e-10)


@torch.no_grad()
def test_a_short_clip_is_filled_to_whole_patches_and_takes_the_first_positions():
    model = small()
    spectrogram = torch.randn(1, 1, 80, 100).double()
    filled = F.pad(spectrogram, (0, 12))
    assert torch.allclose(model.model(spectrogram)[0], plain_m2d(model.model, filled[0, 0]), atol=1e-10)


@torch.no_grad()
def test_a_long_clip_is_cut_after_1001_frames():
    model = small()
    spectrogram = torch.randn(1, 1, 80, 1500).double()
    second = F.pad(spectrogram[..., 1001:], (0, 13))
    plain = torch.cat([plain_m2d(model.model, part[0, 0]) for part in (spectrogram[..., :1001], second)])
    assert plain.shape[0] == 62 + 32
    assert torch.allclose(model.model(spectrogram)[0], plain, atol=1e-10)


@torch.no_grad()
def test_62_steps_become_250_frames_by_linear_interpolation_and_the_heads_read_them():
    model = small()
    spectrogram = torch.randn(1, 1, 80, 1001).double()
    output, steps = model(spectrogram), model.model(spectrogram)[0]
    frames = []
    for frame in range(250):
        position = min(max((frame + 0.5) * 62 / 250 - 0.5, 0), 61)
        lower = int(position)
        upper = min(lower + 1, 61)
        frames.append(steps[lower] * (1 - position + lower) + steps[upper] * (position - lower))
    frames = torch.stack(frames)
    assert torch.allclose(output.frames[0], frames, atol=1e-9)
    assert torch.allclose(output.embedding[0], frames.mean(dim=0), atol=1e-9)
    assert torch.allclose(
        output.frame_logits[0], frames @ model.strong_head.weight.T + model.strong_head.bias, atol=1e-9
    )
    assert torch.allclose(
        output.logits[0], model.weak_head.weight @ frames.mean(dim=0) + model.weak_head.bias, atol=1e-9
    )


def test_the_exact_grid_takes_any_length():
    model = small(time_grid="exact").float()
    assert [model(torch.randn(1, 1, 80, n)).frames.shape[1] for n in (5, 101, 1001, 3001)] == [1, 25, 250, 750]


def test_every_trainable_parameter_gets_a_gradient_and_the_statistics_are_not_trained():
    model = m2d(7, dim=16, depth=2, num_heads=2).train()
    output = model(torch.randn(2, 1, 80, 1001))
    (output.logits.sum() + output.frame_logits.sum()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == ["model.norm_stats"]


def test_statistics_in_a_file_are_ignored_and_may_be_absent():
    model = m2d(7, dim=16, depth=1, num_heads=2)
    state = model.state_dict()
    assert "model.norm_stats" not in state
    model.load_state_dict(state)
    model.load_state_dict({**state, "model.norm_stats": torch.tensor([0.0, 1.0])})
    assert model.model.norm_stats.tolist() == pytest.approx([-7.1, 4.2])


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("model.m2d.backbone.blocks.0.norm1.weight", "model.blocks.0.norm1.weight"),
        ("model.backbone.blocks.0.norm1.weight", "model.blocks.0.norm1.weight"),
        ("module.ar.runtime.backbone.blocks.0.norm1.weight", "model.blocks.0.norm1.weight"),
        ("patch_embed.proj.bias", "model.patch_embed.proj.bias"),
        ("model.m2d.to_spec.stft.wsin", None),
        ("model.m2d.backbone.norm_stats", None),
        ("module.head.mlp.mlp.0.weight", None),
        ("decoder_blocks.0.norm1.weight", None),
        ("strong_head.weight", "strong_head.weight"),
    ],
)
def test_keys_of_the_files_that_people_have_are_understood(key, ours):
    assert released_key(key) == ours
