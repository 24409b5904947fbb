"""The two encoders of query by vocal imitation."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.data.audio import read_fixed
from common.models.audio_model import AudioModel


class ImitationModel(nn.Module):
    """An encoder for the voice and one for recordings (or one for both); their embeddings are compared by cosine.

    The encoder of the voice starts as a copy of the encoder of recordings.
    """

    def __init__(self, audio: AudioModel, shared: bool = False):
        super().__init__()
        self.recording = audio
        self.voice = audio if shared else copy.deepcopy(audio)

    @property
    def sample_rate(self) -> int:
        """Hz of both inputs."""
        return self.recording.sample_rate

    @torch.inference_mode()
    def encode(self, paths: Sequence[Path], voice: bool, duration: float, batch_size: int) -> Tensor:
        """The first `duration` seconds of sounds to unit vectors: (paths, dim) on the CPU."""
        encoder = self.voice if voice else self.recording
        device = next(self.parameters()).device
        self.eval()
        parts = []
        for start in range(0, len(paths), batch_size):
            waveforms = [read_sound(path, self.sample_rate, duration) for path in paths[start : start + batch_size]]
            embedding = encoder(torch.stack(waveforms).to(device)).embedding
            parts.append(functional.normalize(embedding.float(), dim=1).cpu())
        return torch.cat(parts)

    def compare(self, queries: Sequence[Path], items: Sequence[Path], duration: float, batch_size: int) -> Tensor:
        """(queries, items) cosines."""
        voices = self.encode(queries, True, duration, batch_size)
        return voices @ self.encode(items, False, duration, batch_size).mT

    def compute_similarities(
        self, items: Mapping[str, Path], queries: Mapping[str, Path], duration: float = 10.0, batch_size: int = 32
    ) -> dict[str, dict[str, float]]:
        """The interface of the QVIM 2025 challenge: query id to item id to similarity, higher is closer."""
        similarity = self.compare([*queries.values()], [*items.values()], duration, batch_size)
        return {query: dict(zip(items, row, strict=True)) for query, row in zip(queries, similarity.tolist())}


def read_sound(path: Path, sample_rate: int, duration: float) -> Tensor:
    """The first `duration` seconds, zeros after a shorter sound: (samples,)."""
    return torch.from_numpy(read_fixed(path, round(duration * sample_rate), sample_rate))
