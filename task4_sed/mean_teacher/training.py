"""Training with student and teacher: the moving average, and the validation of whole sets."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn

from task4_sed.losses import teacher_decay, update_teacher
from task4_sed.mean_teacher.detector import Batch, Detector
from task4_sed.scoring import Scored, objective
from task4_sed.settings import AverageSettings


class MeanTeacherTraining(Detector, LightningModule):
    """Base of every training with student and teacher; logs val_objective and its parts.

    `validation`: ground truth of the held-out sets; None without any.
    """

    updates_counted_from = 1
    """See `teacher_decay`."""

    def __init__(
        self, settings: Any, student: nn.Module, average: AverageSettings | None = None, validation: Any = None
    ):
        super().__init__(settings, student, average)
        self.validation = validation
        self._scored: dict[str, list[Scored]] = {}

    def judge(self, scored: dict[str, list[Scored]]) -> dict[str, float]:
        """The objective and its parts on the validation sets."""
        return objective(scored, self.validation, self.settings)

    def update_teacher(self) -> None:
        """Move the teacher towards the student; the decay follows from the steps of the optimiser so far."""
        if self.teacher is not None and self.average is not None:
            decay = teacher_decay(self.global_step, self.average.decay, self.updates_counted_from)
            update_teacher(self.teacher, self.student, decay, self.average.average_statistics)

    def on_before_zero_grad(self, optimizer: Any) -> None:
        """Update the teacher before the step, as in the published code."""
        self.update_teacher()

    def validation_step(self, batch: Batch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Keep the student's probabilities; the metrics need whole sets."""
        name = self.validation[dataloader_idx].name
        output = self.detect(batch, student=True)
        assert output.frame_logits is not None and output.logits is not None
        scores = output.frame_logits.float().sigmoid().cpu().numpy()
        weak = output.logits.float().sigmoid().cpu().numpy()
        self._scored.setdefault(name, []).append(
            Scored(batch["filename"], batch["duration"], scores, weak, batch["weak"].cpu().numpy())
        )

    def on_validation_epoch_end(self) -> None:
        """Log the objective and its parts."""
        scored, self._scored = self._scored, {}
        figures = self.judge(_of_all_processes(scored))
        self.log_dict({f"val_{name}": value for name, value in figures.items()})

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimiser in an epoch."""
        return max(1, int(self.trainer.estimated_stepping_batches) // (self.trainer.max_epochs or 1))


def _of_all_processes(scored: dict[str, list[Scored]]) -> dict[str, list[Scored]]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return scored
    every: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(every, scored)
    return {name: [part for one in every for part in one.get(name, [])] for name in scored}
