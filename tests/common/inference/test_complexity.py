"""Parameters and MACs by every count."""

import json
import subprocess
import sys

import pytest
import torch
import yaml
from torch import nn

from common.errors import UserError
from common.inference.complexity import describe, measure, stored_bytes, table_rows
from common.inference.prepare import fold_batch_norms
from common.models.network import ModelOutput
from common.registry.models import create_model, find_architecture
from tests.support.golden_case import GoldenCase
from tests.support.places import ROOT


class Tiny(nn.Module):
    """One convolution of 2 channels with bias, and one layer on the pooled map."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.linear = nn.Linear(2, 5)

    def forward(self, spectrogram):
        embedding = self.norm(self.conv(spectrogram)).mean(dim=(2, 3))
        return ModelOutput(self.linear(embedding), embedding)


def test_the_counts_of_a_tiny_network_can_be_done_by_hand():
    figures = measure(Tiny(), (1, 1, 4, 6), "int8")
    positions = 4 * 6
    assert figures.parameters == (2 * 9 + 2) + (2 + 2) + (2 * 5 + 5) == 39
    assert figures.bytes == 39
    assert figures.buffers == 2 + 2 + 1
    assert figures.challenge_macs == (2 * 9 + 2) * positions + 4 + 15
    assert figures.all_calls == {"conv": 18 * positions, "linear": 10, "matmul": 0, "total": 18 * positions + 10}
    assert figures.repo_macs == (18 + 2) * positions + 15


@pytest.mark.parametrize("name", ["mn04", "mn10", "mn40_ext_like", "dymn10", "dymn20", "passt_s_swa"])
def test_macs_are_those_of_the_official_networks(name):
    official = GoldenCase(name).info
    with torch.device("meta"):
        network = create_model("mn40" if name.startswith("mn40") else name)
    figures = measure(network, official["macs"]["input"])
    assert figures.parameters == official["num_parameters"]
    assert figures.all_calls == official["macs"]["all_calls"]
    counter = official["macs"]["repo_counter"]["value"]
    assert counter is None or figures.repo_macs == counter


def test_measuring_leaves_the_network_as_it_was():
    network = create_model("task1_baseline").train()
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    measure(network, (1, 1, 256, 65))
    assert network.training
    assert all(parameter.device.type == "cpu" for parameter in network.parameters())
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())


def test_folding_lowers_the_parameters_and_raises_the_challenges_macs():
    network = create_model("task1_baseline").eval()
    fold_batch_norms(network)
    figures = measure(network, (1, 1, 256, 65))
    assert (figures.parameters, figures.challenge_macs) == (59_794, 30_216_768)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
def test_packed_weights_of_a_quantised_network_are_counted():
    network = nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 3))
    quantised = torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)
    assert not list(quantised.parameters())
    assert stored_bytes(quantised) == (40 + 12) * 1 + (4 + 3) * 4
    assert stored_bytes(network.half()) == (40 + 12 + 4 + 3) * 2


def test_a_type_that_the_rule_does_not_know_is_refused():
    with pytest.raises(UserError, match="float64"):
        stored_bytes(nn.Linear(2, 2).double())


def test_an_unknown_precision_gets_the_nearest():
    with pytest.raises(UserError, match="int8"):
        measure(Tiny(), (1, 1, 4, 6), "int7")


@pytest.mark.parametrize(
    "name", ["task1_baseline", "cp_resnet_128k", "mn04.as", "dymn04", "frame_mn06", "desed_crnn_2024"]
)
def test_the_table_of_models_holds_the_measured_figures(name):
    figures, known = describe(name), find_architecture(name)
    assert figures["parameters"] == known.parameters
    assert figures["all_calls"]["total"] == known.macs


def test_a_run_folder_is_counted_with_its_settings(tmp_path):
    settings = {"model": {"name": "task1_baseline", "base_channels": 8}, "front_end": {"hop_length": 500}}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    assert describe(str(tmp_path))["parameters"] == 5_722
    with pytest.raises(UserError, match="without settings"):
        describe(str(tmp_path.parent))


def test_the_command_prints_json_and_refuses_unknown_names():
    call = [sys.executable, "-m", "common", "complexity"]
    figures = json.loads(subprocess.run([*call, "task1_baseline", "--json"], capture_output=True, check=True).stdout)
    assert (figures["parameters"], figures["challenge_macs"]) == (61_148, 29_419_156)
    refused = subprocess.run([*call, "task1_baselin"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "task1_baseline" in refused.stderr


def test_a_configuration_is_counted_before_its_training_with_changed_widths_against_the_limits(tmp_path):
    config = ROOT / "task1_asc" / "configs" / "baseline.yaml"
    figures = describe(str(config))
    assert (figures["parameters"], figures["bytes"], figures["challenge_macs"]) == (61_148, 122_296, 29_419_156)
    assert figures["limits"]["bytes"] == {"limit": 128_000, "kept": True}
    wider = describe(str(config), changes=["model.base_channels=48"])
    assert wider["parameters"] == 138_728 and not wider["limits"]["challenge_macs"]["kept"]
    assert "OVER the limit of 128,000 by 149,456" in str(table_rows(wider))
    assert describe(str(config), "int8")["bytes"] == 61_148
    small = describe(str(ROOT / "task4_sed" / "configs" / "small.yaml"))
    assert small["parameters"] == 21_372 and "limits" not in small
    for name, changes, sentence in (
        ("mn04", ["model.width=2"], "mn04 is the name of a model"),
        (str(config), ["model.base_channels"], "is not of the form"),
        (str(config), ["model.width=2"], "width"),
    ):
        with pytest.raises(UserError, match=sentence):
            describe(name, changes=changes)


def test_a_fine_tuned_run_is_counted_with_its_own_classes(tmp_path):
    (tmp_path / "settings.yaml").write_text("model: {name: mn01, norm_momentum: 0.3, weights: null, options: {}}\n")
    whole = describe(str(tmp_path))["parameters"]
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "evaluation.json").write_text('{"labels": ["cat", "dog"]}')
    assert describe(str(tmp_path))["parameters"] < whole
