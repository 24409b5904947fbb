"""The network and the batches that it reads; no training here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.data.audio import read_audio
from common.errors import UserError
from common.models.audio_model import AudioModel
from common.registry import load_audio_model
from common.registry.models import create_audio_model, find_released
from common.training.checkpoints import load_weights, read_weights
from task1_asc.broad_sounds.embeddings import Vectors
from task1_asc.broad_sounds.network import HATR, initialize
from task1_asc.broad_sounds.settings import SoundSettings
from task1_asc.broad_sounds.taxonomy import CODES

EVALUATION_BATCH = 512
Rows = NDArray[np.int64]


class SoundNetwork(nn.Module):
    """The classifier and, where it is trained as well, the audio encoder before it."""

    def __init__(self, head: HATR, encoder: AudioModel | None = None):
        super().__init__()
        self.head, self.encoder = head, encoder

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Logits (batch, 23) of a batch of `SoundClips`."""
        audio = batch.get("audio") if self.encoder is None else self.encoder(batch["waveform"]).embedding
        return self.head(audio, batch.get("text"), batch.get("prior"))


def make_network(settings: SoundSettings, vectors: Vectors) -> SoundNetwork:
    """A network for these inputs, with random weights out of torch's global generator."""
    encoder, audio_size = None, vectors.sizes.get("audio", 0)
    audio = settings.inputs.audio
    if audio.used and audio.finetuned_seconds is not None:
        assert audio.model is not None
        released = find_released(audio.model) is not None or audio.weights is not None
        encoder = load_audio_model(audio.model, audio.weights) if released else create_audio_model(audio.model)
        with torch.inference_mode():
            audio_size = encoder.eval()(torch.zeros(1, encoder.sample_rate)).embedding.shape[1]
    head = HATR(
        audio_size,
        vectors.sizes.get("text", 0),
        len(CODES),
        **settings.network.model_dump(),
        prior_size=vectors.sizes.get("prior", 0),
    )
    initialize(head)
    return SoundNetwork(head, encoder)


@dataclass(frozen=True)
class SoundClips:
    """Some clips of a set, whole batches at once; a batch has the inputs that are there, `target` and `weight`.

    vectors: of all clips of the set.
    rows: of these clips.
    target: (clips of the set, 23) probabilities.
    weight: (clips of the set,) in the loss.
    paths: wav files of all clips of the set, where the audio encoder is trained.
    sample_rate, seconds: of the audio that is read, from the beginning; shorter clips of a batch are padded.
    """

    vectors: Vectors
    rows: Rows
    target: NDArray[np.float32] | None = None
    weight: NDArray[np.float32] | None = None
    paths: Sequence[Path] = ()
    sample_rate: int = 0
    seconds: float | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, indices: Sequence[int]) -> dict[str, Any]:
        """A batch."""
        rows = self.rows[np.asarray(indices)]
        arrays = {**vars(self.vectors), "target": self.target, "weight": self.weight}
        batch = {name: torch.from_numpy(values[rows]) for name, values in arrays.items() if values is not None}
        if self.paths:
            waveforms = [read_audio(self.paths[row], self.sample_rate, duration=self.seconds) for row in rows]
            longest = max(map(len, waveforms))
            batch["waveform"] = torch.from_numpy(
                np.stack([np.pad(waveform, (0, longest - len(waveform))) for waveform in waveforms])
            )
        return batch


def load_network(settings: SoundSettings, vectors: Vectors, path: Path) -> SoundNetwork:
    """A trained network, in evaluation mode.

    Raises:
        UserError: if the file is no network of these settings, or the vectors have another size than in its training.
    """
    network = make_network(settings, vectors)
    weights = read_weights(path)
    for side, size in vectors.sizes.items():
        norm = weights.get(f"head.{side}_emb_extractor.input_norm.weight")
        if norm is not None and len(norm) != size:
            raise UserError(
                f"The {side} vectors of this data set hold {size} numbers, {path} was trained on {len(norm)}; take the "
                "vectors of the same encoder."
            )
    load_weights(network, path)
    return network.eval()
