"""What each step of the winner's recipe of Task 4 brings, at a size that one processor core can do.

    python -m tests.benchmarks.trial_two_iterations --out FILE.json [--pack office_sed_mixtures] [--seeds 5]
        [--epochs 20] [--clips 200] [--whole_only]

Untrained transformers of two narrow blocks, a narrow CRNN and some hundred steps for each training: far too little to
find events well, so that little can be expected of what builds on them (pseudo-labels, agreement with a teacher). The
trial shows that the parts work together, and in which direction each of them moves the figures here.

Without --pack: made-up data, the same for all seeds, whose training differs. With it: 60 office scenes (audio/ and
events.tsv) of which half are labelled, 20 to test on; each seed parts them anew. Compared are stage 2 with stage 1,
iteration 2 with iteration 1, the ensemble with its members, and the whole with each part of the loss left out once.

Figures: mean over classes of their own PSDS1 (the official one takes the deviation over classes away, which leaves 0
of scores this low), and mpAUC on MAESTRO where there is any; raw scores.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.data.files import write_json
from common.output import print_table, say
from common.reports.statistics import mean_interval, paired_difference
from common.runs.stages import Run, run_stages
from common.settings import load_settings
from common.synthetic.synthesize import synthesize
from task4_sed.evaluate import desed_figures, maestro_figures, test_sets
from task4_sed.iterations.data import DistilledClips, read_clips
from task4_sed.iterations.recipe import load_training, make_stages, write_scores
from task4_sed.iterations.settings import TwoIterations
from task4_sed.scores.store import read_scores as read_store
from task4_sed.systems import AnySystem
from tests.benchmarks.trial_office_scenes import write_tree

SMALL = Path("task4_sed/configs/two_iterations_small.yaml")
MEMBERS = ["atst", "beats"]
FIGURES = ("PSDS1, mean of classes", "mpAUC")
LEFT_OUT = {  # stage in which it is left out (2: of the first iteration, 1: of the second), and its weight
    "without MAESTRO labels": (2, "maestro"),
    "without strong labels": (2, "strong"),
    "without synthetic labels": (2, "synthetic"),
    "without weak labels": (2, "weak"),
    "without consistency": (2, "consistency"),
    "without pseudo-labels": (1, "pseudo"),
}

Found = dict[str, dict[str, dict[int, float]]]
"""Figure, then name of a system, then seed, to its value."""


def make_settings(root: Path, work: Path, seed: int, epochs: int, classes: list[str] | None) -> TwoIterations:
    """The whole recipe, small."""
    batch = {"maestro": 1, "strong": 2, "synthetic": 2, "weak": 2, "unlabeled": 1}
    if classes is not None:
        batch = {"maestro": 0, "strong": 4, "synthetic": 0, "weak": 0, "unlabeled": 4}
    plain: dict[str, Any] = {
        "data.root": str(root), "runs": str(work), "name": f"whole_{seed}", "seed": seed, "members": MEMBERS,
        "stage1.batch": batch, "stage2.batch": batch, "stage1.epochs": epochs, "stage2.epochs": epochs,
        "validation": {"weak": False, "synthetic": False, "maestro": False, "external": False},
        "postprocessing.boxes": None, "trainer.measure_energy": False, "trainer.accelerator": "cpu",
    }  # fmt: skip
    if classes is not None:
        plain["labels.classes"] = classes
    return load_settings(AnySystem, SMALL, plain)


def score(run: Run, name: str, iteration: int, number: int) -> dict[str, float]:
    """Figures of one training, raw."""
    module = load_training(run, name, iteration, number)
    found = {}
    for test in test_sets(run.settings):
        path = run.folder / "trial" / f"{test}_{iteration}{number}{name}.h5"
        write_scores(module, DistilledClips(read_clips(run.settings, test), run.settings), path, run.settings)
        found |= figures_of(path, run.settings, test)
    return found


def figures_of(path: Path, settings: TwoIterations, test: str) -> dict[str, float]:
    """Mean of the classes' PSDS1 of a DESED set, or mpAUC of MAESTRO."""
    tables = read_store(path)
    if test == "maestro_validation":
        return {"mpAUC": float(np.nan_to_num(maestro_figures(tables, settings, test, draws=0)["mpauc"]["value"]))}
    per_class = desed_figures(tables, settings, test, draws=0)["psds1"]["per_class"]
    return {"PSDS1, mean of classes": float(np.mean(list(per_class.values())))}


