"""DyMN against the official code, its temperature, and its inference form."""

import pytest
import torch

from common.inference.prepare import prepare_for_inference
from common.models.dynamic_mobilenet import (
    DynamicConvolution,
    DynamicMobileNet,
    DynamicReLU,
    kernel_temperature,
)
from common.registry import load_released_state_dict
from common.registry.models import create_audio_model, create_model
from tests.support.golden_case import GoldenCase, relative_error
from tests.support.mobilenet_case import compare_with_official, layout


def test_every_stored_value_of_the_official_network_is_computed():
    case = GoldenCase("dymn10")
    model = create_audio_model("dymn10").eval()
    load_released_state_dict(model, case.state_dict())
    network = model.network
    compare_with_official(case, model, [network.in_c, *network.layers, network.out_c])


@pytest.mark.parametrize("name", ["dymn10", "dymn20"])
def test_parameters_have_the_official_names_and_shapes(name):
    info = GoldenCase(name).info
    with torch.device("meta"):
        network = create_model(name)
    assert layout(network) == {key: entry["shape"] for key, entry in info["state_dict"].items()}
    assert sum(parameter.numel() for parameter in network.parameters()) == info["num_parameters"]


def test_dymn04_has_the_official_size():
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in create_model("dymn04").parameters()) == 1_961_239


def test_a_clip_gets_the_sum_of_kernels_that_its_own_context_asks_for():
    torch.manual_seed(0)
    convolution = DynamicConvolution(3, 4, context_size=5, kernel=3)
    maps, contexts = torch.randn(2, 3, 6, 7), torch.randn(2, 5)
    result = convolution(maps, contexts)
    for clip in range(2):
        attention = convolution.residuals(contexts[clip]).softmax(dim=0)
        kernel = sum(share * kernel for share, kernel in zip(attention, convolution.weight[0, 0], strict=True))
        alone = torch.nn.functional.conv2d(maps[clip : clip + 1], kernel.view(4, 3, 3, 3), padding=1)
        torch.testing.assert_close(result[clip : clip + 1], alone, rtol=1e-4, atol=1e-5)


def test_a_high_temperature_makes_the_kernels_equal():
    torch.manual_seed(0)
    convolution = DynamicConvolution(2, 2, context_size=3, temperature=1e9)
    kernels = convolution.kernels(torch.randn(4, 3))
    torch.testing.assert_close(kernels[0].flatten(), convolution.weight[0, 0].mean(dim=0))
    torch.testing.assert_close(kernels[0], kernels[3])


def test_dynamic_relu_is_a_relu_where_the_context_says_nothing():
    relu = DynamicReLU(channels=2, context_size=3)
    torch.nn.init.zeros_(relu.coef_net[0].weight)
    torch.nn.init.zeros_(relu.coef_net[0].bias)
    maps = torch.randn(1, 2, 4, 4)
    torch.testing.assert_close(relu(maps, torch.randn(1, 3)), maps.relu())


def test_the_temperature_falls_to_one_by_epoch_29_and_stays():
    assert [kernel_temperature(epoch) for epoch in (0, 1, 28, 29, 150)] == [30, 29, 2, 1, 1]


def test_a_slow_tail_leads_below_one():
    assert kernel_temperature(28, t_min=0.5) == 2
    assert kernel_temperature(39, t_min=0.5) == pytest.approx(0.8)
    assert kernel_temperature(99, t_min=0.5) == 0.5


def test_an_epoch_moves_every_temperature():
    network = DynamicMobileNet(0.1, T_max=30.0)
    network.start_epoch(10)
    temperatures = {m.temperature for m in network.modules() if isinstance(m, DynamicConvolution)}
    assert temperatures == {20.0}


def test_released_weights_run_at_the_temperature_they_ended_with():
    for name, expected in (("dymn04.as", 1.0), ("dymn04.im", 30.0)):
        with torch.device("meta"):
            network = create_model(name)
        assert {m.temperature for m in network.modules() if isinstance(m, DynamicConvolution)} == {expected}


def test_replace_se_has_dynamic_blocks_only_where_mobilenet_squeezes():
    with torch.device("meta"):
        layers = DynamicMobileNet(0.4, use_dy_blocks="replace_se").layers
    dynamic = [index + 1 for index, layer in enumerate(layers) if hasattr(layer, "context_gen")]
    assert dynamic == [4, 5, 6, 11, 12, 13, 14, 15]


def test_plain_convolutions_have_no_bias_as_dynamic_ones():
    with torch.device("meta"):
        blocks = DynamicMobileNet(0.1, no_dyconv=True).layers
    convolutions = [module for module in blocks.modules() if isinstance(module, torch.nn.Conv2d)]
    assert not any(hasattr(module, "temperature") for module in blocks.modules())
    assert len(convolutions) > 30 and sum(module.bias is not None for module in convolutions) == 30  # of coordinates


@pytest.mark.parametrize("use_dy_blocks", ["all", "replace_se"])
def test_folding_changes_no_score(use_dy_blocks):
    torch.manual_seed(0)
    model = create_audio_model("dymn04", use_dy_blocks=use_dy_blocks).eval()
    for module in model.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.normal_(module.weight, 1, 0.1)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    waveform = torch.randn(3, 32000) / 10
    with torch.inference_mode():
        before = model(waveform)
        after = prepare_for_inference(model)(waveform)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.network.modules())
    assert relative_error(after.logits, before.logits) < 1e-4
    assert relative_error(after.embedding, before.embedding) < 1e-4


@pytest.mark.parametrize("options", [{}, {"no_dyrelu": True}, {"no_dyconv": True}, {"no_ca": True}])
def test_every_parameter_gets_a_gradient(options):
    torch.manual_seed(0)
    network = DynamicMobileNet(0.1, num_classes=5, **options)
    network(torch.randn(2, 1, 64, 64)).logits.square().sum().backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    # Without coordinate attention nothing reads its two last convolutions; the state dict keeps them, as officially.
    assert all("conv_f" in name or "conv_t" in name for name in without) if "no_ca" in options else not without
