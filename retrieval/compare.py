"""The verb `compare`: systems on one test set, from the similarities that their tests wrote."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.data.files import read_json
from common.errors import UserError
from common.reports.compare import Comparison, Measured
from common.reports.statistics import draws_of_mean
from common.runs.run import Run
from common.runs.systems import compare_paths
from retrieval.data.captions import read_relevance
from retrieval.evaluate import query_values
from retrieval.imitation import evaluate as imitation
from retrieval.imitation.data import read_search
from retrieval.imitation.settings import ImitationSettings
from retrieval.systems import open_run

Values = dict[str, tuple[Tensor, Tensor]]
"""By figure: of each query, and the group that it is drawn with."""


def compare_systems(paths: Sequence[Path]) -> list[Comparison]:
    """Compare runs (their last model), sweeps, or folders with queries.csv and similarities (a run's test/)."""
    return compare_paths(paths, open_run, measure, measure_folder)


def measure(run: Run[Any]) -> Measured:
    """Figures of a finished run."""
    content, folder = run.read_evaluation(), run.folder / "test"
    if isinstance(run.settings, ImitationSettings):
        return _of_imitations(run, content)
    last = list(content["figures"])[-1]
    return measure_folder(folder, run, f"{last.replace(' ', '_')}.npz")


def measure_folder(folder: Path, run: Run[Any] | None = None, name: str = "*.npz") -> Measured:
    """Figures of one file of similarities beside queries.csv, which names the clip of each caption.

    Raises:
        UserError: if there is none, or several.
    """
    files = sorted(folder.glob(name))
    if len(files) != 1 or not (folder / "queries.csv").is_file():
        raise UserError(
            f"{folder} has {len(files)} files {name} beside queries.csv, and one is needed; give a run or a sweep, or "
            "a folder with the similarities of one system."
        )
    with np.load(files[0]) as content:
        similarity = torch.from_numpy(content["similarity"])
        captions, clips = content["captions"].tolist(), content["file_names"].tolist()
    queries = pd.read_csv(folder / "queries.csv", dtype=str, keep_default_na=False)
    if queries["caption"].tolist() != captions or not set(queries["file_name"]) <= set(clips):
        raise UserError(f"{folder / 'queries.csv'} has other captions or clips than {files[0].name}; test again.")
    owner = torch.tensor([clips.index(clip) for clip in queries["file_name"]])
    relevance = None if run is None else run.settings.data.relevance
    values = query_values(similarity, owner, captions, clips, read_relevance(relevance) if relevance else None)
    test_set = [*clips, *map(json.dumps, zip(captions, queries["file_name"]))]
    if run is None:
        return _measured(str(folder), None, test_set, values, f"{len(clips):,} clips", False)
    made_up = run.read_evaluation()["made_up"]
    return _measured(run.folder.name, run.settings.seed, test_set, values, f"{len(clips):,} clips", made_up)


def _of_imitations(run: Run[ImitationSettings], content: dict[str, Any]) -> Measured:
    path = run.folder / "test" / "similarities.json"
    found = read_json(path, f"write it again with --resume {run.folder} --redo test", {"similarity": list})
    search = read_search(run.settings.data)
    names = [[path.name for path in search.queries], [path.name for path in search.items]]
    if [found["queries"], found["items"]] != names:
        raise UserError(f"{run.settings.data.root} has other sounds than {path}; test again with --redo test.")
    values = imitation.query_values(torch.tensor(found["similarity"]), search)
    counted = f"{len(set(search.target)):,} imitated sounds"
    return _measured(run.folder.name, run.settings.seed, [*names[0], *names[1]], values, counted, content["made_up"])


def _measured(
    run: str, seed: int | None, test_set: Sequence[str], values: Values, counted: str, made_up: bool
) -> Measured:
    figures = {name: draws_of_mean(found, groups) for name, (found, groups) in values.items()}
    return Measured(run, seed, {"test": test_set}, counted, figures, made_up=made_up)
