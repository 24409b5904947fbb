"""Augmentation of AudioSet-strong pre-training, for whole batches on the device (PretrainedSED, helpers/augment.py).

Every function draws from the generator that it is given, on the CPU, for the whole batch of all processes; each process
uses the numbers of its own clips. So the result does not depend on how many processes there are. Features are
normalised log-mel spectrograms (clips, 1, mels, frames), targets (clips, classes, frames / 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.features.augment import draw_beta
from task4_sed.augment import Streams, band_gains, colour, draw_borders, roll
from task4_sed.augment import frequency_warp as warp
from task4_sed.pretraining.settings import (
    AugmentationSettings,
    FilterAugmentSettings,
    FrequencyWarpSettings,
    MixStyleSettings,
    MixupSettings,
    TimeMaskSettings,
)

FRAMES_PER_TARGET = 4
EPSILON = 1e-6


@dataclass(frozen=True)
class Share:
    """Which clips of a batch this process has: `count` of `joint`, from place `first` on."""

    first: int
    count: int
    joint: int

    def own(self, values: Tensor) -> Tensor:
        """Of numbers (joint, ...) those of the own clips."""
        return values[self.first : self.first + self.count]

    def partners(self, values: Tensor, partner: Tensor) -> Tensor:
        """Rows of the whole batch; values (count, ...) are the own part of it, partner (count,) places in it."""
        return joined(values, self)[partner.to(values.device)]


def joined(values: Tensor, share: Share) -> Tensor:
    """(count, ...) of this process to (joint, ...) of all; every process has as many."""
    if share.count == share.joint:
        return values
    parts = [torch.empty_like(values) for _ in range(share.joint // share.count)]
    torch.distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def augment(
    features: Tensor, targets: Sequence[Tensor], settings: AugmentationSettings, streams: Streams, share: Share,
    per_decibel: float,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """All steps after the mixing of waveforms, in the published order.

    Args:
        features: (count, 1, mels, frames).
        targets: labels, and with distillation those of the teachers; (count, classes, frames / 4) each.
        settings: which, and how strong.
        streams: of this step.
        share: of the batch.
        per_decibel: what a level of 1 dB more adds to the features.

    Returns:
        Features and targets of the same shapes.
    """
    moved = list(targets)
    if settings.frame_shift:
        features, moved = frame_shift(features, moved, settings.frame_shift, streams["frame_shift"], share)
    if settings.mixup is not None:
        features, moved = mixup(features, moved, settings.mixup, streams["mixup"], share)
    if settings.mixstyle is not None:
        features = mixstyle(features, settings.mixstyle, streams["mixstyle"], share)
    if settings.time_mask is not None:
        features, moved = time_mask(features, moved, settings.time_mask, streams["time_mask"])
    if settings.filter_augment is not None:
        generator = streams["filter_augment"]
        features = filter_augment(features, settings.filter_augment, generator, share, per_decibel)
    if settings.frequency_warp is not None:
        features = frequency_warp(features, settings.frequency_warp, streams["frequency_warp"])
    return features, moved


def frame_shift(
    features: Tensor, targets: Sequence[Tensor], deviation: float, generator: torch.Generator, share: Share
) -> tuple[Tensor, list[Tensor]]:
    """Roll each clip by int(N(0, int(deviation * frames))) frames, its targets by a fourth of that, rounded."""
    spread = int(features.shape[-1] * deviation)
    drawn = torch.randn(share.joint, dtype=torch.float64, generator=generator) * spread
    shift = share.own(drawn.trunc().long())
    steps = (shift / FRAMES_PER_TARGET).round().long()
    return roll(features, shift), [roll(target, steps) for target in targets]


def mixup(
    features: Tensor, targets: Sequence[Tensor], settings: MixupSettings, generator: torch.Generator, share: Share
) -> tuple[Tensor, list[Tensor]]:
    """Mix a batch with itself; each clip keeps the larger weight, the smaller one goes to its partner."""
    if not _decide(settings.probability, generator):
        return features, list(targets)
    weight, partner = _weights_and_partners(settings.alpha, generator, share)
    mixed = [_mix(values, share.partners(values, partner), weight) for values in (features, *targets)]
    return mixed[0], [target.clamp(0, 1) for target in mixed[1:]]


def mixstyle(features: Tensor, settings: MixStyleSettings, generator: torch.Generator, share: Share) -> Tensor:
    """Give each mel band the mean and deviation over time that lie between its own and those of another clip."""
    if not _decide(settings.probability, generator):
        return features
    weight, partner = _weights_and_partners(settings.alpha, generator, share)
    variance, mean = torch.var_mean(features, dim=-1, keepdim=True)
    deviation = (variance + EPSILON).sqrt()
    new_mean = _mix(mean, share.partners(mean, partner), weight)
    new_deviation = _mix(deviation, share.partners(deviation, partner), weight)
    return (features - mean) / deviation * new_deviation + new_mean


def time_mask(
    features: Tensor, targets: Sequence[Tensor], settings: TimeMaskSettings, generator: torch.Generator
) -> tuple[Tensor, list[Tensor]]:
    """Set one stretch of the whole batch to 0, in features and labels; see `TimeMaskSettings.distilled` for the rest.

    The width in target frames is uniform in int(frames * min_share) .. int(frames * max_share) - 1.
    """
    frames = targets[0].shape[-1]
    narrowest, widest = int(frames * settings.min_share), int(frames * settings.max_share)
    if widest <= narrowest:
        return features, list(targets)
    width = int(torch.randint(narrowest, widest, (), generator=generator))
    first = int(torch.randint(0, frames - width, (), generator=generator))
    features = features.clone()
    features[..., first * FRAMES_PER_TARGET : (first + width) * FRAMES_PER_TARGET] = 0
    masked = []
    for number, target in enumerate(targets):
        if number == 0 or settings.distilled == "masked":
            target = target.clone()
            target[..., first : first + width] = 0
        masked.append(target)
    return features, masked


def filter_augment(
    features: Tensor, settings: FilterAugmentSettings, generator: torch.Generator, share: Share, per_decibel: float
) -> Tensor:
    """Filter each clip with gains that run in straight lines between borders, which the whole batch shares."""
    if not _decide(settings.probability, generator):
        return features
    bands = (settings.min_bands, settings.max_bands)
    borders = draw_borders(features.shape[-2], bands, settings.min_width, generator)
    drawn = torch.rand(share.joint, len(borders), generator=generator)
    curve = band_gains(share.own((2 * drawn - 1) * settings.max_db), borders)
    return colour(features, curve, None if settings.scale == "multiply" else per_decibel)


def frequency_warp(features: Tensor, settings: FrequencyWarpSettings, generator: torch.Generator) -> Tensor:
    """Stretch int(U(smallest, 1) * mels) neighbouring mel bands to the full height, bicubic, ends on ends."""
    if not _decide(settings.probability, generator):
        return features
    return warp(features.float(), settings.smallest, generator, align_corners=True)


def _weights_and_partners(alpha: float, generator: torch.Generator, share: Share) -> tuple[Tensor, Tensor]:
    drawn = draw_beta(share.joint, alpha, generator)
    partner = torch.randperm(share.joint, generator=generator)
    return share.own(torch.maximum(drawn, 1 - drawn)), share.own(partner)


def _mix(values: Tensor, others: Tensor, weight: Tensor) -> Tensor:
    return torch.lerp(others, values, weight.to(values).view(-1, *[1] * (values.dim() - 1)))


def _decide(probability: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < probability
