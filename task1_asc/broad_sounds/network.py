"""HATR, the network of the DCASE 2026 Task 1 baseline: one vector of the audio and one of the text to 23 logits.

Parameters have the official names (BaseClassifier of the baseline's models.py), so that its weights load strictly.
"""

from typing import Literal

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two linear layers with batch norms around a wider middle, added to their input."""

    def __init__(self, width: int, inner: int, dropout: float):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.activation, self.dropout = nn.LeakyReLU(), nn.Dropout(dropout)
        self.norm1, self.norm2 = nn.BatchNorm1d(inner), nn.BatchNorm1d(width)

    def forward(self, values: Tensor) -> Tensor:
        """(batch, width) to the same shape."""
        hidden = self.dropout(self.activation(self.norm1(self.linear1(values))))
        return self.activation(self.norm2(self.linear2(hidden)) + values)


class EmbeddingEncoder(nn.Module):
    """A vector of one modality to `size` numbers; the blocks are as wide as the vector, at least twice `size`."""

    def __init__(self, input_size: int, size: int, blocks: int, dropout: float):
        super().__init__()
        width = max(input_size, 2 * size)
        self.input_projection = nn.Sequential(nn.Linear(input_size, width), nn.LeakyReLU(), nn.Dropout(dropout))
        self.residual_blocks = nn.ModuleList([ResidualBlock(width, 2 * width, dropout) for _ in range(blocks)])
        self.output_projection = nn.Sequential(
            nn.Linear(width, width // 2), nn.LeakyReLU(), nn.Dropout(dropout), nn.Linear(width // 2, size)
        )
        self.input_norm, self.output_norm = nn.BatchNorm1d(input_size), nn.BatchNorm1d(size)

    def forward(self, vectors: Tensor) -> Tensor:
        """(batch, input_size) to (batch, size)."""
        hidden = self.input_projection(self.input_norm(vectors))
        for block in self.residual_blocks:
            hidden = block(hidden)
        return self.output_norm(self.output_projection(hidden))


class AttentionFusion(nn.Module):
    """Weighted sum of both modalities, the weights computed from both."""

    def __init__(self, size: int, dropout: float):
        super().__init__()
        self.attention = nn.Sequential(nn.Linear(2 * size, size), nn.Tanh(), nn.Linear(size, 2), nn.Softmax(dim=-1))
        self.dropout = nn.Dropout(dropout)

    def forward(self, audio: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, size) of each to (batch, size), and the weights (batch, 2) of audio and text."""
        weights = self.attention(torch.cat([audio, text], dim=-1))
        return self.dropout(audio * weights[:, :1] + text * weights[:, 1:]), weights


class HATR(nn.Module):
    """The baseline's classifier.

    Args:
        audio_size: numbers of the audio vector; 0 for a network of text alone.
        text_size: numbers of the text vector; 0 for a network of audio alone.
        num_classes: logits.
        hidden_size: numbers of a modality before the fusion.
        num_residual_blocks: of each modality; the classifier has two.
        fusion: attention, or concatenation.
        dropout: halved in the classifier.
        prior_size: classes of a table of probabilities as a further input; their mean over a trained vector for each
            class is added to the fused vector. 0 for none, as published.
    """

    def __init__(
        self,
        audio_size: int = 512,
        text_size: int = 512,
        num_classes: int = 23,
        hidden_size: int = 128,
        num_residual_blocks: int = 3,
        fusion: Literal["attention", "concat"] = "attention",
        dropout: float = 0.1,
        prior_size: int = 0,
    ):
        super().__init__()
        if audio_size <= 0 and text_size <= 0:
            raise ValueError("a network needs audio, text or both: give audio_size or text_size")
        sides = {"audio_emb_extractor": audio_size, "text_emb_extractor": text_size}
        for name, size in sides.items():
            if size > 0:
                self.add_module(name, EmbeddingEncoder(size, hidden_size, num_residual_blocks, dropout))
        self.audio_size, self.text_size, self.prior_size = audio_size, text_size, prior_size
        both = audio_size > 0 and text_size > 0
        self.fusion = AttentionFusion(hidden_size, dropout) if both and fusion == "attention" else None
        fused = 2 * hidden_size if both and fusion == "concat" else hidden_size
        self.prior = nn.Linear(prior_size, fused, bias=False) if prior_size else None
        half = hidden_size // 2
        self.latent_projector = nn.Sequential(
            nn.Linear(fused, 2 * hidden_size), nn.LeakyReLU(), nn.Dropout(dropout),
            nn.Linear(2 * hidden_size, hidden_size), nn.LeakyReLU(), nn.Dropout(dropout),
            nn.Linear(hidden_size, half), nn.LeakyReLU(), nn.Dropout(dropout / 2),
        )  # fmt: skip
        self.residual_classifier = nn.ModuleList([ResidualBlock(half, hidden_size, dropout / 2) for _ in range(2)])
        self.class_predictor = nn.Sequential(
            nn.Linear(half, half // 2), nn.LeakyReLU(), nn.Dropout(dropout / 4), nn.Linear(half // 2, num_classes)
        )

    def forward(self, audio: Tensor | None = None, text: Tensor | None = None, prior: Tensor | None = None) -> Tensor:
        """Vectors (batch, size) of the modalities that the network has, to logits (batch, classes)."""
        return self.class_predictor(self.latent(audio, text, prior))

    def latent(self, audio: Tensor | None = None, text: Tensor | None = None, prior: Tensor | None = None) -> Tensor:
        """The vector (batch, hidden_size / 2) before the class predictor."""
        sides = self.encode(audio, text)
        if self.fusion is not None:
            hidden = self.fusion(*sides)[0]
        else:
            hidden = torch.cat(sides, dim=-1)
        if self.prior is not None:
            hidden = hidden + self.prior(_given(prior, "prior"))
        hidden = self.latent_projector(hidden)
        for block in self.residual_classifier:
            hidden = block(hidden)
        return hidden

    def encode(self, audio: Tensor | None, text: Tensor | None) -> list[Tensor]:
        """(batch, hidden_size) of each modality that the network has."""
        sides = []
        if self.audio_size > 0:
            sides.append(self.get_submodule("audio_emb_extractor")(_given(audio, "audio")))
        if self.text_size > 0:
            sides.append(self.get_submodule("text_emb_extractor")(_given(text, "text")))
        return sides


def _given(values: Tensor | None, name: str) -> Tensor:
    if values is None:
        raise ValueError(f"this network needs {name}")
    return values


@torch.no_grad()
def initialize(network: nn.Module) -> None:
    """Xavier uniform weights of all linear layers, as published; biases stay as PyTorch draws them."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
