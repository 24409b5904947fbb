"""Batches of Task 4 from packed stores and event arrays, against a loader that reads a file and encodes rows per item.

The loader beside it does what the official recipe does in `__getitem__`: it opens the wav, takes the mean over its
channels, pads, selects the clip's rows of a DataFrame and writes them one after another into the label grid.

    python -m tests.benchmarks.bench_task4_loading [--clips 300] [--steps 10]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset

from common.synthetic.synthesize import synthesize
from task4_sed.data.clips import GroupedBatches, GroupSampler, SoundEventClips
from task4_sed.data.sets import ClipSet, pack_set, read_set
from task4_sed.data.targets import valid_classes, with_aliases
from task4_sed.labels import CLASSES, CLIP_SAMPLES, NUM_FRAMES, LabelSettings

GROUPS = (("maestro_train", 12), ("synthetic_train", 12), ("weak", 12), ("unlabeled", 24))
PAIRS = 5


class RowByRow(Dataset):
    """One wav, one DataFrame and one walk through its rows per item."""

    def __init__(self, clips: ClipSet, settings: LabelSettings):
        self.folder, self.names = clips.folder, list(clips.filenames)
        self.events: list[list[dict]] = [[] for _ in self.names]
        for event in with_aliases(clips.events, clips.layout.domain, settings).to_dict("records"):
            self.events[event["clip"]].append(event)
        self.timed = clips.layout.kind in ("strong", "soft")
        self.valid = torch.from_numpy(valid_classes(clips.layout.domain, settings))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        waveform, _ = soundfile.read(self.folder / self.names[index], dtype="float32", always_2d=True)
        padded = torch.zeros(CLIP_SAMPLES)
        mono = torch.from_numpy(waveform.mean(axis=1))[:CLIP_SAMPLES]
        padded[: len(mono)] = mono
        grid = np.zeros((len(CLASSES), NUM_FRAMES), dtype=np.float32)
        for _, row in pd.DataFrame(self.events[index]).drop_duplicates().iterrows():
            label = CLASSES.index(row["event_label"])
            if np.isnan(row["onset"]):
                grid[label, 0] = 1
                continue
            first, last = int(np.floor(row["onset"] / 0.064)), int(np.ceil(row["offset"] / 0.064))
            cells = grid[label, first:last]
            cells[:] = np.maximum(cells, row.get("confidence", 1.0))
        return padded, torch.from_numpy(grid), self.valid


def main() -> None:
    """Print the seconds of a batch both ways, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        synthesize("task4_sed", root, clips=arguments.clips)
        measure(root, arguments.steps)


def measure(root: Path, steps: int) -> None:
    """Read `steps` batches of the same clips in either way, `PAIRS` times in turn."""
    settings = LabelSettings()
    sets = [read_set(root, name) for name, _ in GROUPS]
    for name, _ in GROUPS:
        pack_set(root, name)
    counts = [count for _, count in GROUPS]
    ours = GroupedBatches([[SoundEventClips(clips, root, settings)] for clips in sets])
    theirs = [RowByRow(clips, settings) for clips in sets]
    batch = ours[next(iter(GroupSampler(ours.sizes, counts, seed=0)))]
    check_same(batch, theirs, counts)
    times: dict[str, list[float]] = {"packed": [], "row by row": []}
    for pair in range(PAIRS):
        sampler = GroupSampler(ours.sizes, counts, seed=pair)
        plans = [plan for epoch in range(steps) for plan in _epoch(sampler, epoch)][:steps]
        begin = time.perf_counter()
        for plan in plans:
            ours[plan]
        times["packed"].append((time.perf_counter() - begin) / steps)
        begin = time.perf_counter()
        for plan in plans:
            for dataset, rows in zip(theirs, plan.rows, strict=True):
                next(iter(DataLoader(dataset, batch_size=len(rows), sampler=rows.tolist())))
        times["row by row"].append((time.perf_counter() - begin) / steps)
    fast, slow = (statistics.median(times[name]) for name in ("packed", "row by row"))
    ratios = [b / a for a, b in zip(times["packed"], times["row by row"])]
    print(f"batch of {sum(counts)} clips, one process: packed {1000 * fast:.1f} ms, row by row {1000 * slow:.1f} ms")
    print(f"ratio {statistics.median(ratios):.1f} (median of {PAIRS} pairs; {min(ratios):.1f} to {max(ratios):.1f})")


def check_same(batch: dict, theirs: list[RowByRow], counts: list[int]) -> None:
    """Both loaders must give the same waveforms and labels."""
    position = 0
    for dataset, count in zip(theirs, counts, strict=True):
        for row in range(position, position + count):
            waveform, grid, _ = dataset[dataset.names.index(batch["filename"][row])]
            torch.testing.assert_close(batch["waveform"][row], waveform, atol=1e-4, rtol=0)
            if dataset.timed:
                torch.testing.assert_close(batch["strong"][row], grid)
        position += count


def _epoch(sampler: GroupSampler, epoch: int) -> list:
    sampler.set_epoch(epoch)
    return list(sampler)


if __name__ == "__main__":
    main()
