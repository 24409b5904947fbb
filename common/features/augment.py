"""Augmentation of whole batches, on the device of the batch; results have the shape of the first argument.

Numbers are drawn from a CPU generator (`common.training.seeds.step_generator`): the same ones on every device.
`draw_...` draws them alone, so that all numbers of a step can go to a GPU in one copy
(`common.data.transfer.to_device`); None stands for a step that is left out.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from common.data.transfer import to_device

Mixing = tuple[Tensor, Tensor]
"""Weights (batch,) of the clips themselves, and their partners (batch,)."""


def freq_mixstyle(
    spectrogram: Tensor, probability: float, alpha: float, generator: torch.Generator, dominant: bool = False
) -> Tensor:
    """Mix the mean and deviation of each frequency with another clip of the batch.

    Freq-MixStyle as in the DCASE 2024 Task 1 baseline (helpers/utils.py): one decision per batch, one weight per clip;
    unbiased variance, no gradient through the statistics, labels unchanged.

    Args:
        spectrogram: (batch, channels, mels, frames), after the logarithm.
        probability: of mixing this batch.
        alpha: weights are drawn from Beta(alpha, alpha).
        dominant: give each clip's own statistics the larger weight (the Task 4 winner of 2024).
    """
    style = draw_style(len(spectrogram), probability, alpha, generator, dominant)
    return spectrogram if style is None else mix_statistics(spectrogram, *to_device(style, spectrogram.device))


def draw_style(
    batch: int, probability: float, alpha: float, generator: torch.Generator, dominant: bool = False
) -> Mixing | None:
    """Numbers of `freq_mixstyle` for `mix_statistics`; None where the batch is not mixed."""
    if not bool(torch.rand(1, generator=generator) < probability):
        return None
    return draw_mixup(batch, alpha, generator, dominant)


def mix_statistics(spectrogram: Tensor, weight: Tensor, partner: Tensor) -> Tensor:
    """The step of `freq_mixstyle` for a draw: weight (batch,) of a clip's own statistics, and partner (batch,)."""
    weight = weight.to(spectrogram.dtype).view(-1, 1, 1, 1)
    with torch.no_grad():
        variance, mean = torch.var_mean(spectrogram, dim=(1, 3), keepdim=True)
        deviation = (variance + 1e-6).sqrt()
        scale = torch.lerp(deviation[partner], deviation, weight) / deviation
        shift = torch.lerp(mean[partner], mean, weight) - mean * scale
    return torch.addcmul(shift, spectrogram, scale)


def time_roll(waveform: Tensor, max_shift: int, generator: torch.Generator) -> Tensor:
    """Shift each clip (batch, samples) in a circle by a number of samples uniform in -max_shift..max_shift."""
    return roll(waveform, to_device(draw_shift(len(waveform), max_shift, generator), waveform.device), max_shift)


def draw_shift(batch: int, max_shift: int, generator: torch.Generator) -> Tensor | None:
    """Samples (batch,) of `time_roll`."""
    return torch.randint(-max_shift, max_shift + 1, (batch,), generator=generator) if max_shift else None


def roll(waveform: Tensor, shift: Tensor | None, max_shift: int) -> Tensor:
    """Move each clip (batch, samples) in a circle by its `shift` (batch,), -max_shift..max_shift; positive is right."""
    if shift is None:
        return waveform
    num_samples = waveform.shape[1]
    if max_shift > num_samples:
        raise ValueError(f"clips of {num_samples} samples cannot be rolled by up to {max_shift}")
    # All shifted versions exist as overlapping views of the wrapped clip: one gather copies the chosen rows.
    wrapped = torch.cat([waveform[:, num_samples - max_shift :], waveform, waveform[:, :max_shift]], dim=1)
    versions = wrapped.unfold(1, num_samples, 1)
    clips = torch.arange(len(waveform), device=waveform.device)
    return versions[clips, max_shift - shift]


class Masks(NamedTuple):
    """A band and a stretch of frames of each clip, as `draw_places` gives them."""

    bands: Tensor | None
    frames: Tensor | None


def draw_masks(batch: int, bands: int, frames: int, generator: torch.Generator) -> Masks:
    """For `frequency_mask` of fewer than `bands` mel bands, then `time_mask` of fewer than `frames` frames."""
    return Masks(draw_places((batch, 1), bands, generator), draw_places((batch, 1), frames, generator))


def mask(spectrogram: Tensor, drawn: Masks, bands: int, frames: int) -> Tensor:
    """(batch, 1, mels, frames) without the band and the stretch of each clip; see `draw_masks`."""
    return cover_places(cover_places(spectrogram, drawn.bands, bands, -2), drawn.frames, frames, -1)


def frequency_mask(spectrogram: Tensor, max_width: int, generator: torch.Generator) -> Tensor:
    """Set one band of each clip and channel to 0: width uniform in [0, max_width), place uniform.

    torchaudio's FrequencyMasking with iid_masks=True. On the power mel spectrogram 0 means silence.

    Args:
        spectrogram: (batch, channels, mels, frames).
        max_width: in mel bands.
    """
    return _mask(spectrogram, max_width, -2, generator)


def time_mask(spectrogram: Tensor, max_width: int, generator: torch.Generator) -> Tensor:
    """Set one stretch of frames of each clip and channel to 0; see `frequency_mask`."""
    return _mask(spectrogram, max_width, -1, generator)


