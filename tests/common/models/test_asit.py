"""ASiT against plain loops written from its description (no official outputs are at hand), and the official layout."""

import math

import pytest
import torch
from torch.nn import functional as F

from common.models.asit import Asit, asit, released_key
from tests.support.frame_model_case import layout_differences
from tests.support.plain_transformer import plain_block


def test_names_shapes_and_parameter_counts_are_the_official_ones():
    assert layout_differences("asit") == []


def small(**options):
    """An ASiT of two narrow blocks with parameters that all matter."""
    torch.manual_seed(0)
    model = asit(7, dim=16, depth=2, num_heads=2, **options).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


def cubic_weights(size: int, length: int) -> torch.Tensor:
    """(size, length): bicubic resizing along one axis (a = -0.75, half-pixel centres, edges repeated)."""
    weights = torch.zeros(size, length).double()
    for target in range(size):
        source = (target + 0.5) * length / size - 0.5
        for index in range(math.floor(source) - 1, math.floor(source) + 3):
            t = abs(source - index)
            near, far = 1.25 * t**3 - 2.25 * t**2 + 1, -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
            weights[target, min(max(index, 0), length - 1)] += near if t <= 1 else far if t < 2 else 0.0
    return weights


def plain_positions(table: torch.Tensor, steps: int) -> torch.Tensor:
    """Table (296, dim) read as 8 rows of 37, resized to (steps, 8) and read row by row."""
    grid = torch.stack([torch.stack([table[37 * row + column] for column in range(37)]) for row in range(8)])
    resized = torch.einsum("tr,fc,rcd->tfd", cubic_weights(steps, 8), cubic_weights(8, 37), grid)
    return torch.stack([resized[step, band] for step in range(steps) for band in range(8)])


def plain_asit(model: Asit, spectrogram: torch.Tensor) -> torch.Tensor:
    """Sequence (1 + steps * 8, dim) of one spectrogram (128, frames), patch by patch."""
    weight, bias = model.patch_embed.proj.weight, model.patch_embed.proj.bias
    steps = spectrogram.shape[1] // 16
    positions = plain_positions(model.pos_embed[0, 1:], steps)
    tokens = [model.cls_token[0, 0] + model.pos_embed[0, 0]]
    for step in range(steps):
        for band in range(8):
            patch = spectrogram[16 * band : 16 * band + 16, 16 * step : 16 * step + 16].T  # time, then mel
            tokens.append((weight[:, 0] * patch).sum(dim=(1, 2)) + bias + positions[8 * step + band])
    sequence = torch.stack(tokens)
    for block in model.blocks:
        sequence = plain_block(block, sequence, eps=1e-6)
    return F.layer_norm(sequence, (16,), model.norm.weight, model.norm.bias, 1e-6)


@torch.no_grad()
def test_the_sequence_equals_plain_loops_with_the_official_reading_of_the_positions():
    model = small()
    spectrogram = torch.randn(1, 1, 128, 998).double()
    sequence = plain_asit(model.model, spectrogram[0, 0])
    assert sequence.shape == (497, 16)
    assert torch.allclose(model.model(spectrogram)[0], sequence, atol=1e-9)


@torch.no_grad()
def test_official_frames_average_497_tokens_with_the_class_token():
    model = small()
    spectrogram = torch.randn(1, 1, 128, 998).double()
    output, tokens = model(spectrogram), model.model(spectrogram)[0]
    assert torch.allclose(output.frames[0, 0], (tokens[0] + tokens[1]) / 2)
    start, stop = 7 * 497 // 250, -(-8 * 497 // 250)
    assert torch.allclose(output.frames[0, 7], tokens[start:stop].mean(dim=0))
    assert torch.allclose(output.frame_logits[0], model.strong_head(output.frames[0]))
    assert torch.allclose(output.logits[0], model.weak_head(output.frames[0].mean(dim=0)))


def test_for_592_frames_the_official_code_takes_the_table_as_it_is():
    model = small().model
    assert torch.equal(model.positions(592), model.pos_embed)


@torch.no_grad()
def test_exact_positions_stretch_time_alone():
    model = small(position_grid="exact").model
    positions = model.positions(998)[0, 1:].reshape(62, 8, 16)
    table = model.pos_embed[0, 1:].reshape(37, 8, 16)
    assert torch.allclose(positions, torch.einsum("ts,sfd->tfd", cubic_weights(62, 37), table), atol=1e-9)


@torch.no_grad()
def test_exact_frames_are_means_over_the_bands_without_the_class_token():
    model = small(time_grid="exact")
    spectrogram = torch.randn(1, 1, 128, 998).double()
    steps = model.model(spectrogram)[0, 1:].reshape(62, 8, 16).mean(dim=1)
    frames = model(spectrogram).frames[0]
    share = (4.02 - 3.9275) / 0.16  # frame 100 is centred at 4.02 s, steps 24 and 25 at 3.9275 s and 4.0875 s
    assert torch.allclose(frames[100], (1 - share) * steps[24] + share * steps[25], atol=1e-5)
    assert torch.allclose(frames[0], steps[0])  # held before the first step's centre
    assert torch.allclose(frames[249], steps[61])


@pytest.mark.parametrize(("length", "frames"), [(98, 25), (998, 250), (2998, 750), (7, 2)])
def test_the_exact_grid_takes_any_length(length, frames):
    assert small(time_grid="exact").float()(torch.randn(1, 1, 128, length)).frames.shape == (1, frames, 16)


def test_every_parameter_gets_a_gradient():
    model = asit(7, dim=16, depth=2, num_heads=2).train()
    output = model(torch.randn(2, 1, 128, 998))
    (output.logits.sum() + output.frame_logits.sum()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("key", ["model.asit.pos_embed", "model.pos_embed"])
def test_wrapped_and_unwrapped_files_are_understood(key):
    assert released_key(key) == "model.pos_embed"
