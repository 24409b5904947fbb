"""8-bit networks: what their integers compute, how many bytes they are, and that a file brings them back."""

import pytest
import torch
from torch import nn

from common.inference.complexity import count_parameters, stored_bytes
from common.inference.quantize import (
    blank_int8,
    convert,
    freeze,
    int8_bytes,
    measure_int8,
    prepare_training,
    quantize_trained,
)
from common.models.cp_mobile import GlobalResponseNorm
from common.models.network import ModelOutput
from common.registry.models import create_model

SHAPE = (1, 1, 32, 17)
KEPT = (GlobalResponseNorm,)


class Small(nn.Module):
    """One convolution and what becomes of it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 3)

    def forward(self, spectrogram: torch.Tensor) -> ModelOutput:
        pooled = self.conv(spectrogram).mean(dim=(2, 3))
        return ModelOutput(self.head(pooled), pooled)


def trained(name="cp_mobile", **options):
    """A network whose batch norms have seen something."""
    torch.manual_seed(0)
    network = Small() if name == "small" else create_model(name, base_channels=8, **options)
    for module in network.modules():
        if isinstance(module, GlobalResponseNorm):
            nn.init.constant_(module.gamma, 0.3)
    network.train()
    for _ in range(10):
        network(torch.randn(16, *SHAPE[1:]))
    return network.eval()


def batches(count=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, *SHAPE[1:], generator=generator) for _ in range(count)]


def test_the_convolution_computes_with_the_integers_that_are_stored():
    network = quantize_trained(trained("small"), batches())
    spectrogram = batches(1)[0]
    layer = network.conv.get_submodule("0")
    weight = layer.weight()
    assert weight.dtype == torch.qint8 and weight.qscheme() == torch.per_channel_affine
    seen = []
    layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    with torch.no_grad():
        network(spectrogram)
    given, made = seen[0]
    assert given.dtype == made.dtype == torch.quint8
    # The same in whole numbers, by hand: 64 bits instead of the kernel's 32.
    values = given.int_repr().double() - given.q_zero_point()
    sums = nn.functional.conv2d(values, weight.int_repr().double(), padding=1)
    scale = given.q_scale() * weight.q_per_channel_scales()
    exact = sums * scale[:, None, None] + layer.bias().double()[:, None, None]
    expected = (exact / made.q_scale()).round().clamp(0, None) + made.q_zero_point()
    difference = made.int_repr().double() - expected.clamp(0, 255)
    # The kernel adds a bias that is rounded to the accumulator's step.
    assert difference.abs().max() <= 1
    assert (difference != 0).double().mean() < 0.01


def test_bytes_are_those_of_the_packed_weights_and_of_biases_in_float32():
    network = trained("small")
    # 36 + 12 weights of a byte; 4 biases out of the batch norm and 3 of the linear layer, of four bytes.
    assert int8_bytes(network) == 36 + 12 + 4 * (4 + 3) == 76
    quantized = quantize_trained(network, batches())
    assert stored_bytes(quantized) == 76
    assert count_parameters(quantized) == 55


@pytest.mark.parametrize("name", ["cp_mobile", "task1_baseline"])
def test_the_count_without_quantising_is_that_of_the_quantised_network(name):
    network = trained(name)
    quantized = quantize_trained(network, batches(), KEPT)
    figures = measure_int8(network, SHAPE, KEPT)
    assert figures.bytes == stored_bytes(quantized) == int8_bytes(network, KEPT)
    assert figures.parameters == count_parameters(quantized)


def test_published_counts_of_networks_with_folded_batch_norms():
    """fschmid56/cpjku_dcase23 at 64 frames, and the baseline at 65, whose count grows over the limit by folding."""
    figures = measure_int8(create_model("cp_mobile"), (1, 1, 256, 64), KEPT)
    assert (figures.parameters, figures.challenge_macs) == (124_862, 29_561_088)
    baseline = measure_int8(create_model("task1_baseline"), (1, 1, 256, 65))
    assert (baseline.parameters, baseline.challenge_macs) == (59_794, 30_216_768)


@pytest.mark.parametrize("name", ["cp_mobile", "task1_baseline"])
def test_a_quantised_network_says_nearly_what_it_said_in_float(name):
    network, spectrogram = trained(name), batches(1)[0]
    quantized = quantize_trained(network, batches(), KEPT)
    with torch.no_grad():
        expected, given = network(spectrogram).logits, quantized(spectrogram).logits
    # Seven bits of activations through eight layers: some per cent of the spread.
    assert (given - expected).abs().max() < 0.25 * expected.std()
    assert not torch.equal(given, expected)


def test_modules_that_are_kept_in_float_stay_as_they_are():
    quantized = quantize_trained(trained(), batches(), KEPT)
    kept = [module for module in quantized.modules() if isinstance(module, GlobalResponseNorm)]
    assert len(kept) == 6 and all(module.gamma.dtype == torch.float32 for module in kept)


def test_a_blank_network_becomes_the_stored_one(tmp_path):
    network, spectrogram = trained(), batches(1)[0]
    quantized = quantize_trained(network, batches(), KEPT)
    torch.save(quantized.state_dict(), tmp_path / "int8.pt")
    blank = blank_int8(create_model("cp_mobile", base_channels=8).eval(), SHAPE, KEPT)
    blank.load_state_dict(torch.load(tmp_path / "int8.pt", weights_only=True))
    with torch.no_grad():
        assert torch.equal(blank(spectrogram).logits, quantized(spectrogram).logits)


def test_the_network_that_was_quantised_stays_as_it_was():
    network = trained()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    quantize_trained(network, batches(), KEPT)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_training_in_simulated_8_bit_reaches_every_weight_and_converts_to_what_it_simulated():
    prepared = prepare_training(trained(), SHAPE, KEPT)
    for spectrogram in batches():
        prepared(spectrogram).logits.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in prepared.parameters())
    prepared.eval()
    spectrogram = batches(1)[0]
    with torch.no_grad():
        simulated, computed = prepared(spectrogram).logits, convert(prepared)(spectrogram).logits
    assert (simulated - computed).abs().max() < 0.15 * simulated.std()


def test_the_rounding_passes_gradients_on_unchanged():
    from torch import fake_quantize_per_tensor_affine

    values = torch.tensor([-10.0, -0.26, 0.3, 0.74, 10.0], requires_grad=True)
    rounded = fake_quantize_per_tensor_affine(values, 0.5, 0, -4, 3)
    assert rounded.tolist() == [-2.0, -0.5, 0.5, 0.5, 1.5]
    rounded.sum().backward()
    assert values.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_after_freezing_ranges_and_statistics_stay():
    prepared = prepare_training(trained(), SHAPE, KEPT)
    for spectrogram in batches():
        prepared(spectrogram)
    freeze(prepared)
    kept = {name: value.clone() for name, value in prepared.named_buffers()}
    prepared.train()  # as a trainer does at each epoch
    freeze(prepared)
    for spectrogram in batches():
        prepared(10 * spectrogram)
    assert all(torch.equal(value, kept[name]) for name, value in prepared.named_buffers())


def test_nothing_to_calibrate_with_is_refused():
    with pytest.raises(ValueError, match="no spectrograms"):
        quantize_trained(trained("small"), [])
