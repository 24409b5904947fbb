"""Language-based audio retrieval, query by vocal imitation, and search in your own audio."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common.cli import Positional, Repeated, print_json, print_table, run, say, sweep_verb, train_verb
from common.errors import UserError
from retrieval.imitation.settings import ImitationSettings
from retrieval.moments.verbs import VERBS as MOMENTS
from retrieval.settings import RetrievalSettings

if TYPE_CHECKING:
    from common.runs.recipe import Recipe
    from common.runs.stages import Run

SMALL = "retrieval/configs/small.yaml"
SMALL_IMITATION = "retrieval/configs/imitation_small.yaml"


def download_data(*, root: Path, evaluation: bool = False, delete_archives: bool = False) -> None:
    """Download and unpack Clotho v2.1, or the evaluation set; resumes after an interruption.

    Example: --root data/clotho

    Args:
        root: folder of the data set.
        evaluation: the evaluation set instead of Clotho.
        delete_archives: remove each archive after unpacking.
    """
    from retrieval.data.download import download_data as download

    say(f"The data are in {download(root, evaluation, delete_archives)}.")


def check_data(
    config: Positional[Path | None] = None,
    *,
    root: Path | None = None,
    exclude: Repeated[Path] = (),
    json: bool = False,
) -> None:
    """Compare captioned data with the official counts and checksums, and find recordings of the evaluation set.

    Example: --root data/clotho

    Args:
        config: no longer accepted; use --root.
        root: folder of Clotho, AudioCaps or WavCaps, or of several of them.
        exclude: list of source ids excluded from training; may be repeated.
        json: print the report as JSON.
    """
    from retrieval.data.check import check_data as check

    if config is not None or root is None:
        raise UserError("`data check CONFIG` is now `data check --root DIR`, with the folder of the data.")
    check(root, tuple(exclude)).show(json)


def evaluate(run: Positional[Path], *, json: bool = False) -> None:
    """Print the figures of a finished run, with 95 % intervals.

    Example: runs/retrieval/small_0

    Args:
        run: run folder.
        json: print the figures as JSON.
    """
    from retrieval.search import open_run

    opened = open_run(run)
    if json:
        print_json(opened.read_evaluation())
    else:
        show(opened)


def report(paths: Positional[tuple[Path, ...]], *, out: Path | None = None) -> None:
    """Write one report.html: figures, ranks, hardest queries with audio, learning curves, energy.

    Example: runs/retrieval/small_0

    Args:
        paths: run or sweep folders.
        out: file to write; by default report.html in the first folder.
    """
    from retrieval.report import write_retrieval_report

    print(write_retrieval_report(paths, out))


def compare(paths: Positional[tuple[Path, ...]], *, json: bool = False) -> None:
    """Compare systems with the first of them: paired differences with 95 % intervals.

    Example: compare runs/retrieval/small_0 runs/retrieval/other_0

    Args:
        paths: runs, sweeps (each value of a swept setting is a system, seeds belong together), or folders test/.
        json: print all differences as JSON, from 0 to 1.
    """
    from common.reports.compare import print_comparison
    from retrieval.compare import compare_systems

    print_comparison(compare_systems(paths), json)


def predict(run: Positional[Path], *, root: Path) -> None:
    """Rank the recordings of an evaluation set for its queries.

    Example: runs/retrieval/small_0 --root data/clotho_evaluation

    Args:
        run: run folder.
        root: folder with retrieval_captions.csv and the audio (in `test`).
    """
    from retrieval.submission import predict as answer

    say(f"Wrote {answer(_load_recipe().open(run), root)}.")


def package(runs: Positional[tuple[Path, ...]], *, label: str, meta: Path, year: Literal[2024, 2025] = 2024) -> None:
    """Write, check and zip the submission of one system; a challenge takes up to four.

    Example: runs/retrieval/small_0 --label Lastname_INST_task8_1 --meta META.yaml

    Args:
        runs: run folders with predictions, or sweep folders; an ensemble averages the similarities of several runs.
        label: Lastname_INST_task8_1 (2024), Lastname_INST_task6_1 (2025).
        meta: completed META.yaml from `python -m submissions template task8_2024 --out META.yaml`.
        year: 2024: ten file names for each query; 2025: all similarities.
    """
    from retrieval.submission import package as write

    print(write(runs, label, meta, year))


def index(folder: Positional[Path], *, run: Path, out: Path, skip_unreadable: bool = False) -> None:
    """Embed every audio file of a folder for `search`; resumes after an interruption.

    Example: sounds --run runs/retrieval/small_0 --out index

    Args:
        folder: folder of the audio files, with subfolders.
        run: run folder of a trained model (text or vocal imitation).
        out: folder of the index.
        skip_unreadable: list and skip unreadable files instead of stopping at the first.
    """
    from retrieval.search import build_index, load_searcher

    count = build_index(load_searcher(run), run, folder, out, skip_unreadable)
    say(f"{out} holds {count} files.")


def search(
    text: Positional[str | None] = None,
    *,
    index: Path,
    voice: Path | None = None,
    example: Path | None = None,
    top: int = 5,
    json: bool = False,
) -> None:
    """Find the best matching files of an index for a text, a vocal imitation or an example.

    Example: "rain on a roof" --index index

    Args:
        text: the query as text.
        index: folder from `index`.
        voice: audio file of a vocal imitation (index of a vocal imitation model).
        example: audio file of a similar sound.
        top: number of files.
        json: print the files as JSON.
    """
    from retrieval.search import Index
    from retrieval.search import search as find

    found = find(Index.read(index), text, voice, example, top)
    print_json(found) if json else print_table(found)


def answer(index: Positional[Path]) -> None:
    """Answer the queries of `common serve --index`, one line of JSON each from stdin.

    Example: index

    Args:
        index: folder from `index`.
    """
    from retrieval.search import answer_queries

    answer_queries(index)


def show(run: "Run[Any]") -> None:
    """Print the figures of a finished run, one table for each direction."""
    from retrieval.report import result_rows

    content = run.read_evaluation()
    title = f"{'Made-up data, ' if content['made_up'] else ''}percent with 95 % intervals, {content['tested']}"
    print_table(result_rows([(run, content)]), title=title)
    if rows := result_rows([(run, content)], "audio to text "):
        print_table(rows, title=f"{title}, audio to text")
    for note in content["clips"].get("notes", []):
        say(note)


def _load_recipe() -> "Recipe[RetrievalSettings]":
    from retrieval.recipe import RECIPE

    return RECIPE


def _load_imitation_recipe() -> "Recipe[ImitationSettings]":
    from retrieval.imitation.recipe import RECIPE

    return RECIPE


TRAIN = "Train the models of a configuration: contrastive, correspondences, distilled, test."
TRAIN_IMITATION = "Train encoders of voice and recordings (query by vocal imitation), and test them."
VERBS: dict[str, Any] = {
    "data": {"download": download_data, "check": check_data},
    "train": train_verb(RetrievalSettings, _load_recipe, show, TRAIN, SMALL),
    "train_imitation": train_verb(ImitationSettings, _load_imitation_recipe, show, TRAIN_IMITATION, SMALL_IMITATION),
    "sweep": sweep_verb(RetrievalSettings, _load_recipe),
    "sweep_imitation": sweep_verb(ImitationSettings, _load_imitation_recipe),
    "evaluate": evaluate,
    "report": report,
    "compare": compare,
    "predict": predict,
    "package": package,
    "index": index,
    "search": search,
    "answer": answer,
    "moments": MOMENTS,
}

if __name__ == "__main__":
    sys.exit(run("python -m retrieval", VERBS))
