"""The verb `compare`: systems on the same test clips, and their ensemble."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.reports.compare import Comparison, Measured, System
from common.reports.compare import compare as compare_all
from common.runs.run import Run, open_run
from common.runs.systems import compare_paths, distinct_names, read_systems
from task1_asc.broad_sounds.metrics import class_draws, draw_counts, mean_draws
from task1_asc.broad_sounds.settings import SoundSettings
from task1_asc.broad_sounds.submission import TESTED, read_probabilities
from task1_asc.broad_sounds.taxonomy import as_indices


def compare_systems(paths: Sequence[Path], ensemble: bool = False) -> list[Comparison]:
    """Compare runs and sweeps with the first of them, and with the mean of all their logits."""
    if not ensemble:
        return compare_paths(paths, open_sounds, lambda run: measure([run], run.settings.seed), _refuse)
    systems = [trained for path in paths for trained in read_systems([path], open_sounds)[0]]
    runs = [run for system in systems for run in system.runs]
    named = zip(distinct_names([run.folder for run in runs]), runs)
    single = [System(name, [measure([run], run.settings.seed)]) for name, run in named]
    return [compare_all([*single, System(f"ensemble of {len(runs)}", [measure(runs)])])]


def open_sounds(folder: Path) -> Run[SoundSettings]:
    """The run in a folder."""
    return open_run(folder, SoundSettings)


def measure(runs: Sequence[Run[SoundSettings]], seed: int | None = None) -> Measured:
    """Figures of the mean logits of runs on their test clips."""
    clips, probabilities = read_probabilities([run.folder / TESTED for run in runs], ["sound_id", "fold", "class"])
    order = np.lexsort([clips["sound_id"], clips["fold"]])  # draws are alike for the same clips in the same order
    clips, predicted = clips.iloc[order].reset_index(drop=True), probabilities[order].argmax(axis=1)
    truth = as_indices(clips["class"], "class")
    parts = clips.groupby("fold").indices
    counts = draw_counts([(truth[rows], predicted[rows]) for rows in parts.values()])
    classes = {code: draws["hF"] for code, draws in class_draws(counts).items()}
    figures = dict(sorted(mean_draws(counts).items(), key=lambda item: item[0] != "hF"))  # the first decides
    return Measured(
        run=runs[0].folder.name if len(runs) == 1 else "ensemble",
        seed=seed,
        test_sets={f"fold {fold}": clips["sound_id"].iloc[rows].tolist() for fold, rows in parts.items()},
        counted=f"{len(clips):,} clips",
        figures=figures,
        parts={"hF of each class": classes},
        made_up=any(run.read_evaluation()["made_up"] for run in runs),
    )


def _refuse(path: Path) -> Measured:
    raise UserError(f"{path} is neither a run nor a sweep of broad sounds; `sounds train` makes runs.")
