"""Answers to the challenge's queries, and the package of 2024 (ten names each) or 2025 (all similarities)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from common.data.audio import list_audio
from common.data.files import is_made_up, write_text
from common.errors import UserError
from common.runs.folder import run_folders
from common.settings.yaml_file import to_yaml
from retrieval.data.captions import COLUMNS, read_queries, read_relevance
from retrieval.data.clips import Manifest
from retrieval.evaluate import score
from retrieval.model import make_model
from retrieval.recipe import RECIPE, TextRun, load_model, similarities, write_similarity
from submissions.package import OUT, finish_package, new_system, team_name
from submissions.participant import join_meta, read_participant
from submissions.reading import EvaluationFiles
from submissions.rules import load_rules

RULES = {2024: "task8_2024", 2025: "task6_2025"}
PREDICTIONS = "predictions/similarity.npz"


def predict(run: TextRun, root: Path) -> Path:
    """Mean similarity of the run's models (of their last stage) between the queries and clips of an evaluation set.

    `root` holds `retrieval_captions.csv` (column caption) and a folder `test` of audio, or the audio itself. Returns
    predictions/similarity.npz of the run: similarity (queries, clips), captions, file_names, made_up.
    """
    run.read_evaluation()
    queries = read_queries(root / "retrieval_captions.csv")
    folder = root / "test" if (root / "test").is_dir() else root
    paths = list_audio(folder)
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{folder} has two files named {twice}; the challenge identifies clips by their names alone.")
    rows = [("challenge", "test", path.name, path, (), "") for path in paths]
    manifest = Manifest(pd.DataFrame(rows, columns=COLUMNS))
    stage = "contrastive" if run.settings.distilled is None else "distilled"
    models = (load_model(run, name, stage) for name in run.settings.models)
    found = [similarities(model, manifest, queries, run.settings) for model in models]
    path = run.folder / PREDICTIONS
    write_similarity(path, torch.stack(found).mean(dim=0), queries, names, made_up=is_made_up(root))
    return path


def package(folders: Sequence[Path], label: str, meta: Path, year: Literal[2024, 2025] = 2024, out: Path = OUT) -> Path:
    """Write the package of one system, check it, and zip it.

    Args:
        folders: runs or sweeps with predictions (`predict`); the system is the mean of their similarities.
        meta: META.yaml with names and methods, from `python -m submissions template`.
        year: 2024 submits ten file names per query, 2025 all similarities.
        out: folder of the packages.

    Returns:
        The zip; the folder lies beside it.

    Raises:
        UserError: if predictions are missing or of different evaluation sets, META.yaml has mistakes, or the package
            exists.
        CheckFailed: if the package breaks a rule; its folder stays for inspection.
    """
    if year not in RULES:
        raise UserError(f"--year {year}: the package is known for {', '.join(map(str, RULES))}.")
    runs, rules = [RECIPE.open(folder) for folder in run_folders(folders)], load_rules(RULES[year])
    participant = read_participant(meta, rules)
    similarity, queries, names, made_up = read_predictions([run.folder / PREDICTIONS for run in runs])
    models = (make_model(model) for run in runs for model in run.settings.models.values())
    content = join_meta(
        participant,
        label,
        {"complexity": {"total_parameters": sum(p.numel() for model in models for p in model.parameters())}},
        {"development_evaluation": development_figures(runs)},
    )
    declared = {"files": names, "queries": queries} if made_up else None
    with new_system(label, rules, out, declared) as folder:
        text = matrix_csv(similarity, queries, names) if year == 2025 else ranking_csv(similarity, queries, names)
        write_text(folder / f"{label}.output.csv", text)
        write_text(folder / f"{label}.meta.yaml", to_yaml(content))
    evaluation = EvaluationFiles(files=names, queries=queries, source="the evaluation set of the predictions")
    return finish_package(out / team_name(label), None if made_up else evaluation)


def read_predictions(paths: Sequence[Path]) -> tuple[NDArray, list[str], list[str], bool]:
    """Mean similarity of one or several runs, queries, file names, and whether the evaluation set was made up.

    Raises:
        UserError: if there are none, or they are of different queries or clips.
    """
    found: list[tuple[NDArray, list[str], list[str], bool]] = []
    for path in paths:
        if not path.is_file():
            raise UserError(
                f"{path} does not exist. Make it with `python -m retrieval predict RUN --root EVALUATION_SET`."
            )
        with np.load(path, allow_pickle=False) as data:
            texts = data["captions"].tolist(), data["file_names"].tolist()
            found.append((data["similarity"], *texts, bool(data["made_up"])))
        if found[-1][1:3] != found[0][1:3]:
            raise UserError(f"{path} answers other queries or ranks other clips than {paths[0]}; predict both again.")
    return np.mean([one[0] for one in found], axis=0), *found[0][1:3], any(one[3] for one in found)


def development_figures(runs: Sequence[TextRun]) -> dict[str, float]:
    """Figures on the development set of the mean similarity of the runs' last systems, rounded."""
    evaluations = [run.read_evaluation()["figures"] for run in runs]
    if len(runs) == 1:
        figures = {name: figure["value"] for name, figure in list(evaluations[0].values())[-1].items()}
    else:
        systems = [list(figures)[-1].replace(" ", "_", 1) for figures in evaluations]
        files = [run.folder / "test" / f"{system}.npz" for run, system in zip(runs, systems)]
        similarity, captions, names, _ = read_predictions(files)
        owners = pd.read_csv(runs[0].folder / "test" / "queries.csv", dtype=str, keep_default_na=False)["file_name"]
        table = runs[0].settings.data.relevance
        relevance = None if table is None else read_relevance(table)
        owner = torch.tensor([names.index(name) for name in owners])
        scored = score(torch.from_numpy(similarity), owner, captions, names, relevance)
        figures = {name: figure.value for name, figure in scored.items()}
    submitted = {"R@1": "R@1", "R@5": "R@5", "R@10": "R@10", "mAP@10": "mAP@10", "multiple mAP@16": "mAP@16"}
    return {official: round(figures[name], 4) for name, official in submitted.items() if name in figures}


def ranking_csv(similarity: NDArray, queries: Sequence[str], names: Sequence[str], count: int = 10) -> str:
    """2024: header caption,file_name_1..file_name_10, one row per query, best first."""
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    rows = [[query, *(names[i] for i in best)] for query, best in zip(queries, order, strict=True)]
    header = ["caption", *(f"file_name_{i}" for i in range(1, count + 1))]
    return pd.DataFrame(rows, columns=header).to_csv(index=False, lineterminator="\n")


def matrix_csv(similarity: NDArray, queries: Sequence[str], names: Sequence[str]) -> str:
    """2025: first column index (the query), one column of similarities per file."""
    rows = [[query, *(f"{value:.8g}" for value in row)] for query, row in zip(queries, similarity, strict=True)]
    return pd.DataFrame(rows, columns=["index", *names]).to_csv(index=False, lineterminator="\n")
