"""Device impulse responses: a batch at once by FFT, against one convolution per clip as the published code does it.

The plain way is scipy.signal.convolve on each clip (fschmid56/cpjku_dcase23 and theMoro/DIRAugmentation, datasets).
Responses are as long as those of MicIRP (16,446 to 22,050 samples at 44.1 kHz, resampled to 32 kHz); every clip is
convolved. --cpu_time counts processor time, for a machine on which other programs run.

    python -m tests.benchmarks.bench_dir [--batch 256] [--pairs 7] [--responses FOLDER] [--cpu_time]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.signal import convolve

from common.features.impulse_responses import DeviceImpulseResponses


def write_responses(folder: Path) -> Path:
    """Sixty-six decaying noises with the lengths of MicIRP's responses."""
    random = np.random.default_rng(0)
    for number, length in enumerate(random.integers(16446, 22051, 66)):
        response = random.normal(size=length) * np.exp(-np.arange(length) / 300) / 10
        soundfile.write(folder / f"{number:02d}.wav", response, 44100, subtype="PCM_24")
    return folder


def one_by_one(waveform: torch.Tensor, responses: list[np.ndarray], choice: torch.Tensor) -> torch.Tensor:
    """Each clip of (batch, samples) by itself."""
    clips = [
        torch.from_numpy(convolve(clip.numpy(), responses[number], "full")[: len(clip)])
        for clip, number in zip(waveform, choice)
    ]
    return torch.stack(clips)


def compare(bank: DeviceImpulseResponses, what: str, batch: int, pairs: int, clock: Callable[[], float]) -> None:
    """Time both ways in turn and print the ratio."""
    generator = torch.Generator().manual_seed(0)
    responses = [np.trim_zeros(response.numpy(), "b") for response in bank.responses]
    waveform = 0.1 * torch.randn(batch, 32000, generator=generator)
    times: dict[str, list[float]] = {"kit": [], "plain": []}
    for pair in range(pairs + 1):
        choice = torch.randint(len(responses), (batch,), generator=generator)
        start = clock()
        ours = bank.convolve(waveform, choice)
        middle = clock()
        theirs = one_by_one(waveform, responses, choice)
        end = clock()
        assert (ours - theirs).abs().max() < 1e-4
        if pair > 0:
            times["kit"].append(middle - start)
            times["plain"].append(end - middle)
    ratios = [plain / kit for plain, kit in zip(times["plain"], times["kit"])]
    medians = ", ".join(f"{name} {1000 * statistics.median(values):.0f} ms" for name, values in times.items())
    print(
        f"{what}, batch {batch}, {torch.get_num_threads()} threads: {medians}, median ratio "
        f"{statistics.median(ratios):.1f} ({min(ratios):.1f} .. {max(ratios):.1f})",
        flush=True,
    )


def main() -> None:
    """Compare whole responses, and responses cut to 32 ms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--responses", type=Path)
    parser.add_argument("--cpu_time", action="store_true")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        responses = arguments.responses or write_responses(Path(folder))
        compare(DeviceImpulseResponses(responses, 32000), "whole responses", arguments.batch, arguments.pairs, clock)
        short = DeviceImpulseResponses(responses, 32000, max_duration=0.032)
        compare(short, "responses of 32 ms", arguments.batch, arguments.pairs, clock)


if __name__ == "__main__":
    main()
