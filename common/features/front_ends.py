"""From waveforms to the spectrograms that networks were trained on: (batch, samples) to (batch, 1, mels, frames).

`sample_rate` is the rate of the waveform that a front end takes. Tables are made once; none is in a state dict. All
computation is in float32, also under autocast, and no clip's features depend on the clips beside it (AtstMel can be
asked for that).
`mask`, where there is one, is applied in training mode only, on the (batch, 1, mels, frames) that its authors mask.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.features.mel import (
    MelBank,
    MelSpectrum,
    Resampler,
    compute_spectrum,
    in_pieces,
    kaldi_mel_bank,
    pre_emphasis,
    triangular_mel_bank,
)

Mask = Callable[[Tensor], Tensor]


class FrontEnd(nn.Module):
    """Base of all front ends; switches autocast and TF32 off."""

    sample_rate: int
    mask: Mask | None = None

    def __call__(self, waveform: Tensor) -> Tensor:
        """(batch, samples) at `sample_rate` to (batch, 1, mels, frames)."""
        return in_float32(super().__call__, waveform)


def in_float32(compute: Mask, waveform: Tensor) -> Tensor:
    """Compute in float32, without autocast and TF32: mel powers exceed half precision in a loud tone."""
    with torch.autocast(waveform.device.type, enabled=False):
        if not waveform.is_cuda:
            return compute(waveform.float())
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            return compute(waveform.float())
        finally:
            torch.set_float32_matmul_precision(precision)


class ResampledMel(FrontEnd):
    """Front end of the DCASE Task 1 baselines of 2024 and 2025: resampling, power mel, logarithm.

    CPJKU/dcase2024_task1_baseline, run_training.py. The mask sees the power before the logarithm.

    Args:
        input_rate: Hz of the waveform; resampled to `sample_rate` where it differs.
    """

    def __init__(
        self,
        input_rate: int = 44100,
        mel_rate: int = 32000,
        n_fft: int = 4096,
        win_length: int = 3072,
        hop_length: int = 500,
        n_mels: int = 256,
        f_min: float = 0.0,
        f_max: float | None = None,
        mask: Mask | None = None,
    ):
        super().__init__()
        self.sample_rate = input_rate
        self.resample = Resampler(input_rate, mel_rate) if input_rate != mel_rate else nn.Identity()
        bank = triangular_mel_bank(n_mels, n_fft, mel_rate, f_min, f_max or mel_rate / 2)
        self.mel = MelSpectrum(torch.hann_window(win_length), n_fft, hop_length, bank)
        self.mask = mask

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) at `sample_rate` to ln(power + 1e-5), (batch, 1, mels, frames)."""
        power = self.mel(self.resample(waveform)).mT.unsqueeze(1).contiguous()
        if self.training and self.mask is not None:
            power = self.mask(power)
        return (power + 1e-5).log()


