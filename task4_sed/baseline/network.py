"""The network of the baseline, and student and teacher as they detect."""

import torch
from torch import Tensor, nn

from common.features.front_ends import DesedMel
from common.models.network import ModelOutput
from common.registry.models import create_model
from task4_sed.baseline.settings import Task4Settings
from task4_sed.data.embeddings import FrozenFrames
from task4_sed.mean_teacher.detector import Batch, Detector


def make_network(settings: Task4Settings) -> nn.Module:
    """The CRNN of the settings with random weights."""
    dim = None if settings.embeddings == "none" else settings.embedding.dim
    options = settings.model.model_dump(exclude={"name"})
    return create_model(settings.model.name, num_classes=len(settings.labels.classes), embedding_dim=dim, **options)


class SoundEventDetector(Detector):
    """Student and teacher.

    Args:
        settings: of the whole run.
        frozen: model that computes embeddings where a batch has none; not part of the checkpoint.
    """

    def __init__(self, settings: Task4Settings, frozen: FrozenFrames | None = None):
        super().__init__(settings, make_network(settings), settings.teacher)
        self.front_end = DesedMel(n_mels=settings.front_end.n_mels)
        self._frozen = [frozen]  # in a list, so that its weights are in no checkpoint

    @property
    def frozen(self) -> FrozenFrames | None:
        """The model that computes embeddings."""
        return self._frozen[0]

    @torch.no_grad()
    def detect(self, batch: Batch, student: bool, masked: bool = True) -> ModelOutput:
        """Output of student or teacher for a batch as it is; `masked` hides classes that are not valid for a clip."""
        network = self.student if student or self.teacher is None else self.teacher
        embeddings = self._embeddings(batch)
        valid = batch["valid"] if masked else None
        return network(self.front_end(batch["waveform"]), None if embeddings is None else embeddings.mT, valid)

    def _embeddings(self, batch: Batch) -> Tensor | None:
        """(clips, tokens, dim), float32."""
        if "embeddings" in batch:
            return batch["embeddings"].float()
        frozen = self.frozen
        return None if frozen is None else frozen.to(batch["waveform"].device)(batch["waveform"])
