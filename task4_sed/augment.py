"""Augmentation of sound event clips: drawing at random, and computing from a draw.

Steps of the system that won DCASE 2024 Task 4 (CPJKU/cpjku_dcase24) and of PretrainedSED, on whole batches.
`task4_sed.iterations.views` and `task4_sed.pretraining.augment` put them in order. Each step draws from a CPU generator
of its own (`Streams`), so switching one off changes nothing in the others.
"""

import zlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.features.augment import draw_mixup
from common.training.seeds import derive_seed


class Streams:
    """Generators by name: the same numbers and name give the same generator, whatever else is drawn.

    Numbers are such as (seed, epoch, batch number); leave the rank out where all processes must draw alike.
    """

    def __init__(self, *numbers: int):
        self.numbers = numbers

    def __getitem__(self, name: str) -> torch.Generator:
        """A new CPU generator for a name."""
        return torch.Generator().manual_seed(derive_seed(*self.numbers, zlib.crc32(name.encode())))


class Mixture(NamedTuple):
    """Weight of each clip itself, and row of the clip that gets the rest; (clips,) each."""

    weight: Tensor
    partner: Tensor


def decide(probability: float, generator: torch.Generator) -> bool:
    """True with a probability."""
    return float(torch.rand((), generator=generator)) < probability


def draw_mixture(clips: int, alpha: float, generator: torch.Generator) -> Mixture:
    """Weights max(c, 1 - c), c from Beta(alpha, alpha), and a permutation of the clips as partners."""
    return Mixture(*draw_mixup(clips, alpha, generator, dominant=True))


def draw_partners(
    clips: int, size: int, probability: float, alpha: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Wavmix partners for some clips of a batch, out of the whole set of `size` clips, also the clip itself.

    Returns:
        partner (clips,), -1 where a clip stays alone, and weight (clips,), float32, of the clip itself: max(b, 1 - b),
        b from Beta(alpha, alpha).
    """
    mixed = random.random(clips) < probability
    partner = np.where(mixed, random.integers(size, size=clips), -1)
    drawn = random.beta(alpha, alpha, size=clips)
    return partner, np.where(mixed, np.maximum(drawn, 1 - drawn), 1).astype(np.float32)


def widen_classes(valid: Tensor, strong: Tensor, partner: Tensor) -> Tensor:
    """Valid classes (clips, classes) of mixed clips: their own, and those with strong labels in the partner."""
    return valid | (strong.amax(dim=2) > 0)[partner]


def draw_filter(
    clips: int, n_mels: int, bands: tuple[int, int], min_width: int, decibels: float, generator: torch.Generator
) -> Tensor:
    """Random filters (clips, n_mels) in decibels: one set of bands for all clips, gains of each clip at their borders.

    Nam et al., "FilterAugment" (ICASSP 2022), linear type. Neighbouring bands have the same gain where they meet.
    `bands`: fewest and most; they are narrower than `min_width` where `n_mels` is too small for all of them.
    """
    borders = draw_borders(n_mels, bands, min_width, generator)
    return band_gains((2 * torch.rand(clips, len(borders), generator=generator) - 1) * decibels, borders)


def draw_borders(n_mels: int, bands: tuple[int, int], min_width: int, generator: torch.Generator) -> Tensor:
    """(bands + 1,) borders in 0..n_mels, int64; see `draw_filter`."""
    low, high = bands
    count = int(torch.randint(low, high + 1, (), generator=generator))
    width = min(min_width, n_mels // count)
    inner = torch.randint(0, n_mels - count * width + 1, (count - 1,), generator=generator).sort().values
    return torch.cat((torch.tensor([0]), inner + width * torch.arange(1, count), torch.tensor([n_mels])))


def band_gains(gains: Tensor, borders: Tensor) -> Tensor:
    """Gains (clips, bands + 1) at the borders to (clips, n_mels): straight lines between them, both ends included."""
    mels = torch.arange(int(borders[-1]))
    band = torch.searchsorted(borders, mels, right=True) - 1
    width = borders[band + 1] - borders[band]
    place = ((mels - borders[band]) / (width - 1).clamp(min=1)).to(gains)
    return torch.lerp(gains[:, band], gains[:, band + 1], place)


def colour(spectrogram: Tensor, curve: Tensor, per_decibel: float | None = None) -> Tensor:
    """Filter a spectrogram (clips, 1, mels, frames) by curves (clips, mels) in decibels.

    `per_decibel`: rise of a logarithmic spectrogram for 1 dB; None multiplies, which suits magnitudes.
    """
    curve = curve.to(spectrogram.dtype)[:, None, :, None]
    return spectrogram * 10 ** (curve / 20) if per_decibel is None else spectrogram + curve * per_decibel


def draw_stretch(frames: int, smallest: float, largest: float, generator: torch.Generator) -> tuple[int, int] | None:
    """First frame, and frame after the last, of a stretch to mask; None where `largest` is too small for any.

    The width is uniform in int(smallest * frames) .. int(largest * frames) - 1; the last frame is never masked.
    """
    narrowest, widest = int(frames * smallest), int(frames * largest)
    if widest <= narrowest:
        return None
    width = int(torch.randint(narrowest, widest, (), generator=generator))
    first = int(torch.randint(0, frames - width, (), generator=generator))
    return first, first + width


def blank(values: Tensor, first: int, last: int, rows: slice = slice(None)) -> Tensor:
    """A copy of (clips, ..., time) with 0 in first .. last (not included) of some rows."""
    blanked = values.clone()
    blanked[rows, ..., first:last] = 0
    return blanked


def roll(values: Tensor, steps: Tensor) -> Tensor:
    """`torch.roll` along the last axis of (clips, ..., time), by a number of steps (clips,) for each clip."""
    length = values.shape[-1]
    index = (torch.arange(length, device=values.device) - steps[:, None]) % length
    return values.gather(-1, index.view(len(values), *[1] * (values.dim() - 2), length).expand_as(values))


def draw_crop(n_mels: int, smallest: float, generator: torch.Generator) -> tuple[int, int]:
    """First mel and number of mels of a part: int(U(smallest, 1) * n_mels) of them, at a random height."""
    share = smallest + (1 - smallest) * float(torch.rand((), generator=generator))
    kept = max(1, int(share * n_mels))
    return int(torch.randint(0, n_mels - kept + 1, (), generator=generator)), kept


def warp_frequency(spectrogram: Tensor, first: int, kept: int) -> Tensor:
    """Mels first .. first + kept of (clips, 1, mels, frames) stretched to all mels: bicubic, corners aligned."""
    # Resizing one axis is a product with a small matrix, which takes a fraction of the time of a 2-d resize.
    matrix = _resize_matrix(kept, spectrogram.shape[2], spectrogram.device)
    return matrix.to(spectrogram.dtype) @ spectrogram[:, :, first : first + kept]


@lru_cache(maxsize=256)
def _resize_matrix(before: int, after: int, device: torch.device) -> Tensor:
    """(after, before): `F.interpolate` of each unit vector."""
    units = torch.eye(before, dtype=torch.float64, device=device)[None, None]
    return F.interpolate(units, size=(after, before), mode="bicubic", align_corners=True)[0, 0]
