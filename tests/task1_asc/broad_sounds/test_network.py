import numpy as np
import pytest
import torch
import torch.nn.functional as F

from task1_asc.broad_sounds.network import HATR, initialize
from tests.support.golden_case import NETWORKS, GoldenCase, drawn_tensor

CASES = {"hatr": HATR(512, 512, 23, 128, 3, "attention", 0.1), "hatr_audio": HATR(512, 0, 23, 128, 3)}


def vectors(case, side):
    made = drawn_tensor(f"{case.name}/{side}", (case.info["input"]["clips"], 512))
    return torch.from_numpy(np.float32(made * np.sqrt(512)))


def spread_error(actual, expected):
    """Largest difference over the spread over the clips: most of a logit is the same for every clip."""
    return float((actual - expected).abs().max() / expected.std(dim=0).mean())


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_the_official_code(name):
    case, network = GoldenCase(name, NETWORKS), CASES[name]
    network.load_state_dict(case.state_dict())
    assert sum(parameter.numel() for parameter in network.parameters()) == case.info["num_parameters"]
    sides = [vectors(case, side) for side in ("audio", "text")[: 1 + (name == "hatr")]]
    with torch.inference_mode():
        logits, latent = network.eval()(*sides), network.latent(*sides)
    assert spread_error(logits, case.expected("logits")) < 1e-5
    assert spread_error(latent, case.expected("latent")) < 1e-5
    if network.fusion is not None:
        weights = network.fusion(*network.encode(*sides))[1]
        torch.testing.assert_close(weights, case.expected("attention"), rtol=0, atol=1e-5)


def test_three_steps_of_training_are_those_of_the_official_code():
    case, network = GoldenCase("hatr", NETWORKS), HATR(dropout=0.0)
    network.load_state_dict(case.state_dict())
    facts = case.info["training"]
    audio, text, target = vectors(case, "audio"), vectors(case, "text"), torch.tensor(facts["targets"])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-5, fused=True)
    losses = []
    for step in range(3):
        loss = F.cross_entropy(network.train()(audio, text), target, label_smoothing=0.01)
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            norms = {name: float(parameter.grad.norm()) for name, parameter in network.named_parameters()}
            for name, norm in facts["gradient_norms_first_step"].items():
                assert norms[name] == pytest.approx(norm, rel=1e-3, abs=1e-6), name
        optimizer.step()
    assert losses == pytest.approx(facts["losses_before_each_step"], rel=1e-4)
    with torch.inference_mode():
        error = spread_error(network.eval()(audio, text), case.expected("logits_after_3_steps"))
    assert error < 2e-2


@pytest.mark.parametrize(
    ("options", "parameters"),
    [({"fusion": "concat"}, 7_319_127), ({"audio_size": 0}, 3_698_647), ({"prior_size": 23}, 7_319_513 + 23 * 128)],
)
def test_variants_have_the_published_number_of_parameters(options, parameters):
    assert sum(parameter.numel() for parameter in HATR(**options).parameters()) == parameters


def test_a_prior_moves_the_logits_and_gets_a_gradient():
    network = HATR(32, 16, hidden_size=8, num_residual_blocks=1, prior_size=23)
    initialize(network)
    audio, text, prior = torch.randn(6, 32), torch.randn(6, 16), torch.eye(23)[:6]
    logits = network.eval()(audio, text, prior)
    assert not torch.allclose(logits, network(audio, text, prior.roll(1, dims=0)))
    network.train()(audio, text, prior).square().sum().backward()
    assert network.prior.weight.grad.abs().sum() > 0


def test_a_missing_modality_is_named():
    with pytest.raises(ValueError, match="needs text"):
        HATR(8, 8, hidden_size=8)(torch.zeros(2, 8))
    with pytest.raises(ValueError, match="audio, text or both"):
        HATR(0, 0)
