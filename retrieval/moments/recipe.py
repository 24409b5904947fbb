"""Recipe of audio moment retrieval: features, training (synthetic queries first), the cut of a similarity, test."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.data.files import atomic_path, is_made_up, read_json, write_json, write_text
from common.errors import UserError
from common.models.network import choose_device
from common.runs.recipe import Objective, Recipe
from common.runs.run import Run
from common.runs.stages import Stage
from common.training.checkpoints import load_weights, save_checkpoint
from common.training.seeds import derive_seed, seed_all
from retrieval.evaluate import as_json
from retrieval.moments.annotations import EVALUATION, Query, read_queries, write_predictions
from retrieval.moments.features import Encoder, FeatureReader, write_features
from retrieval.moments.head import CurveHead, sharpen, train_head
from retrieval.moments.metrics import Array, score
from retrieval.moments.settings import TRAINED, Detector, Head, MomentSettings, MomentSource, Similarity
from retrieval.moments.spans import find_spans, similarity_curves, tune
from retrieval.moments.train import MONITOR, answer, make_detector, train

MomentRun = Run[MomentSettings]
PREDICTIONS = "predictions/predictions.jsonl"
TUNED = "tune/chosen.json"


def write_all_features(run: MomentRun, settings: MomentSettings, fast_check: bool = False) -> None:
    """Write missing features of all splits, for all runs that share them."""
    if settings.features.encoder is None:
        return
    encoder = Encoder(settings.features.encoder, getattr(settings.system, "trainer", None))
    for source in sources_of(settings):
        queries = read_queries(source.root / source.annotations)
        write_features(encoder, settings.features, source.root, queries[:4] if fast_check else queries)


def pretrain(run: MomentRun, settings: MomentSettings, fast_check: bool = False) -> None:
    """Train on the synthetic queries."""
    assert settings.data.pretraining is not None and isinstance(settings.system, Detector)
    _train(run, "pretrain", settings.data.pretraining, settings.system.pretraining_epochs, None, fast_check)


def train_detector(run: MomentRun, settings: MomentSettings, fast_check: bool = False) -> None:
    """Train on the queries of the challenge, from the pre-trained weights where there are some."""
    assert isinstance(settings.system, Detector)
    start = None if settings.data.pretraining is None else run.checkpoint("pretrain/best.ckpt")
    _train(run, "train", settings.data.training, settings.system.trainer.epochs, start, fast_check)


def _train(run: MomentRun, stage: str, source: MomentSource, epochs: int, start: Path | None, fast_check: bool) -> None:
    settings = run.settings
    assert isinstance(settings.system, Detector)
    seed = derive_seed(settings.seed, sum(stage.encode()))
    queries, reader = open_source(settings, source)
    validation, validation_reader = open_source(settings, settings.data.validation)
    if fast_check:
        queries, validation = queries[:4], validation[:4]
    seed_all(seed)
    model = make_detector(settings.system, reader, queries[0])
    if start is not None:
        load_weights(model, start, prefix="model.")
    readers = reader, validation_reader
    train(run.folder / stage, model, (queries, validation), readers, settings, epochs, seed, fast_check)


def train_curve_head(run: MomentRun, settings: MomentSettings, fast_check: bool = False) -> None:
    """Train `system.head`: train/best.ckpt and metrics.csv."""
    head = _head(settings)
    assert head is not None
    sides = []
    for source in (settings.data.training, settings.data.validation):
        queries, reader = open_source(settings, source)
        queries = queries[:4] if fast_check else queries
        sides.append((similarity_curves(settings, queries, reader), queries))
    seed = derive_seed(settings.seed, sum(b"train"))
    model, rows = train_head(sides[0], sides[1], settings, seed, 1 if fast_check else head.epochs)
    write_text(run.folder / "train" / "metrics.csv", pd.DataFrame(rows).to_csv(index=False))
    save_checkpoint({"state_dict": model.state_dict(prefix="model.")}, run.folder / TRAINED)


def _head(settings: MomentSettings) -> Head | None:
    return settings.system.head if isinstance(settings.system, Similarity) else None


def make_curves(run: MomentRun, queries: Sequence[Query], reader: FeatureReader) -> list[Array]:
    """The similarity curve of each query, sharpened where the system has a head."""
    curves, head = similarity_curves(run.settings, queries, reader), _head(run.settings)
    if head is None:
        return curves
    model = CurveHead(head)
    load_weights(model, run.checkpoint(TRAINED), prefix="model.")
    return sharpen(model, curves)


def tune_spans(run: MomentRun, settings: MomentSettings, fast_check: bool = False) -> None:
    """Choose the parameters of the cut on the validation queries: tune/chosen.json."""
    queries, reader = open_source(settings, settings.data.validation)
    queries = queries[:4] if fast_check else queries
    write_json(run.folder / TUNED, tune(make_curves(run, queries, reader), queries, settings))


def score_system(run: MomentRun, settings: MomentSettings, fast_check: bool = False) -> None:
    """test/: predictions.jsonl, curves.npz, evaluation.json."""
    queries, reader = open_source(settings, settings.data.evaluation)
    queries = queries[:4] if fast_check else queries
    windows, curves = find_moments(run, queries, reader)
    folder = run.folder / "test"
    write_predictions(folder / "predictions.jsonl", queries, windows)
    write_curves(folder / "curves.npz", queries, curves)
    truth = {query.qid: query.windows for query in queries}
    figures = score(windows, truth, [query.vid for query in queries], settings.seed)
    write_json(
        folder / "evaluation.json",
        {
            "figures": {settings.system.kind: as_json(figures)},
            "tested": "epoch of highest validation R1@0.7" if settings.is_trained else "without training",
            "clips": {"queries": len(queries), "recordings": len({query.vid for query in queries})},
            "made_up": is_made_up_data(settings),
        },
    )


def find_moments(
    run: MomentRun, queries: Sequence[Query], reader: FeatureReader
) -> tuple[dict[str, Array], dict[str, Array]]:
    """By qid: windows (n, 3), best first, and the curve that they come from, one value a second."""
    settings = run.settings
    if isinstance(settings.system, Detector):
        model = make_detector(settings.system, reader, queries[0])
        load_weights(model, run.checkpoint(TRAINED), prefix="model.")
        model.to(choose_device(settings.system.trainer))
        answers = answer(model, queries, reader, settings)
        found = {query.qid: windows for query, (windows, _) in zip(queries, answers, strict=True)}
        return found, {query.qid: curve for query, (_, curve) in zip(queries, answers, strict=True)}
    chosen = read_json(run.folder / TUNED, f"run it again with --resume {run.folder} --redo tune", {"chosen": dict})
    curves = make_curves(run, queries, reader)
    found = find_spans(curves, queries, settings, chosen["chosen"])
    return found, {query.qid: curve for query, curve in zip(queries, curves, strict=True)}


def predict(run: MomentRun, root: Path, annotations: str = EVALUATION) -> Path:
    """Answer the queries of an evaluation set: predictions/predictions.jsonl of the run, windows with scores.

    `root` holds the annotations, and `audio` or `features`. predictions/evaluation.json says where they are from.
    """
    run.read_evaluation()
    queries = read_queries(root / annotations, with_windows=False)
    if run.settings.features.encoder is not None:
        encoder = Encoder(run.settings.features.encoder, getattr(run.settings.system, "trainer", None))
        write_features(encoder, run.settings.features, root, queries)
    windows, _ = find_moments(run, queries, FeatureReader(run.settings.features, root))
    path = run.folder / PREDICTIONS
    write_predictions(path, queries, windows)
    content = {"annotations": str((root / annotations).resolve()), "made_up": is_made_up(root)}
    write_json(path.with_name("evaluation.json"), content)
    return path


def write_curves(path: Path, queries: Sequence[Query], curves: dict[str, Array]) -> None:
    """One array (seconds,) a query, by qid."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **{query.qid: curves[query.qid].astype(np.float32) for query in queries})  # type: ignore[arg-type]


