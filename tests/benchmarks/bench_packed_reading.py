"""Clips per second out of the packed store against soundfile per clip, each through a DataLoader with two workers.

    python -m tests.benchmarks.bench_packed_reading [--clips 4000] [--pairs 5]

All ways give batches of 256 float32 waveforms in random order: out of the wav files at 44,100 Hz, and out of stores at
44,100 Hz and 32,000 Hz (what the recipes read), these also without workers. They take turns; medians are compared.
Every file is read before, so that nothing waits for the disk.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from torch.utils.data import DataLoader

from common.data.audio import ReadClip, write_wav
from common.data.loading import make_loader
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


def main() -> None:
    """Print the rates, and their ratios to the plain way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=4000)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
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
