"""Are both modalities better than one, and is stage 3 better than stage 1? And how long does the baseline train?

    python -m tests.benchmarks.trial_broad_sounds [--seeds 5] [--clips 1500] [--work runs/trials]
    python -m tests.benchmarks.trial_broad_sounds --time [--clips 10956] [--jobs 2]

Made-up vectors (common/synthetic/broad_sounds.py): 12 hidden numbers a clip, seen with independent noise in both
modalities; a quarter of the crowd's labels are wrong. Each seed has data and networks of its own. HATR with 64 hidden
numbers and one residual block, two of five folds; the crowd has twice the curated clips. Stages 2 and 3 go on from the
best epoch of stage 1.
"""

import argparse
import resource
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.runs.processes import Executor
from common.settings import load_settings
from common.synthetic.broad_sounds import BACKGROUND, HABIT, SEEN, World, draw_clips, write_set
from task1_asc.broad_sounds.data import make_folds, read_sounds
from task1_asc.broad_sounds.embeddings import read_inputs
from task1_asc.broad_sounds.metrics import count_indices, hierarchical_f
from task1_asc.broad_sounds.recipe import RECIPE
from task1_asc.broad_sounds.settings import Inputs, SoundSettings
from task1_asc.broad_sounds.taxonomy import CODES
from tests.benchmarks.paired_table import PairedCells

CONFIGS = Path("task1_asc/broad_sounds/configs")
ARMS = ("audio", "text", "both: stage 1", "stage 2", "stage 3")
LIMITS = {"floor: most frequent class": (), "ceiling: audio": ("audio",), "ceiling: both": ("audio", "text")}
PHASES = {"both: stage 1": "curated", "stage 2": "crowd", "stage 3": "final"}
QUICK = {
    "network": {"hidden_size": 64, "num_residual_blocks": 1},
    "curated": {"epochs": 60, "patience": 10},
    "trainer": {"accelerator": "cpu", "measure_energy": False},
}
LATER = {"crowd": {"epochs": 20, "patience": 5, "lr": 5e-4}, "final": {"epochs": 10, "patience": 5, "lr": 2e-4}}


def make_sets(root: Path, counts: dict[str, int], seed: int) -> None:
    """Write sets without audio, once."""
    rng = np.random.default_rng((seed, 26))
    world, numbers = World.draw(rng), iter(rng.permutation(900_000) + 1000)
    for name, total in counts.items():
        clips = draw_clips(world, total, rng)
        ids = [str(next(numbers)) for _ in range(total)]
        if not (root / name / "metadata").is_dir():
            write_set(root, name, clips, ids, rng, audio=False)


def settings_of(root: Path, runs: Path, name: str, seed: int, **changes: Any) -> SoundSettings:
    """The baseline with changes."""
    crowd = root / "BSD35k-CS" if "crowd" in changes else None
    data = {"curated": root / "BSD10k", "crowd": crowd, "folds": (0, 1)}
    base = load_settings(SoundSettings, CONFIGS / "baseline.yaml").model_dump()
    own = {"name": name, "runs": runs, "seed": seed, "data": data, **QUICK, **changes}
    return SoundSettings.model_validate({**base, **own})


def run_seed(cells: PairedCells, work: Path, clips: int, seed: int) -> None:
    """All arms of one seed."""
    root = work / f"data_{clips}_{seed}"
    make_sets(root, {"BSD10k": clips, "BSD35k-CS": 2 * clips}, seed)
    phases: dict[str, Any] = {}
    for arm, other in (("audio", "text"), ("text", "audio")):

        def single(arm: str = arm, other: str = other) -> dict[str, float]:
            settings = settings_of(root, work / "runs", f"{arm}_{seed}", seed, inputs={other: {"used": False}})
            return {"hF": RECIPE.cell(settings)["hF"]}

        cells.compute(arm, seed, single)
    for arm, phase in PHASES.items():

        def staged(phase: str = phase) -> dict[str, float]:
            phases.update(phases or RECIPE.cell(settings_of(root, work / "runs", f"staged_{seed}", seed, **LATER)))
            return {"hF": phases[f"hF after {phase}"]}

        cells.compute(arm, seed, staged)
    for name, sides in LIMITS.items():
        cells.compute(name, seed, partial(limit, root, seed, sides))


