"""How one network learns, in both stages and iterations: the stages differ in their settings only."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from common.features.front_ends import DesedMel
from common.models.output import ModelOutput
from common.training.schedules import WarmupCosine
from common.training.seeds import derive_seed, seed_all
from task4_sed.augment import Streams
from task4_sed.iterations.network import batch_norms, make_ears, make_network, parameter_groups
from task4_sed.iterations.objective import held_out_figures
from task4_sed.iterations.settings import TwoIterations
from task4_sed.iterations.views import Augmenter, Rows, Views
from task4_sed.losses import agreement_loss, distillation_loss, interpolated, linear_ramp, strong_loss, weak_loss
from task4_sed.mean_teacher import Batch, MeanTeacherTraining
from task4_sed.scoring import Scored

Answer = Callable[[Tensor | None], ModelOutput]
"""Scores of a batch, of the classes of a mask or of all."""


class StageTraining(MeanTeacherTraining):
    """One training of one transformer; logs train_loss and its parts, of held-out clips val_objective and its parts.

    Args:
        settings: of the whole run.
        name: of the transformer. iteration, number: which training it is.
        validation: events and durations that scores are compared with; None where nothing is held out.
        released: begin with the released weights of the transformer; otherwise weights are loaded afterwards.
    """

    def __init__(
        self, settings: TwoIterations, name: str, iteration: int, number: int, validation: Any = None,
        released: bool = True,
    ):  # fmt: skip
        stage = settings.stage(name, iteration, number)
        super().__init__(settings, make_network(settings, name, stage, released), settings.teacher, validation)
        self.stage = stage
        self.seed = derive_seed(settings.seed, iteration, number)
        self._followed = 0  # steps of the optimiser
        self.front_end = DesedMel(n_mels=settings.front_end.n_mels)
        self.ears = make_ears(settings.transformers[name], self.stage)
        self.transformer_front_end = self.ears.front_end
        self.rows = Rows(self.stage.batch)
        self.augmenter = Augmenter(
            self.stage.augment, self.rows, self.front_end, self.ears, self.stage.consistency.teacher_hears
        )

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Loss of one batch."""
        number = batch_index * self._processes + self.global_rank
        seed_all(self.seed, self.current_epoch, number)  # dropout: the same on any number of processes
        views = self.views(batch, Streams(self.seed, self.current_epoch, number))
        losses = self.losses(views, self.global_step)
        loss = torch.stack(list(losses.values())).sum()
        for name, value in {**losses, "": loss}.items():
            label = f"train_{name}_loss".replace("__", "_")
            self.log(
                label, value.detach(), on_step=False, on_epoch=True, sync_dist=self._processes > 1,
                batch_size=self.rows.count,
            )  # fmt: skip
        return loss

    @torch.no_grad()
    def views(self, batch: Batch, streams: Streams) -> Views:
        """What student and teacher hear of a batch; always in single precision."""
        with torch.autocast(self.device.type, enabled=False):
            return self.augmenter(batch, streams)

    def losses(self, views: Views, step: int) -> dict[str, Tensor]:
        """The parts of the loss, weighted, in a step of the optimiser; see the settings for the sum."""
        wanted, weights, rows = self.stage.loss, self.stage.loss.weights, self.rows.kinds
        student, teacher = self._answers(views)
        heard = views.student
        labelled = student(heard.valid)
        frames = {
            kind: getattr(weights, kind) * strong_loss(labelled.frame_logits[rows[kind]], heard.strong[rows[kind]])
            for kind in ("maestro", "strong", "synthetic")
        }
        losses = {kind: value / wanted.frame_divisor for kind, value in frames.items()}
        clips = weak_loss(labelled.logits[rows["weak"]], heard.weak[rows["weak"]])
        losses["weak"] = weights.weak * clips / wanted.clip_divisor
        ramp = linear_ramp(step, self.stage.consistency.ramp_steps, self.stage.consistency.ramp_limit)
        if weights.consistency:
            losses["consistency"] = weights.consistency * ramp * self._agreement(views, student, teacher)
        if weights.pseudo:
            assert heard.pseudo is not None
            desed = weights.strong + weights.synthetic + weights.weak
            parts = [(rows["maestro"], weights.maestro), (self.rows.desed, desed)]
            losses["pseudo"] = weights.pseudo * distillation_loss(student(None).frame_logits, heard.pseudo, parts)
        return {name: wanted.scale * value for name, value in losses.items()}

    def _answers(self, views: Views) -> tuple[Answer, Answer]:
        """Student and teacher up to their last layers, so that scores under another mask cost next to nothing."""
        student, teacher = self.student, self.teacher
        spectrogram = self.front_end.scale(self.front_end.decibel(views.student.magnitude))
        same = views.teacher is views.student
        other = spectrogram if same else self.front_end.scale(self.front_end.decibel(views.teacher.magnitude))
        needed = self.stage.loss.weights.consistency > 0
        own, others = _sequences(student, teacher, views, needed)
        read = student.crnn.read(spectrogram, student.project(own))
        if not needed:
            return _Answer(student, read), _Answer(student, read.detach())
        with torch.no_grad():
            answered = teacher.crnn.read(other, teacher.project(others))
        return _Answer(student, read), _Answer(teacher, answered)

    def _agreement(self, views: Views, student: Answer, teacher: Answer) -> Tensor:
        """Frames and clips of student and teacher compared."""
        wanted = self.stage.consistency
        output = student(views.student.valid if wanted.masked else None)
        with torch.no_grad():
            answers = teacher(views.teacher.valid if wanted.masked else None)
            frames, clips = answers.frame_logits.float().sigmoid(), answers.logits.float().sigmoid()
        if not wanted.interpolation or views.mixture is None:
            everything = slice(0, self.rows.count)
            compared = everything if wanted.weak_on_maestro else self.rows.desed
            return self._compared(output, frames, clips, everything, compared)
        mixture = views.mixture
        frames = interpolated(frames, mixture.weight, mixture.partner)
        clips = interpolated(clips, mixture.weight, mixture.partner)
        joint, terms = self.rows.labelled, []
        if joint.stop:
            compared = joint if wanted.weak_on_maestro else self.rows.strong
            times = 2 if wanted.joint_term_twice else 1
            terms.append(times * self._compared(output, frames, clips, joint, compared))
        for kind in ("weak", "unlabeled"):
            rows = self.rows.kinds[kind]
            terms.append(self._compared(output, frames, clips, rows, rows))
        return torch.stack(terms).sum() / wanted.interpolation_divisor

    def _compared(self, output: ModelOutput, frames: Tensor, clips: Tensor, rows: slice, clip_rows: slice) -> Tensor:
        of_clips = agreement_loss(output.logits[clip_rows], clips[clip_rows])
        return agreement_loss(output.frame_logits[rows], frames[rows]) + of_clips / self.stage.loss.clip_divisor

    @torch.no_grad()
    def detect(self, batch: Batch, student: bool, masked: bool = True) -> ModelOutput:
        """What student or teacher say of a batch as it is; `masked`: only of classes that are valid for its clips."""
        network = self.student if student or self.teacher is None else self.teacher
        with torch.autocast(self.device.type, enabled=False):
            spectrogram, log_mel = self.front_end(batch["waveform"]), self.transformer_front_end(batch["waveform"])
        return network(spectrogram, log_mel, batch["valid"] if masked else None)

    def judge(self, scored: dict[str, list[Scored]]) -> dict[str, float]:
        """See `held_out_figures`."""
        return held_out_figures(scored, self.validation, self.settings)

    def on_fit_start(self) -> None:
        """Statistics of batch norms forget per step as much as one process would that sees all batches."""
        for norm in batch_norms(self):
            norm.momentum = 1 - (1 - self.settings.crnn.norm_momentum) ** self._processes

    def on_train_start(self) -> None:
        """The teacher has followed all steps of a run that goes on."""
        self._followed = self.global_step

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Let the teacher follow a step when it is done, so that all batches of the next one hear the same teacher.

        Published, it follows during the first of them; the others are the same. Processes that train together agree
        on the statistics of batch norms.
        """
        if self._processes > 1:
            average_statistics(self)
        if self.global_step > self._followed:
            self._followed = self.global_step
            super().on_before_zero_grad(None)

    def on_before_zero_grad(self, optimizer: Any) -> None:
        """See `on_train_batch_end`."""

    def configure_optimizers(self) -> dict[str, Any]:
        """Groups with rates of their own, and one schedule per step."""
        optim = self.stage.optim
        kind = torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam
        groups = parameter_groups(self.student, optim)
        optimizer = kind(groups, betas=(0.9, 0.999), weight_decay=optim.weight_decay)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, WarmupCosine(optim.warmup_steps, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def _processes(self) -> int:
        return self.trainer.world_size if self._trainer is not None else 1


class _Answer:
    """Scores of frames that a network has read."""

    def __init__(self, network: Any, frames: Tensor):
        self.network, self.frames = network, frames
        self.known: dict[int, ModelOutput] = {}

    def __call__(self, mask: Tensor | None) -> ModelOutput:
        if id(mask) not in self.known:
            self.known[id(mask)] = self.network.crnn.score(self.frames, mask)
        return self.known[id(mask)]


def _sequences(student: Any, teacher: Any, views: Views, needed: bool) -> tuple[Tensor, Tensor]:
    """The sequence of the transformer for student and, where needed, teacher; one that both share is run once."""
    hears, other = views.student.log_mel, views.teacher.log_mel
    if not needed or (student.frozen and other is hears):
        sequence = student.sequence(hears)
        return sequence, sequence
    if student.frozen:
        own, others = student.sequence(torch.cat((hears, other))).chunk(2)
        return own, others
    with torch.no_grad():
        others = teacher.sequence(other)
    return student.sequence(hears), others


@torch.no_grad()
def average_statistics(module: torch.nn.Module) -> None:
    """Mean over all processes of the statistics of batch norms."""
    values = [values for norm in batch_norms(module) for values in (norm.running_mean, norm.running_var)]
    flat = torch.cat(values)
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for place, mean in zip(values, flat.split([len(part) for part in values])):
        place.copy_(mean)
