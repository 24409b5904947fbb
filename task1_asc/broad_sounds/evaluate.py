"""Figures of a run on its test folds, and predictions for an evaluation set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import nn

from common.data.audio import read_audio
from common.data.files import write_json, write_text
from common.data.loading import make_loader
from common.models.network import choose_device
from common.reports.statistics import bootstrap_mean
from common.runs.run import Run, read_record
from task1_asc.broad_sounds.data import Fold, SoundSet, folds_by_protocol, read_sounds, read_splits
from task1_asc.broad_sounds.embeddings import Vectors, read_inputs, refuse_missing
from task1_asc.broad_sounds.metrics import NAMES, all_scores, class_draws, draw_counts, interval_of, mean_draws
from task1_asc.broad_sounds.model import EVALUATION_BATCH, Rows, SoundClips, SoundNetwork, load_network, make_network
from task1_asc.broad_sounds.settings import SoundSettings
from task1_asc.broad_sounds.taxonomy import CODES, as_codes

SoundRun = Run[SoundSettings]
Logits = NDArray[np.float32]


def folds_of(sounds: SoundSet, settings: SoundSettings) -> dict[int, Fold]:
    """The folds of a data set under the run's protocol; for the curated set from data.splits, if given."""
    data = settings.data
    if data.splits is not None and sounds.root == read_sounds(data.curated).root:
        return read_splits(data.splits, sounds.ids, data.folds)
    return folds_by_protocol(sounds, data.protocol, data.split_seed)


def phase_folder(run: SoundRun, fold: int, phase: str, member: int) -> Path:
    """Folder of one training."""
    return run.folder / f"fold{fold}_{phase}" / f"member{member}"


@torch.inference_mode()
def mean_logits(run: SoundRun, sounds: SoundSet, fold: int, phase: str, rows: Rows) -> Logits:
    """Mean logits (rows, 23) of the networks of a fold after one of its trainings."""
    settings, vectors = run.settings, read_inputs(sounds, run.settings.inputs)
    total = np.zeros((len(rows), len(CODES)), dtype=np.float64)
    for member in range(settings.members):
        path = run.checkpoint(f"fold{fold}_{phase}/member{member}/network.ckpt")
        network = load_network(settings, vectors, path).to(choose_device(settings.trainer))
        total += classify(network, vectors, sounds, rows)
    return (total / settings.members).astype(np.float32)


def classify(network: SoundNetwork, vectors: Vectors, sounds: SoundSet, rows: Rows) -> Logits:
    """Logits (rows, 23). A trained audio encoder hears the whole of each clip."""
    device = next(network.parameters()).device
    clips, parts = SoundClips(vectors, rows), list[Logits]()
    if network.encoder is not None:
        refuse_missing(sounds)
    paths = sounds.paths()
    for batch in make_loader(clips, EVALUATION_BATCH if network.encoder is None else 1):
        if network.encoder is not None:
            path = paths[rows[len(parts)]]
            batch["waveform"] = torch.from_numpy(read_audio(path, network.encoder.sample_rate))[None]
        parts.append(network({name: values.to(device) for name, values in batch.items()}).float().cpu().numpy())
    return np.concatenate(parts)


def score_run(run: SoundRun, settings: SoundSettings, fast_check: bool = False) -> None:
    """Score the networks of every fold on its test clips, after each training.

    Writes test/evaluation.json and test/predictions.csv: sound_id, fold, class, and the probability of each class; with
    held-out clips of the crowd also test/<set>_predictions.csv.
    """
    sets = [read_sounds(settings.data.curated)]
    if settings.crowd is not None and settings.data.crowd is not None and settings.crowd.hold_out:
        sets.append(read_sounds(settings.data.crowd))
    every = {sounds.kind: summarize(test_folds(run, sounds, sounds is sets[0]), settings.seed) for sounds in sets}
    network = make_network(settings, read_inputs(sets[0], settings.inputs))
    count = settings.members * len(settings.data.folds)
    macs = sum(module.weight.numel() for module in network.modules() if isinstance(module, nn.Linear))
    write_json(
        run.folder / "test" / "evaluation.json",
        {
            "set": sets[0].kind,
            "protocol": settings.data.protocol if settings.data.splits is None else "given splits",
            "folds": list(settings.data.folds),
            "made_up": sets[0].made_up,
            "parameters": count * sum(parameter.numel() for parameter in network.parameters()),
            "macs": count * macs if network.encoder is None else None,
            "sets": every,
        },
    )