class ResampledFirst(FrontEnd):
    """A front end for waveforms of another rate."""

    def __init__(self, front_end: FrontEnd, input_rate: int):
        super().__init__()
        self.resample = Resampler(input_rate, front_end.sample_rate)
        self.front_end = front_end
        self.sample_rate = input_rate

    @property
    def mask(self) -> Mask | None:
        """Mask of the front end."""
        return self.front_end.mask

    @mask.setter
    def mask(self, mask: Mask | None) -> None:
        self.front_end.mask = mask

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) at `sample_rate` to the spectrogram of the front end."""
        return self.front_end(self.resample(waveform))


class KaldiLogMel(FrontEnd):
    """Pre-emphasis, Kaldi mel, logarithm, fixed shift and scale.

    MN, DyMN, PaSST (fschmid56/EfficientAT, models/preprocess.py), and by options fPaSST, frame_mn, CP-ResNet, CP-Mobile
    of 2023. The mask sees ln(mel) before shift and scale.

    Args:
        f_max: upper edge in evaluation; it does not follow from the jitter.
        f_min_jitter: in training, once a batch, the lower edge moves up by less than this many whole Hz.
        f_max_jitter: likewise the upper edge, by less than half of this many Hz up or down.
        periodic: of the Hann window.
        log_offset: added before the logarithm.
        log_floor: smallest power before the logarithm.
        generator: for the jitter; None takes torch's default generator.
    """

    def __init__(
        self,
        sample_rate: int = 32000,
        n_fft: int = 1024,
        win_length: int = 800,
        hop_length: int = 320,
        n_mels: int = 128,
        f_min: float = 0.0,
        f_max: float = 15000.0,
        f_min_jitter: int = 0,
        f_max_jitter: int = 0,
        periodic: bool = False,
        log_offset: float = 1e-5,
        log_floor: float = 0.0,
        mask: Mask | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.sample_rate = sample_rate
        self.n_fft, self.n_mels = n_fft, n_mels
        self.f_min, self.f_max = f_min, f_max
        self.f_min_jitter, self.f_max_jitter = f_min_jitter, f_max_jitter
        self.log_offset, self.log_floor = log_offset, log_floor
        bank = kaldi_mel_bank(n_mels, n_fft, sample_rate, f_min, f_max)
        self.mel = MelSpectrum(torch.hann_window(win_length, periodic=periodic), n_fft, hop_length, bank)
        self.mask = mask
        self.generator = generator

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) to (ln(mel) + 4.5) / 5, (batch, 1, mels, frames)."""
        bank = None
        if self.training and (self.f_min_jitter or self.f_max_jitter):
            edges, device = self.draw_edges(), waveform.device
            bank = kaldi_mel_bank(self.n_mels, self.n_fft, self.sample_rate, *edges, device).to(waveform.dtype)
        mel = self.mel(pre_emphasis(waveform), bank)
        log_mel = _as_image(mel.clamp(min=self.log_floor) if self.log_floor else mel + self.log_offset).log()
        if self.training and self.mask is not None:
            log_mel = self.mask(log_mel)
        return (log_mel + 4.5) / 5.0

    def draw_edges(self) -> tuple[float, float]:
        """Lower and upper edge (Hz) of the mel bank of one batch in training."""
        f_min = self.f_min + self._draw(self.f_min_jitter)
        return f_min, self.f_max + self.f_max_jitter // 2 - self._draw(self.f_max_jitter)

    def _draw(self, below: int) -> int:
        device = self.generator.device if self.generator else None
        return int(torch.randint(max(1, below), (), generator=self.generator, device=device))


