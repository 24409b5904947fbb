"""QD-DETR against the official network, alone and in a padded batch, with and without the published fault."""

import pytest
import torch

from retrieval.moments.data import collate
from retrieval.moments.network import QDDETR, add_endpoints
from tests.support.golden_case import relative_error
from tests.support.moments import QD_DETR, vectors


def run(model, audio, text):
    batch = collate(audio, text, [], [])
    with torch.inference_mode():
        return model(batch.audio, batch.audio_mask, batch.text, batch.text_mask)


@pytest.fixture(scope="module")
def model():
    model = QDDETR(endpoints="before").eval()
    model.load_state_dict(QD_DETR.state_dict())
    return model


def test_the_network_computes_what_the_official_one_does(model):
    audio, text = vectors("audio", QD_DETR.info["input"]["seconds"]), vectors("text", QD_DETR.info["input"]["words"])
    output = run(model, audio, text)
    found = {
        "pred_spans": output.spans[-1],
        "first_decoder_spans": output.spans[0],
        "pred_logits": output.logits[-1],
        "saliency_scores": output.saliency,
    }
    for name, values in found.items():
        assert relative_error(values, QD_DETR.expected(name)) < 1e-4
    assert sum(p.numel() for p in model.parameters()) == QD_DETR.info["num_parameters"]


def test_a_result_depends_on_its_batch_only_with_the_published_fault(model):
    # the padding of the short recording with the short query hides words from the other one
    audio, text = vectors("audio", [20, 9]), vectors("text", [12, 3])
    alone = torch.cat([run(model, audio[i : i + 1], text[i : i + 1]).spans for i in range(2)], dim=1)
    assert torch.allclose(run(model, audio, text).spans, alone, atol=1e-6)
    faulty = QDDETR(endpoints="before", batch_fault=True).eval()
    faulty.load_state_dict(model.state_dict())
    difference = (run(faulty, audio, text).spans - alone).abs().amax(dim=(0, 2, 3))
    assert difference[0] > 0.05 and difference[1] < 1e-6


def test_end_points_stand_before_or_after_the_features():
    audio, mask = torch.ones(1, 4, 3), torch.tensor([[True, True, False, False]])
    ends = [[0.0, 0.5], [0.5, 1.0]]
    assert add_endpoints(audio, mask, "before")[0, :2, :2].tolist() == ends
    assert add_endpoints(audio, mask, "after")[0, :2, 3:].tolist() == ends
    assert "input_aud_proj.0.net.1.weight" in QDDETR(dim=16, feedforward=8).state_dict()


def test_attention_of_the_decoder_starts_without_bias():
    named = QDDETR(dim=16, feedforward=8).named_parameters()
    biases = {name: value for name, value in named if "out_proj.bias" in name}
    assert len(biases) == 8 and not any(value.any() for value in biases.values())


def test_every_parameter_but_the_unused_positions_learns():
    torch.manual_seed(0)
    model = QDDETR(audio_dim=6, text_dim=5, dim=16, heads=2, feedforward=8, slots=3)
    batch = collate([torch.randn(5, 6), torch.randn(4, 6)], [torch.randn(3, 5), torch.randn(2, 5)], [], [])
    output = model(batch.audio, batch.audio_mask, batch.text, batch.text_mask)
    (output.spans.sum() + output.logits.sum() + output.saliency.sum() + output.other_saliency.sum()).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert {name.split(".")[0] for name in without} == {"txt_position_embed"}
