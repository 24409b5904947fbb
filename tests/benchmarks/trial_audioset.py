"""What distillation, dynamic convolutions and released weights bring: a miniature AudioSet, and ESC-10.

    python -m tests.benchmarks.trial_audioset miniature --work DIR [--seeds 5] [--epochs 8]
    python -m tests.benchmarks.trial_audioset esc10 --work DIR --pack ESC10_FOLDER --weights mn04_as_mAP_432.pt
        [--seeds 1] [--epochs 5] [--clips N]

miniature (made-up data): mn04 on the labels alone; mn04 distilled from mn10, which was trained on the same labels for
    twice as many epochs; dymn04, of about as many multiply-accumulates, distilled likewise. mAP on the eval clips.
esc10 (real recordings): the released mn04 fine-tuned, against mn04 from random weights in as many epochs; five folds.

Runs are kept in DIR: a second call goes on, and --seeds 5 after --seeds 2 adds three.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.audioset import finetune, recipe
from common.audioset.evaluate import open_tagging_run
from common.audioset.settings import FineTuneSettings, PretrainSettings
from common.audioset.teachers import write_teacher_logits
from common.inference.complexity import measure
from common.output import print_table, say
from common.registry.models import create_model
from common.reports.statistics import mean_interval, paired_difference
from common.settings import load_settings
from common.synthetic.synthesize import synthesize

CONFIGS = Path("common/audioset/configs")
QUIET = {"trainer.measure_energy": False, "trainer.accelerator": "cpu"}
TRAINING = ["balanced_train_segments_mp3.hdf", "unbalanced_train_segments_mp3.hdf"]
Figures = dict[str, dict[int, float]]
"""Way, then seed, to its figure."""


def miniature(work: Path, seeds: int, epochs: int) -> Figures:
    """mAP of the three ways."""
    root, runs = work / "audioset", work / "runs"
    synthesize("audioset", root)
    shared = {"data.root": str(root), "runs": str(runs), "data.watch_test": False, **QUIET}
    shared |= _schedule(epochs)
    longer = _schedule(2 * epochs)
    teacher = load_settings(PretrainSettings, CONFIGS / "small_teacher.yaml", {**shared, **longer, "name": "teacher"})
    recipe.RECIPE.run(teacher)
    say(f"teacher: mAP {open_tagging_run(teacher.folder).read_evaluation()['mAP']['value']:.3f}")
    logits = work / "teacher.hdf"
    if not logits.is_file():
        write_teacher_logits([str(teacher.folder)], root, logits, TRAINING, teacher.data.seconds)
    distilled = {"teacher.logits": str(logits)}
    ways: dict[str, Mapping[str, Any]] = {
        "mn04 alone": {},
        "mn04 distilled": distilled,
        "dymn04 distilled": {**distilled, "model.name": "dymn04", "model.options": {"T_max": epochs}},
    }
    found: Figures = {way: {} for way in ways}
    for seed in range(seeds):
        for way, changes in ways.items():
            name = f"{way.replace(' ', '_')}_{seed}"
            overrides = {**shared, **changes, "seed": seed, "name": name}
            settings = load_settings(PretrainSettings, CONFIGS / "small.yaml", overrides)
            recipe.RECIPE.run(settings)
            found[way][seed] = open_tagging_run(settings.folder).read_evaluation()["mAP"]["value"]
    frames = round(teacher.data.seconds * 32000) // teacher.front_end.hop_length
    for name in ("mn04", "dymn04"):
        counted = measure(create_model(name, num_classes=16), (1, 1, teacher.front_end.n_mels, frames))
        say(f"{name}: {counted.all_calls['total'] / 1e6:.2f} million MACs, {counted.parameters:,} parameters")
    return found


def esc10(work: Path, pack: Path, weights: Path, seeds: int, epochs: int, clips: int | None) -> Figures:
    """Accuracy over the five folds of the two ways."""
    shared = {
        "data.root": str(pack), "data.store": str(work / "encoded"), "data.clips": clips, "runs": str(work / "runs"),
        "loader.num_workers": 0, "loader.batch_size": 16, "model.norm_momentum": 0.1, **QUIET, **_schedule(epochs),
    }  # fmt: skip
    ways: dict[str, Mapping[str, Any]] = {
        "random weights": {"model.name": "mn04", "optim.lr": 2e-3},
        "released weights": {"model.weights": str(weights), "optim.lr": 5e-4},
    }
    found: Figures = {way: {} for way in ways}
    for seed in range(seeds):
        for way, changes in ways.items():
            overrides = {**shared, **changes, "seed": seed, "name": f"{way.replace(' ', '_')}_{seed}"}
            settings = load_settings(FineTuneSettings, CONFIGS / "table.yaml", overrides)
            finetune.RECIPE.run(settings)
            scores = open_tagging_run(settings.folder).read_evaluation()
            found[way][seed] = scores["accuracy"]["value"]
            limits, folds = scores["accuracy"], scores["folds"]
            say(f"{way}, seed {seed}: {limits['value']:.3f} [{limits['low']:.3f}, {limits['high']:.3f}] {folds}")
    return found


def show(title: str, found: Figures, pairs: list[tuple[str, str]]) -> None:
    """Means with 95 % intervals over seeds, and differences in pairs."""
    rows = []
    for way, values in found.items():
        mean = mean_interval(list(values.values()))
        each = " ".join(f"{100 * value:.1f}" for value in values.values())
        rows.append(
            {"way": way, "%": 100 * mean.value, "95 % from": 100 * mean.low, "to": 100 * mean.high, "each": each}
        )
    print_table(rows, title=title)
    if len(next(iter(found.values()))) > 1:
        differences = [(pair, paired_difference(found[pair[0]], found[pair[1]])) for pair in pairs]
        print_table(
            [
                {"against": first, "way": second, "difference": 100 * d.value, "from": 100 * d.low, "to": 100 * d.high}
                for (first, second), d in differences
            ]
        )


def _schedule(epochs: int) -> dict[str, Any]:
    return {
        "trainer.epochs": epochs, "optim.warmup": max(1, epochs // 6), "optim.down_start": epochs // 2,
        "optim.down_length": epochs - epochs // 2,
    }  # fmt: skip


def main() -> None:
    """Run the trial that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trial", choices=["miniature", "esc10"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=None, help="default 5, for esc10 1")
    parser.add_argument("--epochs", type=int, default=None, help="default 8, for esc10 5")
    parser.add_argument("--pack", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--clips", type=int, default=None, help="of each fold; default all")
    options = parser.parse_args()
    if options.trial == "miniature":
        found = miniature(options.work, options.seeds or 5, options.epochs or 8)
        pairs = [("mn04 alone", "mn04 distilled"), ("mn04 distilled", "dymn04 distilled")]
        show("Miniature AudioSet (made-up data): mAP", found, pairs)
    else:
        found = esc10(
            options.work, options.pack, options.weights, options.seeds or 1, options.epochs or 5, options.clips
        )
        show("ESC-10, five folds: accuracy", found, [("random weights", "released weights")])


if __name__ == "__main__":
    main()
