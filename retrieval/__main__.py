"""Language-based audio retrieval, query by vocal imitation, and search in your own audio."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common.cli import Positional, Precision, Repeated, print_json, print_table, run, say, sweep_verb, train_verb
from common.data.files import refuse_target
from common.errors import UserError
from common.inference.early import refuse_early
from common.runs.folder import refuse_absent, refuse_no_run, run_folders
from common.runs.run import open_run as open_as
from retrieval.imitation.settings import ImitationSettings
from retrieval.moments.verbs import VERBS as MOMENTS
from retrieval.settings import RetrievalSettings
from retrieval.systems import open_run

if TYPE_CHECKING:
    from common.runs.recipe import Recipe
    from common.runs.run import Run
    from retrieval.search.index import Index

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
    if config is None and root is None:
        raise UserError("Missing: --root. See python -m retrieval data check --help.")
    if config is not None or root is None:
        raise UserError("`data check CONFIG` is now `data check --root DIR`, with the folder of the data.")
    if not root.is_dir():
        raise UserError(f"{root} is not a folder.")
    from retrieval.data.check import check_data as check

    check(root, tuple(exclude)).show(json)


def evaluate(run: Positional[Path], *, json: bool = False) -> None:
    """Print the figures of a finished run, with 95 % intervals.

    Example: runs/retrieval/small_0

    Args:
        run: run folder.
        json: print the figures as JSON.
    """
    opened = open_run(run)
    if json:
        print_json(opened.read_evaluation())
    else:
        show(opened)


def report(runs: Positional[tuple[Path, ...]], *, out: Path | None = None) -> None:
    """Write one report.html: figures, ranks, hardest queries with audio, learning curves, energy.

    Example: runs/retrieval/small_0

    Args:
        runs: run or sweep folders.
        out: file to write; by default report.html in the first folder.
    """
    run_folders(runs)  # refuses at once, without torch
    from retrieval.report import write_retrieval_report

    print(write_retrieval_report(runs, out))


def compare(paths: Positional[tuple[Path, ...]], *, json: bool = False) -> None:
    """Compare systems with the first of them: paired differences with 95 % intervals.

    Example: runs/retrieval/small_0 runs/retrieval/other_0

    Args:
        paths: runs, sweeps (each value of a swept setting is a system, seeds belong together), or folders test/.
        json: print all differences as JSON, from 0 to 1.
    """
    refuse_absent(paths)
    from common.reports.compare import print_comparison
    from retrieval.compare import compare_systems

    print_comparison(compare_systems(paths), json)


def predict(run: Positional[Path], *, root: Path, precision: Precision = "float32") -> None:
    """Rank the recordings of an evaluation set for its queries.

    Example: runs/retrieval/small_0 --root data/clotho_evaluation

    Args:
        run: run folder.
        root: folder with retrieval_captions.csv and the audio (in `test`).
        precision: of the network: float32, bf16, or auto, bf16 where this machine is quicker with it.
    """
    opened = open_as(run, RetrievalSettings)
    refuse_absent([root / "retrieval_captions.csv"], "give the folder of an evaluation set with it")
    from common.inference.prepare import computing_in
    from retrieval.submission import predict as answer

    with computing_in(precision):
        say(f"Wrote {answer(opened, root)}.")


def package(runs: Positional[tuple[Path, ...]], *, label: str, meta: Path, year: Literal[2024, 2025] = 2024) -> None:
    """Write, check and zip the submission of one system; a challenge takes up to four.

    Example: runs/retrieval/small_0 --label Lastname_INST_task8_1 --meta META.yaml

    Args:
        runs: run folders with predictions, or sweep folders; an ensemble averages the similarities of several runs.
        label: Lastname_INST_task8_1 (2024), Lastname_INST_task6_1 (2025).
        meta: completed META.yaml from `python -m submissions template task8_2024 --out META.yaml`.
        year: 2024: ten file names for each query; 2025: all similarities.
    """
    run_folders(runs)  # refuses at once, without torch
    from retrieval.submission import package as write

    print(write(runs, label, meta, year))


def index(
    folder: Positional[Path],
    *,
    out: Path,
    run: Path | None = None,
    model: str | None = None,
    weights: Path | None = None,
    windows: float | None = None,
    hop: float | None = None,
    half: bool = False,
    precision: Precision = "float32",
    skip_unreadable: bool = False,
) -> None:
    """Embed the audio files of a folder for `search`; resumes after an interruption, adds new files when repeated.

    Example: sounds --model mn04.as --out index

    Args:
        folder: folder of the audio files, with subfolders.
        out: folder of the index.
        run: run folder of a trained model (text or vocal imitation).
        model: without training: model of `python -m common models`, or run folder of `finetune`.
        weights: file with weights of the model.
        windows: seconds of the windows into which files are cut; by default a file is indexed as a whole.
        hop: seconds from one window to the next; by default half a window.
        half: store the vectors in half precision.
        precision: of the network: float32, bf16, or auto, bf16 where this machine is quicker with it.
        skip_unreadable: list and skip unreadable files instead of stopping at the first.
    """
    if (run is None) == (model is None):
        raise UserError("Give either --run RUN, or --model NAME to search without training.")
    if weights is not None and model is None:
        raise UserError("--weights belongs to --model; a run has its own weights.")
    if hop is not None and windows is None:
        raise UserError("--hop needs --windows SECONDS.")
    if run is not None:
        refuse_no_run(run)
    refuse_early(model, folder) if model is not None else refuse_absent([folder], "give a folder of sounds")
    from common.inference.prepare import computing_in
    from retrieval.search.index import Windows, build_index
    from retrieval.search.searcher import load_audio_searcher, load_searcher

    cut = None if windows is None else Windows(windows, windows / 2 if hop is None else hop)
    searcher = load_audio_searcher(model, weights) if model is not None else load_searcher(run or Path())
    with computing_in(precision, model or ""):
        count = build_index(searcher, run, folder, out, skip_unreadable, cut, half)
    say(f"{out} holds {count} {'file' if count == 1 else 'files'}. Search it by {' or '.join(searcher.understands)}.")


def search(
    text: Positional[tuple[str, ...]] = (),
    *,
    index: Path,
    voice: Repeated[Path] = (),
    example: Repeated[Path] = (),
    top: int = 5,
    page: Path | None = None,
    json: bool = False,
) -> None:
    """Find the files of an index, or the times in them, that fit words, a vocal imitation or an example.

    Example: "rain on a roof" --index index

    Args:
        text: queries as text; by tags where the index has no text model.
        index: folder from `index`.
        voice: audio file of a vocal imitation (index of a vocal imitation model); may be repeated.
        example: audio file of a similar sound, not found itself; may be repeated.
        top: number of hits for each query.
        page: also write the hits to this HTML file, with players.
        json: print the hits as JSON.
    """
    if top < 1:
        raise UserError(f"--top is {top}; ask for at least 1.")
    if page is not None:
        refuse_target(page)
    opened = _open_index(index)
    from retrieval.search.answer import answer as find
    from retrieval.search.answer import shown

    answers = find(opened, text, voice, example, top)
    hits = [hit for found in answers for hit in found.hits]
    for note in (note for found in answers for note in found.notes):
        say(note)
    if json:
        print_json(hits)
    else:
        print_table([shown(hit, with_query=len(answers) > 1) for hit in hits])
    if page is not None:
        from retrieval.search.page import write_page

        say(f"The page is {write_page(page, opened, answers)}.")


def answer(index: Positional[Path]) -> None:
    """Answer the queries of `common serve --index`, one line of JSON each from stdin.

    Example: index

    Args:
        index: folder from `index`.
    """
    opened = _open_index(index)
    from retrieval.search.answer import answer_queries

    answer_queries(opened)


def _open_index(folder: Path) -> "Index":
    """An index; what is none is refused at once: without torch, and a missing folder without numpy."""
    refuse_absent([folder], "`python -m retrieval index DIR --model mn04.as --out INDEX` makes an index")
    from retrieval.search.index import Index

    return Index.read(folder)


def show(run: "Run[Any]") -> None:
    """Print the figures of a finished run, one table for each direction."""
    from retrieval.report import result_rows

    content = run.read_evaluation()
    title = f"{'Made-up data, ' if content['made_up'] else ''}per cent, 95 % over clips, {content['tested']}"
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
