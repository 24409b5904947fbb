"""Event boxes (cSEBBs) against class-wise median filters, both tuned, and how many clips the tuning needs.

    python -m tests.benchmarks.trial_event_boxes --office office_sed_mixtures [--public desed_public20] [--work DIR]

office: 80 scenes of real office sounds; each seed trains four small networks, and every scene is scored by the one that
    did not hear it. public: scores of the DCASE 2023 baseline for 20 clips of DESED's public evaluation set.

Both methods choose one of 18 settings for each class by its own PSDS1 (18 median lengths, or the 18 pairs of filter
length and merge threshold of the paper), on n clips of the other folds; the scores of all folds are then evaluated
together. Untuned: 7 frames, and the default boxes. Ceiling: tuned on the tested clips. Floors: raw scores, and those of
an untrained network. Figures: PSDS1 with and without (mean of classes) its penalty for the deviation over classes.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import torch
import torchaudio

from common.inference.event_boxes import BoxSettings
from common.output import print_table
from common.reports.statistics import paired_difference, percentile_limits
from task4_sed.data.annotations import read_durations, read_events
from task4_sed.metrics import PSDS1, PSDS1_MACRO, EvaluationSet, evaluation_set, polyphonic_scores
from task4_sed.metrics.detections import class_runs
from task4_sed.metrics.polyphonic import ReferenceTotals, class_levels
from task4_sed.postprocessing.event_boxes import box_scores, event_boxes
from task4_sed.postprocessing.finisher import GRID
from task4_sed.scores.store import read_score_tables
from task4_sed.scores.tables import ScoreTables, from_frames, median_filter
from tests.benchmarks.cells import Cells
from tests.benchmarks.small_sed import (
    Clips,
    SmallBatches,
    SmallTraining,
    clip_name,
    make_clips,
    make_settings,
    score_tables,
    train,
)

BATCH, STEPS, OFFICE_FOLDS, PUBLIC_FOLDS = 10, 600, 4, 5
OFFICE_SIZES, PUBLIC_SIZES = (10, 20, 40, 60), (4, 8, 16)
OFFICE_REPEATS, PUBLIC_REPEATS = 3, 15
DRAWS = 200
METHODS = ("median", "boxes")
SETTINGS: dict[str, list[Any]] = {"median": list(range(1, 36, 2)), "boxes": GRID}
UNTUNED: dict[str, Any] = {"median": 7, "boxes": BoxSettings()}

Chosen = dict[str, int] | dict[str, BoxSettings]


class Scored:
    """Raw scores of clips with their ground truth: all that the two methods are tuned and tested on."""

    def __init__(self, scores: ScoreTables, truth: Any, durations: Any):
        self.scores, self.truth, self.durations = scores, truth, durations

    def evaluation(self, scores: ScoreTables) -> EvaluationSet:
        """Scores of some or all of the clips, with their events."""
        return evaluation_set(scores, self.truth, self.durations, classes=scores.classes)

    def tune(self, method: str, parts: Sequence[Sequence[str]]) -> list[Chosen]:
        """For each part of the clips the best setting of each class; of classes without events there the untuned one.

        A part is a weight for each clip, so that each setting is scored once for all parts, as in `tune_boxes`.
        """
        evaluation = self.evaluation(self.scores)
        weights = np.stack([np.isin(evaluation.clips, part) for part in parts], axis=1).astype(float)
        reference, found = ReferenceTotals(evaluation, weights), []
        for setting in SETTINGS[method]:
            processed = self.evaluation(process(self.scores, method, setting, -np.inf))
            runs = [class_runs(processed, index) for index in range(len(evaluation.classes))]
            found.append([class_levels(evaluation, reference, PSDS1_MACRO, index, own).areas
                          for index, own in enumerate(runs)])  # fmt: skip
        areas = np.array(found)  # (settings, classes, parts), NaN without events
        best, known = np.argmax(np.nan_to_num(areas, nan=-1), axis=0).T, np.isfinite(areas[0]).T
        return [
            dict.fromkeys(self.scores.classes, UNTUNED[method])
            | {name: SETTINGS[method][at] for name, at, has in zip(evaluation.classes, row, events) if has}
            for row, events in zip(best, known)
        ]

    def figures(self, scores: ScoreTables) -> dict[str, list[float]]:
        """Both figures, each with its values for resampled clips."""
        found = polyphonic_scores(self.evaluation(scores), [PSDS1, PSDS1_MACRO], draws=DRAWS)
        return {name: [psds.value, *psds.samples.tolist()] for name, psds in zip(("psds1", "mean"), found)}

    def compare(self, sizes: Sequence[int], folds: int, seeds: Sequence[int]) -> dict[str, dict[str, list[float]]]:
        """Figures by arm, "method: clips"; where clips are drawn, the mean over `seeds`."""
        found = {"raw": self.figures(self.scores)}
        every = np.array(self.scores.clips)
        draws = {}
        for size, seed, fold in itertools.product(sizes, seeds, range(folds)):
            random = np.random.default_rng(seed)
            tested = random.permutation(every)[fold::folds]
            drawn = random.permutation(np.setdiff1d(every, tested))
            draws[size, seed, fold] = drawn[:size], sorted(tested)
        for method in METHODS:
            best, *chosen = self.tune(method, [every, *(drawn for drawn, _ in draws.values())])
            found[f"{method}: untuned"] = self.figures(process(self.scores, method, UNTUNED[method]))
            found[f"{method}: ceiling"] = self.figures(process(self.scores, method, best))
            processed: dict[tuple[int, int], dict[str, pd.DataFrame]] = {}
            for ((size, seed, _), (_, tested)), settings in zip(draws.items(), chosen):
                tables = dict(process(self.scores.select(tested), method, settings).tables())
                processed[size, seed] = processed.get((size, seed), {}) | tables
            for size in sizes:
                each = [self.figures(from_frames(processed[size, seed])) for seed in seeds]
                found[f"{method}: {size}"] = {
                    name: np.mean([figures[name] for figures in each], axis=0).tolist() for name in each[0]
                }
        return found


def process(scores: ScoreTables, method: str, settings: Any, outside: float = 0.0) -> ScoreTables:
    """Post-processed scores; `outside` is the score where there is no box."""
    if method == "median":
        return median_filter(scores, settings)
    return box_scores(scores, event_boxes(scores, settings), outside)


def read_office(pack: Path, work: Path) -> tuple[Clips, list[str]]:
    """The scenes and their classes."""
    events = pd.read_csv(pack / "events.tsv", sep="\t")
    names = sorted(path.name for path in (pack / "audio").iterdir())
    classes = sorted(events["event_label"].unique())
    waveforms = []
    for name in names:
        waveform, rate = soundfile.read(pack / "audio" / name, dtype="float32")
        waveforms.append(torchaudio.functional.resample(torch.from_numpy(waveform), rate, 16000).numpy())
    events["clip"] = events["filename"].map({name: row for row, name in enumerate(names)})
    events = events[["clip", "onset", "offset", "event_label"]]
    return make_clips(waveforms, events, make_settings(work, 0, classes)), classes


def score_office(clips: Clips, classes: list[str], work: Path, seed: int) -> dict[str, dict[str, list[float]]]:
    """What `Scored.compare` finds for the networks of a seed."""
    none = dict.fromkeys(("maestro", "synthetic", "weak", "unlabeled"), 0)
    weights = {**none, "strong": 1.0, "consistency": 0.0, "pseudo": 0.0}
    del weights["unlabeled"]
    settings = make_settings(work, seed, classes, batch={**none, "strong": BATCH}, loss__weights=weights)
    order = np.random.default_rng(seed).permutation(len(clips))
    logits = torch.zeros(len(clips), clips.strong.shape[2], len(classes))
    for fold in range(OFFICE_FOLDS):
        tested = order[fold::OFFICE_FOLDS]
        batches = SmallBatches(
            {"strong": clips.select(np.setdiff1d(order, tested))}, {"strong": BATCH}, STEPS, 10 * seed + fold
        )
        logits[tested] = train(settings, batches).logits(clips.select(tested))
    durations = {clip_name(row): 10.0 for row in range(len(clips))}
    scored = Scored(score_tables(logits, classes), clips.truth(), durations)
    untrained = Scored(score_tables(SmallTraining(settings).logits(clips), classes), clips.truth(), durations)
    found = scored.compare(OFFICE_SIZES, OFFICE_FOLDS, [100 * seed + repeat for repeat in range(OFFICE_REPEATS)])
    return found | {"untrained": untrained.figures(untrained.scores)}


def rows(seeds: Mapping[int, Mapping[str, Any]], name: str, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """One row for each number of clips: both methods with their gain over the untuned one, and their difference."""
    table = []
    for size in ("untuned", *map(str, sizes), "ceiling"):
        row, each = {"clips": size}, {}
        for method in METHODS:
            each[method], untuned = (
                np.array([found[f"{method}: {which}"][name] for found in seeds.values()]) for which in (size, "untuned")
            )
            row[method] = f"{100 * each[method][:, 0].mean():.1f}"
            row[f"{method} - untuned"] = "" if size == "untuned" else over_clips(each[method] - untuned)
        row["boxes - median"] = over_clips(each["boxes"] - each["median"])
        if len(seeds) > 1:
            firsts = ({seed: 100 * value for seed, value in zip(seeds, each[method][:, 0])} for method in METHODS)
            over_seeds = paired_difference(*firsts)
            row["over seeds"] = f"[{over_seeds.low:+.1f}, {over_seeds.high:+.1f}]"
        table.append(row)
    return table


def over_clips(differences: np.ndarray) -> str:
    """Mean over seeds in points with its 95 % interval over resampled clips.

    Shifted so that its middle is the mean: a drawn set has some clips twice, and scores lower for it.
    """
    whole, *drawn = 100 * differences.mean(axis=0)
    low, high = percentile_limits(drawn) + whole - np.median(drawn)
    return f"{whole:+.1f} [{low:+.1f}, {high:+.1f}]"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--office", type=Path, required=True, help="folder with audio/ and events.tsv")
    parser.add_argument("--public", type=Path, help="folder with scores/, ground_truth.tsv and audio_durations.tsv")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("runs/trials/event_boxes"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells(arguments.work / "cells.jsonl", {"steps": STEPS})
    clips, classes = read_office(arguments.office, arguments.work)
    office = {seed: cells(f"office {seed}", lambda seed=seed: score_office(clips, classes, arguments.work, seed))
              for seed in range(arguments.seeds)}  # fmt: skip
    sets = [("office scenes", office, OFFICE_SIZES)]
    if arguments.public is not None:
        scored = Scored(
            read_score_tables(arguments.public / "scores"),
            read_events(arguments.public / "ground_truth.tsv"),
            read_durations(arguments.public / "audio_durations.tsv"),
        )
        found = cells("public", lambda: scored.compare(PUBLIC_SIZES, PUBLIC_FOLDS, range(PUBLIC_REPEATS)))
        sets.append(("desed_public20", {0: found}, PUBLIC_SIZES))
    for title, seeds, sizes in sets:
        for name, figure in (("mean", "mean of the classes' PSDS1"), ("psds1", "PSDS1")):
            floors = {arm: np.mean([found[arm][name][0] for found in seeds.values()])
                      for arm in ("raw", "untrained") if arm in next(iter(seeds.values()))}  # fmt: skip
            shown = ", ".join(f"{arm} {100 * value:.1f}" for arm, value in floors.items())
            print_table(rows(seeds, name, sizes), title=f"{title}: {figure} in %, {len(seeds)} seeds; {shown}")


if __name__ == "__main__":
    main()
