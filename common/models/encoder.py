"""The transformer blocks that PaSST, fPaSST, ATST-F, M2D, ASiT and (in part) BEATs share.

Parameters have the names of a Vision Transformer (Dosovitskiy et al., ICLR 2021) in timm and the released audio files:
``blocks.N.{norm1, attn.qkv, attn.proj, norm2, mlp.fc1, mlp.fc2}``. Attention is one fused call.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from common.errors import unknown

Size = int | tuple[int, int]


class PatchProjection(nn.Module):
    """Patches through one linear map: a convolution, with the name that released files give it."""

    def __init__(self, in_channels: int, dim: int, size: Size, stride: Size = 1, padding: Size = 0):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, size, stride, padding)

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, channels, height, width) to (batch, dim, rows of patches, columns)."""
        return self.proj(maps)


class DropPath(nn.Module):
    """Stochastic depth: drops a residual branch for whole items of a batch in training; the others are scaled up."""

    def __init__(self, probability: float = 0.0):
        super().__init__()
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        """(batch, ...) to the same shape."""
        if not self.training or self.probability == 0.0:
            return branch
        keep = 1.0 - self.probability
        mask = branch.new_empty((branch.shape[0],) + (1,) * (branch.ndim - 1)).bernoulli_(keep)
        return branch * mask / keep


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, dim) to the same shape."""
        hidden = self.fc1(tokens)
        # In place where no gradient needs the input: large tensors cost more to allocate than to compute.
        hidden = F.gelu(hidden) if hidden.requires_grad else torch.ops.aten.gelu_(hidden)
        return self.dropout(self.fc2(self.dropout(hidden)))


class Attention(nn.Module):
    """Multi-head self-attention with one projection for query, key and value."""

    def __init__(
        self, dim: int, num_heads: int, qkv_bias: bool = True, dropout: float = 0.0, attention_dropout: float = 0.0
    ):
        super().__init__()
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, dim) to the same shape."""
        batch, length, dim = tokens.shape
        qkv = self.qkv(tokens).view(batch, length, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        dropout = self.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.dropout(self.proj(mixed.transpose(1, 2).reshape(batch, length, dim)))


class Block(nn.Module):
    """One pre-norm block: ``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        *,
        qkv_bias: bool = True,
        norm_eps: float = 1e-6,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, num_heads, qkv_bias, dropout, attention_dropout)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, dim) to the same shape."""
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


class Encoder(nn.ModuleList):
    """A stack of blocks, called one after the other; name it ``blocks`` to get the released parameter names.

    Args:
        depth: number of blocks.
        drop_path: probability at the last block; it rises linearly from 0 at the first (stochastic depth).
        checkpointing: recompute each block in the backward pass instead of keeping its activations; about 30 % more
            time for a fraction of the memory.
        **block: options of `Block`.
    """

    def __init__(
        self,
        depth: int,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        *,
        drop_path: float = 0.0,
        checkpointing: bool = False,
        **block: Any,
    ):
        rates = [drop_path * index / max(depth - 1, 1) for index in range(depth)]
        super().__init__(Block(dim, num_heads, mlp_ratio, drop_path=rate, **block) for rate in rates)
        self.checkpointing = checkpointing

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, dim) to the same shape."""
        return run_blocks(self, tokens, self.checkpointing)


def run_blocks(blocks: Iterable[nn.Module], tokens: Tensor, checkpointing: bool = False, *context: Tensor) -> Tensor:
    """Pass tokens (batch, tokens, dim) through the blocks; each is called with the tokens and `context`.

    `checkpointing`: in training keep only the input of each block and recompute the rest in the backward pass.
    """
    for block in blocks:
        if checkpointing and torch.is_grad_enabled():
            tokens = checkpoint(block, tokens, *context, use_reentrant=False)
        else:
            tokens = block(tokens, *context)
    return tokens


def initialise_like_vit(network: nn.Module, *tables: str) -> None:
    """Start tables and linear layers with truncated normal weights (0.02), biases with 0."""
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    for weight in (*map(network.get_parameter, tables), *(module.weight for module in linear)):
        nn.init.trunc_normal_(weight, std=0.02)
    for module in linear:
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def check_options(options: Iterable[str], *makers: Callable[..., object]) -> None:
    """Raise a UserError for an option that none of `makers` (classes or functions) takes, with those that would do."""
    known = {
        name
        for maker in makers
        for name, parameter in inspect.signature(maker).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    for name in options:
        if name not in known:
            raise unknown("model option", name, known)
