"""Student and teacher as they detect; without Lightning, which takes seconds to import."""

import copy
from typing import Any

from torch import nn

from common.models.network import ModelOutput
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
