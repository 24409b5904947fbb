"""Do teachers help, does augmentation help? Pre-training on made-up data in AudioSet strong's form, over seeds.

    python -m tests.benchmarks.trial_pretrain [--seeds 5] [--epochs 8] [--clips 120] [--work runs/trials/pretrain]

Every seed trains the same small ATST-F from random weights
    plain         on labels alone, without augmentation,
    augmented     on labels alone, with all augmentations,
    distilled     without augmentation, 0.9 teachers and 0.1 labels; teachers are two networks trained as `augmented`
                  with seeds of their own,
    by plain      the same, with two teachers trained as `plain`,
and scores PSDS1 (mean of classes) on the evaluation clips. Clips are decoded once. The data are made up; so are the
conclusions.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.output import print_table, say
from common.reports.statistics import mean_interval, paired_difference
from common.settings import load_settings
from common.synthetic.synthesize import synthesize
from task4_sed.pretraining.clips import StrongClips
from task4_sed.pretraining.recipe import RECIPE
from task4_sed.pretraining.settings import PretrainSettings

SMALL = "task4_sed/configs/pretrain_small.yaml"
FIGURE = "psds1_macro"
NONE = {"wavmix": None, "frame_shift": 0.0, "mixup": None, "mixstyle": None, "filter": None,
        "frequency_warp": None, "time_mask": None}  # fmt: skip
_decoded: dict[str, Tensor] = {}


def main() -> None:
    """Run the trial and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument("--work", type=Path, default=Path("runs/trials/pretrain"))
    arguments = parser.parse_args()
    root = arguments.work / "data"
    synthesize("audioset_strong", root, clips=arguments.clips)
    StrongClips._gather = gather_decoded  # type: ignore[method-assign]
    figures: dict[str, dict[int, float]] = {"plain": {}, "augmented": {}, "distilled": {}, "teachers": {}}
    figures |= {"by plain": {}, "plain teachers": {}}
    for seed in range(arguments.seeds):
        train = Trainer(arguments.work, root, arguments.epochs, seed)
        figures["plain"][seed] = train("plain", seed, {"augmentation": NONE})
        figures["augmented"][seed] = train("augmented", seed, {})
        teachers = [train(f"teacher{number}", 1000 + 10 * seed + number, {}) for number in range(2)]
        figures["teachers"][seed] = float(np.mean(teachers))
        folders = [str(train.folder(f"teacher{number}")) for number in range(2)]
        distillation = {"weight": 0.9, "teachers": folders}
        figures["distilled"][seed] = train("distilled", seed, {"augmentation": NONE, "distillation": distillation})
        plain = [
            train(f"plain_teacher{number}", 1000 + 10 * seed + number, {"augmentation": NONE}) for number in range(2)
        ]
        figures["plain teachers"][seed] = float(np.mean(plain))
        distillation["teachers"] = [str(train.folder(f"plain_teacher{number}")) for number in range(2)]
        figures["by plain"][seed] = train("by_plain", seed, {"augmentation": NONE, "distillation": distillation})
        say(f"seed {seed}: " + ", ".join(f"{way} {100 * values[seed]:.1f}" for way, values in figures.items()))
    title = f"Made-up data: PSDS1 (mean of classes) in %, {arguments.seeds} seeds, 95 % interval (Student's t)"
    print_table(rows_of(figures), title=title)
    (arguments.work / "figures.json").write_text(json.dumps(figures))


class Trainer:
    """Trains a network of a seed and gives its PSDS1.

    Args:
        work: folder of the runs. root: of the data. epochs: of every training. seed: names the runs.
    """

    def __init__(self, work: Path, root: Path, epochs: int, seed: int):
        self.work, self.root, self.epochs, self.seed = work, root, epochs, seed

    def folder(self, way: str) -> Path:
        """Folder of a run."""
        return self.work / "runs" / f"{way}_{self.seed}"

    def __call__(self, way: str, seed: int, changes: dict[str, Any]) -> float:
        """PSDS1 of a training with some settings changed; runs that are done are kept."""
        settings = load_settings(
            PretrainSettings,
            Path(SMALL),
            {
                "name": self.folder(way).name, "runs": str(self.work / "runs"), "seed": seed,
                "data.root": str(self.root), "data.batch_size": 8,
                "trainer.epochs": self.epochs, "trainer.validate_every": self.epochs,
                "trainer.measure_energy": False, "trainer.accelerator": "cpu", "evaluation.draws": 0, **changes,
            },
        )  # fmt: skip
        return float(RECIPE.cell(settings)[FIGURE])


def gather_decoded(clips: StrongClips, rows: np.ndarray, seeds: np.ndarray) -> dict[str, Tensor]:
    """What `StrongClips` reads, from waveforms that were decoded once."""
    name = clips.clips.name
    if name not in _decoded:
        _decoded[name] = clips.audio.gather(range(len(clips)))["waveform"]
    gathered = {
        "waveform": _decoded[name][torch.from_numpy(rows)],
        "target": torch.from_numpy(clips.targets.gather(rows)),
    }
    if clips.teachers is not None:
        gathered["distilled"] = clips.teachers.gather(rows)
    return gathered


def rows_of(figures: dict[str, dict[int, float]]) -> list[dict[str, str]]:
    """Mean with its interval, and the difference to `plain`, seed by seed."""
    rows = []
    for way, values in figures.items():
        row = {"way": way, "PSDS1": _shown(*mean_interval(list(values.values())))}
        if way != "plain" and len(values) > 1:
            difference = paired_difference(figures["plain"], values)
            row["way - plain"] = _shown(difference.value, difference.low, difference.high)
        rows.append(row)
    return rows


def _shown(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    main()
