"""BEATs against what the official code computes, and its parts against plain loops."""

import math

import pytest
import torch

from common.models.beats import GatedAttention, RelativePositions, beats, released_key
from tests.support.frame_model_case import PARTS, FrameModelCase, layout_differences
from tests.support.golden_case import relative_error


@pytest.fixture(scope="module")
def beats_case() -> FrameModelCase:
    return FrameModelCase("beats")


def test_names_shapes_and_parameter_counts_are_the_official_ones():
    assert layout_differences("beats") == []


def test_features_are_the_official_ones(beats_case):
    assert beats_case.absolute_error("features") < 1e-3


@pytest.mark.parametrize("part", PARTS)
def test_every_step_computes_what_the_official_code_does(beats_case, part):
    # Tokens carry the float noise of the official filterbank (4e-4 at nearly empty cells); frames and heads average it.
    assert beats_case.error(part) < (1e-4 if part in ("pooled", "strong_logits", "weak_logits") else 4e-4)


def test_relative_positions_are_the_official_ones(beats_case):
    bias = beats_case.base.encoder.relative_positions(496)
    part = "relative_position_bias"
    assert relative_error(beats_case.case.thinned(part, bias), beats_case.case.expected(part)) < 1e-6


def test_buckets_are_exact_near_by_and_logarithmic_far_away():
    buckets = RelativePositions(2).buckets
    for distance, bucket in [(0, 0), (-1, 1), (1, 161), (-79, 79), (79, 239), (-80, 80), (-799, 159), (5000, 319)]:
        assert buckets(torch.tensor(distance)) == bucket
    expected = 80 + math.floor(math.log(300 / 80) / math.log(10) * 80)
    assert buckets(torch.tensor(-300)) == expected


def test_gated_attention_equals_plain_loops():
    torch.manual_seed(0)
    layer = GatedAttention(8, 2).double().eval()
    torch.nn.init.normal_(layer.grep_a)
    tokens, bias = torch.randn(1, 5, 8).double(), torch.randn(2, 5, 5).double()
    query, key, value = (f(tokens)[0] for f in (layer.q_proj, layer.k_proj, layer.v_proj))
    mixed = torch.zeros(5, 8).double()
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        for q in range(5):
            eight = layer.grep_linear.weight @ query[q, part] + layer.grep_linear.bias
            first, second = eight[:4].sum().sigmoid(), eight[4:].sum().sigmoid()
            gate = first * (second * layer.grep_a[0, head, 0, 0] - 1) + 2
            scores = [query[q, part] @ key[k, part] / 2 + gate * bias[head, q, k] for k in range(5)]
            weights = torch.stack(scores).softmax(0)
            mixed[q, part] = sum(weights[k] * value[k, part] for k in range(5))
    assert torch.allclose(layer(tokens, bias)[0], layer.out_proj(mixed), atol=1e-12)


def small(**options):
    """A BEATs of two narrow layers."""
    torch.manual_seed(0)
    sizes = {"dim": 32, "patch_dim": 8, "depth": 2, "num_heads": 2, "hidden_dim": 64}
    return beats(7, **sizes, **options)


def test_the_exact_grid_means_the_bands_of_one_time_step_at_its_true_time():
    model = small(time_grid="exact").eval()
    spectrogram = torch.randn(1, 1, 128, 998)
    frames = model(spectrogram).frames
    assert frames.shape == (1, 250, 32)
    steps = model.model(spectrogram).reshape(1, 62, 8, 32).mean(dim=2)
    # Frame 100 is centred at 4.02 s; steps 24 and 25 at 3.9275 s and 4.0875 s.
    share = (4.02 - 3.9275) / 0.16
    assert torch.allclose(frames[0, 100], (1 - share) * steps[0, 24] + share * steps[0, 25], atol=1e-5)


def test_every_parameter_gets_a_gradient_even_if_a_layer_is_dropped():
    model = small(layer_drop=1.0).train()
    output = model(torch.randn(2, 1, 128, 160))
    (output.logits.sum() + output.frame_logits.sum()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert model.model.encoder.layers[0].mlp.fc1.weight.grad.abs().sum() == 0


def test_checkpointing_changes_neither_output_nor_gradient():
    spectrogram, gradients = torch.randn(2, 1, 128, 160), []
    for checkpointing in (False, True):
        model = small(checkpointing=checkpointing).eval()
        model(spectrogram).frame_logits.square().sum().backward()
        gradients.append(model.model.encoder.relative_positions.relative_attention_bias.weight.grad)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("official", ["parametrizations.weight.original0", "weight_g"])
def test_both_ways_to_store_the_weight_norm_are_read(official):
    ours = "model.encoder.pos_conv.0.parametrizations.weight.original0"
    assert released_key(f"model.beats.encoder.pos_conv.0.{official}") == ours
    assert released_key(f"encoder.pos_conv.0.{official}") == ours


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("model.model.layer_norm.weight", "model.layer_norm.weight"),
        ("encoder.layers.4.fc1.bias", "model.encoder.layers.4.mlp.fc1.bias"),
        ("predictor.weight", None),
        ("model.beats.encoder.layers.3.self_attn.relative_attention_bias.weight", None),
    ],
)
def test_keys_of_the_files_that_people_have_are_understood(key, ours):
    assert released_key(key) == ours
