"""Augmentation of sound event clips, as in the system that won DCASE 2024 Task 4 (CPJKU/cpjku_dcase24).

Whole batches at once; `task4_sed.pretraining.augment` builds on it. Every function draws from the generator that it is
given, so that each augmentation can have a random stream of its own (`Streams`): leaving one out changes nothing of the
others.
"""

import zlib
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from common.features.augment import draw_mixup
from common.training.seeds import derive_seed


class Streams:
    """Generators by name: for the same numbers and name the same, whatever else is drawn.

    Args:
        numbers: such as (seed, epoch, number of the batch in the epoch); not the process, where all shall draw alike.
    """

    def __init__(self, *numbers: int):
        self.numbers = numbers

    def __getitem__(self, name: str) -> torch.Generator:
        """The CPU generator of a name, from its beginning."""
        return torch.Generator().manual_seed(derive_seed(*self.numbers, zlib.crc32(name.encode())))


def wavmix(
    waveform: Tensor, labels: Sequence[Tensor], probability: float, alpha: float, generator: torch.Generator
) -> tuple[Tensor, list[Tensor]]:
    """Add another clip to some clips, both without their mean, and mix the labels with the same weight.

    Args:
        waveform: (clips, samples), all of one set.
        labels: tensors (clips, ...).
        probability: of each clip. alpha: its own weight is the larger of b and 1 - b, b from Beta(alpha, alpha).
        generator: source of the random numbers.

    Returns:
        New tensors like the arguments.
    """
    weight, partner = draw_mixup(len(waveform), alpha, generator, dominant=True)
    chosen = (torch.rand(len(waveform), generator=generator) < probability).nonzero().squeeze(1)
    if not len(chosen):
        return waveform, list(labels)
    weight, partner = weight[chosen], partner[chosen]
    rows, others = chosen.to(waveform.device), partner.to(waveform.device)
    share = weight.to(waveform)[:, None]
    mean = torch.lerp(waveform[others].mean(1, keepdim=True), waveform[rows].mean(1, keepdim=True), share)
    mixed = waveform.index_copy(0, rows, torch.lerp(waveform[others], waveform[rows], share).sub_(mean))
    return mixed, [_mix_rows(values, rows, others, weight) for values in labels]


def _mix_rows(values: Tensor, rows: Tensor, others: Tensor, weight: Tensor) -> Tensor:
    share = weight.to(values).view(-1, *[1] * (values.dim() - 1))
    return values.index_copy(0, rows, torch.lerp(values[others], values[rows], share))


def mixed_classes(valid: Tensor, strong: Tensor, weak: Tensor, partner: Tensor) -> Tensor:
    """Classes that mixed clips say something of: their own, and those that are active in the partner.

    Args:
        valid: (clips, classes), bool. strong: (clips, classes, frames) and weak: (clips, classes), before mixing.
        partner: (clips,).
    """
    active = ((strong.amax(dim=2) > 0) | (weak > 0)) & valid
    return valid | active[partner.to(valid.device)]


def filter_curve(
    clips: int, n_mels: int, bands: tuple[int, int], min_width: int, decibels: float, generator: torch.Generator
) -> Tensor:
    """Random filters (clips, n_mels) in decibels: the same bands for all clips, gains of each clip on their borders.

    Nam et al., "FilterAugment" (ICASSP 2022), the linear type. Within a band the curve runs in a line from the gain of
    its lower to that of its upper border, so that neighbouring bands have the same gain at the mels where they meet.

    Args:
        clips, n_mels: of the batch.
        bands: fewest and most bands.
        min_width: mel bins of a band, at least; fewer where `n_mels` is too small for all bands.
        decibels: gains are uniform in plus or minus this.
        generator: source of the random numbers.
    """
    borders = draw_borders(n_mels, bands, min_width, generator)
    gains = (2 * torch.rand(clips, len(borders), generator=generator) - 1) * decibels
    return band_gains(gains, borders)


