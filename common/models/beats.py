"""BEATs: a post-norm transformer with gated relative positions over 16 x 16 patches.

Chen et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers" (ICML 2023), with the heads of PretrainedSED
(Schmid et al., ICASSP 2025), models/beats.
"""

import math
import re
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from common.models.encoder import Mlp, run_blocks
from common.models.frame_prediction import SequenceModel, plain_key, wrap

PATCH = 16


class RelativePositions(nn.Module):
    """A learned value for each head and distance between two tokens; far distances share buckets."""

    def __init__(self, num_heads: int, num_buckets: int = 320, max_distance: int = 800):
        super().__init__()
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.relative_attention_bias = nn.Embedding(num_buckets, num_heads)

    def buckets(self, distances: Tensor) -> Tensor:
        """Bucket of each signed distance (key index minus query index)."""
        half = self.num_buckets // 2
        exact = half // 2
        size = distances.abs()
        share = torch.log(size.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        far = (exact + (share * (half - exact)).long()).clamp(max=half - 1)
        return half * (distances > 0) + torch.where(size < exact, size, far)

    def forward(self, length: int) -> Tensor:
        """Bias of every query and key among `length` tokens; (heads, length, length)."""
        weight = self.relative_attention_bias.weight
        distances = torch.arange(1 - length, length, device=weight.device)
        by_distance = F.embedding(self.buckets(distances), weight).T
        return by_distance.unfold(1, length, 1).flip(1)  # row q holds the distances -q .. length - 1 - q


class GatedAttention(nn.Module):
    """Self-attention with a relative position bias, scaled by a gate computed from the query."""

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0, attention_dropout: float = 0.0):
        super().__init__()
        self.num_heads, self.attention_dropout = num_heads, attention_dropout
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.grep_linear = nn.Linear(dim // num_heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, num_heads, 1, 1))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """(batch, tokens, dim) and (heads, tokens, tokens) to (batch, tokens, dim)."""
        query, key, value = (
            layer(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.dropout(self.out_proj(self.mix(query, key, value, bias).transpose(1, 2).flatten(2)))

    def mix(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """(batch, heads, tokens, head dim) each, and the bias, to the same shape."""
        gate = self.gate(query)
        if torch.is_grad_enabled() or query.is_cuda or torch.compiler.is_compiling():
            dropout = self.attention_dropout if self.training else 0.0
            # In mixed precision in half, as the attention takes it: the bias of a batch is a third of the bytes moved.
            bias = gate.to(query.dtype) * bias.to(query.dtype)
            return F.scaled_dot_product_attention(query, key, value, bias, dropout)
        # Inference on a CPU: the gated bias of one clip stays in the cache, the bias of a batch (48 MB for 4) does not.
        gated = bias.new_empty(1, *bias.shape)
        mixed = torch.empty_like(query.transpose(1, 2)).transpose(1, 2)
        for clip in range(len(query)):
            one = slice(clip, clip + 1)
            torch.mul(gate[one], bias, out=gated)
            mixed[one] = F.scaled_dot_product_attention(query[one], key[one], value[one], gated)
        return mixed

    def gate(self, query: Tensor) -> Tensor:
        """(batch, heads, tokens, head dim), not scaled, to (batch, heads, tokens, 1)."""
        # The sums over 4 outputs each are one linear layer with summed weights.
        weight = self.grep_linear.weight.unflatten(0, (2, 4)).sum(dim=1)
        first, second = F.linear(query, weight, self.grep_linear.bias.view(2, 4).sum(dim=1)).sigmoid().split(1, dim=-1)
        return first * (second * self.grep_a - 1) + 2


class BeatsLayer(nn.Module):
    """One post-norm block with deep norm: the input counts `residual_scale` times."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        residual_scale: float,
        *,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        layer_drop: float = 0.05,
    ):
        super().__init__()
        self.residual_scale = residual_scale
        self.layer_drop = layer_drop
        self.self_attn = GatedAttention(dim, num_heads, dropout, attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden_dim, dropout)
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """(batch, tokens, dim) and (heads, tokens, tokens) to (batch, tokens, dim)."""
        mixed = self.self_attn_layer_norm(torch.add(self.self_attn(tokens, bias), tokens, alpha=self.residual_scale))
        mixed = self.final_layer_norm(torch.add(self.mlp(mixed), mixed, alpha=self.residual_scale))
        if self.training and self.layer_drop:
            # A dropped layer gets gradients of zero, not none, so that processes that train together agree.
            keep = (torch.rand((), device=tokens.device) >= self.layer_drop).to(tokens.dtype)
            return torch.lerp(tokens, mixed, keep)
        return mixed


class BeatsEncoder(nn.Module):
    """Convolutional positions, a norm, and the layers."""

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        hidden_dim: int,
        dropout: float,
        checkpointing: bool,
        **layer: Any,
    ):
        super().__init__()
        self.checkpointing = checkpointing
        position = nn.Conv1d(dim, dim, 128, padding=64, groups=16)
        nn.init.normal_(position.weight, std=math.sqrt(4 / (128 * dim)))
        nn.init.zeros_(position.get_parameter("bias"))
        self.pos_conv = nn.ModuleList([weight_norm(position, dim=2)])
        self.layer_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.relative_positions = RelativePositions(num_heads)
        scale = (2 * depth) ** 0.25
        self.layers = nn.ModuleList(
            BeatsLayer(dim, num_heads, hidden_dim, scale, dropout=dropout, **layer) for _ in range(depth)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, dim) to the same shape."""
        positions = self.pos_conv[0](tokens.mT)[..., :-1]
        tokens = self.dropout(self.layer_norm(tokens + F.gelu(positions).mT))
        return run_blocks(self.layers, tokens, self.checkpointing, self.relative_positions(tokens.shape[1]))


class Beats(SequenceModel):
    """The BEATs encoder (iter 3 and iter 3+ have the same form).

    `dropout` is of the input, the attention output and the feed-forward layers; `layer_drop` leaves out whole layers;
    `checkpointing` recomputes each layer in the backward pass instead of keeping its activations.
    """

    step_frames = PATCH
    max_steps = 62  # it takes any length, but was trained on 10 s
    stack = "encoder.layers"
    first_centre = 0.0875  # kaldi frame k is centred at 10 k + 12.5 ms
    edge_frames = 1.5

    def __init__(
        self,
        *,
        num_mels: int = 128,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        hidden_dim: int = 3072,
        patch_dim: int = 512,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        layer_drop: float = 0.05,
        checkpointing: bool = False,
    ):
        super().__init__()
        self.dim = dim
        self.bands = num_mels // PATCH
        self.patch_embedding = nn.Conv2d(1, patch_dim, PATCH, stride=PATCH, bias=False)
        self.layer_norm = nn.LayerNorm(patch_dim)
        self.post_extract_proj = nn.Linear(patch_dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.encoder = BeatsEncoder(
            dim, depth, num_heads, hidden_dim, dropout, checkpointing,
            attention_dropout=attention_dropout, layer_drop=layer_drop,
        )  # fmt: skip
        # Deep norm's start: values, outputs and feed-forward layers are smaller the deeper the stack.
        small = (8 * depth) ** -0.25
        for name, layer in self.encoder.layers.named_modules():
            if isinstance(layer, nn.Linear) and not name.endswith("grep_linear"):
                nn.init.xavier_normal_(layer.weight, gain=1.0 if name.endswith(("q_proj", "k_proj")) else small)
                nn.init.zeros_(layer.bias)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(batch, 1, 128 mels, frames) to (batch, frames // 16 * 8, dim), the 8 bands of a time step side by side."""
        patches = self.patch_embedding(spectrogram.mT).flatten(2).mT
        return self.encoder(self.dropout(self.post_extract_proj(self.layer_norm(patches))))

    def time_steps(self, spectrogram: Tensor) -> Tensor:
        """The mean over the 8 bands of each time step; (batch, frames // 16, dim)."""
        return self(spectrogram).unflatten(1, (-1, self.bands)).mean(dim=2)


beats = partial(wrap, Beats)
"""BEATs with frame and clip heads; `options` of `FramePrediction` or `Beats`."""


def released_key(key: str) -> str | None:
    """Our name for a key of the official files, or None for parts that do not belong to the network.

    Known: PretrainedSED (``model.beats.*`` or ``model.model.*``), and Microsoft's files (no prefix; no frame heads, so
    build with ``head_type=None``). Both ways to store the weight norm of the position convolution are read. The table
    of relative positions is one tensor that the files list once for each layer: the first is taken.
    """
    if re.match(r"(layer_norm|post_extract_proj|patch_embedding|encoder)\.", key):
        key = f"model.{key}"
    elif key.startswith("predictor."):
        return None  # the clip classifier of Microsoft's fine-tuned files
    key = plain_key(["beats"], key)
    key = key.replace("pos_conv.0.weight_g", "pos_conv.0.parametrizations.weight.original0")
    key = key.replace("pos_conv.0.weight_v", "pos_conv.0.parametrizations.weight.original1")
    shared = re.fullmatch(r"model\.encoder\.layers\.(\d+)\.self_attn\.(relative_attention_bias\.weight)", key)
    if shared:
        return f"model.encoder.relative_positions.{shared[2]}" if shared[1] == "0" else None
    return re.sub(r"(model\.encoder\.layers\.\d+)\.(fc[12])\.", r"\1.mlp.\2.", key)
