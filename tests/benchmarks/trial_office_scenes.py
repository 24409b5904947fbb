"""What training, a mean teacher and event boxes bring on real sounds: 80 office scenes with exact labels.

    python -m tests.benchmarks.trial_office_scenes --pack office_sed_mixtures [--trials training teacher boxes]
        [--seeds 3] [--epochs 120]

training: a small CRNN trained on 60 scenes against the same one without training, PSDS1 on the other 20.
teacher: half of the labels are taken away; a mean teacher that hears the unlabelled scenes too, against supervision on
    the labelled ones alone, with as many steps.
boxes: raw scores, median filters, and event boxes tuned across folds, of the trained networks.

The pack is a folder with audio/ and events.tsv (filename, onset, offset, event_label). Each seed parts the scenes anew.
PSDS1 takes the deviation over classes away; beside it stands the mean of the classes' own scores, without that.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from common.output import print_table, say
from common.reports.statistics import mean_interval, paired_difference
from common.settings import load_settings
from task4_sed.baseline.settings import Task4Settings
from task4_sed.systems import load_recipe

SMALL = Path("task4_sed/configs/small.yaml")
TRAINED, BATCH = 60, 10
FOLDERS = {"strong": "audio/train/strong_label_real", "unlabeled": "audio/train/unlabel_in_domain",
           "validation": "audio/validation/validation"}  # fmt: skip
NETWORK = {
    "front_end.n_mels": 64, "model.filters": [8, 16, 32], "model.pooling": [[4, 4], [1, 4], [1, 4]],
    "model.rnn_dim": 64, "model.dropout": 0.1, "mixup.probability": 0.5, "optim.lr": 6e-3,
}  # fmt: skip
BOXES = {"step_filter_lengths": [0.32, 0.48, 0.64], "folds": 4}

Scores = dict[str, dict[int, float]]
"""Figure and way, then seed, to its value."""


def write_tree(pack: Path, root: Path, seed: int, labelled_share: float) -> list[str]:
    """Part the scenes into the layout of DESED: labelled, unlabelled (all to train on), and test; gives the classes."""
    events = pd.read_csv(pack / "events.tsv", sep="\t")
    names = np.array(sorted(path.name for path in (pack / "audio").iterdir()))
    order = np.random.default_rng(seed).permutation(len(names))
    training, test = names[order[:TRAINED]], names[order[TRAINED:]]
    labelled = training[: round(labelled_share * TRAINED)]
    for name, clips in (("strong", labelled), ("unlabeled", training), ("validation", test)):
        folder = root / FOLDERS[name]
        folder.mkdir(parents=True)
        for clip in clips:
            (folder / clip).symlink_to((pack / "audio" / clip).resolve())
    tables = {"metadata/train/audioset_strong.tsv": labelled, "metadata/validation/validation.tsv": test}
    for path, clips in tables.items():
        table = pd.DataFrame({"filename": clips}).merge(events, how="left")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(root / path, sep="\t", index=False)
    durations = pd.DataFrame({"filename": test, "duration": 10.0})
    durations.to_csv(root / "metadata/validation/validation_durations.tsv", sep="\t", index=False)
    return sorted(events["event_label"].unique())


def train(root: Path, runs: Path, name: str, seed: int, classes: list[str], epochs: int, **overrides: Any) -> dict:
    """Scores of a run on the test scenes; one of the same name is tested again, not trained again."""
    plain = {
        "data.root": str(root), "runs": str(runs), "name": name, "seed": seed, "labels.classes": classes,
        "data.batch": [{"sets": ["strong"], "clips": BATCH}], "teacher": None,
        "validation": {"weak": False, "synthetic": False, "maestro": False}, "optim.warmup_epochs": 2,
        "optim.decay_from_epoch": epochs // 2, "trainer.epochs": epochs, "trainer.measure_energy": False,
        "trainer.accelerator": "cpu",
    }  # fmt: skip
    settings = load_settings(Task4Settings, SMALL, {**NETWORK, **plain, **overrides})
    return load_recipe().run(settings, redo=["test"]).read_evaluation()["networks"]


def psds1(networks: dict, network: str = "student", kind: str = "postprocessed") -> tuple[float, float]:
    """PSDS1 on the test scenes, and the mean of its classes."""
    figures = networks[network][kind]["validation"]["psds1"]
    return figures["value"], float(np.mean(list(figures["per_class"].values())))


def compare_training(pack: Path, work: Path, seeds: int, epochs: int, with_boxes: bool) -> Scores:
    """Untrained against trained on 60 scenes; and what becomes of the trained network's scores."""
    found: Scores = {}
    for seed in range(seeds):
        root = work / f"whole_{seed}"
        classes = write_tree(pack, root, seed, 1.0)
        untrained = train(root, work, f"untrained_{seed}", seed, classes, 1, **{"optim.lr": 1e-12})
        trained = train(root, work, f"trained_{seed}", seed, classes, epochs)
        row = {"untrained": psds1(untrained), "trained": psds1(trained)}
        if with_boxes:
            boxed = {"postprocessing.boxes": BOXES}
            row = {
                "raw": psds1(trained, kind="raw"),
                "median, 7 frames": row["trained"],
                "event boxes, tuned across folds": psds1(
                    train(root, work, f"trained_{seed}", seed, classes, epochs, **boxed)
                ),
            }
        _note(found, row, seed)
    return found


