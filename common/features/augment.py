"""Augmentation of whole batches, on the device of the batch; results have the shape of the first argument.

Draw from a CPU generator (`common.training.trainer.step_generator`): the numbers are few, the same on every device, and
never wait for the accelerator.
"""

from collections.abc import Mapping, MutableMapping

import torch
from torch import Tensor


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
    if not _decide(probability, generator):
        return spectrogram
    return mix_statistics(spectrogram, *draw_mixup(spectrogram.shape[0], alpha, generator, dominant))


def mix_statistics(spectrogram: Tensor, weight: Tensor, partner: Tensor) -> Tensor:
    """The step of `freq_mixstyle` for a draw: weight (batch,) of a clip's own statistics, and partner (batch,)."""
    weight, partner = weight.to(spectrogram).view(-1, 1, 1, 1), partner.to(spectrogram.device)
    with torch.no_grad():
        variance, mean = torch.var_mean(spectrogram, dim=(1, 3), keepdim=True)
        deviation = (variance + 1e-6).sqrt()
        scale = torch.lerp(deviation[partner], deviation, weight) / deviation
        shift = torch.lerp(mean[partner], mean, weight) - mean * scale
    return torch.addcmul(shift, spectrogram, scale)


def time_roll(waveform: Tensor, max_shift: int, generator: torch.Generator) -> Tensor:
    """Shift each clip (batch, samples) in a circle by a number of samples uniform in -max_shift..max_shift."""
    if max_shift == 0:
        return waveform
    batch, num_samples = waveform.shape
    if max_shift > num_samples:
        raise ValueError(f"clips of {num_samples} samples cannot be rolled by up to {max_shift}")
    shift = torch.randint(-max_shift, max_shift + 1, (batch,), generator=generator, device=generator.device)
    return roll(waveform, shift, max_shift)


def roll(waveform: Tensor, shift: Tensor, max_shift: int) -> Tensor:
    """Move each clip (batch, samples) in a circle by its `shift` (batch,), -max_shift..max_shift; positive is right."""
    num_samples = waveform.shape[1]
    # All shifted versions exist as overlapping views of the wrapped clip: one gather copies the chosen rows.
    wrapped = torch.cat([waveform[:, num_samples - max_shift :], waveform, waveform[:, :max_shift]], dim=1)
    versions = wrapped.unfold(1, num_samples, 1)
    clips = torch.arange(len(waveform), device=waveform.device)
    return versions[clips, (max_shift - shift).to(waveform.device)]


def mask(spectrogram: Tensor, bands: int, frames: int, generator: torch.Generator) -> Tensor:
    """`frequency_mask` of fewer than `bands` mel bands, then `time_mask` of fewer than `frames` frames."""
    return time_mask(frequency_mask(spectrogram, bands, generator), frames, generator)


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
    if max_db == 0:
        return waveform
    decibels = (2 * _uniform(waveform.shape[0], generator) - 1) * max_db
    return waveform * (10 ** (decibels / 20)).to(waveform)[:, None]


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
    weight, partner = draw_mixup(inputs.shape[0], alpha, generator, dominant)
    return mix(inputs, weight, partner), mix(target, weight, partner)


def draw_mixup(batch: int, alpha: float, generator: torch.Generator, dominant: bool = False) -> tuple[Tensor, Tensor]:
    """Weights (batch,) and partners (batch,) for `mix`, where one draw must serve several tensors."""
    weight = draw_beta(batch, alpha, generator)
    if dominant:
        weight = torch.maximum(weight, 1 - weight)
    return weight, torch.randperm(batch, generator=generator, device=generator.device)


def mix(values: Tensor, weight: Tensor, partner: Tensor) -> Tensor:
    """Mixture weight * own + (1 - weight) * partner of values (batch, ...); weight and partner (batch,)."""
    weight = weight.to(values).view(-1, *[1] * (values.dim() - 1))
    return torch.lerp(values[partner.to(values.device)], values, weight)


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
    concentration = torch.full((2, count), alpha, dtype=torch.float64, device=generator.device)
    first, second = torch._standard_gamma(concentration, generator=generator)
    return (first / (first + second)).to(dtype)


def _decide(probability: float, generator: torch.Generator) -> bool:
    return bool(_uniform(1, generator).item() < probability)


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator, device=generator.device)


def _mask(spectrogram: Tensor, max_width: int, dim: int, generator: torch.Generator) -> Tensor:
    if max_width == 0:
        return spectrogram
    size = spectrogram.shape[dim]
    shape = spectrogram.shape[:2]
    width = torch.rand(shape, generator=generator, device=generator.device) * max_width
    start = torch.rand(shape, generator=generator, device=generator.device) * (size - width)
    # torchaudio rounds both down, so that the last cell is covered less often; kept, since the baseline does it.
    return cover(spectrogram, start.long(), width.long(), dim)


def cover(spectrogram: Tensor, first: Tensor, width: Tensor, dim: int) -> Tensor:
    """Set `width` cells from `first` on to 0, along `dim` (-2 mels, -1 frames); both (batch, channels)."""
    cells = torch.arange(spectrogram.shape[dim], device=first.device)
    covered = ((cells >= first[..., None]) & (cells < (first + width)[..., None])).to(spectrogram.device)
    covered = covered[..., :, None] if dim == -2 else covered[..., None, :]
    return spectrogram.masked_fill(covered, 0.0)
