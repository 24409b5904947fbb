"""The audio side of a run of retrieval or of vocal imitation, for the verbs of `common`."""

from pathlib import Path
from typing import cast

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from common.models.audio_model import AudioModel, WindowPolicy
from common.models.network import ModelOutput
from common.output import Progress
from retrieval.imitation.model import ImitationModel
from retrieval.model import DualEncoder
from retrieval.search.searcher import load_searcher


class Projected(nn.Module):
    """A network with the unit vectors of a dual encoder in place of its own embedding and scores."""

    def __init__(self, network: nn.Module, projection: nn.Module):
        super().__init__()
        self.network, self.projection = network, projection

    def forward(self, spectrogram: Tensor) -> ModelOutput:
        """(batch, 1, mels, frames) to the embedding (batch, dim)."""
        output = self.network(spectrogram)
        vectors = output.embedding if output.frames is None else output.frames.mean(dim=1)
        return ModelOutput(None, functional.normalize(self.projection(vectors), dim=1))


class Recordings:
    """Embeds a file as `retrieval index` does, see `common.inference.embedding.Embed`."""

    def __init__(self, folder: Path):
        self.searcher = load_searcher(folder)

    def __call__(self, path: Path, progress: Progress | None = None) -> np.ndarray:
        """A unit vector (dim,)."""
        return self.searcher.embed_files([path])[0].numpy()


def load_embedder(folder: Path) -> Recordings:
    """From a file to its vector in the index of a run."""
    return Recordings(folder)


def load_run(folder: Path) -> AudioModel:
    """The encoder of recordings, with its projection where the run has one, in evaluation mode; without labels."""
    searcher = load_searcher(folder)
    trained = searcher.model
    project: nn.Module
    if isinstance(trained, DualEncoder):
        audio, project = trained.audio, trained.project_audio
    else:
        audio, project = cast(ImitationModel, trained).recording, nn.Identity()
    windows = WindowPolicy(searcher.window, shortest=searcher.window)
    return AudioModel(audio.front_end, Projected(audio.network, project), (), windows, name=audio.name).eval()
