"""Acoustic scene classification with few parameters and few labels: DCASE Task 1 of 2024 and 2025."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from common.cli import (
    Positional,
    Verb,
    config_verb,
    make_executor,
    print_json,
    print_table,
    run,
    say,
    sweep_verb,
    train_verb,
)
from common.errors import UserError
from common.runs.folder import refuse_absent, run_folders
from common.runs.run import open_run
from task1_asc.broad_sounds.verbs import VERBS as SOUND_VERBS
from task1_asc.settings import Task1Settings

if TYPE_CHECKING:
    from common.runs.recipe import Recipe
    from common.runs.run import Run

SMALL = "task1_asc/configs/small.yaml"


def download_data(
    *, root: Path, evaluation: int | None = None, record: int | None = None, delete_archives: bool = False
) -> None:
    """Download and unpack the development set (26 GB) or an evaluation set; resumes after an interruption.

    Example: --root data/tau2022

    Args:
        root: folder for the data set's folder.
        evaluation: year of an evaluation set to download instead.
        record: Zenodo record of the evaluation set, if the kit does not know it.
        delete_archives: remove each archive after unpacking.
    """
    from task1_asc.data.download import download_data as download

    say(f"The data are in {download(root, evaluation, record, delete_archives)}.")


def check_data(*, root: Path, evaluation: int | None = None, json: bool = False) -> None:
    """Compare the data with the official counts, and list missing, short, unreadable and wrongly sampled files.

    Example: --root data/tau2022

    Args:
        root: folder with the data set's folder.
        evaluation: year of an evaluation set to check instead.
        json: print the report as JSON.
    """
    from task1_asc.data.check import check_data as check

    check(root, evaluation).show(json)


def pack_data(
    *,
    root: Path,
    sample_rate: Literal[32000, 44100] = 32000,
    evaluation: int | None = None,
    num_workers: int = 1,
) -> None:
    """Pack all clips of the development set or an evaluation set into one file; resumes after an interruption.

    Example: --root data/tau2022 --num_workers 4

    Args:
        root: folder with the data set's folder.
        sample_rate: Hz to resample to; the baselines use 32,000.
        evaluation: year of an evaluation set to pack instead.
        num_workers: processes for decoding.
    """
    from task1_asc.data.tau2022 import development_folder, evaluation_folder

    # Refuses at once, without torch.
    development_folder(root) if evaluation is None else evaluation_folder(root, evaluation)
    from task1_asc.data.clips import pack_data as pack

    say(str(pack(root, sample_rate, evaluation=evaluation, workers=num_workers)))


def load_recipe() -> "Recipe[Task1Settings]":
    """The recipe; torch is imported here."""
    from task1_asc.recipe import RECIPE

    return RECIPE


def check_inputs(settings: Task1Settings) -> None:
    """Look for the lists and folders of a run."""
    from task1_asc.data.tau2022 import check_inputs as look

    look(settings)


def show(run: "Run[Task1Settings]") -> None:
    """Print the figures of a finished run."""
    from task1_asc.metrics import summary_rows

    print_table(summary_rows(run), title=_title(run))
    say(f"See `evaluate {run.folder}` for classes and devices.")


def evaluate(
    run: Positional[Path | None] = None,
    *,
    weights: Path | None = None,
    model: str = "cp_mobile",
    root: Path | None = None,
    json: bool = False,
) -> None:
    """Print the figures of a finished run on the test split, with 95 % intervals and the published figures.

    With --weights and --root: score a network with weights from any source.

    Example: runs/task1_asc/small_subset25_seed0

    Args:
        run: run folder.
        weights: state dict or Lightning checkpoint of `model`, instead of a run.
        model: architecture of these weights, such as cp_mobile or task1_baseline.
        root: folder of the data (scores the test split), or of clips with official names.
        json: print all figures as JSON, accuracies from 0 to 1.
    """
    if (run is None) == (weights is None) or (weights is None) != (root is None):
        raise UserError("Give a run folder, or --weights FILE --model NAME --root DIR.")
    from task1_asc.metrics import class_rows, device_rows, figure_rows, read_published, summary_rows

    if weights is not None and root is not None:
        refuse_absent([weights, root], "give a file of weights and a folder of clips")
        from task1_asc.evaluate import score_weights

        scores = score_weights(model, weights, root)
        title = f"{'Made-up data: ' if scores['made_up'] else ''}{model}, {weights}"
        print_json(scores) if json else print_table(figure_rows(scores), title=title)
        return
    assert run is not None
    opened = open_run(run, Task1Settings)
    if json:
        print_json({**opened.read_evaluation(), "published": read_published()})
        return
    print_table(summary_rows(opened), title=_title(opened))
    print_table(class_rows(opened), title="Accuracy of each class in %")
    print_table(device_rows(opened), title="Accuracy of each recording device in %")
    say(f"Published: {read_published()['system']}. Intervals: bootstrap over recordings.")


def predict(
    run: Positional[Path],
    *,
    root: Path,
    year: Literal[2024, 2025] = 2024,
    precision: Literal["float16", "float32", "int8", "bf16", "auto"] | None = None,
) -> None:
    """Classify an evaluation set and write scenes and probabilities to RUN/predictions/output.csv.

    Example: runs/task1_asc/small_subset25_seed0 --root data/tau2022

    Args:
        run: run folder.
        root: folder of the evaluation set, or its parent.
        year: year of the evaluation set.
        precision: of the network; by default as submitted: int8 if it is quantised, else float16. auto is bf16 where
            this machine is quicker with it, else float32.
    """
    from task1_asc.data.tau2022 import evaluation_folder

    opened = open_run(run, Task1Settings)
    evaluation_folder(root, year)  # refuses at once, without torch
    from task1_asc.evaluate import predict as write

    print(write(opened, root, year, precision))


def package(
    runs: Positional[tuple[Path, ...]],
    *,
    label: str,
    meta: Path | None = None,
    year: Literal[2024, 2025] = 2024,
    seed: int | None = None,
) -> None:
    """Write, check and zip a submission.

    Example: runs/task1_asc/small --label Lastname_INST_task1_1 --meta META.yaml

    Args:
        runs: a sweep folder or run folders; for 2024 runs of all five subsets, for 2025 a run of one subset.
        label: Lastname_INST_task1_1.
        meta: completed META.yaml from `python -m submissions template task1_2024 --out META.yaml`; not used for 2025.
        year: year of the challenge.
        seed: seed of the submitted runs; by default the lowest that all subsets have.
    """
    run_folders(runs)  # refuses at once, without torch
    if year == 2025:
        from task1_asc.submission.package_2025 import package as write_inference

        print(write_inference(runs, label, seed=seed))
        return
    from task1_asc.submission.package_2024 import package as write

    print(write(runs, label, meta, seed=seed))


def report(
    runs: Positional[tuple[Path, ...]],
    *,
    out: Path | None = None,
    precision: Literal["float32", "float16", "int8"] = "float32",
) -> None:
    """Print the results of runs or sweeps and write them to one report.html.

    Example: runs/task1_asc/small

    Args:
        runs: run or sweep folders.
        out: file to write; by default report.html in the first folder.
        precision: of the network in the test.
    """
    run_folders(runs)  # refuses at once, without torch
    from task1_asc.report import write_task1_report

    say(f"Wrote {write_task1_report(runs, out, precision)}.")


def compare(
    paths: Positional[tuple[Path, ...]],
    *,
    precision: Literal["float32", "float16", "int8"] = "float32",
    json: bool = False,
) -> None:
    """Compare systems with the first of them: paired differences with 95 % intervals, also per class.

    Example: runs/task1_asc/small runs/task1_asc/small_dir

    Args:
        paths: runs, sweeps (each value of a swept setting is a system, seeds belong together), or folders test/.
        precision: of the network in the test.
        json: print all differences as JSON, from 0 to 1.
    """
    refuse_absent(paths)
    from common.reports.compare import print_comparison
    from task1_asc.compare import compare_systems

    print_comparison(compare_systems(paths, precision), json)


def export(run: Positional[Path], *, out: Path | None = None, json: bool = False) -> None:
    """Export the network of a run as ONNX in float32, float16 and int8, and compare size, latency and accuracy.

    The input is a log-mel spectrogram. Device-specific networks are not exported.

    Example: runs/task1_asc/small_subset25_seed0

    Args:
        run: run folder.
        out: folder for the files; by default RUN/export.
        json: print the table as JSON.
    """
    opened = open_run(run, Task1Settings)
    from task1_asc.export import export_run

    rows = export_run(opened, out)
    print_json(rows) if json else print_table(rows, title=_title(opened))


def system(
    settings: Task1Settings, *, label: str, meta: Path | None = None, year: Literal[2024, 2025] = 2024, jobs: int = 1
) -> None:
    """Train every subset of a year's challenge, write the report, and package the submission.

    Finished stages are kept. 2024: subsets 5, 10, 25, 50 and 100; 2025: the subset of CONFIG.yaml.

    Example: task1_asc/configs/small.yaml --label Lastname_INST_task1_1 --meta META.yaml

    Args:
        label: Lastname_INST_task1_1.
        meta: completed META.yaml from `python -m submissions template task1_2024`; not used for 2025.
        year: year of the challenge.
        jobs: runs to train at the same time on this machine.
    """
    from task1_asc.data.tau2022 import SUBSETS
    from task1_asc.submission.package_2024 import check_before_training
    from task1_asc.submission.package_2025 import place_of_package

    place_of_package(label) if year == 2025 else check_before_training(label, meta)
    subsets = list(SUBSETS) if year == 2024 else [settings.subset]
    folder, _ = load_recipe().sweep(settings, {"subset": subsets}, make_executor(jobs))
    report((folder,), precision=settings.precision)
    package((folder,), label=label, meta=meta, year=year, seed=settings.seed)


def search_width(settings: Task1Settings, *, count: int = 10, json: bool = False) -> None:
    """Find the largest widths of the network within the limits; takes about a minute.

    Example: task1_asc/configs/small.yaml --count 5

    Args:
        count: number of widths to print.
        json: print the widths as JSON.
    """
    from task1_asc.networks.limits import largest_widths

    rows = [width.row() for width in largest_widths(settings, count)]
    title = f"{settings.model.name} within the limits, in {settings.precision}"
    print_json(rows) if json else print_table(rows, title=title)


def _title(run: "Run[Task1Settings]") -> str:
    from task1_asc.data.tau2022 import is_made_up_data

    made_up = "Made-up data: " if is_made_up_data(run.settings.data.root) else ""
    return f"{made_up}test split, subset {run.settings.subset} %, seed {run.settings.seed}"


VERBS: dict[str, Verb] = {
    "data": {"download": download_data, "check": check_data, "pack": pack_data},
    "train": train_verb(
        Task1Settings, load_recipe, show, "Train one network on one subset and test it.", SMALL, check=check_inputs
    ),
    "sweep": sweep_verb(Task1Settings, load_recipe),
    "evaluate": evaluate,
    "predict": predict,
    "package": package,
    "report": report,
    "compare": compare,
    "export": export,
    "system": config_verb(Task1Settings, system),
    "search_width": config_verb(Task1Settings, search_width),
    "sounds": SOUND_VERBS,
}

if __name__ == "__main__":
    sys.exit(run("python -m task1_asc", VERBS))
