"""Language-based audio retrieval, query by vocal imitation, and search in your own audio."""

import sys
from pathlib import Path
from typing import Literal

from common.cli import Positional, Repeated, config_verb, print_json, print_table, run, say
from common.cli.sweep_verb import sweep_verb
from common.errors import CheckFailed, UserError
from retrieval.imitation.settings import ImitationSettings
from retrieval.settings import RetrievalSettings

SMALL = "retrieval/configs/small.yaml"
SMALL_IMITATION = "retrieval/configs/imitation_small.yaml"


def download_data(*, root: Path, evaluation: bool = False, delete_archives: bool = False) -> None:
    """Download and unpack Clotho v2.1, or the evaluation set; goes on after a stop.

    Args:
        root: folder of the data set.
        evaluation: the evaluation set instead of Clotho.
        delete_archives: remove each archive when it is unpacked.
    """
    from retrieval.download import download_data as download

    say(f"The data are in {download(root, evaluation, delete_archives)}.")


def check_data(config: Positional[Path]) -> None:
    """Compare the data of a configuration with the official counts and checksums, and look for leaks.

    Args:
        config: YAML file of text-to-audio retrieval.
    """
    from common.settings import load_settings
    from retrieval.check import check

    problems = check(load_settings(RetrievalSettings, config))
    if problems:
        raise CheckFailed("\n".join(problems))
    say("All clips are there, and none of the evaluation set is trained on.")


def train(
    settings: RetrievalSettings, *, resume: Path | None = None, redo: Repeated[str] = (), fast_check: bool = False
) -> None:
    """Train by the recipe of a configuration: contrastive, correspondences, distilled, evaluation.

    Args:
        resume: run folder to go on with; its settings.yaml takes the place of CONFIG.yaml.
        redo: stage to do again, with those that build on it; may be given several times.
        fast_check: two steps of everything in a temporary folder, to see that it works.
    """
    from retrieval.recipe import check_recipe, run_recipe

    if fast_check:
        check_recipe(settings)
        return
    folder = resume or settings.folder
    run_recipe(settings, folder, redo)
    _show(folder, json=False)


def train_imitation(
    settings: ImitationSettings, *, resume: Path | None = None, redo: Repeated[str] = (), fast_check: bool = False
) -> None:
    """Train encoders of voice and recordings (query by vocal imitation), and test them.

    Args:
        resume: run folder to go on with; its settings.yaml takes the place of CONFIG.yaml.
        redo: stage to do again, with those that build on it; may be given several times.
        fast_check: two steps of everything in a temporary folder, to see that it works.
    """
    from retrieval.imitation.train import check_imitation, run_imitation

    if fast_check:
        check_imitation(settings)
        return
    folder = resume or settings.folder
    run_imitation(settings, folder, redo)
    _show(folder, json=False)


def evaluate(run: Positional[Path], *, json: bool = False) -> None:
    """Show the figures of a finished run, with 95 % intervals.

    Args:
        run: run folder.
        json: print them as JSON.
    """
    _show(run, json)


def report(paths: Positional[tuple[Path, ...]], *, out: Path | None = None) -> None:
    """Write one report.html: figures, ranks, hardest queries to listen to, learning curves, energy.

    Args:
        paths: run or sweep folders.
        out: file to write; left out, report.html in the first folder.
    """
    from retrieval.report import write_retrieval_report

    print(write_retrieval_report(paths, out))


def predict(run: Positional[Path], *, root: Path) -> None:
    """Answer the queries of an evaluation set.

    Args:
        run: run folder.
        root: folder with retrieval_captions.csv and the audio (in `test`).
    """
    from retrieval.submission import open_run
    from retrieval.submission import predict as answer

    say(f"Wrote {answer(open_run(run), root)}.")


def package(run: Positional[Path], *, label: str, meta: Path, year: Literal[2024, 2025] = 2024) -> None:
    """Write, check and zip the submission of a run.

    Args:
        run: run folder with predictions.
        label: Lastname_INST_task8_1 (2024), Lastname_INST_task6_1 (2025).
        meta: META.yaml, made from `python -m submissions template task8_2024 --out META.yaml` and filled in.
        year: 2024: ten file names for each query; 2025: all similarities.
    """
    from retrieval.submission import package as write

    print(write(run, label, meta, year))


def index(folder: Positional[Path], *, run: Path, out: Path, skip_unreadable: bool = False) -> None:
    """Embed every audio file of a folder, so that it can be searched; goes on where it was stopped.

    Args:
        folder: searched with its folders.
        run: run folder of a trained model (text or vocal imitation).
        out: folder of the index.
        skip_unreadable: leave out and name files that cannot be read, instead of stopping at the first.
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
    """Find the files of an index that fit words, a voice or an example best.

    Args:
        text: the query in words.
        index: folder that `index` made.
        voice: audio file of a voice that imitates the sound (index of a vocal imitation model).
        example: audio file of a sound like those looked for.
        top: how many files.
        json: print them as JSON.
    """
    from retrieval.search import Index
    from retrieval.search import search as find

    found = find(Index.read(index), text, voice, example, top)
    print_json(found) if json else print_table(found)


def _show(run: Path, json: bool) -> None:
    import json as json_module

    path = run / "evaluation" / "figures.json"
    if not path.is_file():
        raise UserError(f"{run} has no finished evaluation; finish it with --resume {run}.")
    content = json_module.loads(path.read_text(encoding="utf-8"))
    if json:
        print_json(content)
        return
    for direction, forward in (("", True), (", audio to text", False)):
        rows = [
            {
                "model": model,
                **{_short(name): _cell(f) for name, f in figures.items() if _looks_for_audio(name) is forward},
            }
            for model, figures in content["figures"].items()
        ]
        if any(len(row) > 1 for row in rows):
            title = f"{'Made-up data, ' if content.get('made_up') else ''}per cent with 95 % intervals{direction}"
            print_table(rows, title=title)
    for note in content["clips"].get("notes", []):
        say(note)


def _looks_for_audio(name: str) -> bool:
    return not name.startswith("audio to text")


def _short(name: str) -> str:
    return name.removeprefix("audio to text ")


def _cell(figure: dict) -> str:
    low, high = figure["interval"]
    return f"{100 * figure['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


VERBS = {
    "data": {"download": download_data, "check": check_data},
    "train": config_verb(RetrievalSettings, train, config_for={"fast_check": SMALL}),
    "train_imitation": config_verb(ImitationSettings, train_imitation, config_for={"fast_check": SMALL_IMITATION}),
    "sweep": sweep_verb(RetrievalSettings, "retrieval.recipe:sweep_cell", "retrieval.recipe:is_made_up_run"),
    "sweep_imitation": sweep_verb(
        ImitationSettings, "retrieval.imitation.train:sweep_cell", "retrieval.imitation.train:is_made_up_run"
    ),
    "evaluate": evaluate,
    "report": report,
    "predict": predict,
    "package": package,
    "index": index,
    "search": search,
}

if __name__ == "__main__":
    sys.exit(run("python -m retrieval", VERBS))
