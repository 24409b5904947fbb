"""Answers to the challenge's queries, and the package of 2024 (ten names each) or 2025 (all similarities)."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from common.data.audio import list_audio
from common.data.made_up import is_made_up
from common.errors import UserError
from common.files import atomic_write
from common.runs import stages
from common.runs.stages import Run, read_record
from common.settings.yaml_file import to_yaml
from retrieval.clips import CaptionedClips, Manifest
from retrieval.data import COLUMNS, read_queries
from retrieval.recipe import load_model, write_similarity
from retrieval.settings import RetrievalSettings
from retrieval.train import embed_captions, embed_clips, make_model
from submissions.package import OUT, add_placeholder_report, declare_made_up, finish_package, new_system
from submissions.participant import join_meta, read_participant
from submissions.rules import load_rules

RULES = {2024: "task8_2024", 2025: "task6_2025"}
PREDICTIONS = "predictions/similarity.npz"


def open_run(folder: Path) -> Run:
    """A finished run of text-to-audio retrieval.

    Raises:
        UserError: if the folder is no such run, or the run is not finished.
    """
    run = stages.open_run(folder, RetrievalSettings)
    read_record(folder, "evaluation")
    return run


def predict(run: Run, root: Path) -> Path:
    """Mean similarity of the run's models (of their last stage) between the queries and clips of an evaluation set.

    Args:
        run: finished run.
        root: holds `retrieval_captions.csv` (column caption) and a folder `test` of audio, or the audio itself.

    Returns:
        predictions/similarity.npz of the run: similarity (queries, clips), captions, file_names, made_up.
    """
    settings = run.settings
    assert isinstance(settings, RetrievalSettings)
    queries = read_queries(root / "retrieval_captions.csv")
    folder = root / "test" if (root / "test").is_dir() else root
    paths = list_audio(folder)
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{folder} has two files named {twice}; the challenge tells clips by their names alone.")
    manifest = _unlabelled(paths)
    total = torch.zeros(len(queries), len(names))
    stage = "distilled" if settings.distilled is not None else "contrastive"
    for name in settings.models:
        model = load_model(run, settings, name, stage)
        clips = CaptionedClips(manifest, model.audio.sample_rate, settings.data, random_part=False)
        total += embed_captions(model, queries) @ embed_clips(model, clips, settings.eval_batch).mT
    path = run.folder / PREDICTIONS
    write_similarity(path, total / len(settings.models), queries, names, made_up=is_made_up(root))
    return path


def package(run_folder: Path, label: str, meta: Path, year: Literal[2024, 2025] = 2024, out: Path = OUT) -> Path:
    """Write the package of a run, check it, and zip it.

    Args:
        run_folder: a run with predictions (`predict`).
        label: Lastname_INST_task8_1 (2024) or Lastname_INST_task6_1 (2025).
        meta: META.yaml with names and methods, from `python -m submissions template`.
        year: 2024 hands in ten file names per query, 2025 all similarities.
        out: folder of the packages.

    Returns:
        The zip; the folder lies beside it.

    Raises:
        UserError: if there are no predictions, META.yaml has mistakes, or the package exists.
        CheckFailed: if the package breaks a rule; its folder stays to be looked at.
    """
    if year not in RULES:
        raise UserError(f"--year {year}: the package is known for {', '.join(map(str, RULES))}.")
    run, rules = open_run(run_folder), load_rules(RULES[year])
    participant = read_participant(meta, rules)
    similarity, queries, names, made_up = read_predictions(run.folder / PREDICTIONS)
    content = join_meta(
        participant,
        label,
        {"complexity": {"total_parameters": _parameters(run)}},
        {"development_evaluation": _development_figures(run)},
    )
    with new_system(label, rules, out) as folder:
        text = matrix_csv(similarity, queries, names) if year == 2025 else ranking_csv(similarity, queries, names)
        with atomic_write(folder / f"{label}.output.csv") as file:
            file.write(text)
        with atomic_write(folder / f"{label}.meta.yaml") as file:
            file.write(to_yaml(content))
        if made_up:
            declare_made_up(label, names, out, queries=queries)
        add_placeholder_report(label, rules, out)
    return finish_package(label, out)


def read_predictions(path: Path) -> tuple[np.ndarray, list[str], list[str], bool]:
    """Similarity, queries, file names, and whether the evaluation set was made up.

    Raises:
        UserError: if there are none.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist. Make it with `python -m retrieval predict RUN --root EVALUATION_SET`.")
    with np.load(path, allow_pickle=False) as data:
        return data["similarity"], data["captions"].tolist(), data["file_names"].tolist(), bool(data["made_up"])


def ranking_csv(similarity: np.ndarray, queries: Sequence[str], names: Sequence[str], count: int = 10) -> str:
    """2024: header caption,file_name_1..file_name_10, one row per query, best first."""
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    rows = [[query, *(names[i] for i in best)] for query, best in zip(queries, order, strict=True)]
    return _as_csv(["caption", *(f"file_name_{i}" for i in range(1, count + 1))], rows)


def matrix_csv(similarity: np.ndarray, queries: Sequence[str], names: Sequence[str]) -> str:
    """2025: first column index (the query), one column of similarities per file."""
    rows = [[query, *(f"{value:.8g}" for value in row)] for query, row in zip(queries, similarity, strict=True)]
    return _as_csv(["index", *names], rows)


def _as_csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _unlabelled(paths: Sequence[Path]) -> Manifest:
    rows = [("challenge", "test", path.name, path, (), float("nan"), "", "") for path in paths]
    return Manifest(pd.DataFrame(rows, columns=COLUMNS))


def _parameters(run: Run) -> int:
    """Of all models that answer together."""
    assert isinstance(run.settings, RetrievalSettings)
    return sum(sum(p.numel() for p in make_model(model).parameters()) for model in run.settings.models.values())


def _development_figures(run: Run) -> dict[str, Any]:
    figures = json.loads((run.folder / "evaluation" / "figures.json").read_text(encoding="utf-8"))["figures"]
    last = figures[list(figures)[-1]]  # the ensemble of the last stage, or its only model
    chosen = {name: round(last[name]["value"], 4) for name in ("R@1", "R@5", "R@10", "mAP@10")}
    if "multiple mAP@16" in last:
        chosen["mAP@16"] = round(last["multiple mAP@16"]["value"], 4)
    return chosen
