"""Trained detectors as an audio model: waveform in, scores of frames and clips out."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.features.front_ends import FrontEnd
from common.models.audio_model import AudioModel, WindowPolicy
from common.models.network import ModelOutput
from task4_sed.labels import FRAME_SECONDS
from task4_sed.mean_teacher.detector import Detector

WINDOWS = WindowPolicy(window=10.0, overlap=1.0, shortest=10.0, frame=FRAME_SECONDS)


class DetectorModel(AudioModel):
    """One detector, or the mean logits of several.

    Args:
        front_end: of the detectors; of several, the first one's.
        detectors: with settings; `detect` scores a batch.
        student: scores with the student, not with the teacher.
    """

    def __init__(self, front_end: FrontEnd, detectors: Sequence[Detector], student: bool, name: str):
        labels = detectors[0].settings.labels.classes
        super().__init__(front_end, nn.ModuleList(detectors), labels, WINDOWS, name=name)
        self.detectors, self.student = list(detectors), student

    def run(self, waveform: Tensor) -> ModelOutput:
        """(batch, samples) of at most 10 s to the scores of all classes."""
        outputs = [each.detect({"waveform": waveform}, self.student, masked=False) for each in self.detectors]
        return ModelOutput(*(torch.stack(values).float().mean(dim=0) for values in zip(*outputs, strict=True)))
