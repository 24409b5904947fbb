"""Time of every front end against the same features made plainly with torchaudio.

    python -m tests.benchmarks.bench_front_ends [--threads 1] [--pairs 7] [--only beats]

Clips of 10 s (1 s for the Task 1 baseline, batch 64 and 256), evaluation. Ours and plain take turns; medians and their
ratio are printed; aim 2x. With one thread the time is the processor time of this process, so what else runs on the
machine counts little.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.compliance.kaldi import fbank, get_mel_banks
from torchaudio.transforms import AmplitudeToDB, MelSpectrogram, Resample

from common.registry.models import create_front_end

AIM = 2.0


def plain_kaldi_mel(
    rate: int, n_fft: int, window: Tensor, hop: int, mels: int, f_max: float, floor: float
) -> Callable[[Tensor], Tensor]:
    """Pre-emphasis as a convolution, torch.stft, a dense filterbank that is built in every call."""
    kernel = torch.tensor([[[-0.97, 1.0]]])

    def features(waveform: Tensor) -> Tensor:
        emphasised = F.conv1d(waveform[:, None], kernel)[:, 0]
        spectrum = torch.stft(emphasised, n_fft, hop, len(window), window, center=True, return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(dim=-1)
        bank, _ = get_mel_banks(mels, n_fft, rate, 0.0, f_max, 100.0, -500.0, 1.0)
        mel = F.pad(bank, (0, 1)) @ power
        log_mel = (mel + 1e-5).log() if floor == 0 else mel.clamp(min=floor).log()
        return (log_mel[:, None] + 4.5) / 5

    return features


def plain_task1() -> Callable[[Tensor], Tensor]:
    """Resampling and mel transform of torchaudio."""
    resample = Resample(44100, 32000)
    mel = MelSpectrogram(32000, n_fft=4096, win_length=3072, hop_length=500, n_mels=256, f_max=16000)
    return lambda waveform: (mel(resample(waveform))[:, None] + 1e-5).log()


def plain_atst() -> Callable[[Tensor], Tensor]:
    """Mel transform and decibels of torchaudio."""
    mel = MelSpectrogram(16000, n_fft=1024, hop_length=160, n_mels=64, f_min=60, f_max=7800)
    decibel = AmplitudeToDB(top_db=80)
    scale = 50.6842 + 79.6482
    return lambda waveform: (decibel(mel(waveform)[:, None]).clamp(-50, 80) + 79.6482) / scale * 2 - 1


def plain_fbank(window: str, gain: float, mean: float, std: float) -> Callable[[Tensor], Tensor]:
    """Kaldi features clip by clip."""

    def features(waveform: Tensor) -> Tensor:
        clips = [
            fbank((clip * gain)[None], num_mel_bins=128, sample_frequency=16000, window_type=window).T
            for clip in waveform - (waveform.mean(dim=1, keepdim=True) if window == "hanning" else 0)
        ]
        return (torch.stack(clips)[:, None] - mean) / (2 * std)

    return features


def plain_m2d() -> Callable[[Tensor], Tensor]:
    """Mel transform of torchaudio."""
    mel = MelSpectrogram(
        16000, n_fft=400, hop_length=160, n_mels=80, f_min=50, f_max=8000, norm="slaney", mel_scale="slaney"
    )
    return lambda waveform: ((mel(waveform)[:, None] + torch.finfo(torch.float32).eps).log() + 7.1) / 4.2


def plain_desed() -> Callable[[Tensor], Tensor]:
    """Mel transform and decibels of torchaudio, scaled clip by clip."""
    window = {"window_fn": torch.hamming_window, "wkwargs": {"periodic": False}}
    mel = MelSpectrogram(16000, n_fft=2048, hop_length=256, n_mels=128, power=1, **window)
    decibel = AmplitudeToDB(stype="amplitude")
    decibel.amin = 1e-5

    def features(waveform: Tensor) -> Tensor:
        values = decibel(mel(waveform)[:, None]).clamp(-50, 80)
        least, most = values.amin(dim=(-2, -1), keepdim=True), values.amax(dim=(-2, -1), keepdim=True)
        return (values - least) / (most - least + 1e-8) * 2 - 1

    return features


PLAIN = {
    "task1_baseline": plain_task1,
    "mn10": lambda: plain_kaldi_mel(32000, 1024, torch.hann_window(800, periodic=False), 320, 128, 15000.0, 0.0),
    "cp_resnet": lambda: plain_kaldi_mel(22050, 2048, torch.hann_window(2048, periodic=False), 512, 256, 11025.0, 0.0),
    "fpasst": lambda: plain_kaldi_mel(16000, 512, torch.hann_window(400), 160, 128, 7000.0, 1e-7),
    "atst_frame": plain_atst,
    "beats": lambda: plain_fbank("povey", 2.0**15, 15.41663, 6.55582),
    "asit": lambda: plain_fbank("hanning", 1.0, -4.2677393, 4.5689974),
    "m2d": plain_m2d,
    "desed_crnn_2024": plain_desed,
}


def main() -> None:
    """Print one line for every front end and batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=list(PLAIN))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    print(f"threads {arguments.threads}, median of {arguments.pairs} pairs, ms for a batch")
    for name in arguments.only:
        ours, plain = create_front_end(name).eval(), PLAIN[name]()
        seconds, batches = (1, (64, 256)) if name == "task1_baseline" else (10, (4, 16))
        for batch in batches:
            waveform = 0.1 * torch.randn(batch, seconds * ours.sample_rate, generator=torch.Generator().manual_seed(0))
            mine, other, difference = compare(ours, plain, waveform, arguments.pairs, clock)
            ratio = other / mine
            verdict = "aim reached" if ratio >= AIM else "below the aim"
            print(
                f"{name:16} {batch:3} x {seconds:2} s   ours {1e3 * mine:7.1f}   plain {1e3 * other:7.1f}   "
                f"{ratio:5.2f}x {verdict:13}   largest difference {difference:.1e}"
            )


@torch.inference_mode()
def compare(
    ours: Callable[[Tensor], Tensor],
    plain: Callable[[Tensor], Tensor],
    waveform: Tensor,
    pairs: int,
    clock: Callable[[], float],
) -> tuple[float, float, float]:
    """Median seconds of both, and the largest difference of their features."""
    difference = float((ours(waveform) - plain(waveform)).abs().max())
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        for features, taken in zip((ours, plain), times, strict=True):
            start = clock()
            features(waveform)
            taken.append(clock() - start)
    return statistics.median(times[0]), statistics.median(times[1]), difference


if __name__ == "__main__":
    main()