def sources_of(settings: MomentSettings) -> list[MomentSource]:
    """The splits that a run uses."""
    data = settings.data
    first = [data.pretraining] if isinstance(settings.system, Detector) else []
    trained = [data.training] if settings.is_trained else []
    return [source for source in (*first, *trained, data.validation, data.evaluation) if source is not None]


def open_source(settings: MomentSettings, source: MomentSource) -> tuple[list[Query], FeatureReader]:
    """Queries of a split and the reader of its features."""
    return read_queries(source.root / source.annotations), FeatureReader(settings.features, source.root)


def make_stages(settings: MomentSettings) -> list[Stage]:
    """Features where an encoder is named; then training, tuning or both, and the test."""
    splits = ("data.validation", "features", "seed")
    features = [Stage("features", write_all_features, uses=("data", "features"), alone=True)]
    first = features if settings.features.encoder is not None else []
    test = Stage("test", score_system, uses=("data.evaluation", "data.max_seconds", "times", *splits), alone=True)
    if not isinstance(settings.system, Detector):
        cut = (*splits, "system", "times")
        head = [Stage("train", train_curve_head, uses=("data.training", *cut), alone=True)]
        tuning = Stage("tune", tune_spans, uses=cut, alone=True)
        return [*first, *(head if settings.is_trained else []), tuning, test]
    learned = ("data.max_seconds", *splits)
    network = tuple(f"system.{name}" for name in Detector.model_fields if name not in ("trainer", "pretraining_epochs"))
    machine = tuple(f"system.trainer.{name}" for name in ("precision", "gradient_clip", "accumulate", "validate_every"))
    stages = [*first]
    if settings.data.pretraining is not None:
        first_used = ("data.pretraining", "system.pretraining_epochs", *learned, *network, *machine)
        stages.append(Stage("pretrain", pretrain, uses=first_used))
    stages.append(
        Stage("train", train_detector, uses=("data.training", "system.trainer.epochs", *learned, *network, *machine))
    )
    return [*stages, test]


def result_row(run: Run[Any]) -> dict[str, Any]:
    """The figures of a finished run in one flat row, for the table of a sweep; 0..1."""
    (figures,) = run.read_evaluation()["figures"].values()
    return {name: figure["value"] for name, figure in figures.items()}


def is_made_up_data(settings: MomentSettings) -> bool:
    """Whether the data of a run are made up."""
    return is_made_up(settings.data.evaluation.root)


def check_inputs(run: MomentRun) -> None:
    """Refuse damaged annotations before a folder is made."""
    for source in sources_of(run.settings):
        read_queries(source.root / source.annotations)


def prepare_features(settings: MomentSettings) -> None:
    """Write the features that several runs share."""
    write_all_features(Run(settings.folder, settings), settings)


def trained_stage(settings: MomentSettings) -> str:
    """The stage with the validation of the training."""
    return "train"


def refuse_without_training(settings: MomentSettings) -> None:
    """A search needs a training; a system without one chooses among its own values in the stage tune."""
    if not settings.is_trained:
        raise UserError(
            f"system.kind {settings.system.kind} learns nothing without system.head; its stage tune chooses among "
            "system.smoothing, thresholds, step_filters and merge_thresholds on the validation, without a search."
        )


RECIPE = Recipe(
    MomentSettings, make_stages, result_row, is_made_up_data, check_inputs, prepare_features,
    objective=Objective(trained_stage, MONITOR, refuse_without_training),
)  # fmt: skip
