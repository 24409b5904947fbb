"""The verbs `python -m retrieval moments ...`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common.cli import Positional, print_json, print_table, say, sweep_verb, train_verb
from common.runs.folder import refuse_absent, run_folders
from common.runs.run import open_run
from retrieval.moments.settings import MomentSettings

if TYPE_CHECKING:
    from common.runs.recipe import Recipe
    from common.runs.run import Run

SMALL = "retrieval/moments/configs/small.yaml"


def download_data(
    *, root: Path, part: Literal["castella", "clotho_moment", "evaluation"] = "castella", record: int | None = None
) -> None:
    """Download annotations and features; resumes after an interruption.

    Example: --root data/castella

    Args:
        root: folder of the data set.
        part: CASTELLA, Clotho-Moment (23 GB) or the evaluation set of 2026.
        record: Zenodo record of the features; by default the known one.
    """
    from retrieval.moments.download import download_data as download

    say(f"The data are in {download(root, part, record)}.")


def check_data(*, root: Path, json: bool = False) -> None:
    """Compare annotations with the official counts, and name oddities.

    Example: --root data/castella

    Args:
        root: folder with the jsonl files.
        json: print the report as JSON.
    """
    from retrieval.moments.annotations import check_annotations

    check_annotations(root).show(json)


def evaluate(run: Positional[Path], *, json: bool = False) -> None:
    """Print the figures of a finished run, with 95 % intervals.

    Example: runs/moments/small_0

    Args:
        run: run folder.
        json: print the figures as JSON.
    """
    opened = open_run(run, MomentSettings)
    print_json(opened.read_evaluation()) if json else show(opened)


def predict(run: Positional[Path], *, root: Path, annotations: str = "dcase2026_evaluation.jsonl") -> None:
    """Find the moments for the queries of an evaluation set.

    Example: runs/moments/small_0 --root data/castella

    Args:
        run: run folder.
        root: folder with the annotations, and `features` or `audio`.
        annotations: file of the queries in it.
    """
    opened = open_run(run, MomentSettings)
    refuse_absent([root / annotations], "give the folder and the file of the queries")
    from retrieval.moments.recipe import predict as answer

    say(f"Wrote {answer(opened, root, annotations)}.")


def package(run: Positional[tuple[Path, ...]], *, label: str, meta: Path) -> None:
    """Write, check and zip the submission of one system; the challenge takes up to four.

    Example: runs/moments/small_0 --label Lastname_INST_task6_1 --meta META.yaml

    Args:
        run: run folder with predictions.
        label: Lastname_INST_task6_1.
        meta: completed META.yaml from `python -m submissions template task6_2026 --out META.yaml`.
    """
    run_folders(run)  # refuses at once, without torch
    from retrieval.moments.submission import package as write

    print(write(run, label, meta))


def compare(paths: Positional[tuple[Path, ...]], *, json: bool = False) -> None:
    """Compare systems with the first of them: paired differences with 95 % intervals.

    Example: runs/moments/small_0 runs/moments/other_0

    Args:
        paths: runs or sweeps (each value of a swept setting is a system, seeds belong together).
        json: print all differences as JSON, from 0 to 1.
    """
    refuse_absent(paths)
    from common.reports.compare import print_comparison
    from retrieval.moments.compare import compare_systems

    print_comparison(compare_systems(paths), json)


def report(paths: Positional[tuple[Path, ...]], *, out: Path | None = None) -> None:
    """Write one report.html: figures, R1 by length, best and worst queries with curves and audio.

    Example: runs/moments/small_0

    Args:
        paths: run or sweep folders.
        out: file to write; by default report.html in the first folder.
    """
    run_folders(paths)  # refuses at once, without torch
    from retrieval.moments.report import write_moment_report

    print(write_moment_report(paths, out))


def show(run: "Run[Any]") -> None:
    """Print the figures of a finished run."""
    from retrieval.report import result_rows

    content = run.read_evaluation()
    title = f"{'Made-up data, ' if content['made_up'] else ''}percent with 95 % intervals, {content['tested']}"
    print_table(result_rows([(run, content)]), title=title)


def _load_recipe() -> "Recipe[MomentSettings]":
    from retrieval.moments.recipe import RECIPE

    return RECIPE


TRAIN = "Find moments of long recordings by text: features, pre-training, training, test."
VERBS: dict[str, Any] = {
    "data": {"download": download_data, "check": check_data},
    "train": train_verb(MomentSettings, _load_recipe, show, TRAIN, SMALL),
    "sweep": sweep_verb(MomentSettings, _load_recipe),
    "evaluate": evaluate,
    "compare": compare,
    "predict": predict,
    "package": package,
    "report": report,
}
