"""Models made ready for inference compute what they did, in the layout and precision that are quick."""

import pytest
import torch
from torch import nn

from common.features.front_ends import KaldiLogMel
from common.inference import prepare
from common.inference.prepare import computing_in, fold_batch_norms, prepare_for_inference, quick_in_bfloat16
from common.models.audio_model import AudioModel
from common.models.network import ModelOutput


class Named(nn.Module):
    """Convolutions and norms beside each other under other names, and two that belong to nothing."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.joint_conv, self.joint_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.sequence = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
        self.alone = nn.Conv2d(4, 3, 3)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -1, 1)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 2)

    def forward(self, spectrogram):
        maps = self.joint_norm(self.joint_conv(self.bn1(self.conv1(spectrogram))))
        maps = self.alone(self.sequence(maps))
        return ModelOutput(maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3)))


class Flat(nn.Module):
    """A network without convolutions."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 2)

    def forward(self, spectrogram):
        found = self.linear(spectrogram.mean(dim=(1, 3)))
        return ModelOutput(found, found)


def wrapped(network: nn.Module) -> AudioModel:
    torch.manual_seed(0)
    return AudioModel(KaldiLogMel(n_mels=16), network, name="small")


def test_norms_become_part_of_the_convolutions_and_outputs_stay():
    torch.manual_seed(0)
    network = Named().eval()
    maps = torch.randn(2, 1, 16, 20)
    expected = network(maps).logits
    assert fold_batch_norms(network) == 3
    torch.testing.assert_close(network(maps).logits, expected, atol=1e-5, rtol=1e-4)
    kinds = [type(part) for part in (network.bn1, network.joint_norm, network.sequence[1], network.sequence[3])]
    assert kinds == [nn.Identity, nn.Identity, nn.Identity, nn.BatchNorm2d]
    assert fold_batch_norms(network) == 0


def test_a_prepared_model_is_frozen_folded_and_channels_last():
    model = wrapped(Named()).train()
    clip = torch.randn(1, 16000) / 10
    expected = model.eval()(clip).logits.detach()
    ready = prepare_for_inference(model.train())
    assert ready is model and not model.training and not model.network.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert isinstance(model.network.bn1, nn.Identity) and model.memory_format == torch.channels_last
    assert model.network.alone.weight.is_contiguous(memory_format=torch.channels_last)
    assert model.autocast_dtype is None
    torch.testing.assert_close(model(clip).logits, expected, atol=1e-4, rtol=1e-3)
    assert prepare_for_inference(wrapped(Named()), torch.bfloat16).autocast_dtype is torch.bfloat16


def test_a_network_without_convolutions_keeps_its_layout():
    model = wrapped(Flat())
    before = model.memory_format
    assert prepare_for_inference(model).memory_format == before != torch.channels_last


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_quick_where_the_hardware_multiplies_it(monkeypatch, native):
    asked = []
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: asked.append(including_emulation) or native
    )
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: native)
    for kind in ("cpu", "cuda"):
        monkeypatch.setattr(prepare, "choose_device", lambda kind=kind: torch.device(kind))
        assert quick_in_bfloat16("mn10") == quick_in_bfloat16() == native
        assert not quick_in_bfloat16("DyMN10_as")
    assert asked == [False, False]  # an emulation is slow


@pytest.mark.parametrize(
    ("precision", "quick", "expected"),
    [("float32", True, False), ("bf16", False, True), ("auto", True, True), ("auto", False, False)],
)
def test_networks_compute_in_bfloat16_where_it_is_asked_for_or_quick(monkeypatch, precision, quick, expected):
    named = []
    monkeypatch.setattr(prepare, "quick_in_bfloat16", lambda model: named.append(model) or quick)
    with computing_in(precision, "mn10"):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert torch.is_autocast_enabled("cpu") == expected
    assert product.dtype is (torch.bfloat16 if expected else torch.float32)
    assert not torch.is_autocast_enabled("cpu") and named == ["mn10"] * (precision == "auto")
