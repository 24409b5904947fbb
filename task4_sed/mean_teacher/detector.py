"""Student and teacher as they detect; without Lightning, which takes seconds to import."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.inference.prepare import computing_in
from common.models.network import ModelOutput
from task4_sed.scores.store import ScoreWriter
from task4_sed.settings import AverageSettings

Batch = dict[str, Any]


class Detector(nn.Module):
    """Base of every pair of student and teacher. Without `average` there is no teacher."""

    def __init__(self, settings: Any, student: nn.Module, average: AverageSettings | None = None):
        super().__init__()
        self.settings = settings
        self.student = student
        self.average = average
        self.teacher: nn.Module | None = None
        if average is not None:
            shared = getattr(student, "parts_in_common", lambda: ())()
            memo = {id(part): part for part in shared}
            self.teacher = copy.deepcopy(student, memo).requires_grad_(False)

    def detect(self, batch: Batch, student: bool, masked: bool = True) -> ModelOutput:
        """Output of student or teacher for a batch as it is; `masked` hides classes that are not valid for a clip."""
        raise NotImplementedError


@torch.inference_mode()
def write_logits(
    module: Detector, loader: Any, stores: dict[str, Path], classes: Sequence[str], limit: int | None = None
) -> None:
    """Write the frame logits of every clip by each network of `stores`, without a class mask."""
    device = next(module.parameters()).device
    for network, path in stores.items():
        with ScoreWriter(path, classes, dtype="float32") as writer:
            for number, batch in enumerate(loader):
                if limit is not None and number >= limit:
                    break
                tensors = {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}
                moved = {key: value.to(device) for key, value in tensors.items()}
                with computing_in(module.settings.data.inference_precision):
                    output = module.detect(moved, student=network == "student", masked=False)
                assert output.frame_logits is not None
                writer.write(batch["filename"], output.frame_logits.float(), batch["duration"])
