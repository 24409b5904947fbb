"""What finds moments in made-up recordings: similarity without training, QD-DETR, synthetic queries first, oracles.

    python -m retrieval train retrieval/moments/configs/small_encoder.yaml
    python -m tests.benchmarks.trial_moments --encoder runs/retrieval/moments_encoder [--clips 450] [--seeds 5]

Recordings of `common synthesize moments`, of 30 to 60 s, so that a detector can be trained on a CPU; features of the
small dual encoder. The floor looks neither at the query nor at the sound. Each finished cell is a line of a JSON file
in `--work`, and is not computed again; `--only SEED` computes one seed, beside other such processes.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.synthetic.moments import MOMENTS, write
from retrieval.moments.annotations import Query, cut_windows, read_predictions
from retrieval.moments.features import FeatureReader
from retrieval.moments.metrics import Array, hits_at_1, recall_at_1, score
from retrieval.moments.recipe import RECIPE, open_source
from retrieval.moments.settings import MomentSettings
from retrieval.moments.spans import find_spans, tune
from tests.benchmarks.paired_table import Figures, PairedCells

SHOWN = ("R1@0.5", "R1@0.7", "mAP", "R1@0.7 under 5 s", "R1@0.7 5 to 20 s", "R1@0.7 over 20 s")
FILES = {
    "pretraining": "clotho_moment_train_release.jsonl",
    "training": "castella_train_release.jsonl",
    "validation": "castella_val_release.jsonl",
    "evaluation": "castella_test_release.jsonl",
}
DETECTOR: dict[str, Any] = {
    "kind": "qd_detr", "dim": 64, "heads": 4, "feedforward": 128, "input_dropout": 0.2, "lr": 1e-3, "batch_size": 16,
    "pretraining_epochs": 30,
    "trainer": {
        "epochs": 60, "gradient_clip": 0.1, "accelerator": "cpu", "measure_energy": False, "validate_every": 5,
    },
}  # fmt: skip
LENGTHS = (30, 60)
Sides = tuple[list[Query], FeatureReader]


def figures(found: dict[str, Array], queries: list[Query]) -> Figures:
    """Figures of an arm, and the hits of each query with its recording."""
    truth, recordings = {query.qid: query.windows for query in queries}, [query.vid for query in queries]
    values: dict[str, Any] = {name: figure.value for name, figure in score(found, truth, recordings).items()}
    values["R1@0.7 by group"] = [hits_at_1(found, truth, [0.7])[:, 0].tolist(), recordings]
    return values


def settings_of(work: Path, encoder: Path, name: str, system: dict[str, Any], seed: int = 0) -> MomentSettings:
    """Settings of a run of the trial; without synthetic queries where the name does not say so."""
    data: dict[str, Any] = {side: {"root": work / "data", "annotations": file} for side, file in FILES.items()}
    if "synthetic" not in name:
        del data["pretraining"]
    features = {"audio": "dual", "text": "dual_text", "encoder": {"run": encoder, "window": 2}}
    return MomentSettings.model_validate(
        {
            "name": f"{name}_{seed}",
            "runs": work / "runs",
            "seed": seed,
            "data": data,
            "features": features,
            "system": system,
        }
    )


def run_arm(settings: MomentSettings) -> Figures:
    """Figures of a run of the recipe."""
    run = RECIPE.run(settings)
    queries, _ = open_source(settings, settings.data.evaluation)
    return figures(read_predictions(run.folder / "test" / "predictions.jsonl"), queries)


def fixed_window(settings: MomentSettings) -> Figures:
    """Oracle: for each query the best place of one window, whose length is the best for all queries."""
    queries, _ = open_source(settings, settings.data.evaluation)
    truth = {query.qid: query.windows for query in queries}
    found = {length: {query.qid: best_place(query, length) for query in queries} for length in range(1, 31)}
    best = max(found, key=lambda length: recall_at_1(found[length], truth, [0.7])[0])
    return figures(found[best], queries)


def best_place(query: Query, length: int) -> Array:
    """The window (1, 2) of a length with the largest overlap with a true window: in its middle."""
    starts = query.windows.mean(axis=1) - length / 2
    overlap = np.minimum(length / (query.windows[:, 1] - query.windows[:, 0]), 1)
    overlap = np.minimum(overlap, (query.windows[:, 1] - query.windows[:, 0]) / length)
    start = max(0.0, float(starts[overlap.argmax()]))
    return np.array([[start, start + length]])


def centred_window(settings: MomentSettings) -> Figures:
    """Floor: the middle of each recording, a share of its length that is the best for the validation queries."""
    (validation, _), (queries, _) = (
        open_source(settings, side) for side in (settings.data.validation, settings.data.evaluation)
    )
    truth = {query.qid: query.windows for query in validation}
    best = max(
        np.arange(0.05, 1, 0.05), key=lambda share: recall_at_1(middles(validation, float(share)), truth, [0.7])[0]
    )
    return figures(middles(queries, float(best)), queries)


def middles(queries: list[Query], share: float) -> dict[str, Array]:
    """The middle of each recording, a share of its length."""
    around = np.array([[(1 - share) / 2, (1 + share) / 2]])
    return {query.qid: around * query.duration for query in queries}


def true_windows_as_query(settings: MomentSettings) -> Figures:
    """Oracle: similarity with the mean vector of the true windows in place of the text, cut like (a)."""
    sides: list[Sides] = [open_source(settings, side) for side in (settings.data.validation, settings.data.evaluation)]
    curves = [[self_similarity(query, reader) for query in queries] for queries, reader in sides]
    tuned = tune(curves[0], sides[0][0], settings)
    return figures(find_spans(curves[1], sides[1][0], settings, tuned["chosen"]), sides[1][0])


def self_similarity(query: Query, reader: FeatureReader) -> Array:
    """Cosine of the mean of the true seconds with each second."""
    vectors = reader.audio(query, "projected")
    inside = np.zeros(len(vectors), dtype=bool)
    for start, end in cut_windows(query).round().astype(int):
        inside[start:end] = True
    mean = vectors[inside].mean(axis=0)
    return (vectors @ (mean / np.linalg.norm(mean))).astype(np.float64)


def main() -> None:
    """Compute the cells and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=450)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", type=int)
    parser.add_argument("--work", type=Path, default=Path("runs/trials/moments"))
    chosen = parser.parse_args()
    replace(MOMENTS, write=partial(write, lengths=LENGTHS)).make(chosen.work / "data", chosen.clips, 0)
    cells = PairedCells(chosen.work / "cells.jsonl", {"clips": chosen.clips, **DETECTOR})
    make = partial(settings_of, chosen.work, chosen.encoder)
    RECIPE.prepare(make("synthetic", DETECTOR))
    systems = {"(b) QD-DETR alone": "alone", "(b) QD-DETR, synthetic first": "synthetic"}
    for seed in range(chosen.seeds) if chosen.only is None else [chosen.only]:
        untrained = {
            kind: make(f"similarity_{kind}", {"kind": "similarity", "spans": kind}, seed)
            for kind in ("threshold", "boxes")
        }
        for kind, settings in untrained.items():
            cells.compute(f"(a) similarity, {kind}", seed, partial(run_arm, settings))
        cells.compute("floor: middle window", seed, partial(centred_window, untrained["boxes"]))
        cells.compute("oracle: fixed window", seed, partial(fixed_window, untrained["boxes"]))
        cells.compute("oracle: true windows as query", seed, partial(true_windows_as_query, untrained["boxes"]))
        head = make("head", {"kind": "similarity", "spans": "boxes", "head": {}}, seed)
        cells.compute("(c) head on the curve", seed, partial(run_arm, head))
        for arm, name in systems.items():
            cells.compute(arm, seed, partial(run_arm, make(name, DETECTOR, seed)))
        if chosen.only is not None:
            return
        arms = list(dict.fromkeys(cell.rsplit(", seed", 1)[0] for cell in cells.found))
        for metric in SHOWN:
            cells.print_table("Made-up recordings", arms, range(seed + 1), metric, "(a) similarity, boxes")


if __name__ == "__main__":
    main()
