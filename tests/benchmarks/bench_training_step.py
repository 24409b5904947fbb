"""One training step of the Task 1 baseline: this kit against the published order of operations, written plainly.

The plain step does what the published code does in each step: rolls each clip with numpy, resamples the batch to
32 kHz, makes the mel spectrogram with torchaudio's modules, masks, takes the logarithm, mixes styles, and trains. Its
clips are in memory; the kit's come out of a packed store. Both train the same network with the same optimiser and take
turns. --cpu_time counts processor time, for a machine on which other programs run.

    python -m tests.benchmarks.bench_training_step [--batch 64] [--pairs 7] [--cpu_time]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import torchaudio

from common.data.loading import PackedClips
from common.data.packing import pack
from common.features.augment import mix_statistics
from common.models.network import channels_last
from common.registry.models import create_model
from common.settings import load_settings
from task1_asc.settings import Task1Settings
from task1_asc.train import SceneTraining

BASELINE = Path("task1_asc/configs/baseline.yaml")
WIDTHS = {"base_channels": 32, "channels_multiplier": 1.8, "expansion_rate": 2.1}


class PlainStep:
    """The published order of operations."""

    def __init__(self, waveforms: np.ndarray, targets: torch.Tensor):
        self.waveforms, self.targets = waveforms, targets
        self.resample = torchaudio.transforms.Resample(44100, 32000)
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate=32000, n_fft=4096, win_length=3072, hop_length=500, n_mels=256, f_min=0.0, f_max=None
        )
        self.mask = torchaudio.transforms.FrequencyMasking(48, iid_masks=True)
        self.network = create_model("task1_baseline", **WIDTHS).train()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=5e-3, weight_decay=1e-4)

    def features(self, indices: np.ndarray) -> torch.Tensor:
        """(batch, 1, 256, 65)."""
        clips = []
        for index in indices:
            shift = np.random.randint(-4410, 4411)
            clips.append(torch.from_numpy(np.roll(self.waveforms[index], shift)))
        spectrogram = self.mask(self.mel(self.resample(torch.stack(clips)[:, None])))
        spectrogram = (spectrogram + 1e-5).log()
        if np.random.random() > 0.4:
            return spectrogram
        weight = torch.distributions.Beta(0.3, 0.3).sample((len(spectrogram), 1, 1, 1))
        partner = torch.randperm(len(spectrogram))
        mean = spectrogram.mean(dim=[1, 3], keepdim=True)
        deviation = (spectrogram.var(dim=[1, 3], keepdim=True) + 1e-6).sqrt()
        mixed_mean = mean * weight + mean[partner] * (1 - weight)
        mixed_deviation = deviation * weight + deviation[partner] * (1 - weight)
        return (spectrogram - mean) / deviation * mixed_deviation + mixed_mean

    def __call__(self, indices: np.ndarray) -> None:
        """Train on the clips."""
        loss = F.cross_entropy(self.network(self.features(indices)).logits, self.targets[indices])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class KitStep:
    """The kit's training step, out of its packed store."""

    def __init__(self, store: Path, targets: torch.Tensor):
        self.clips, self.targets = PackedClips(store), targets
        self.module = SceneTraining(load_settings(Task1Settings, BASELINE), 32000).train()
        channels_last(self.module.network)
        self.module.log = lambda *_, **__: None  # type: ignore[method-assign]
        self.optimizer = torch.optim.AdamW(self.module.network.parameters(), lr=5e-3, weight_decay=1e-4)
        self.number = 0

    def batch(self, indices: np.ndarray) -> dict:
        """As the loader gives it."""
        waveform = self.clips.gather(indices)["waveform"]
        return {"waveform": waveform, "target": self.targets[indices], "recording_device": ["a"] * len(indices)}

    def features(self, indices: np.ndarray) -> torch.Tensor:
        """(batch, 1, 256, 65)."""
        self.number += 1
        generator = torch.Generator().manual_seed(self.number)
        batch = self.batch(indices)
        augmentation = self.module.augmentation
        draws = augmentation.draw(batch["recording_device"], generator)
        waveform, _ = augmentation.waveforms(batch["waveform"], batch["target"], draws)
        self.module.front_end.mask = lambda power: augmentation.power(power, draws)
        spectrogram = self.module.front_end(waveform)
        return spectrogram if draws.style is None else mix_statistics(spectrogram, *draws.style)

    def __call__(self, indices: np.ndarray) -> None:
        """Train on the clips."""
        self.number += 1
        loss = self.module.training_step(self.batch(indices), self.number)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def make_store(waveforms: np.ndarray, folder: Path) -> Path:
    """Pack made-up clips at 32 kHz."""
    from common.data.audio import resample

    names = [f"{number}.wav" for number in range(len(waveforms))]
    table = pd.DataFrame({"filename": names})
    rows = dict(zip(names, resample(waveforms, 44100, 32000)))
    pack(table, lambda row: rows[row["filename"]], folder, sample_rate=32000, num_samples=32000)
    return folder


def main() -> None:
    """Print the median of each part and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--cpu_time", action="store_true")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    random = np.random.default_rng(0)
    waveforms = (0.1 * random.normal(size=(4 * arguments.batch, 44100))).astype(np.float32)
    targets = torch.from_numpy(random.integers(0, 10, len(waveforms)))
    with tempfile.TemporaryDirectory() as folder:
        steps = {"plain": PlainStep(waveforms, targets), "kit": KitStep(make_store(waveforms, Path(folder)), targets)}
        for part in ("features", "__call__"):
            times: dict[str, list[float]] = {name: [] for name in steps}
            for pair in range(arguments.pairs + 1):
                indices = random.permutation(len(waveforms))[: arguments.batch]
                for name, step in steps.items():
                    start = clock()
                    getattr(step, part)(indices)
                    if pair > 0:
                        times[name].append(clock() - start)
            ratios = [plain / kit for plain, kit in zip(times["plain"], times["kit"])]
            what = "features" if part == "features" else "whole step"
            medians = ", ".join(f"{name} {1000 * statistics.median(values):.0f} ms" for name, values in times.items())
            print(
                f"{what}, batch {arguments.batch}, {torch.get_num_threads()} threads: {medians}, median ratio "
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