def draw_borders(n_mels: int, bands: tuple[int, int], min_width: int, generator: torch.Generator) -> Tensor:
    """(bands + 1,) borders in 0..n_mels, int64; see `filter_curve`."""
    low, high = bands
    count = int(torch.randint(low, high + 1, (), generator=generator))
    width = min(min_width, n_mels // count)
    inner = torch.randint(0, n_mels - count * width + 1, (count - 1,), generator=generator).sort().values
    return torch.cat((torch.tensor([0]), inner + width * torch.arange(1, count), torch.tensor([n_mels])))


def band_gains(gains: Tensor, borders: Tensor) -> Tensor:
    """Gains (clips, bands + 1) at the borders to (clips, n_mels): in a line from each to the next, both included."""
    mels = torch.arange(int(borders[-1]))
    band = torch.searchsorted(borders, mels, right=True) - 1
    width = borders[band + 1] - borders[band]
    place = (mels - borders[band]) / (width - 1).clamp(min=1)
    return torch.lerp(gains[:, band], gains[:, band + 1], place)


def colour(spectrogram: Tensor, curve: Tensor, per_decibel: float | None = None) -> Tensor:
    """Filter a spectrogram (clips, 1, mels, frames) by curves (clips, mels) in decibels.

    Args:
        per_decibel: what 1 dB adds to a logarithmic spectrogram; None multiplies, as magnitudes need it.
    """
    curve = curve.to(spectrogram)[:, None, :, None]
    return spectrogram * 10 ** (curve / 20) if per_decibel is None else spectrogram + curve * per_decibel


def stretch_of_frames(frames: int, smallest: float, largest: float, generator: torch.Generator) -> tuple[int, int]:
    """First frame, and frame after the last, of a random stretch that is `smallest` to `largest` of all frames long."""
    width = int(torch.randint(int(smallest * frames), int(largest * frames) + 1, (), generator=generator))
    first = int(torch.randint(0, frames - width + 1, (), generator=generator))
    return first, first + width


def blank(values: Tensor, first: int, last: int, frames: int) -> Tensor:
    """(..., time) with 0 over frames first .. last of `frames` that the last axis lasts, rounded outwards."""
    length = values.shape[-1]
    begin, end = first * length // frames, -(-last * length // frames)
    blanked = values.clone()
    blanked[..., begin:end] = 0
    return blanked


def draw_shifts(clips: int, deviation: float, frames: int, generator: torch.Generator) -> Tensor:
    """(clips,) shifts as a share of the clip, whole frames of `frames`: N(0, deviation * frames), towards 0."""
    return (torch.randn(clips, generator=generator) * deviation * frames).trunc() / frames


def turn(values: Tensor, shifts: Tensor) -> Tensor:
    """Turn (clips, ..., time) in a circle by a share of its length each, later in time where it is positive."""
    return roll(values, (shifts * values.shape[-1]).round().long())


def roll(values: Tensor, steps: Tensor) -> Tensor:
    """`torch.roll` of the last axis of (clips, ..., time), by a number of steps (clips,) for each clip."""
    length = values.shape[-1]
    index = (torch.arange(length, device=values.device) - steps[:, None].to(values.device)) % length
    return values.gather(-1, index.view(len(values), *[1] * (values.dim() - 2), length).expand_as(values))


def frequency_warp(
    spectrogram: Tensor, smallest: float, generator: torch.Generator, align_corners: bool = False
) -> Tensor:
    """A part of the mel axis, `smallest` to all of it at a random height, stretched over the whole axis (bicubic).

    Args:
        spectrogram: (clips, 1, mels, frames); all clips get the same part.
        smallest: share of the mels.
        generator: source of the random numbers.
        align_corners: the first and last mel of the part become the first and last of all, as in `F.interpolate`.
    """
    n_mels = spectrogram.shape[2]
    share = smallest + (1 - smallest) * float(torch.rand((), generator=generator))
    kept = max(1, int(share * n_mels))
    first = int(torch.randint(0, n_mels - kept + 1, (), generator=generator))
    return stretch_mels(spectrogram[:, :, first : first + kept], n_mels, align_corners)


def stretch_mels(spectrogram: Tensor, n_mels: int, align_corners: bool = False) -> Tensor:
    """(clips, 1, mels, frames) resized to `n_mels`, as `F.interpolate(mode="bicubic")` does it; time stays as it is."""
    # Resizing one axis is a product with a small matrix, which takes a fraction of the time of a 2-d resize.
    return resize_matrix(spectrogram.shape[2], n_mels, align_corners).to(spectrogram) @ spectrogram


@lru_cache(maxsize=256)
def resize_matrix(before: int, after: int, align_corners: bool = False) -> Tensor:
    """(after, before): what `F.interpolate` makes of each unit vector."""
    units = torch.eye(before)[None, None]
    return F.interpolate(units, size=(after, before), mode="bicubic", align_corners=align_corners)[0, 0]
