"""QD-DETR on audio features: a recording and a query to ten spans with scores, and a saliency for each second.

"Query-Dependent Video Representation for Moment Retrieval and Highlight Detection" (CVPR 2023), in the form of
Lighthouse (lighthouse/common/qd_detr.py) and the DCASE 2026 Task 6 baseline, whose names the parameters have.
"""

import math
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

FOREGROUND = 0
"""Index of the foreground among the two classes of a slot."""


class MomentOutput(NamedTuple):
    """Output for a batch.

    spans: (decoder layers, batch, slots, 2), centre and width as shares of the recording.
    logits: (decoder layers, batch, slots, 2), foreground first.
    saliency: (batch, seconds), 0 in the padding.
    other_saliency: the same for the query of the next recording in the batch; None outside of training.
    """

    spans: Tensor
    logits: Tensor
    saliency: Tensor
    other_saliency: Tensor | None


class QDDETR(nn.Module):
    """QD-DETR.

    Args:
        audio_dim: size of an audio feature, without the two end points that the network adds.
        text_dim: size of a text feature.
        max_words: rows of the table of text positions; a part of the weights that the published network does not use.
        endpoints: place of the end points t / L and (t + 1) / L: before the audio feature (Lighthouse, where the layer
            is named input_vid_proj) or after it (DCASE baseline, input_aud_proj).
        batch_fault: reproduce the fault of the official code, by which the padding of one recording hides words from
            another of the same batch.
    """

    def __init__(
        self,
        audio_dim: int = 768,
        text_dim: int = 768,
        dim: int = 256,
        heads: int = 8,
        feedforward: int = 1024,
        encoder_layers: int = 2,
        decoder_layers: int = 2,
        slots: int = 10,
        input_dropout: float = 0.5,
        dropout: float = 0.1,
        max_words: int = 32,
        endpoints: Literal["before", "after"] = "after",
        batch_fault: bool = False,
    ):
        super().__init__()
        self.dim, self.endpoints = dim, endpoints
        self.audio_layer = "input_vid_proj" if endpoints == "before" else "input_aud_proj"
        self.transformer = Transformer(
            dim, heads, feedforward, encoder_layers, decoder_layers, dropout, batch_fault=batch_fault
        )
        self.txt_position_embed = TextPositions(max_words, dim)
        self.span_embed = Mlp(dim, dim, 2, 3)
        self.class_embed = nn.Linear(dim, 2)
        self.query_embed = nn.Embedding(slots, 2)
        self.input_txt_proj = input_projection(text_dim, dim, input_dropout)
        self.add_module(self.audio_layer, input_projection(audio_dim + 2, dim, input_dropout))
        self.saliency_proj1, self.saliency_proj2 = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.global_rep_token = nn.Parameter(torch.randn(dim))
        self.global_rep_pos = nn.Parameter(torch.randn(dim))

    def forward(self, audio: Tensor, audio_mask: Tensor, text: Tensor, text_mask: Tensor) -> MomentOutput:
        """Spans and saliency; a result does not depend on its batch (without `batch_fault`).

        Args:
            audio: (batch, seconds, audio_dim), vectors of unit length.
            audio_mask: (batch, seconds), True where there is a recording; padding is at the end.
            text, text_mask: the same for words, (batch, words, text_dim).
        """
        audio = self.get_submodule(self.audio_layer)(add_endpoints(audio, audio_mask, self.endpoints))
        text = self.input_txt_proj(text)
        positions = sine_positions(seconds_so_far(audio_mask), self.dim, scale=1.0)
        memory, overall = self._encode(audio, audio_mask, positions, text, text_mask)
        hidden, anchors = self.transformer.decoder(memory, audio_mask, positions, self.query_embed.weight)
        other = None
        if self.training:
            shifted = text.roll(-1, dims=0), text_mask.roll(-1, dims=0)
            other = self._saliency(*self._encode(audio, audio_mask, positions, *shifted), audio_mask)
        spans = (self.span_embed(hidden) + inverse_sigmoid(anchors)).sigmoid()
        return MomentOutput(spans, self.class_embed(hidden), self._saliency(memory, overall, audio_mask), other)

    def _encode(
        self, audio: Tensor, audio_mask: Tensor, positions: Tensor, text: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Memory of the seconds (batch, seconds, dim), and of the whole recording (batch, dim)."""
        for layer in self.transformer.t2v_encoder.layers:
            audio = layer(audio, positions, audio_mask, text, text_mask)
        batch = len(audio)
        tokens = torch.cat([self.global_rep_token.expand(batch, 1, -1), audio], dim=1)
        positions = torch.cat([self.global_rep_pos.expand(batch, 1, -1), positions], dim=1)
        mask = functional.pad(audio_mask, (1, 0), value=True)
        for layer in self.transformer.encoder.layers:
            tokens = layer(tokens, positions, mask)
        return tokens[:, 1:], tokens[:, 0]

    def _saliency(self, memory: Tensor, overall: Tensor, mask: Tensor) -> Tensor:
        scores = self.saliency_proj1(memory) @ self.saliency_proj2(overall)[:, :, None]
        return scores[..., 0] / math.sqrt(self.dim) * mask


class Transformer(nn.Module):
    """The parts under the official names; `QDDETR` calls them."""

    def __init__(
        self, dim: int, heads: int, feedforward: int, encoders: int, decoders: int, dropout: float, batch_fault: bool
    ):
        super().__init__()
        sizes = dim, heads, feedforward, dropout
        self.t2v_encoder = _Layers([TextToAudioLayer(*sizes, batch_fault=batch_fault) for _ in range(encoders)])
        self.encoder = _Layers([EncoderLayer(*sizes) for _ in range(encoders)])
        self.decoder = Decoder(dim, heads, feedforward, decoders, dropout)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)


class _Layers(nn.Module):
    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)


class EncoderLayer(nn.Module):
    """Post-norm self-attention layer; positions are added to queries and keys only."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, feedforward), nn.Linear(feedforward, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout, self.activation = nn.Dropout(dropout), nn.PReLU()

    def forward(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, dim) to the same shape; `mask` is True where there is a token."""
        placed = tokens + positions
        mixed = self.self_attn(placed, placed, tokens, key_padding_mask=~mask, need_weights=False)[0]
        return self._feed(self.norm1(tokens + self.dropout(mixed)), self.norm2)

    def _feed(self, tokens: Tensor, norm: nn.LayerNorm) -> Tensor:
        hidden = self.linear2(self.dropout(self.activation(self.linear1(tokens))))
        return norm(tokens + self.dropout(hidden))


class TextToAudioLayer(EncoderLayer):
    """Cross-attention layer: seconds attend to words, which stay as they are."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float, batch_fault: bool):
        super().__init__(dim, heads, feedforward, dropout)
        self.batch_fault = batch_fault

    def forward(self, audio: Tensor, positions: Tensor, audio_mask: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:  # type: ignore[override]
        """(batch, seconds, dim), (batch, words, dim) to (batch, seconds, dim)."""
        hidden = None
        if self.batch_fault:
            # The official mask, (batch x heads, seconds, words), has the batch inside; attention reads the heads there.
            padding = ~audio_mask[:, :, None] & ~text_mask[:, None, :]
            hidden = padding.repeat(self.heads, 1, 1)
        mixed = self.self_attn(
            audio + positions, text, text, key_padding_mask=~text_mask, attn_mask=hidden, need_weights=False
        )[0]
        # The feed-forward part starts from the normalised sum, but is added to the sum itself.
        total = audio + self.dropout(mixed)
        hidden = self.linear2(self.dropout(self.activation(self.linear1(self.norm1(total)))))
        return self.norm2(total + self.dropout(hidden))


class Decoder(nn.Module):
    """Decoder in the manner of DAB-DETR: each slot has an anchor (centre, width) that every layer refines."""

    def __init__(self, dim: int, heads: int, feedforward: int, layers: int, dropout: float):
        super().__init__()
        self.dim = dim
        self.layers = nn.ModuleList(
            [DecoderLayer(dim, heads, feedforward, dropout, first=number == 0) for number in range(layers)]
        )
        self.norm = nn.LayerNorm(dim)
        self.query_scale, self.ref_point_head = Mlp(dim, dim, dim, 2), Mlp(dim, dim, dim, 2)
        self.bbox_embed, self.ref_anchor_head = Mlp(dim, dim, 2, 3), Mlp(dim, dim, 1, 2)
        nn.init.zeros_(self.bbox_embed.get_parameter("layers.2.bias"))

    def forward(self, memory: Tensor, mask: Tensor, positions: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (layers, batch, slots, dim) and the anchors that each layer started from, 0 to 1.

        Args:
            memory, positions: (batch, seconds, dim).
            mask: (batch, seconds), True where there is a second.
            slots: (slots, 2), anchors before the sigmoid.
        """
        anchors = slots.sigmoid().expand(len(memory), -1, -1)
        tokens = memory.new_zeros(len(memory), len(slots), self.dim)
        hidden, started = [], [anchors]
        for number, layer in enumerate(self.layers):
            fixed = anchors.detach() if number else anchors
            sine = sine_positions(fixed, self.dim // 2).flatten(2)
            query_positions = self.ref_point_head(sine)
            if number:
                sine = sine * self.query_scale(tokens)
            sine = sine * (self.ref_anchor_head(tokens).sigmoid() / fixed[..., 1:])
            tokens = layer(tokens, query_positions, sine, memory, mask, positions)
            anchors = (self.bbox_embed(tokens) + inverse_sigmoid(fixed)).sigmoid()
            started.append(anchors)
            hidden.append(self.norm(tokens))
        return torch.stack(hidden), torch.stack(started[:-1])


class DecoderLayer(nn.Module):
    """Self-attention over slots, then attention to seconds with contents and positions side by side."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float, first: bool):
        super().__init__()
        self.first = first
        names = ["sa_qcontent", "sa_qpos", "sa_kcontent", "sa_kpos", "sa_v"]
        names += ["ca_qcontent", *(["ca_qpos"] if first else []), "ca_kcontent", "ca_kpos", "ca_v", "ca_qpos_sine"]
        for name in names:
            self.add_module(f"{name}_proj", nn.Linear(dim, dim))
        self.self_attn, self.cross_attn = Attention(dim, heads, dropout), Attention(dim, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(dim, feedforward), nn.Linear(feedforward, dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout, self.activation = nn.Dropout(dropout), nn.PReLU()

    def forward(
        self, slots: Tensor, slot_positions: Tensor, sine: Tensor, memory: Tensor, mask: Tensor, positions: Tensor
    ) -> Tensor:
        """(batch, slots, dim) to the same shape; memory and positions are (batch, seconds, dim)."""
        query = self._project("sa_qcontent", slots) + self._project("sa_qpos", slot_positions)
        key = self._project("sa_kcontent", slots) + self._project("sa_kpos", slot_positions)
        mixed = self.self_attn([query], [key], self._project("sa_v", slots))
        slots = self.norm1(slots + self.dropout(mixed))
        query, key = self._project("ca_qcontent", slots), self._project("ca_kcontent", memory)
        key_positions = self._project("ca_kpos", positions)
        if self.first:
            query, key = query + self._project("ca_qpos", slot_positions), key + key_positions
        placed = self._project("ca_qpos_sine", sine)
        mixed = self.cross_attn([query, placed], [key, key_positions], self._project("ca_v", memory), mask)
        slots = self.norm2(slots + self.dropout(mixed))
        hidden = self.linear2(self.dropout(self.activation(self.linear1(slots))))
        return self.norm3(slots + self.dropout(hidden))

    def _project(self, name: str, tokens: Tensor) -> Tensor:
        return self.get_submodule(f"{name}_proj")(tokens)


class Attention(nn.Module):
    """Attention over projected inputs; parts of queries and keys are joined within each head."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, queries: list[Tensor], keys: list[Tensor], value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Parts (batch, queries, dim) and (batch, keys, dim), values (batch, keys, dim) to (batch, queries, dim)."""
        query, key = (torch.cat([self._split(part) for part in parts], dim=-1) for parts in (queries, keys))
        mixed = functional.scaled_dot_product_attention(
            query,
            key,
            self._split(value),
            attn_mask=None if mask is None else mask[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Mlp(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, in_features: int, hidden: int, out_features: int, num_layers: int):
        super().__init__()
        sizes = [in_features, *[hidden] * (num_layers - 1), out_features]
        self.layers = nn.ModuleList([nn.Linear(*pair) for pair in pairwise(sizes)])

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        for layer in self.layers[:-1]:
            tokens = functional.relu(layer(tokens))
        return self.layers[-1](tokens)


class TextPositions(nn.Module):
    """Learned text positions, which the published network holds and does not use."""

    def __init__(self, max_words: int, dim: int):
        super().__init__()
        self.position_embeddings, self.LayerNorm = nn.Embedding(max_words, dim), nn.LayerNorm(dim)
        self.requires_grad_(False)


class InputLayer(nn.Module):
    """LayerNorm, dropout, linear layer, and ReLU where asked."""

    def __init__(self, in_features: int, out_features: int, dropout: float, relu: bool):
        super().__init__()
        self.LayerNorm, self.relu = nn.LayerNorm(in_features), relu
        self.net = nn.Sequential(nn.Dropout(dropout), nn.Linear(in_features, out_features))

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        tokens = self.net(self.LayerNorm(tokens))
        return functional.relu(tokens) if self.relu else tokens


def input_projection(in_features: int, dim: int, dropout: float) -> nn.Sequential:
    """The two layers before the transformer."""
    return nn.Sequential(InputLayer(in_features, dim, dropout, relu=True), InputLayer(dim, dim, dropout, relu=False))


def add_endpoints(audio: Tensor, mask: Tensor, place: Literal["before", "after"]) -> Tensor:
    """(batch, seconds, dim) to (batch, seconds, dim + 2), with t / L and (t + 1) / L of a recording of L seconds."""
    after = mask.cumsum(dim=1)[:, :, None]
    ends = torch.cat([after - 1, after], dim=2).to(audio) / mask.sum(dim=1).to(audio)[:, None, None]
    return torch.cat([ends, audio] if place == "before" else [audio, ends], dim=2)


def seconds_so_far(mask: Tensor) -> Tensor:
    """(batch, seconds) of a mask: the share of the recording until the end of each second, 0 to 2 pi."""
    count = mask.cumsum(dim=1, dtype=torch.float32)
    return count / (count[:, -1:] + 1e-6) * (2 * math.pi)


def sine_positions(position: Tensor, dim: int, scale: float = 2 * math.pi) -> Tensor:
    """(...,) to (..., dim): sines and cosines of rising period, alternating."""
    number = torch.arange(dim, device=position.device) // 2
    angle = (position * scale)[..., None] / 10000 ** (2 * number / dim)
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-2)


def inverse_sigmoid(share: Tensor, smallest: float = 1e-3) -> Tensor:
    """Logit of a share; shares nearer to 0 or 1 than `smallest` count as that far away."""
    share = share.clamp(0, 1)
    return torch.log(share.clamp(min=smallest) / (1 - share).clamp(min=smallest))