def test_folds(run: SoundRun, sounds: SoundSet, main: bool) -> dict[str, list[tuple[Rows, Rows]]]:
    """Test one data set and write its table; returns truth and prediction of each fold, after each training."""
    folds, pairs, tables = folds_of(sounds, run.settings), dict[str, list[tuple[Rows, Rows]]](), []
    for number in run.settings.data.folds:
        rows = folds[number].test
        for phase in run.settings.phases:
            logits = mean_logits(run, sounds, number, phase, rows)
            pairs.setdefault(phase, []).append((sounds.targets[rows], logits.argmax(axis=1)))
        table = probability_table([sounds.ids[row] for row in rows], logits, "sound_id")
        table.insert(1, "fold", number)
        table.insert(2, "class", as_codes(sounds.targets[rows]))
        tables.append(table)
    name = "predictions.csv" if main else f"{sounds.kind}_predictions.csv"
    write_table(run.folder / "test" / name, pd.concat(tables))
    return pairs


def summarize(pairs: dict[str, list[tuple[Rows, Rows]]], seed: int) -> dict[str, Any]:
    """Figures of one data set: means over folds, with intervals over clips and over folds.

    Args:
        pairs: of each training, indices of truth and prediction for the clips of each fold; the last one counts.
    """
    folds = pairs[list(pairs)[-1]]
    counts = draw_counts(folds, seed)
    scores = [all_scores(as_codes(truth), as_codes(predicted)) for truth, predicted in folds]
    figures = {}
    for name, draws in mean_draws(counts).items():
        own = np.array([fold[name] for fold in scores])
        over_folds = bootstrap_mean(own, np.arange(len(own)), np.random.default_rng(seed))
        figures[name] = {
            **interval_of(draws)._asdict(),
            "spread": float(np.std(own)),  # of the population, as published
            "over_folds": [over_folds.low, over_folds.high],
            "folds": own.tolist(),
        }
    classes = {
        code: {**{name: float(draws[0]) for name, draws in own.items()}, **_limits(own["hF"])}
        for code, own in class_draws(counts).items()
    }
    return {
        "clips": [len(truth) for truth, _ in folds],
        "figures": figures,
        "class_wise": classes,
        "official": {name: float(np.mean([fold["official"][name] for fold in scores])) for name in NAMES},
        "never_predicted": sorted({code for fold in scores for code in fold["never_predicted"]}, key=CODES.index),
        "phases": {
            phase: interval_of(mean_draws(draw_counts(own, seed))["hF"])._asdict() for phase, own in pairs.items()
        },
        "confusion": counts[0].sum(axis=0).astype(int).tolist(),
    }


def _limits(draws: NDArray[np.float64]) -> dict[str, float]:
    interval = interval_of(draws)
    return {"low": interval.low, "high": interval.high}


def probability_table(ids: Sequence[str], logits: Logits, name: str) -> pd.DataFrame:
    """A column of names, and the probability of each class."""
    table = pd.DataFrame(softmax(logits.astype(np.float64), axis=1), columns=list(CODES))
    table.insert(0, name, list(ids))
    return table


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table of probabilities."""
    write_text(path, table.to_csv(index=False, float_format="%.7g", lineterminator="\n"))


def predict(runs: Sequence[SoundRun], root: Path) -> Path:
    """Classify an evaluation set with the mean logits of all folds and networks of one or several runs.

    Returns:
        predictions/predictions.csv in the first run: anonymous_id, and the probability of each class; evaluation.json
        beside it describes it.

    Raises:
        UserError: if the set lacks an input of a run, or a run is not finished.
    """
    sounds = read_sounds(root)
    rows, logits = np.arange(len(sounds.ids)), []
    for run in runs:
        read_record(run.folder, "test")
        last = list(run.settings.phases)[-1]
        logits += [mean_logits(run, sounds, fold, last, rows) for fold in run.settings.data.folds]
    folder = runs[0].folder / "predictions"
    mean = np.mean(logits, axis=0)
    write_table(folder / "predictions.csv", probability_table(sounds.ids, mean, "anonymous_id"))
    facts = {"set": sounds.kind, "clips": len(rows), "made_up": sounds.made_up}
    write_json(folder / "evaluation.json", {**facts, "runs": [run.folder.name for run in runs]})
    return folder / "predictions.csv"


def result_row(run: SoundRun) -> dict[str, Any]:
    """The figures of a finished run in one flat row, for the table of a sweep; 0..1."""
    content = run.read_evaluation()
    row: dict[str, Any] = {}
    for kind, own in content["sets"].items():
        start = "" if kind == content["set"] else f"{kind}: "
        row |= {start + name: figure["value"] for name, figure in own["figures"].items()}
        row |= {f"{start}hF after {phase}": figure["value"] for phase, figure in own["phases"].items()}
    return row
