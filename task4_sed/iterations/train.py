"""Training of one network, in both stages and iterations; the stages differ in their settings only.

Formula of the loss: `task4_sed.iterations.settings`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from common.data.transfer import as_rows
from common.features.augment import mix
from common.models.crnn import Crnn
from common.models.network import ModelOutput
from common.training.schedules import WarmupCosine, schedule_rate
from common.training.seeds import derive_seed, seed_all
from task4_sed.augment import Mixture, Streams
from task4_sed.data.targets import valid_classes
from task4_sed.iterations.network import StageDetector, TransformerCrnn, batch_norms, make_optimizer
from task4_sed.iterations.settings import ConsistencySettings, LossSettings, TwoIterations
from task4_sed.iterations.views import Augmenter, Features, Rows, Targets, Views
from task4_sed.losses import agreement_loss, linear_ramp, strong_loss, weak_loss
from task4_sed.mean_teacher.detector import Batch
from task4_sed.mean_teacher.training import MeanTeacherTraining
from task4_sed.metrics.polyphonic import PSDS1, polyphonic_scores
from task4_sed.metrics.segments import mean_partial_auc
from task4_sed.pretraining.networks import rise_per_decibel
from task4_sed.scoring import Scored, held_out_figures

Scores = Callable[[Tensor | None], ModelOutput]
"""Output of a network for a batch under a class mask (clips, classes), or of all classes."""
LABELLED = ("maestro", "strong", "synthetic")


class StageTraining(StageDetector, MeanTeacherTraining):
    """One training of one transformer; logs train_loss and its parts, of held-out clips val_objective and its parts.

    Starts from the `released` weights of the transformer; otherwise weights are loaded afterwards.
    """

    updates_counted_from = 0

    def __init__(
        self, settings: TwoIterations, name: str, iteration: int, number: int, validation: Any = None,
        released: bool = True,
    ):  # fmt: skip
        stage = settings.stage(name, iteration, number)
        super().__init__(settings, name, stage, released)
        self.validation = validation
        self.seed = derive_seed(settings.seed, iteration, number)
        self._followed = 0  # steps of the optimiser
        self.per_decibel = rise_per_decibel(self.transformer_front_end)
        self.rows = Rows(stage.batch)
        self.desed_classes = torch.from_numpy(valid_classes("desed", settings.labels))
        front_ends = self.front_end, self.transformer_front_end, self.per_decibel
        self.augmenter = Augmenter(stage.augment, self.rows, *front_ends, stage.consistency.teacher_hears)
        self.responses = self.augmenter.responses  # to go to the device with the module

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
        """Inputs of student and teacher, always in single precision."""
        with torch.autocast(self.device.type, enabled=False):
            return self.augmenter(batch, streams)

    def losses(self, views: Views, step: int) -> dict[str, Tensor]:
        """Parts of the loss, weighted, in a step of the optimiser."""
        terms = self.terms(*self.scores(views), views)
        return weigh(terms, self.stage.loss, self.stage.consistency, step)

    def scores(self, views: Views) -> tuple[Scores, Scores | None]:
        """Student and teacher up to their last layers, so another class mask costs next to nothing.

        None for the teacher where the consistency has no weight.
        """
        needed = self.teacher if self.stage.loss.weights.consistency else None
        own, others = _sequences(self.student, needed, views)
        student = _Scores(self.student.crnn, self._read(self.student, views.student, own))
        if needed is None:
            return student, None
        with torch.no_grad():
            return student, _Scores(needed.crnn, self._read(needed, views.teacher, others))

    def terms(self, student: Scores, teacher: Scores | None, views: Views) -> dict[str, Tensor]:
        """Terms of the loss without weights."""
        targets = views.targets if self.stage.loss.weights.pseudo else replace(views.targets, pseudo=None)
        terms = compare(student, targets, self.rows)
        if teacher is not None:
            wanted = self.stage.consistency
            terms |= compare_with_teacher(
                student, teacher, targets, views.mixture, self.rows, wanted, self.desed_classes
            )
        return terms

    def _read(self, network: TransformerCrnn, features: Features, sequence: Tensor) -> Tensor:
        spectrogram = self.front_end.scale(self.front_end.decibel(features.magnitude))
        return network.crnn.read(spectrogram, network.project(sequence))

    def judge(self, scored: dict[str, list[Scored]]) -> dict[str, float]:
        """PSDS1 of each strong set, mpAUC of MAESTRO, their sum, and the weak F1, which does not count.

        An undefined figure counts 0.
        """
        found = held_out_figures(
            scored, self.validation, self.settings,
            lambda evaluation: polyphonic_scores(evaluation, [PSDS1], draws=0)[0].value,
            lambda evaluation: float(np.nan_to_num(mean_partial_auc(evaluation, draws=0).value)),
        )  # fmt: skip
        names = {"weak": "weak_f1", "maestro_train": "mpauc"}
        figures = {names.get(name, f"{name}_psds1"): value for name, value in found.items()}
        return {**figures, "objective": sum(value for name, value in found.items() if name != "weak")}

    def on_fit_start(self) -> None:
        """Let the statistics of batch norms decay per step as in one process that reads all batches."""
        for norm in batch_norms(self):
            norm.momentum = 1 - (1 - self.settings.crnn.norm_momentum) ** self._processes

    def on_train_start(self) -> None:
        """Overwrite the teacher with the student, the first update; a resumed run has all updates of its steps."""
        self._followed = self.global_step
        if self.global_step == 0:
            self.update_teacher()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Update the teacher after each step of the optimiser, so all batches of the next one use the same teacher.

        Published, the same update happens after the forward pass of the next step's first batch. Processes that train
        together agree on the statistics of batch norms.
        """
        if self._processes > 1:
            average_statistics(self)
        if self.global_step > self._followed:
            self._followed = self.global_step
            self.update_teacher()

    def on_before_zero_grad(self, optimizer: Any) -> None:
        """Leave the update to `on_train_batch_end`."""

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Groups with rates of their own, and one schedule per step."""
        optimizer = make_optimizer(self.student, self.stage.optim)
        total = int(self.trainer.estimated_stepping_batches)
        return schedule_rate(optimizer, WarmupCosine(self.stage.optim.warmup_steps, total), "step")

    @property
    def _processes(self) -> int:
        return self.trainer.world_size if self._trainer is not None else 1


def compare(student: Scores, targets: Targets, rows: Rows) -> dict[str, Tensor]:
    """Binary cross-entropy by kind of clips: "maestro", "strong", "synthetic" (frames) and "weak" (clips).

    With pseudo-labels also "pseudo_maestro" and "pseudo_desed" (frames). Classes that are not valid add nothing, but
    count in the means, for pseudo-labels too.
    """
    frames, clips = _logits(student(targets.valid))
    losses = {kind: strong_loss(frames[rows.kinds[kind]], targets.strong[rows.kinds[kind]]) for kind in LABELLED}
    losses["weak"] = weak_loss(clips[rows.kinds["weak"]], targets.weak[rows.kinds["weak"]])
    if targets.pseudo is not None:
        for name, part in (("pseudo_maestro", rows.kinds["maestro"]), ("pseudo_desed", rows.desed)):
            losses[name] = strong_loss(frames[part], targets.pseudo[part])
    return losses


def compare_with_teacher(
    student: Scores, teacher: Scores, targets: Targets, mixture: Mixture | None, rows: Rows,
    wanted: ConsistencySettings, desed_classes: Tensor,
) -> dict[str, Tensor]:  # fmt: skip
    """Squared differences of frame and clip probabilities, "consistency_frames" and "consistency_clips".

    In a step with interpolation there is one pair per group: "consistency_joint_frames" of the labelled clips,
    "consistency_weak_frames", "consistency_unlabeled_frames", and the same for clips.

    The valid classes of the targets hold for both networks. `mixture` is of the student's clips, `desed_classes`
    (classes,) bool the valid classes of DESED clips.
    """
    mask = targets.valid if wanted.masked else None
    frames, clips = _logits(student(mask))
    teacher_frames, teacher_clips = (logits.detach().float().sigmoid() for logits in _logits(teacher(mask)))
    if mixture is None or not wanted.interpolation:
        compared = slice(0, rows.count) if wanted.weak_on_maestro else rows.desed
        return {
            "consistency_frames": agreement_loss(frames, teacher_frames),
            "consistency_clips": agreement_loss(clips[compared], teacher_clips[compared]),
        }
    teacher_frames, teacher_clips = mix(teacher_frames, *mixture), mix(teacher_clips, *mixture)
    losses = {}
    for name, part in zip(("joint", "weak", "unlabeled"), rows.groups):
        own, others = clips[part], teacher_clips[part]
        if name == "joint" and not wanted.weak_on_maestro:
            own, others = (clips[:, as_rows(desed_classes)] for clips in (own, others))
        losses[f"consistency_{name}_frames"] = agreement_loss(frames[part], teacher_frames[part])
        losses[f"consistency_{name}_clips"] = agreement_loss(own, others)
    return losses


def weigh(
    losses: Mapping[str, Tensor], wanted: LossSettings, consistency: ConsistencySettings, step: int
) -> dict[str, Tensor]:
    """Shares of the loss in a step of the optimiser: by kind of clips, "consistency" and "pseudo" where they count."""
    weights = wanted.weights
    parts = {kind: getattr(weights, kind) * losses[kind] / wanted.frame_divisor for kind in LABELLED}
    parts["weak"] = weights.weak * losses["weak"] / wanted.clip_divisor
    if weights.consistency:
        parts["consistency"] = consistency_weight(wanted, consistency, step) * _agreement(losses, wanted, consistency)
    if weights.pseudo:
        desed = weights.strong + weights.synthetic + weights.weak
        learned = weights.maestro * losses["pseudo_maestro"] + desed * losses["pseudo_desed"]
        parts["pseudo"] = weights.pseudo * learned
    return {name: wanted.scale * value for name, value in parts.items()}


def consistency_weight(wanted: LossSettings, consistency: ConsistencySettings, step: int) -> float:
    """Weight of the consistency in a step of the optimiser, counted from 0."""
    return wanted.weights.consistency * linear_ramp(step, consistency.ramp_steps, consistency.ramp_limit)


def _agreement(losses: Mapping[str, Tensor], wanted: LossSettings, consistency: ConsistencySettings) -> Tensor:
    def term(name: str) -> Tensor:
        return losses[f"consistency_{name}frames"] + losses[f"consistency_{name}clips"] / wanted.clip_divisor

    if "consistency_frames" in losses:
        return term("")
    joint = (2 if consistency.joint_term_twice else 1) * term("joint_")
    return (joint + term("weak_") + term("unlabeled_")) / consistency.interpolation_divisor


def _logits(output: ModelOutput) -> tuple[Tensor, Tensor]:
    assert output.frame_logits is not None and output.logits is not None
    return output.frame_logits, output.logits


class _Scores:
    """Output for frames that a network has read, by class mask."""

    def __init__(self, crnn: Crnn, frames: Tensor):
        self.crnn, self.frames = crnn, frames
        self.known: dict[int, ModelOutput] = {}

    def __call__(self, mask: Tensor | None) -> ModelOutput:
        if id(mask) not in self.known:
            self.known[id(mask)] = self.crnn.score(self.frames, mask)
        return self.known[id(mask)]


def _sequences(student: TransformerCrnn, teacher: TransformerCrnn | None, views: Views) -> tuple[Tensor, Tensor]:
    """Transformer outputs for student and teacher; an output that both share is computed once."""
    own, other = views.student.log_mel, views.teacher.log_mel
    if teacher is None or (student.frozen and other is own):
        sequence = student.sequence(own)
        return sequence, sequence
    if student.frozen:
        sequence, others = student.sequence(torch.cat((own, other))).chunk(2)
        return sequence, others
    with torch.no_grad():
        others = teacher.sequence(other)
    return student.sequence(own), others


@torch.no_grad()
def average_statistics(module: torch.nn.Module) -> None:
    """Mean over all processes of the statistics of batch norms."""
    every = (values for norm in batch_norms(module) for values in (norm.running_mean, norm.running_var))
    values = [part for part in every if part is not None]
    flat = torch.cat(values)
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for place, mean in zip(values, flat.split([len(part) for part in values])):
        place.copy_(mean)
