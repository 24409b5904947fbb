"""Augmentation of AudioSet-strong pre-training, on whole batches (PretrainedSED, helpers/augment.py).

Random numbers are drawn on the CPU for the batch of all processes together, and each process uses those of its own
clips, so the result does not depend on the number of processes. Features are normalised log-mel spectrograms
(clips, 1, mels, frames), targets (clips, classes, frames / 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from task4_sed.augment import (
    Mixture,
    Streams,
    blank,
    colour,
    decide,
    draw_crop,
    draw_filter,
    draw_mixture,
    draw_stretch,
    roll,
    warp_frequency,
)
from task4_sed.settings import AugmentSettings, MixStyleSettings, MixupSettings

FRAMES_PER_TARGET = 4
EPSILON = 1e-6


@dataclass(frozen=True)
class Share:
    """Clips of a batch that this process has: `count` of `joint`, from place `first` on."""

    first: int
    count: int
    joint: int

    def own(self, values: Tensor) -> Tensor:
        """Rows of the own clips in (joint, ...)."""
        return values[self.first : self.first + self.count]

    def blend(self, values: Tensor, mixture: Mixture) -> Tensor:
        """Values (count, ...) mixed with those of their partners, which other processes may have."""
        others = joined(values, self)[self.own(mixture.partner)]
        return torch.lerp(others, values, self.own(mixture.weight).to(values.dtype).view(-1, *[1] * (values.dim() - 1)))


def joined(values: Tensor, share: Share) -> Tensor:
    """(count, ...) of this process to (joint, ...) of all; all processes have equally many."""
    if share.count == share.joint:
        return values
    parts = [torch.empty_like(values) for _ in range(share.joint // share.count)]
    torch.distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)


@dataclass(frozen=True)
class Draws:
    """Random numbers of one step, for all clips of the batch; None where a step is left out.

    shift: (joint,) feature frames. mixture, style: of mixup and MixStyle. stretch: target frames to mask.
    curve: (joint, mels) decibels. crop: first mel and number of mels.
    """

    shift: Tensor | None = None
    mixture: Mixture | None = None
    style: Mixture | None = None
    stretch: tuple[int, int] | None = None
    curve: Tensor | None = None
    crop: tuple[int, int] | None = None


def draw(settings: AugmentSettings, streams: Streams, joint: int, n_mels: int, frames: int) -> Draws:
    """Random numbers of a step for a batch of `joint` clips."""
    shift = stretch = curve = crop = None
    if settings.frame_shift:
        normal = torch.randn(joint, dtype=torch.float64, generator=streams["frame_shift"])
        shift = shift_frames(normal, frames, settings.frame_shift)
    if (mask := settings.time_mask) is not None:
        stretch = draw_stretch(frames // FRAMES_PER_TARGET, mask.smallest, mask.largest, streams["time_mask"])
    random, colouring = streams["filter_augment"], settings.filter
    if colouring is not None and decide(colouring.probability, random):
        curve = draw_filter(joint, n_mels, colouring.bands, colouring.min_width, colouring.decibels, random)
    random, warping = streams["frequency_warp"], settings.frequency_warp
    if warping is not None and decide(warping.probability, random):
        crop = draw_crop(n_mels, warping.smallest, random)
    mixture = _draw_mixture(settings.mixup, joint, streams["mixup"])
    style = _draw_mixture(settings.mixstyle, joint, streams["mixstyle"])
    return Draws(shift, mixture, style, stretch, curve, crop)


def _draw_mixture(
    wanted: MixupSettings | MixStyleSettings | None, clips: int, generator: torch.Generator
) -> Mixture | None:
    if wanted is None or not decide(wanted.probability, generator):
        return None
    return draw_mixture(clips, wanted.alpha, generator)


def shift_frames(normal: Tensor, frames: int, deviation: float) -> Tensor:
    """Shifts in feature frames from normal numbers: z * int(deviation * frames), cut towards 0."""
    return (normal * int(frames * deviation)).trunc().long()


def label_shift(shift: Tensor) -> Tensor:
    """Target frames for a shift in feature frames: a fourth, rounded half to even."""
    return (shift / FRAMES_PER_TARGET).round().long()


def augment(
    features: Tensor, targets: Sequence[Tensor], settings: AugmentSettings, draws: Draws, share: Share,
    per_decibel: float,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """All steps after the mixing of waveforms, in the published order.

    Args:
        features: (count, 1, mels, frames).
        targets: labels and, with distillation, the teachers' targets; (count, classes, frames / 4) each.
        settings, draws, share: see `draw` and `Share`.
        per_decibel: rise of the features for 1 dB.
    """
    moved = list(targets)
    if draws.shift is not None:
        shift = share.own(draws.shift)
        features, moved = roll(features, shift), [roll(target, label_shift(shift)) for target in moved]
    if draws.mixture is not None:
        features = share.blend(features, draws.mixture)
        moved = [share.blend(target, draws.mixture).clamp(0, 1) for target in moved]
    if draws.style is not None:
        features = mixstyle(features, draws.style, share)
    if draws.stretch is not None and settings.time_mask is not None:
        first, last = draws.stretch
        features = blank(features, first * FRAMES_PER_TARGET, last * FRAMES_PER_TARGET)
        masked = len(moved) if settings.time_mask.pseudo_labels == "masked" else 1
        moved = [*(blank(target, first, last) for target in moved[:masked]), *moved[masked:]]
    if draws.curve is not None and settings.filter is not None and settings.filter.on_log_mels != "kept":
        multiplied = settings.filter.on_log_mels == "multiply"
        features = colour(features, share.own(draws.curve), None if multiplied else per_decibel)
    if draws.crop is not None:
        features = warp_frequency(features.float(), *draws.crop)
    return features, moved


def mixstyle(features: Tensor, style: Mixture, share: Share) -> Tensor:
    """Give each mel band a mean and deviation over time between its own and its partner's."""
    variance, mean = torch.var_mean(features, dim=-1, keepdim=True)
    deviation = (variance + EPSILON).sqrt()
    return (features - mean) / deviation * share.blend(deviation, style) + share.blend(mean, style)