def read_figures(path: Path, made_with: Mapping[str, Any]) -> Found:
    """The seeds that an earlier call with the same arguments has done."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"made_with": made_with, "figures": {}}
    if kept["made_with"] != made_with:
        raise SystemExit(f"{path} was made with {kept['made_with']}; give another --out.")
    return {
        figure: {system: {int(seed): value for seed, value in values.items()} for system, values in systems.items()}
        for figure, systems in kept["figures"].items()
    }


def note(found: Found, system: str, seed: int, figures: Mapping[str, float]) -> None:
    """Keep the figures of a system."""
    for figure, value in figures.items():
        found.setdefault(figure, {}).setdefault(system, {})[seed] = value


def try_whole(run: Run, found: Found, seed: int) -> None:
    """Train and test the whole recipe; every training and ensemble counts."""
    settings = run.settings
    run_stages(run, make_stages(settings))
    for iteration in (1, 2):
        for number in (1, 2):
            for member in (*MEMBERS, "ensemble"):
                system = f"iteration{iteration}_stage{number}_{member}"
                for test in test_sets(settings):
                    path = run.folder / "test" / "scores" / f"{test}_{system}.h5"
                    note(found, system, seed, figures_of(path, settings, test))


def try_without(run: Run, found: Found, seed: int, what: str) -> None:
    """Leave one part of the loss out of the training that it belongs to; what comes before it is the same."""
    number, weight = LEFT_OUT[what]
    changes = {f"{'stage2' if number == 2 else 'stage1_distilled'}.loss.weights.{weight}": 0.0}
    settings = load_settings(AnySystem, run.folder / "settings.yaml", changes)
    folder = run.folder.with_name(f"{run.folder.name}_without_{weight}")
    iteration = 1 if number == 2 else 2
    wanted = f"iteration{iteration}_stage{number}_atst"
    before = ["iteration1_stage1_atst"] if number == 2 else ["iteration1_*", "pseudo_labels"]
    kept = [path for pattern in before for path in run.folder.glob(pattern)]
    for path in kept:
        shutil.copytree(path, folder / path.name)
    shutil.copy(run.folder / "settings.yaml", folder)
    names = {wanted, *(path.name for path in kept)}
    arm = Run(folder, settings)
    run_stages(arm, [stage for stage in make_stages(settings) if stage.name in names])
    note(found, what, seed, score(arm, "atst", iteration, number))
    shutil.rmtree(folder)


def show(found: Found) -> None:
    """Means with 95 % intervals over seeds, and differences in pairs."""
    pairs = [
        ("stage 2 - stage 1, iteration 1, atst", "iteration1_stage1_atst", "iteration1_stage2_atst"),
        ("stage 2 - stage 1, iteration 1, beats", "iteration1_stage1_beats", "iteration1_stage2_beats"),
        ("stage 2 - stage 1, iteration 2, ensemble", "iteration2_stage1_ensemble", "iteration2_stage2_ensemble"),
        ("iteration 2 - 1, stage 1, atst", "iteration1_stage1_atst", "iteration2_stage1_atst"),
        ("iteration 2 - 1, stage 1, beats", "iteration1_stage1_beats", "iteration2_stage1_beats"),
        ("iteration 2 - 1, stage 2, ensemble", "iteration1_stage2_ensemble", "iteration2_stage2_ensemble"),
        ("ensemble - atst, last stage", "iteration2_stage2_atst", "iteration2_stage2_ensemble"),
        ("ensemble - beats, last stage", "iteration2_stage2_beats", "iteration2_stage2_ensemble"),
    ]
    wholes = {2: "iteration1_stage2_atst", 1: "iteration2_stage1_atst"}
    pairs += [(f"{what} - whole", wholes[number], what) for what, (number, _) in LEFT_OUT.items()]
    for figure in FIGURES:
        if figure not in found:
            continue
        systems = found[figure]
        rows = []
        for system, values in systems.items():
            mean = mean_interval(list(values.values()))
            row = {"system": system.replace("_", " "), "per cent": 100 * mean.value}
            rows.append(row | {"95 % from": _percent(mean.low), "to": _percent(mean.high)})
        print_table(rows, title=figure)
        rows = []
        for title, first, second in pairs:
            if first in systems and second in systems and len(systems[first]) > 1:
                difference = paired_difference(systems[first], systems[second])
                row = {"comparison": title, "difference, points": 100 * difference.value}
                rows.append(row | {"95 % from": _percent(difference.low), "to": _percent(difference.high)})
        print_table(rows, title=f"{figure}: differences in pairs")


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def main() -> None:
    """Run the trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", type=Path, default=None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20, help="of each training")
    parser.add_argument("--clips", type=int, default=200, help="of the made-up data")
    parser.add_argument("--whole_only", action="store_true", help="leave no part of the loss out")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the figures; seeds in it are kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    made_with = {key: str(value) for key, value in vars(arguments).items() if key not in ("seeds", "out")}
    found = read_figures(arguments.out, made_with)
    done = {seed for systems in found.values() for values in systems.values() for seed in values}
    with tempfile.TemporaryDirectory() as folder:
        work, classes = Path(folder), None
        if arguments.pack is None:
            synthesize("task4_sed", work / "data", clips=arguments.clips)
            shutil.rmtree(work / "data" / "eval")  # the public evaluation set, which is not needed
        for seed in sorted(set(range(arguments.seeds)) - done):
            root = work / "data"
            if arguments.pack is not None:
                root = work / f"data_{seed}"
                classes = write_tree(arguments.pack, root, seed, labelled_share=0.5)
            settings = make_settings(root, work, seed, arguments.epochs, classes)
            run = Run(settings.folder, settings)
            try_whole(run, found, seed)
            for what, (_, weight) in LEFT_OUT.items():
                kind = {"consistency": "unlabeled", "pseudo": "unlabeled"}.get(weight, weight)
                if getattr(settings.stage2.batch, kind) and not arguments.whole_only:
                    try_without(run, found, seed, what)
            say(f"seed {seed} done")
            write_json(arguments.out, {"made_with": made_with, "figures": found})
    say("Made-up data." if arguments.pack is None else "Office scenes, mixed from real sounds.")
    show(found)


if __name__ == "__main__":
    main()
