"""One pre-norm transformer block written out in loops, to hold the fused one against."""

import torch
from torch import Tensor
from torch.nn import functional as F

from common.models.encoder import Block


def plain_block(block: Block, tokens: Tensor, eps: float) -> Tensor:
    """(tokens, dim) to the same shape; two heads or more, exact GELU by the error function."""
    dim = tokens.shape[1]
    heads = block.attn.num_heads
    size = dim // heads
    normed = F.layer_norm(tokens, (dim,), block.norm1.weight, block.norm1.bias, eps)
    qkv = normed @ block.attn.qkv.weight.T
    if block.attn.qkv.bias is not None:
        qkv = qkv + block.attn.qkv.bias
    mixed = torch.zeros_like(tokens)
    for head in range(heads):
        query, key, value = (qkv[:, part * dim + head * size :][:, :size] for part in range(3))
        scores = query @ key.T / size**0.5
        weights = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
        mixed[:, head * size : (head + 1) * size] = weights @ value
    tokens = tokens + mixed @ block.attn.proj.weight.T + block.attn.proj.bias
    normed = F.layer_norm(tokens, (dim,), block.norm2.weight, block.norm2.bias, eps)
    hidden = normed @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    return tokens + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
