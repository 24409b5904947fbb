"""Parts of front ends: framed spectra, mel filterbanks that use their sparsity, and a resampler.

Frames come before bins here, (batch, frames, bins): each step then reads memory in order. On a CPU a few hundred frames
go through all steps before the next ones, so they stay in the cache.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

# Both measured best, or near it, for all front ends (tests/benchmarks/bench_front_ends.py).
BANDS_AT_ONCE = 16
SAMPLES_AT_ONCE = 1 << 18  # of overlapping frames


def kaldi_mel_bank(
    n_mels: int, n_fft: int, sample_rate: int, f_min: float | Tensor, f_max: float | Tensor,
    device: torch.device | None = None,
) -> Tensor:  # fmt: skip
    """Kaldi's triangles: peak 1, straight in mel, not in Hz; (n_fft / 2 + 1, n_mels), the Nyquist bin has weight 0.

    The values of torchaudio.compliance.kaldi.get_mel_banks without vocal tract length normalisation; a zero row behind.
    """
    low, high = (1127.0 * math.log(1.0 + float(edge) / 700.0) for edge in (f_min, f_max))
    step = (high - low) / (n_mels + 1)
    band = torch.arange(n_mels, device=device)
    # Each edge is rounded for itself: shorter formulas change the weights by 1e-5, the quietest log-mel cells by 1e-3.
    left, centre, right = low + band * step, low + (band + 1.0) * step, low + (band + 2.0) * step
    bins = torch.arange(n_fft // 2, device=device)[:, None]
    bins = 1127.0 * (1.0 + sample_rate / n_fft * bins / 700.0).log()
    triangles = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))
    return F.pad(triangles.clamp(min=0.0), (0, 0, 0, 1))


def triangular_mel_bank(
    n_mels: int, n_fft: int, sample_rate: int, f_min: float, f_max: float, scale: str = "htk", norm: str | None = None
) -> Tensor:
    """Triangles straight in Hz, scale "htk" or "slaney", norm None or "slaney"; (n_fft / 2 + 1, n_mels)."""
    return torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, f_min, f_max, n_mels, sample_rate, norm, scale)


class MelBank(nn.Module):
    """A fixed filterbank (bins, mels).

    Of the 65,664 weights of the usual bank of 128 bands 948 are not zero: neighbouring bands are multiplied in groups,
    each with the few bins that it reads. On a GPU one dense product is faster.
    """

    def __init__(self, bank: Tensor):
        super().__init__()
        self.bank: Tensor
        self.register_buffer("bank", bank, persistent=False)
        self.groups = _groups(bank)

    def forward(self, spectrum: Tensor) -> Tensor:
        """(batch, frames, bins) to (batch, frames, mels)."""
        if spectrum.is_cuda:
            return spectrum @ self.bank
        return torch.cat(
            [spectrum[..., low:high] @ self.bank[low:high, first:last] for low, high, first, last in self.groups],
            dim=-1,
        )


class MelSpectrum(nn.Module):
    """Power or magnitude of the short-time Fourier transform, reflected at both ends, through a mel filterbank.

    As torch.stft with center=True: a window shorter than `n_fft` lies in its middle. (Transforming only the samples
    under the window is no faster.)
    """

    def __init__(self, window: Tensor, n_fft: int, hop_length: int, bank: Tensor, power: int = 2):
        super().__init__()
        self.window: Tensor
        outside = n_fft - len(window)
        self.register_buffer("window", F.pad(window, (outside // 2, outside - outside // 2)), persistent=False)
        self.mel = MelBank(bank)
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.power = power

    def forward(self, waveform: Tensor, bank: Tensor | None = None) -> Tensor:
        """(batch, samples) to (batch, 1 + samples // hop_length, mels); `bank` (bins, mels) replaces the own one."""
        half = self.n_fft // 2
        if waveform.shape[-1] <= half:
            raise ValueError(f"{waveform.shape[-1]} samples are too few: {half} are reflected at both ends")
        padded = F.pad(waveform.unsqueeze(1), (half, half), mode="reflect").squeeze(1)
        frames = padded.unfold(1, self.n_fft, self.hop_length)

        def mel(frames: Tensor) -> Tensor:
            spectrum = compute_spectrum(frames * self.window, self.n_fft, self.power)
            return self.mel(spectrum) if bank is None else spectrum @ bank

        return in_pieces(frames, mel)


def in_pieces(frames: Tensor, work: Callable[[Tensor], Tensor]) -> Tensor:
    """`work` on (batch, frames, samples), on a CPU piece by piece; its results (batch, frames, ...) joined."""
    if frames.is_cuda or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return work(frames)
    count = max(1, SAMPLES_AT_ONCE // frames.shape[-1])
    if frames.shape[1] * frames.shape[0] <= count:
        return work(frames)
    clips = max(1, count // frames.shape[1])
    return torch.cat(
        [torch.cat([work(part) for part in group.split(count, dim=1)], dim=1) for group in frames.split(clips)]
    )


def compute_spectrum(frames: Tensor, n_fft: int, power: int = 2) -> Tensor:
    """Windowed frames (..., samples) to power (2) or magnitude (1), (..., n_fft / 2 + 1)."""
    spectrum = torch.fft.rfft(frames, n=n_fft)
    if power == 1 and spectrum.requires_grad:
        return spectrum.abs()  # slower, but its gradient at 0 is 0 and not infinite
    squared = torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)
    return squared if power == 2 else squared.sqrt_()


def pre_emphasis(waveform: Tensor, coefficient: float = 0.97) -> Tensor:
    """y[n] = x[n + 1] - coefficient x[n]; one sample shorter."""
    return waveform[..., 1:] - coefficient * waveform[..., :-1]


class Resampler(nn.Module):
    """Windowed sinc (Hann, width 6, rolloff 0.99) as one matrix product over blocks of samples.

    The table of torchaudio.transforms.Resample, bit by bit: the phase of an output sample is rounded to float32, all
    else is computed in float64. Without that rounding the quietest log-mel cells move by up to 7e-3.
    """

    def __init__(self, from_rate: int, to_rate: int, width: int = 6, rolloff: float = 0.99):
        super().__init__()
        divisor = math.gcd(from_rate, to_rate)
        self.step_in, self.step_out = from_rate // divisor, to_rate // divisor
        base = min(self.step_in, self.step_out) * rolloff
        self.reach = math.ceil(width * self.step_in / base)
        taps = torch.arange(-self.reach, self.reach + self.step_in, dtype=torch.float64) / self.step_in
        phase = -torch.arange(self.step_out, dtype=torch.float32) / self.step_out
        time = ((phase[:, None] + taps) * base).clamp(-width, width)
        kernel = torch.special.sinc(time) * torch.cos(time * math.pi / width / 2) ** 2 * (base / self.step_in)
        self.kernel: Tensor
        self.register_buffer("kernel", kernel.float().T.contiguous(), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) to (batch, ceil(samples * to_rate / from_rate))."""
        length = -(-waveform.shape[-1] * self.step_out // self.step_in)
        blocks = F.pad(waveform, (self.reach, self.reach + self.step_in)).unfold(-1, len(self.kernel), self.step_in)
        return (blocks @ self.kernel).flatten(-2)[..., :length]


def _groups(bank: Tensor) -> list[tuple[int, int, int, int]]:
    """(first bin, last bin, first band, last band) of each group of bands."""
    groups = []
    for first in range(0, bank.shape[1], BANDS_AT_ONCE):
        last = min(first + BANDS_AT_ONCE, bank.shape[1])
        used = bank[:, first:last].any(dim=1).nonzero().flatten().tolist() or [0]
        groups.append((used[0], used[-1] + 1, first, last))
    return groups
