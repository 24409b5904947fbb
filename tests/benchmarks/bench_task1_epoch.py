"""An epoch of the Task 1 baseline: the kit's training against the official order of work, side by side.

The official way, written plainly: Lightning and torch's loader, a wav file for each clip, and what
`bench_training_step.PlainStep` does. The kit trains out of the packed store of the same clips. Each way has a process
with one thread; they take turns epoch by epoch. Processor time of whole epochs, reading and checkpoints included.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_task1_epoch [--clips 256] [--batch 64] [--pairs 5]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from common.data.audio import ReadClip
from common.data.loading import make_loader
from common.data.packing import pack
from common.settings import load_settings
from common.training.trainer import fit, make_trainer, silence_lightning
from task1_asc.data.clips import open_clips
from task1_asc.data.tau2022 import CLIP_SAMPLES, SAMPLE_RATE
from task1_asc.settings import Task1Settings
from task1_asc.train import SceneTraining
from tests.benchmarks.bench_packed_reading import write_clips
from tests.benchmarks.bench_training_step import BASELINE, PlainStep

RATE = 32_000


class TakesTurns(Callback):
    """Waits for a line on stdin before each epoch, and prints the seconds of the one before."""

    started = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report and wait; the checkpoint of the epoch before is written by now."""
        print(time.process_time() - self.started, flush=True)
        sys.stdin.readline()
        self.started = time.process_time()


class OfficialTraining(LightningModule):
    """The published training step."""

    def __init__(self) -> None:
        super().__init__()
        self.step = PlainStep(np.empty((0, 0)), torch.empty(0))
        self.network = self.step.network

    def training_step(self, batch: dict[str, Any], _: int) -> torch.Tensor:
        """Loss of a batch."""
        self.step.waveforms = batch["waveform"].numpy()
        loss = F.cross_entropy(
            self.network(self.step.features(np.arange(len(batch["target"])))).logits, batch["target"]
        )
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return self.step.optimizer


def train(kind: str, root: Path, clips: Any, batch: int, epochs: int) -> None:
    """Train one way, an epoch at each turn."""
    silence_lightning()
    folder = root / kind
    if kind == "official":
        loader = DataLoader(open_clips(clips, root), batch, shuffle=True)
        trainer = Trainer(
            accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=folder, callbacks=[ModelCheckpoint(folder, save_last=True), TakesTurns()],
        )  # fmt: skip
        trainer.fit(OfficialTraining(), loader)
        return
    settings = load_settings(Task1Settings, BASELINE, {"trainer.epochs": epochs, "trainer.accelerator": "cpu"})
    loader = make_loader(open_clips(clips, root, root / "store"), batch, shuffle_seed=0)
    fit(make_trainer(settings.trainer, folder, 0, callbacks=[TakesTurns()]), SceneTraining(settings, RATE), loader)


def main() -> None:
    """Print the medians and the ratio of pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--one", nargs=2, help="kind and folder, for a process of its own")
    arguments = parser.parse_args()
    kinds = ("official", "kit")
    if arguments.one:
        kind, root = arguments.one
        torch.set_num_threads(1)
        table = pd.read_csv(Path(root) / "clips.csv")
        train(kind, Path(root), table, arguments.batch, arguments.pairs + 2)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        clips = write_clips(root, arguments.clips)
        clips.to_csv(root / "clips.csv", index=False)
        samples = CLIP_SAMPLES * RATE // SAMPLE_RATE
        pack(clips, ReadClip(root, RATE, samples), root / "store", sample_rate=RATE, num_samples=samples)
        words = [sys.executable, "-m", "tests.benchmarks.bench_task1_epoch", "--batch", str(arguments.batch)]
        words += ["--pairs", str(arguments.pairs), "--one"]
        running = [
            subprocess.Popen([*words, kind, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for kind in kinds
        ]
        for process in running:
            seconds_told(process)
        seconds = [[next_epoch(process) for process in running] for _ in range(arguments.pairs + 1)][1:]
        for process in running:
            process.kill()
            process.wait()
    official, kit = zip(*seconds)
    ratios = [one / other for one, other in seconds]
    print(
        f"epoch of {arguments.clips} clips, batch {arguments.batch}, one thread: official "
        f"{statistics.median(official):.2f} s, kit {statistics.median(kit):.2f} s, median ratio "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})"
    )


def next_epoch(process: "subprocess.Popen[str]") -> float:
    """Let a process do an epoch; its seconds."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return seconds_told(process)


def seconds_told(process: "subprocess.Popen[str]") -> float:
    """What a process prints before it waits."""
    assert process.stdout is not None
    return float(process.stdout.readline())


if __name__ == "__main__":
    main()