def compare_teacher(pack: Path, work: Path, seeds: int, epochs: int) -> Scores:
    """Half of the labels: supervision on what is left, and a mean teacher beside it; the same number of steps."""
    found: Scores = {}
    half = [{"sets": ["strong"], "clips": BATCH // 2}]
    for seed in range(seeds):
        root = work / f"half_{seed}"
        classes = write_tree(pack, root, seed, 0.5)
        supervised = train(root, work, f"supervised_{seed}", seed, classes, epochs, **{"data.batch": half})
        mean_teacher = {
            "data.batch": [*half, {"sets": ["unlabeled"], "clips": BATCH}],
            "teacher": {"decay": 0.99, "ramp_epochs": epochs // 3},
        }
        both = train(root, work, f"teacher_{seed}", seed, classes, epochs, **mean_teacher)
        row = {"supervised": psds1(supervised), "student": psds1(both), "teacher": psds1(both, "teacher")}
        _note(found, row, seed)
    return found


def show(title: str, found: Scores) -> None:
    """Means with 95 % intervals over seeds, and each way's difference from the first, in pairs."""
    rows = []
    for name, values in found.items():
        figure = name.partition(": ")[0]
        first = next(values for other, values in found.items() if other.startswith(f"{figure}: "))
        mean = mean_interval(list(values.values()))
        row = {"figure": figure, "way": name.removeprefix(f"{figure}: "), "value": round(mean.value, 4)}
        row |= {"95 % from": mean.low, "to": mean.high}
        if values is not first and len(first) > 1:
            difference = paired_difference(first, values)
            row |= {"difference": difference.value, "from": difference.low, "to ": difference.high}
        rows.append({**row, "each seed": " ".join(f"{value:.3f}" for value in values.values())})
    print_table(rows, title=title)


def main() -> None:
    """Run the trials that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--trials", nargs="+", default=["training", "teacher", "boxes"])
    parser.add_argument("--seeds", type=int, default=None, help="default 3, for the teacher 5")
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--out", type=Path, default=None, help="JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    every: dict[str, Scores] = {}
    for trial in arguments.trials:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            if trial == "teacher":
                every[trial] = compare_teacher(arguments.pack, work, arguments.seeds or 5, arguments.epochs)
            else:
                seeds = arguments.seeds or 3
                every[trial] = compare_training(arguments.pack, work, seeds, arguments.epochs, trial == "boxes")
        show(f"{trial}: 20 office scenes", every[trial])
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(every, indent=2) + "\n", encoding="utf-8")
        say(f"Figures: {arguments.out}")


def _note(found: Scores, row: dict[str, tuple[float, float]], seed: int) -> None:
    for position, figure in enumerate(("PSDS1", "mean of classes")):
        for name, values in row.items():
            found.setdefault(f"{figure}: {name}", {})[seed] = values[position]
    say(f"seed {seed}: {', '.join(f'{name} {value:.3f} ({mean:.3f})' for name, (value, mean) in row.items())}")


if __name__ == "__main__":
    main()
