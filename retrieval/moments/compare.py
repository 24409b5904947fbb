"""The verb `moments compare`: systems on one set of queries, from the answers that their tests wrote."""

from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.reports.compare import Comparison, Measured
from common.reports.statistics import draws_of_mean
from common.runs.systems import compare_paths
from retrieval.moments.annotations import read_predictions, read_queries
from retrieval.moments.metrics import query_values
from retrieval.moments.recipe import RECIPE, MomentRun


def compare_systems(paths: Sequence[Path]) -> list[Comparison]:
    """Compare runs and sweeps with the first of them."""
    return compare_paths(paths, RECIPE.open, measure, refuse_folder)


def measure(run: MomentRun) -> Measured:
    """Figures of a finished run."""
    content, source = run.read_evaluation(), run.settings.data.evaluation
    queries = read_queries(source.root / source.annotations)
    recordings = [query.vid for query in queries]
    found = read_predictions(run.folder / "test" / "predictions.jsonl")
    values = query_values(found, {query.qid: query.windows for query in queries}, recordings)
    values = {"R1@0.7": values["R1@0.7"], **values}  # the figure that ranks decides
    figures = {name: draws_of_mean(*one) for name, one in values.items()}
    counted = f"{len(set(recordings)):,} recordings"
    test_sets = {"test": [query.qid for query in queries]}
    return Measured(run.folder.name, run.settings.seed, test_sets, counted, figures, made_up=content["made_up"])


def refuse_folder(folder: Path) -> Measured:
    """Anything but a run or a sweep."""
    raise UserError(f"{folder} is neither a run nor a sweep of moments.")
