"""What empty tensors and freed memory cost a training of Task 1, on made-up clips in memory.

Each training has a process of its own, and the three kinds take turns: as PyTorch does it when it is deterministic
(empty tensors are filled, freed memory goes back to the system), without the filling, and as the kit does it (freed
memory is kept as well). Processor time, one thread; the digest of the weights must be one and the same.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_memory [--batch 128] [--steps 6] [--epochs 2] [--series 5]
"""

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from common.data.loading import make_loader
from common.output import print_table
from common.settings import load_settings
from common.training.seeds import seed_all
from common.training.trainer import fit, make_trainer
from task1_asc.settings import Task1Settings
from task1_asc.train import SceneTraining

BASELINE = Path("task1_asc/configs/baseline.yaml")
KINDS = {"filled, returned": (True, False), "returned": (False, False), "kept (the kit)": (False, True)}


class Clips(Dataset[Any]):
    """Noise of one second in place of clips."""

    def __init__(self, count: int):
        random = np.random.default_rng(0)
        self.waveforms = (0.1 * random.normal(size=(count, 32000))).astype(np.float32)
        self.targets = torch.from_numpy(random.integers(0, 10, count))

    def __len__(self) -> int:
        return len(self.targets)

    def gather(self, indices: np.ndarray) -> dict[str, Any]:
        """A batch."""
        rows = np.asarray(indices)
        waveforms = torch.from_numpy(self.waveforms[rows])
        return {"waveform": waveforms, "target": self.targets[rows], "recording_device": ["a"] * len(rows)}


def train(kind: str, batch: int, steps: int, epochs: int) -> dict[str, Any]:
    """Seconds, page faults, peak memory and digest of one training in this process."""
    fill, keep = KINDS[kind]
    settings = load_settings(Task1Settings, BASELINE)
    differs = {"epochs": epochs, "accelerator": "cpu", "measure_energy": False, "keep_memory": keep}
    with tempfile.TemporaryDirectory() as folder:
        seed_all(0)
        module = SceneTraining(settings, 32000)
        trainer = make_trainer(settings.trainer.model_copy(update=differs), Path(folder), 0)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        loader = make_loader(Clips(batch * steps), batch, shuffle_seed=0)
        faults, started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        fit(trainer, module, loader)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    weights = b"".join(value.numpy().tobytes() for value in module.network.state_dict().values())
    return {
        "seconds": time.process_time() - started,
        "page faults": usage.ru_minflt - faults,
        "peak MB": usage.ru_maxrss // 1024,
        "digest": hashlib.sha256(weights).hexdigest()[:8],
    }


def main() -> None:
    """Print the medians of each kind, and the ratio of pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--series", type=int, default=5)
    parser.add_argument("--one", choices=KINDS, help="train once in this process and print JSON")
    arguments = parser.parse_args()
    sizes = (arguments.batch, arguments.steps, arguments.epochs)
    if arguments.one:
        print(json.dumps(train(arguments.one, *sizes)))
        return
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for _ in range(arguments.series):
        for kind in KINDS:
            options = ["--batch", "--steps", "--epochs"]
            words = [word for pair in zip(options, map(str, sizes)) for word in pair]
            command = [sys.executable, "-m", "tests.benchmarks.bench_memory", "--one", kind, *words]
            made = subprocess.run(command, capture_output=True, text=True, check=True)
            found[kind].append(json.loads(made.stdout.splitlines()[-1]))
    first = found["filled, returned"]
    rows = []
    for kind, each in found.items():
        ratios = [one["seconds"] / other["seconds"] for one, other in zip(first, each)]
        medians = {name: statistics.median(one[name] for one in each) for name in ("seconds", "page faults", "peak MB")}
        seconds = f"{medians.pop('seconds'):.1f}"
        digests = ", ".join(sorted({one["digest"] for one in each}))
        rows.append({"memory": kind, "seconds": seconds, "ratio": f"{statistics.median(ratios):.2f}", **medians,
                     "weights": digests})  # fmt: skip
    print_table(rows, title=f"{arguments.epochs} epochs of {arguments.steps} steps of {arguments.batch} clips")


if __name__ == "__main__":
    main()