def limit(root: Path, seed: int, sides: tuple[str, ...]) -> dict[str, float]:
    """hF of the most probable class for someone who knows how the vectors of these modalities were made up."""
    world, sounds = World.draw(np.random.default_rng((seed, 26))), read_sounds(root / "BSD10k")
    vectors, frequency = read_inputs(sounds, Inputs()), np.bincount(sounds.targets, minlength=len(CODES))
    places = [find_places(getattr(vectors, side), getattr(world, f"to_{side}")) for side in sides]
    scores = np.tile(np.log(frequency), (len(sounds.ids), 1))
    if places:
        distance = ((np.mean(places, axis=0)[:, None] - world.centres) ** 2).sum(axis=2)
        scores -= distance / (2 * (HABIT**2 + SEEN**2 / len(sides)))
    rows = [fold.test for fold in make_folds(sounds.targets)[:2]]
    counts = [count_indices(sounds.targets[own], scores[own].argmax(axis=1)) for own in rows]
    return {"hF": float(np.mean([hierarchical_f(one) for one in counts]))}


def find_places(vectors: NDArray[np.float32], way: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places (clips, 12) as a modality sees them; the size of the rest of a vector gives its length before scaling."""
    found = vectors @ np.linalg.pinv(way)
    rest = np.linalg.norm(vectors - found @ way, axis=1, keepdims=True)
    return found * BACKGROUND * np.sqrt(way.shape[1] - way.shape[0]) / rest


def time_baseline(work: Path, clips: int, jobs: int) -> None:
    """Wall and processor time of the baseline's five folds."""
    root = work / f"time_{clips}"
    make_sets(root, {"BSD10k": clips}, 0)
    base = load_settings(SoundSettings, CONFIGS / "baseline.yaml").model_dump()
    changes = {"data": {"curated": root / "BSD10k"}, "trainer": QUICK["trainer"], "runs": work / "runs"}
    settings = SoundSettings.model_validate({**base, **changes, "name": f"timed_{clips}_{time.time():.0f}"})
    started, before = time.monotonic(), processor_seconds()
    run = RECIPE.run(settings, executor=Executor(jobs) if jobs > 1 else None)
    wall, processor = time.monotonic() - started, processor_seconds() - before
    epochs = [len((run.folder / f"fold{fold}_curated" / "member0" / "metrics.csv").read_text().splitlines()) - 1
              for fold in range(5)]  # fmt: skip
    print(f"{clips:,} clips, five folds of {epochs} epochs, {jobs} at a time: {wall:.0f} s")
    print(f"processor {processor:.0f} s, {processor / sum(epochs):.2f} s an epoch")
    print({name: round(value, 3) for name, value in RECIPE.result_row(run).items()})


def processor_seconds() -> float:
    """Processor time of this process and of its finished children."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Run the trial, or the timing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--clips", type=int)
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--jobs", type=int, default=2, help="folds at a time, one thread each; with --time")
    parser.add_argument("--work", type=Path, default=Path("runs/trials"))
    call = parser.parse_args()
    if call.time:
        time_baseline(call.work / "broad_sounds", call.clips or 10_956, call.jobs)
        return
    clips, work = call.clips or 1500, call.work / "broad_sounds"
    cells = PairedCells(work / "cells.jsonl", {"clips": clips, "settings": repr((QUICK, LATER))})
    for seed in range(call.seeds):
        run_seed(cells, work, clips, seed)
    title = f"{clips:,} curated and {2 * clips:,} crowd clips, made up"
    cells.print_table(title, (*ARMS, *LIMITS), range(call.seeds), "hF", "both: stage 1")


if __name__ == "__main__":
    main()
