"""The metric fixtures: real and made-up score tables, and what the official packages compute from them."""

import io
import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from task4_sed.metrics import EvaluationSet, evaluation_set
from task4_sed.scores.tables import ScoreTables, write_score_tables
from tests.support.places import GOLDEN

FIXTURES = GOLDEN / "sed"


@cache
def expected(name: str) -> dict:
    """What the official packages compute from the set `name`."""
    return json.loads((FIXTURES / "expected.json").read_text())["sets"][name]


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    """Everything the set `name` holds."""
    with np.load(FIXTURES / f"{name}.npz") as file:
        return dict(file)


def golden_scores(name: str) -> ScoreTables:
    """Score tables of the set `name`."""
    data = arrays(name)
    values = data["values"].astype(np.float64)
    return ScoreTables(
        tuple(data["clips"].tolist()), tuple(data["classes"].tolist()), data["starts"], data["borders"], values
    )


def golden_table(name: str, key: str) -> pd.DataFrame:
    """A table of the set `name`: ground_truth, durations, csebbs_global ..."""
    return pd.read_csv(io.StringIO(str(arrays(name)[key])), sep="\t")


@cache
def golden_set(name: str) -> EvaluationSet:
    """Scores, events and durations of the set `name`."""
    return evaluation_set(golden_scores(name), golden_table(name, "ground_truth"), golden_table(name, "durations"))


def write_golden(name: str, folder: Path) -> tuple[Path, Path, Path]:
    """The set as files: folder of score tables, ground truth, durations."""
    write_score_tables(golden_scores(name), folder / "scores")
    paths = []
    for key in ("ground_truth", "durations"):
        paths.append(folder / f"{key}.tsv")
        paths[-1].write_text(str(arrays(name)[key]))
    return folder / "scores", paths[0], paths[1]
