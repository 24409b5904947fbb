"""PaSST against the official code, and what patchout leaves out."""

import warnings

import pytest
import torch

from common.models.passt import PaSST, from_image_weights
from common.registry import load_released_state_dict
from common.registry.models import create_audio_model, create_model
from tests.support.golden_case import GoldenCase, relative_error
from tests.support.mobilenet_case import layout

TOLERANCE = 1e-4


def small(**options):
    options = {"embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5, **options}
    return PaSST(**options)


def test_every_stored_value_of_the_official_network_is_computed_without_a_warning():
    case = GoldenCase("passt_s_swa")
    model = create_audio_model("passt_s_swa").eval()
    load_released_state_dict(model, case.state_dict())
    statistics = []
    for block in model.network.blocks:
        block.register_forward_hook(
            lambda module, args, out: statistics.append(torch.stack([out.mean(), out.std(correction=0)]))
        )
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        spectrogram = model.front_end(case.waveform())
        output = model.network(spectrogram)
        tokens = model.network.tokens(spectrogram)
    assert (case.thinned("mel", spectrogram[:, 0]) - case.expected("mel")).abs().max() < 1e-3
    assert relative_error(case.thinned("tokens", tokens), case.expected("tokens")) < TOLERANCE
    assert relative_error(torch.stack(statistics), case.expected("block_statistics")) < TOLERANCE
    assert relative_error(output.embedding, case.expected("embedding")) < TOLERANCE
    assert relative_error(output.logits, case.expected("logits")) < TOLERANCE


@pytest.mark.parametrize("name", ["passt_s_swa", "passt_20sec"])
def test_parameters_have_the_official_names_and_shapes(name):
    info = GoldenCase(name).info
    with torch.device("meta"):
        network = create_model(name)
    assert layout(network) == {key: entry["shape"] for key, entry in info["state_dict"].items()}
    assert sum(parameter.numel() for parameter in network.parameters()) == info["num_parameters"]


@pytest.mark.parametrize(("stride", "patches"), [(10, 12 * 99), (12, 10 * 83), (14, 9 * 71), (16, 8 * 62)])
def test_ten_seconds_make_the_documented_number_of_tokens(stride, patches):
    network = small(fstride=stride, tstride=stride).eval()
    assert network.tokens(torch.zeros(1, 1, 128, 1000)).shape[1] == 2 + patches


def test_structured_patchout_leaves_out_whole_columns_and_rows():
    torch.manual_seed(0)
    network = small(s_patchout_t=40, s_patchout_f=4).train()
    whole = network.eval().tokens(torch.randn(1, 1, 128, 998))[:, 2:].unflatten(1, (12, 99))
    torch.manual_seed(0)
    network = small(s_patchout_t=40, s_patchout_f=4).train()
    kept = network.tokens(torch.randn(1, 1, 128, 998), torch.Generator().manual_seed(3))[:, 2:]
    assert kept.shape[1] == (12 - 4) * (99 - 40)
    same = (kept[0, :, None, None] - whole[0]).abs().amax(dim=-1) < 1e-6
    rows, columns = same.any(dim=0).nonzero().T
    assert len(rows.unique()) == 8 and len(columns.unique()) == 59
    assert len(rows) == 8 * 59


def test_patchout_follows_its_generator_and_is_off_in_evaluation():
    network = small(u_patchout=100).train()
    spectrogram = torch.randn(2, 1, 128, 400)
    first, second, third = (network.tokens(spectrogram, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.shape[1] == 2 + 12 * 39 - 100
    assert torch.equal(first, second) and not torch.equal(first, third)
    assert network.eval().tokens(spectrogram).shape[1] == 2 + 12 * 39


def test_a_short_clip_uses_the_beginning_of_the_time_embedding_and_in_training_any_stretch():
    network = small()
    spectrogram = torch.randn(1, 1, 128, 116)  # 11 columns of patches
    patches = network.patch_embed(spectrogram) + network.freq_new_pos_embed
    start = network.eval().tokens(spectrogram)[0, 2:].unflatten(0, (12, 11)).permute(2, 0, 1) - patches[0]
    expected = network.time_new_pos_embed[0, :, 0, :11].unsqueeze(1).expand_as(start)
    torch.testing.assert_close(start, expected, rtol=0, atol=1e-6)
    network.train()
    drawn = [network.tokens(spectrogram, torch.Generator().manual_seed(seed)) for seed in range(4)]
    assert len({round(values.sum().item(), 3) for values in drawn}) > 1


def test_a_clip_beyond_the_positions_is_refused_by_the_network_and_windowed_by_the_model():
    with pytest.raises(ValueError, match="100 columns of patches, this PaSST has positions for 99"):
        small().eval()(torch.zeros(1, 1, 128, 1006))
    model = create_audio_model("passt_s_swa", embed_dim=24, depth=1, num_heads=2).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 11 * 32000) / 10).logits.shape == (1, 527)


def test_image_weights_take_the_shape_of_the_network():
    network = small()
    image = {key: value for key, value in network.state_dict().items() if "embed" not in key}
    image["pos_embed"] = torch.ones(1, 2 + 24 * 24, 24)
    image["patch_embed.proj.weight"] = torch.ones(24, 3, 16, 16)
    image["patch_embed.proj.bias"] = torch.zeros(24)
    converted = from_image_weights(image, network)
    missing = network.load_state_dict(converted, strict=False)
    assert not missing.unexpected_keys and all(key.startswith("head") for key in missing.missing_keys)
    assert network.patch_embed.proj.weight.unique().item() == 3.0
    torch.testing.assert_close(network.time_new_pos_embed, torch.ones_like(network.time_new_pos_embed))


def test_every_used_parameter_gets_a_gradient():
    network = small(u_patchout=10).train()
    network(torch.randn(2, 1, 128, 998)).logits.square().sum().backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert without == list(PaSST.unused_parameters)
