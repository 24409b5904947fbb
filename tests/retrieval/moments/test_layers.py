"""The quick layers compute what torch's compute."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from retrieval.moments.layers import MultiheadAttention, PReLU, attend, dropout

NO_DROPOUT = 1e-9  # takes the path of a training step, and drops nothing


def test_dropout_drops_its_share_and_keeps_the_mean_and_the_gradient():
    torch.manual_seed(0)
    tokens = torch.ones(40, 501, requires_grad=True)
    found = dropout(tokens, 0.3)
    assert found.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert (found == 0).float().mean().item() == pytest.approx(0.3, abs=0.015)  # four standard errors of 20,040 draws
    found.sum().backward()
    assert torch.equal(tokens.grad, found.detach())


def test_dropout_is_drawn_anew_and_repeats_with_its_seed():
    drawn = [torch.random.manual_seed(seed) and dropout(torch.ones(1000), 0.5) for seed in (1, 2, 1)]
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[2], dropout(torch.ones(1000), 0.5))


def test_prelu_has_the_values_and_gradients_of_torch():
    torch.manual_seed(0)
    tokens, grad = torch.randn(2, 7, 5, dtype=torch.float64), torch.randn(2, 7, 5, dtype=torch.float64)
    found = []
    for layer in (PReLU().double(), nn.PReLU().double()):
        inside = tokens.clone().requires_grad_()
        output = layer(inside)
        output.backward(grad)
        found.append((output, inside.grad, layer.weight.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_attention_of_a_training_step_is_attention():
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 6, 8), torch.randn(2, 3, 6, 8)
    mask = (torch.arange(6) < torch.tensor([[6], [4]]))[:, None, None, :]
    for allowed in (None, mask):
        expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        torch.testing.assert_close(attend(query, key, value, allowed, NO_DROPOUT), expected)


def test_the_layer_with_the_parameters_of_torch_computes_what_torch_does():
    torch.manual_seed(0)
    layer = MultiheadAttention(8, 2, dropout=NO_DROPOUT, batch_first=True)
    nn.init.normal_(layer.in_proj_bias)
    query, key, value = torch.randn(2, 4, 8), torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    mask = torch.arange(6) < torch.tensor([[6], [4]])
    expected = nn.MultiheadAttention.forward(layer, query, key, value, key_padding_mask=~mask, need_weights=False)[0]
    torch.testing.assert_close(layer(query, key, value, mask[:, None, None, :]), expected)
