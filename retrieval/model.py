"""Dual encoder: clips and captions as vectors of one space, compared by cosine."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.models.audio_model import AudioModel
from common.models.text import TextEncoder


def projection(in_features: int, out_features: int, hidden_layers: int = 0, hidden_features: int = 2048) -> nn.Module:
    """One linear layer (as the 2024 winner), or an MLP with ReLU for `hidden_layers` > 0."""
    layers: list[nn.Module] = []
    for _ in range(hidden_layers):
        layers += [nn.Linear(in_features, hidden_features), nn.ReLU()]
        in_features = hidden_features
    return nn.Sequential(*layers, nn.Linear(in_features, out_features))


class DualEncoder(nn.Module):
    """Audio encoder over windows and text encoder, each with a projection to one space.

    "Estimated Audio-Caption Correspondences Improve Language-Based Audio Retrieval" (DCASE workshop 2024).

    Args:
        audio: any audio model; the embedding of a clip is the mean over its windows.
        text: text encoder.
        audio_dim: size of the audio model's embedding.
        dim: size of the common space.
        hidden_layers: of both projections; 0 as published.
        temperature: divides the cosines in the losses.
        learn_temperature: whether training may change it (published: no).
    """

    def __init__(
        self,
        audio: AudioModel,
        text: TextEncoder,
        audio_dim: int,
        dim: int = 1024,
        hidden_layers: int = 0,
        temperature: float = 0.05,
        learn_temperature: bool = False,
    ):
        super().__init__()
        self.audio, self.text = audio, text
        self.project_audio = projection(audio_dim, dim, hidden_layers)
        self.project_text = projection(text.dim, dim, hidden_layers)
        self.temperature = nn.Parameter(torch.tensor(float(temperature)), requires_grad=learn_temperature)

    def embed_audio(self, windows: Tensor, clip: Tensor, num_clips: int) -> Tensor:
        """Windows to one unit vector per clip.

        Args:
            windows: (windows, samples), every window that holds signal, of all clips.
            clip: (windows,), the clip that each window belongs to, 0..num_clips - 1.
            num_clips: every clip must have a window.

        Returns:
            (num_clips, dim), unit length.
        """
        embeddings = self.audio(windows).embedding
        total = embeddings.new_zeros(num_clips, embeddings.shape[1]).index_add(0, clip, embeddings)
        count = torch.bincount(clip, minlength=num_clips).to(total)[:, None]
        return functional.normalize(self.project_audio(total / count), dim=1)

    def embed_text(self, captions: Sequence[str]) -> Tensor:
        """Captions to (captions, dim), unit length."""
        return functional.normalize(self.project_text(self.text(captions)), dim=1)
