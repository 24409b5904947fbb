"""Scoring of clips by a network."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.models.network import ModelOutput
from task4_sed.mean_teacher.detector import Detector, write_logits
from task4_sed.scores.store import ScoreStore


class Product(Detector):
    """One matrix product for each clip."""

    def detect(self, batch, student, masked=True):
        logits = self.student(batch["waveform"])
        return ModelOutput(logits, embedding=logits, frame_logits=logits[:, None].expand(-1, 156, -1))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_clips_are_scored_in_the_precision_of_the_settings(tmp_path, precision):
    torch.manual_seed(0)
    module = Product(SimpleNamespace(data=SimpleNamespace(inference_precision=precision)), nn.Linear(300, 2))
    waveform = torch.randn(1, 300)
    batch = {"waveform": waveform, "filename": ["a.wav"], "duration": [10.0]}
    write_logits(module, [batch], {"student": tmp_path / "scores.h5"}, ["cat", "dog"])
    found = torch.from_numpy(ScoreStore(tmp_path / "scores.h5").read_as("logits", "a"))[0]
    exact = module.student(waveform)[0]
    rounded = module.student.bfloat16()(waveform.bfloat16())[0].float()
    assert torch.equal(found, rounded if precision == "bf16" else exact)
    assert not torch.equal(exact, rounded)