def gain(waveform: Tensor, max_db: float, generator: torch.Generator) -> Tensor:
    """Gain of each clip (batch, samples), in decibels uniform in -max_db..max_db; not clipped."""
    return amplify(waveform, to_device(draw_gain(len(waveform), max_db, generator), waveform.device))


def draw_gain(batch: int, max_db: float, generator: torch.Generator) -> Tensor | None:
    """Factors (batch,) of `gain`."""
    return 10 ** ((2 * torch.rand(batch, generator=generator) - 1) * max_db / 20) if max_db else None


def amplify(waveform: Tensor, factor: Tensor | None) -> Tensor:
    """Each clip (batch, samples) times its factor (batch,)."""
    return waveform if factor is None else waveform * factor.to(waveform.dtype)[:, None]


def mixup(
    inputs: Tensor, target: Tensor, alpha: float, generator: torch.Generator, dominant: bool = False
) -> tuple[Tensor, Tensor]:
    """Add to each clip a part of another clip of the batch, and do the same to the targets.

    Args:
        inputs: (batch, ...), waveforms or spectrograms.
        target: (batch, classes), float: one-hot, multi-hot or soft.
        alpha: weights are drawn from Beta(alpha, alpha), one per clip.
        dominant: give each clip the larger weight and its partner the smaller one.

    Returns:
        Mixed inputs (batch, ...) and mixed targets (batch, classes).
    """
    weight, partner = to_device(draw_mixup(len(inputs), alpha, generator, dominant), inputs.device)
    return mix(inputs, weight, partner), mix(target, weight, partner)


def draw_mixup(batch: int, alpha: float, generator: torch.Generator, dominant: bool = False) -> Mixing:
    """Weights (batch,) and partners (batch,) for `mix`, where one draw must serve several tensors."""
    weight = draw_beta(batch, alpha, generator)
    if dominant:
        weight = torch.maximum(weight, 1 - weight)
    return weight, torch.randperm(batch, generator=generator)


def mix(values: Tensor, weight: Tensor, partner: Tensor) -> Tensor:
    """Mixture weight * own + (1 - weight) * partner of values (batch, ...); weight and partner (batch,)."""
    weight = weight.to(values.dtype).view(-1, *[1] * (values.dim() - 1))
    return torch.lerp(values[partner], values, weight)


def wavmix(batch: MutableMapping[str, Tensor], partners: Mapping[str, Tensor], rows: Tensor, weight: Tensor) -> None:
    """Add partners to some clips of a batch, in place: weight * own + (1 - weight) * partner.

    Both waveforms lose their mean before mixing and the sum loses its own, as published; other clips keep theirs.

    Args:
        batch: ``waveform`` (clips, samples), and targets (clips, ...).
        partners: the same tensors of the partners, (rows, ...).
        rows: (rows,), which clips are mixed.
        weight: (rows,), of these clips.
    """
    for name, other in partners.items():
        own = batch[name][rows]
        share = weight.to(own).view(-1, *[1] * (own.dim() - 1))
        if name == "waveform":
            own, other = own - own.mean(dim=1, keepdim=True), other - other.mean(dim=1, keepdim=True)
        sums = torch.lerp(other, own, share)
        batch[name][rows] = sums - sums.mean(dim=1, keepdim=True) if name == "waveform" else sums


def draw_beta(count: int, alpha: float, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """(count,) numbers in 0..1 from Beta(alpha, alpha)."""
    # torch.distributions.Beta takes no generator. In double precision a small alpha does not give 0 / 0.
    concentration = torch.full((2, count), alpha, dtype=torch.float64)
    first, second = torch._standard_gamma(concentration, generator=generator)
    return (first / (first + second)).to(dtype)


def _mask(spectrogram: Tensor, max_width: int, dim: int, generator: torch.Generator) -> Tensor:
    places = draw_places(spectrogram.shape[:2], max_width, generator)
    return cover_places(spectrogram, to_device(places, spectrogram.device), max_width, dim)


def draw_places(shape: Sequence[int], max_width: int, generator: torch.Generator) -> Tensor | None:
    """Numbers (2, batch, channels) in 0..1 for width and place of a mask."""
    return torch.stack([torch.rand(shape, generator=generator) for _ in range(2)]) if max_width else None


def cover_places(spectrogram: Tensor, places: Tensor | None, max_width: int, dim: int) -> Tensor:
    """Cover what `draw_places` drew, along `dim`."""
    if places is None:
        return spectrogram
    width = places[0] * max_width
    start = places[1] * (spectrogram.shape[dim] - width)
    # torchaudio rounds both down, so that the last cell is covered less often; kept, since the baseline does it.
    return cover(spectrogram, start.long(), width.long(), dim)


def cover(spectrogram: Tensor, first: Tensor, width: Tensor, dim: int) -> Tensor:
    """Set `width` cells from `first` on to 0, along `dim` (-2 mels, -1 frames); both (batch, channels)."""
    cells = torch.arange(spectrogram.shape[dim], device=first.device)
    covered = (cells >= first[..., None]) & (cells < (first + width)[..., None])
    covered = covered[..., :, None] if dim == -2 else covered[..., None, :]
    return spectrogram.masked_fill(covered, 0.0)