class AtstMel(FrontEnd):
    """Front end of ATST-Frame: 64 HTK mels in dB, at most 80 dB below the clip's loudest cell, scaled to about -1..1.

    fschmid56/PretrainedSED, models/atstframe/ATSTF_wrapper.py.

    Args:
        batch_floor: take the 80 dB from the loudest cell of the whole batch, as the official code does. A clip's
            features then depend on the clips beside it; for single clips the two agree.
    """

    def __init__(self, batch_floor: bool = False):
        super().__init__()
        self.sample_rate = 16000
        self.batch_floor = batch_floor
        self.mel = MelSpectrum(torch.hann_window(1024), 1024, 160, triangular_mel_bank(64, 1024, 16000, 60.0, 7800.0))

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) to (batch, 1, 64, 1 + samples // 160)."""
        decibel = 10.0 * self.mel(waveform).clamp(min=1e-10).log10()
        loudest = decibel.amax() if self.batch_floor else decibel.amax(dim=(1, 2), keepdim=True)
        decibel = torch.maximum(decibel, loudest - 80.0).clamp(-50.0, 80.0)
        low, high = -79.6482, 50.6842
        return _as_image((decibel - low) / (high - low) * 2.0 - 1.0)


class KaldiFbank(FrontEnd):
    """Kaldi filterbank features as torchaudio.compliance.kaldi.fbank makes them, for a whole batch: BEATs and ASiT.

    25 ms frames every 10 ms, whole frames only; each frame loses its mean and is pre-emphasised; 128 Kaldi mels from
    20 Hz to half the rate; natural logarithm, floor at float32's epsilon; then (x - mean) / (2 std).

    Args:
        window: "povey" (BEATs) or "hanning" (ASiT); the first weight of both is 0.
        gain: of the waveform; 2^15 for BEATs.
        remove_mean: of each clip (ASiT).
    """

    def __init__(
        self,
        mean: float,
        std: float,
        window: str = "povey",
        gain: float = 1.0,
        remove_mean: bool = False,
        sample_rate: int = 16000,
        n_mels: int = 128,
    ):
        super().__init__()
        self.sample_rate = sample_rate
        self.mean, self.std, self.gain, self.remove_mean = mean, std, gain, remove_mean
        self.win_length, self.hop_length = sample_rate // 40, sample_rate // 100
        self.n_fft = 1 << (self.win_length - 1).bit_length()
        hann = torch.hann_window(self.win_length, periodic=False)
        self.window: Tensor
        self.register_buffer("window", {"povey": hann.pow(0.85), "hanning": hann}[window], persistent=False)
        self.mel = MelBank(kaldi_mel_bank(n_mels, self.n_fft, sample_rate, 20.0, sample_rate / 2))

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) to (batch, 1, mels, 1 + (samples - 400) // 160)."""
        if waveform.shape[-1] < self.win_length:
            raise ValueError(f"{waveform.shape[-1]} samples are fewer than one frame of {self.win_length}")
        waveform = waveform * self.gain
        if self.remove_mean:
            waveform = waveform - waveform.mean(dim=-1, keepdim=True)
        mel = in_pieces(waveform.unfold(-1, self.win_length, self.hop_length), self._mel_of_frames)
        log_mel = mel.clamp(min=torch.finfo(torch.float32).eps).log()
        return _as_image((log_mel - self.mean) / (2.0 * self.std))

    def _mel_of_frames(self, frames: Tensor) -> Tensor:
        # Kaldi's order of steps, so that the quietest cells agree too. A frame's first sample, which Kaldi emphasises
        # with itself, has weight 0 in both windows.
        emphasised = F.pad(pre_emphasis(frames - frames.mean(dim=-1, keepdim=True)), (1, 0))
        # In float64: rounding of nearly empty bins, which the logarithm shows, moved the frames of BEATs by 1e-4.
        return self.mel(compute_spectrum((emphasised * self.window).double(), self.n_fft).float())


class M2dMel(FrontEnd):
    """Front end of M2D: 80 Slaney mels from 50 to 8000 Hz, ln(power + epsilon), shifted by 7.1 and scaled by 1 / 4.2.

    nttcslab/m2d, portable_m2d.py, with the constants of its wrapper in PretrainedSED (the checkpoint's own statistics
    are not used there).
    """

    def __init__(self, mean: float = -7.1, std: float = 4.2):
        super().__init__()
        self.sample_rate = 16000
        self.mean, self.std = mean, std
        bank = triangular_mel_bank(80, 400, 16000, 50.0, 8000.0, "slaney", "slaney")
        self.mel = MelSpectrum(torch.hann_window(400), 400, 160, bank)

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) to (batch, 1, 80, 1 + samples // 160)."""
        log_mel = (self.mel(waveform) + torch.finfo(torch.float32).eps).log()
        return _as_image((log_mel - self.mean) / self.std)


class DesedMel(FrontEnd):
    """Front end of the DCASE Task 4 CRNN, in three steps because mixup is done on the magnitudes.

    DCASE-REPO/DESED_task, recipes/dcase2024_task4_baseline. `forward` is `scale(decibel(magnitude(waveform)))`.

    Args:
        low: lower end of the scaled range; -1, or 0 as in the recipe of 2021.
        n_mels: bands; the published networks have 128.
    """

    def __init__(self, low: float = -1.0, n_mels: int = 128):
        super().__init__()
        self.sample_rate = 16000
        self.low = low
        bank = triangular_mel_bank(n_mels, 2048, 16000, 0.0, 8000.0)
        self.mel = MelSpectrum(torch.hamming_window(2048, periodic=False), 2048, 256, bank, power=1)

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) to (batch, 1, n_mels, 1 + samples // 256), each clip scaled to -1..1."""
        return self.scale(self.decibel(self.magnitude(waveform)))

    def magnitude(self, waveform: Tensor) -> Tensor:
        """(batch, samples) to mel magnitudes (batch, 1, n_mels, frames); mix these."""
        return _as_image(in_float32(self.mel, waveform))

    @staticmethod
    def decibel(magnitude: Tensor) -> Tensor:
        """Magnitudes to dB, clamped to -50..80."""
        return (20.0 * magnitude.clamp(min=1e-5).log10()).clamp(-50.0, 80.0)

    def scale(self, decibel: Tensor) -> Tensor:
        """Smallest value of each clip to `low`, largest to 1."""
        least = decibel.amin(dim=(-2, -1), keepdim=True)
        most = decibel.amax(dim=(-2, -1), keepdim=True)
        return (decibel - least) / (most - least + 1e-8) * (1.0 - self.low) + self.low


def _as_image(mel: Tensor) -> Tensor:
    """(batch, frames, mels) to (batch, 1, mels, frames)."""
    return mel.mT.unsqueeze(1).contiguous()
