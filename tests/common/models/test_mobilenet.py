"""MN against the official code, and the options that its authors trained with."""

import pytest
import torch

from common.inference.prepare import prepare_for_inference
from common.models.mobilenet import MobileNet
from common.models.network import make_divisible
from common.registry import load_released_state_dict
from common.registry.models import create_audio_model, create_model
from tests.support.golden_case import GoldenCase, relative_error
from tests.support.mobilenet_case import compare_with_official, layout


@pytest.mark.parametrize("name", ["mn04", "mn10"])
def test_every_stored_value_of_the_official_network_is_computed(name):
    case = GoldenCase(name)
    model = create_audio_model(name).eval()
    load_released_state_dict(model, case.state_dict())
    compare_with_official(case, model, list(model.network.features))


@pytest.mark.parametrize(("case", "name"), [("mn04", "mn04"), ("mn10", "mn10"), ("mn40_ext_like", "mn40")])
def test_parameters_have_the_official_names_and_shapes(case, name):
    info = GoldenCase(case).info
    with torch.device("meta"):
        network = create_model(name)
    assert layout(network) == {key: entry["shape"] for key, entry in info["state_dict"].items()}
    assert sum(parameter.numel() for parameter in network.parameters()) == info["num_parameters"]


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"se_dims": "f"}, 3_365_907),
        ({"se_dims": "t"}, 3_394_868),
        ({"se_dims": "cf"}, 4_878_187),
        ({"se_dims": "cft"}, 4_908_504),
        ({"se_dims": "none"}, 3_364_551),
        ({"head_type": "fully_convolutional"}, 3_478_638),
        ({"head_type": "multihead_attention_pooling"}, 7_023_244),
    ],
)
def test_variants_have_the_size_of_the_official_ones(options, parameters):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in MobileNet(**options).parameters()) == parameters


@pytest.mark.parametrize(
    ("width", "channels"),
    [
        (0.1, [8] * 10 + [16] * 5),
        (0.2, [8] * 6 + [16] * 4 + [24, 24, 32, 32, 32]),
        (0.4, [8, 16, 16, 16, 16, 16, 32, 32, 32, 32, 48, 48, 64, 64, 64]),
        (0.5, [8, 16, 16, 24, 24, 24, 40, 40, 40, 40, 56, 56, 80, 80, 80]),
    ],
)
def test_channels_are_rounded_to_multiples_of_eight(width, channels):
    with torch.device("meta"):
        network = MobileNet(width)
    assert [network.features[index].block[-1][0].out_channels for index in range(1, 16)] == channels


def test_rounding_never_loses_a_tenth_of_the_channels():
    assert [make_divisible(value) for value in (3, 11.9, 12, 18, 19)] == [8, 16, 16, 24, 24]


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (4, 32)),
        ({"strides": (2, 2, 2, 1)}, (8, 63)),
        ({"strides": (2, 2, 1, 1)}, (16, 125)),
        ({"dilated": True}, (8, 63)),
        ({"dilated": True, "se_dims": "cf"}, (8, 63)),
        ({"reduced_tail": True}, (4, 32)),
    ],
)
def test_ten_seconds_end_in_the_documented_map(options, size):
    network = MobileNet(0.1, **options).eval()
    with torch.inference_mode():
        assert network.features(torch.zeros(1, 1, 128, 1000)).shape[2:] == size


@pytest.mark.parametrize(("aggregate", "expected"), [("max", 2.0), ("min", 1.0), ("avg", 1.5), ("add", 3.0)])
def test_concurrent_squeeze_and_excitation_aggregates_the_scaled_maps(aggregate, expected):
    network = MobileNet(0.1, se_dims="cf", se_agg=aggregate)
    layer = network.features[4].block[-2]

    class Scaled(torch.nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, maps):
            return self.factor * maps

    layer.conc_se_layers = torch.nn.ModuleList([Scaled(1.0), Scaled(2.0)])
    maps = torch.arange(1.0, 5.0).view(1, 1, 2, 2)
    assert layer(maps).equal(expected * maps)


def test_folding_and_channels_last_change_no_score():
    torch.manual_seed(0)
    model = create_audio_model("mn04").eval()
    for module in model.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    waveform = torch.randn(2, 32000) / 10
    with torch.inference_mode():
        before = model(waveform)
        after = prepare_for_inference(model)(waveform)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.network.modules())
    assert relative_error(after.logits, before.logits) < 1e-4
    assert relative_error(after.embedding, before.embedding) < 1e-4


@pytest.mark.parametrize("head_type", ["mlp", "fully_convolutional", "multihead_attention_pooling"])
def test_every_parameter_gets_a_gradient(head_type):
    torch.manual_seed(0)
    network = MobileNet(0.1, head_type=head_type, num_classes=5)
    network(torch.randn(2, 1, 64, 64)).logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
