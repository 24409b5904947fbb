"""The loss of a training step (formula: `task4_sed.iterations.settings`): terms without weights, then their sum."""

from collections.abc import Callable, Mapping

from torch import Tensor

from common.features.augment import mix
from common.models.network import ModelOutput
from task4_sed.augment import Mixture
from task4_sed.iterations.settings import ConsistencySettings, LossSettings
from task4_sed.iterations.views import Rows, Targets
from task4_sed.losses import agreement_loss, linear_ramp, strong_loss, weak_loss

Scores = Callable[[Tensor | None], ModelOutput]
"""Output of a network for a batch under a class mask (clips, classes), or of all classes."""
LABELLED = ("maestro", "strong", "synthetic")


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
            own, others = own[:, desed_classes], others[:, desed_classes]
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
