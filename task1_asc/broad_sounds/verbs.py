"""Verbs of broad sounds: `python -m task1_asc sounds VERB`."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from common.cli import Positional, Verb, print_json, print_table, say, sweep_verb, train_verb
from common.runs.folder import refuse_absent, run_folders
from common.runs.run import open_run
from task1_asc.broad_sounds.settings import SoundSettings

if TYPE_CHECKING:
    from common.runs.recipe import Recipe
    from common.runs.run import Run

SMALL = "task1_asc/broad_sounds/configs/small.yaml"


def download_data(
    *,
    root: Path,
    sets: tuple[Literal["bsd10k", "bsd35k-cs", "bsd2k"], ...] = ("bsd10k",),
    record: int | None = None,
    delete_archives: bool = False,
) -> None:
    """Download and unpack data sets; resumes after an interruption.

    Example: --root data --sets bsd10k bsd2k

    Args:
        root: folder for the data sets' folders.
        sets: BSD10k, BSD35k-CS (45 GB unpacked), BSD2k.
        record: Zenodo record of the set, where the kit's is outdated.
        delete_archives: remove each archive after unpacking.
    """
    from task1_asc.broad_sounds.check import download

    for name in sets:
        say(f"The data are in {download(root, name, record, delete_archives)}.")


def check_data(*, root: Path, commercial_only: bool = False, json: bool = False) -> None:
    """Compare data sets with the official counts; name missing audio, missing or damaged vectors, and licences.

    Example: --root data/BSD10k

    Args:
        root: folder of a data set, or of several.
        commercial_only: count clips of the licences CC0 and CC BY only, without official counts.
        json: print the report as JSON.
    """
    from task1_asc.broad_sounds.check import check_data as check

    check(root, commercial_only).show(json)


def write_folds(*, root: Path, out: Path, protocol: Literal["published", "uploader"] = "published") -> None:
    """Write the five folds of a data set: OUT/fold_<k>/splits.csv with index and split, as the baseline does.

    Example: --root data/BSD10k --out folds --protocol uploader

    Args:
        root: folder of BSD10k or BSD35k-CS.
        out: folder of the folds.
        protocol: published, or uploader: all clips of an uploader on the same side.
    """
    from task1_asc.broad_sounds.data import folds_by_protocol, read_sounds, write_splits

    sounds = read_sounds(root)
    folds = folds_by_protocol(sounds, protocol)
    write_splits(out, sounds.ids, folds)
    print_table(
        [{"fold": number, **{part: len(rows) for part, rows in vars(fold).items()}} for number, fold in folds.items()]
    )


def load_recipe() -> "Recipe[SoundSettings]":
    """The recipe; torch is imported here."""
    from task1_asc.broad_sounds.recipe import RECIPE

    return RECIPE


def show(run: "Run[SoundSettings]") -> None:
    """Print the figures of a finished run."""
    from task1_asc.broad_sounds.report import print_run

    print_run(run)


def evaluate(run: Positional[Path], *, json: bool = False) -> None:
    """Print the figures of a finished run, with 95 % intervals.

    Example: runs/broad_sounds/baseline_seed0

    Args:
        run: run folder.
        json: print the figures as JSON, 0 to 1.
    """
    opened = open_run(run, SoundSettings)
    print_json(opened.read_evaluation()) if json else show(opened)


def compare(paths: Positional[tuple[Path, ...]], *, ensemble: bool = False, json: bool = False) -> None:
    """Compare systems with the first of them: paired differences with 95 % intervals, also per class.

    Example: runs/broad_sounds/baseline_seed0 runs/broad_sounds/three_stages_seed0 --ensemble

    Args:
        paths: runs, or sweeps (each value of a swept setting is a system, seeds belong together).
        ensemble: also compare the mean of the logits of all runs.
        json: print all differences as JSON, from 0 to 1.
    """
    refuse_absent(paths)
    from common.reports.compare import print_comparison
    from task1_asc.broad_sounds.compare import compare_systems

    print_comparison(compare_systems(paths, ensemble), json)


def predict(runs: Positional[tuple[Path, ...]], *, root: Path) -> None:
    """Classify an evaluation set and write RUN/predictions/predictions.csv: a probability for each class.

    Example: runs/broad_sounds/baseline_seed0 --root data/BSD2k

    Args:
        runs: run folder; of several, mean logits of all, written into the first.
        root: folder of BSD2k, or of any data set in its layout.
    """
    opened = [open_run(run, SoundSettings) for run in runs]
    refuse_absent([root], "give the folder of a data set")
    from task1_asc.broad_sounds.evaluate import predict as write

    print(write(opened, root))


def package(runs: Positional[tuple[Path, ...]], *, label: str, meta: Path) -> None:
    """Write, check and zip the submission of one system, with its 72 figures; the challenge takes up to four.

    Example: runs/sounds/small_seed0 --label Lastname_INST_task1_1 --meta META.yaml

    Args:
        runs: run folders with predictions, or sweep folders; an ensemble averages the logits of several runs.
        label: Lastname_INST_task1_1.
        meta: completed META.yaml from `python -m submissions template task1_2026 --out META.yaml`.
    """
    run_folders(runs)  # refuses at once, without torch
    from task1_asc.broad_sounds.submission import package as write

    print(write(runs, label, meta))


def report(runs: Positional[tuple[Path, ...]], *, out: Path | None = None) -> None:
    """Write one report.html: figures, protocols, classes, confusion, the clips most surely wrong, curves.

    Example: runs/broad_sounds/baseline_seed0

    Args:
        runs: run or sweep folders.
        out: file to write; by default report.html in the first folder.
    """
    run_folders(runs)  # refuses at once, without torch
    from task1_asc.broad_sounds.report import write_sound_report

    say(f"Wrote {write_sound_report(runs, out)}.")


TRAIN = "Train and test five folds: curated clips, then crowd and curated clips again where the settings say so."
VERBS: dict[str, Verb] = {
    "data": {"download": download_data, "check": check_data, "folds": write_folds},
    "train": train_verb(SoundSettings, load_recipe, show, TRAIN, SMALL),
    "sweep": sweep_verb(SoundSettings, load_recipe),
    "evaluate": evaluate,
    "compare": compare,
    "predict": predict,
    "package": package,
    "report": report,
}
