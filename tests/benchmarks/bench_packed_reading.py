"""Clips per second out of the packed store against soundfile per clip, each through a DataLoader with two workers.

    python -m tests.benchmarks.bench_packed_reading [--clips 4000] [--pairs 5]
    python -m tests.benchmarks.bench_packed_reading --grow 256,512,1024

All ways give batches of 256 float32 waveforms in random order: out of the wav files at 44,100 Hz, and out of stores at
44,100 Hz and 32,000 Hz (what the recipes read), these also without workers. They take turns; medians are compared.
Every file is read before, so that nothing waits for the disk. --grow reads stores of so many MiB for an epoch, shuffled
by blocks, each in a process of its own: processor time, and the most memory that the process took.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from torch.utils.data import DataLoader

from common.data.audio import ReadClip, write_wav
from common.data.loading import PackedClips, make_loader
from common.data.packing import pack
from task1_asc.data.clips import open_clips
from task1_asc.data.tau2022 import CLIP_SAMPLES, SAMPLE_RATE

BATCH = 256
WORKERS = 2
PLAIN = "soundfile per clip"


def write_clips(folder: Path, count: int) -> pd.DataFrame:
    """Noise as 24-bit wavs of one second, labelled as scenes."""
    random = np.random.default_rng(0)
    names = [f"audio/{index}.wav" for index in range(count)]
    for name in names:
        noise = random.uniform(-0.5, 0.5, CLIP_SAMPLES).astype(np.float32)
        write_wav(folder / name, noise, SAMPLE_RATE, "PCM_24")
    return pd.DataFrame({"filename": names, "scene_label": "park", "source_label": "a"})


def make_loaders(root: Path, clips: pd.DataFrame) -> dict[str, DataLoader]:
    """The ways to compare; the plain one reads item by item and joins them with the loader's own collate function."""
    plain = DataLoader(open_clips(clips, root), BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)
    loaders = {PLAIN: plain}
    for rate in (SAMPLE_RATE, 32_000):
        store, samples = root / str(rate), -(-CLIP_SAMPLES * rate // SAMPLE_RATE)
        pack(clips, ReadClip(root, rate, samples), store, sample_rate=rate, num_samples=samples)
        dataset = open_clips(clips, root, store)
        for workers in (WORKERS, 0):
            name = f"packed at {rate} Hz, {workers} workers"
            loaders[name] = make_loader(dataset, BATCH, shuffle_seed=0, num_workers=workers)
    return loaders


def seconds_of_an_epoch(loader: DataLoader) -> float:
    """Time for all batches; the workers are running already."""
    start = time.perf_counter()
    clips = sum(len(batch["waveform"]) for batch in loader)
    seconds = time.perf_counter() - start
    assert clips == len(loader.dataset)  # type: ignore[arg-type]
    return seconds


def grow(mebibytes: int) -> None:
    """Pack a store of this size and read it in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        table = pd.DataFrame({"filename": [str(number) for number in range(mebibytes * 16)]})
        ramp = np.linspace(-0.5, 0.5, 32 * 1024, dtype=np.float32)  # 64 KiB
        pack(table, lambda _: ramp, Path(folder) / "store", sample_rate=32_000, num_samples=len(ramp))
        command = [sys.executable, "-m", "tests.benchmarks.bench_packed_reading", "--store", f"{folder}/store"]
        print(
            f"{mebibytes:6,d} MiB: {subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()}"
        )


def read(store: Path) -> None:
    """Read an epoch, and print what it took beyond the first batch."""
    loader = make_loader(PackedClips(store), BATCH, shuffle_seed=0, shuffle_block=128)
    next(iter(loader))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, time.process_time()
    clips = sum(len(batch["waveform"]) for batch in loader)
    seconds, most = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{1e6 * seconds / clips:.0f} us a clip, memory {before} MiB after a batch, {most} MiB at most")


def main() -> None:
    """Print the rates, and their ratios to the plain way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=4000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--grow", help="sizes in MiB, with commas")
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.store or options.grow:
        for size in (options.grow or "").split(","):
            read(options.store) if options.store else grow(int(size))
        return
    with tempfile.TemporaryDirectory() as folder:
        loaders = make_loaders(Path(folder), write_clips(Path(folder), options.clips))
        for loader in loaders.values():
            seconds_of_an_epoch(loader)
        rates: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(options.pairs):
            for name, loader in loaders.items():
                rates[name].append(options.clips / seconds_of_an_epoch(loader))
    plain = statistics.median(rates[PLAIN])
    for name, values in rates.items():
        median = statistics.median(values)
        spread = f"{min(values):,.0f} to {max(values):,.0f}"
        print(
            f"{name}: median {median:,.0f} clips/s of {options.pairs} ({spread}), ratio {median / plain:.1f} (aim: 10)"
        )


if __name__ == "__main__":
    main()
