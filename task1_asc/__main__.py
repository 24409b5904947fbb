"""Acoustic scene classification with few parameters and few labels: DCASE Task 1 of 2024 and 2025."""

import re
import sys
from pathlib import Path
from typing import Any, Literal

from common.cli import Positional, Repeated, config_verb, print_json, print_table, run, say
from common.errors import CheckFailed
from task1_asc.settings import Task1Settings

SMALL = "task1_asc/configs/small.yaml"


def download_data(
    *, root: Path, evaluation: int | None = None, record: int | None = None, delete_archives: bool = False
) -> None:
    """Download and unpack the development set (26 GB) and its split lists, or an evaluation set; goes on after a stop.

    Args:
        root: folder that will hold the data set's folder.
        evaluation: year of an evaluation set to download instead.
        record: Zenodo record of the evaluation set, where the kit does not know it.
        delete_archives: remove each archive when it is unpacked.
    """
    from task1_asc.download import download_data as download

    say(f"The data are in {download(root, evaluation, record, delete_archives)}.")


def check_data(*, root: Path, evaluation: int | None = None, json: bool = False) -> None:
    """Compare the data with the official counts, and list files that are missing, short, unreadable or wrongly sampled.

    Args:
        root: folder that holds the data set's folder.
        evaluation: year of an evaluation set to check instead.
        json: print what was found as JSON.
    """
    from dataclasses import asdict

    from task1_asc.check import check_data as check

    found = check(root, evaluation)
    if json:
        print_json(asdict(found))
    else:
        print_table(found.rows, title=f"{'Made-up data in ' if found.made_up else ''}{found.folder}")
    if found.problems:
        raise CheckFailed("\n".join(found.problems))
    say("The data are as they should be.")


def pack_data(
    *,
    root: Path,
    sample_rate: Literal[32000, 44100] = 32000,
    evaluation: int | None = None,
    workers: int = 1,
) -> None:
    """Pack all clips of the development set, or of an evaluation set, into one file; goes on where it was stopped.

    Args:
        root: folder that holds the data set's folder.
        sample_rate: Hz to resample to; the baselines work at 32,000.
        evaluation: year of an evaluation set to pack instead.
        workers: processes that decode.
    """
    from task1_asc.data import pack_data as pack

    say(str(pack(root, sample_rate, evaluation=evaluation, workers=workers)))


def train(
    settings: Task1Settings, *, resume: Path | None = None, redo: Repeated[str] = (), fast_check: bool = False
) -> None:
    """Train one network on one subset and test it.

    Args:
        resume: run folder to go on with; its settings.yaml takes the place of CONFIG.yaml.
        redo: stage to do again (train or test), with those that build on it; may be given several times.
        fast_check: two steps of everything in a temporary folder, to see that it works.
    """
    from task1_asc.evaluate import summary_rows
    from task1_asc.recipe import check_recipe, run_recipe

    if fast_check:
        check_recipe(settings)
        say("Two steps of everything worked.")
        return
    finished = run_recipe(settings, resume, redo)
    print_table(summary_rows(finished), title=_title(finished))
    say(f"The run is in {finished.folder}; see `evaluate {finished.folder}`.")


def sweep(
    settings: Task1Settings,
    *,
    over: Repeated[str] = (),
    jobs: int = 1,
    on: Literal["here", "slurm"] = "here",
    slurm_partition: str | None = None,
    slurm_minutes: int = 1440,
    slurm_gpus: int = 0,
    slurm_cpus: int = 2,
) -> None:
    """Train every combination of some settings' values; what is done already is skipped.

    Args:
        over: a setting and its values, such as subset=5,25,100; may be given several times.
        jobs: processes on this machine, which share its cores.
        on: this machine, or SLURM.
        slurm_partition: partition; left out, the cluster's default.
        slurm_minutes: time limit of a run; one that reaches it is queued again and goes on.
        slurm_gpus: GPUs for each run.
        slurm_cpus: cores for each run.
    """
    from common.report import print_results
    from common.sweep import SlurmSettings, parse_over
    from common.sweep import sweep as go_over
    from task1_asc.data import is_made_up_data
    from task1_asc.recipe import sweep_cell

    values = parse_over(over)
    folder = settings.runs / _sweep_name(settings.name)
    slurm = SlurmSettings(partition=slurm_partition, minutes=slurm_minutes, gpus=slurm_gpus, cpus=slurm_cpus)
    rows = go_over(settings, values, sweep_cell, folder, jobs=jobs, on=on, slurm=slurm)
    print_results(rows, f"Sweep {folder}", is_made_up_data(settings.data.root))
    say(f"The table is {folder / 'results.csv'}; see `report {folder}`.")


def evaluate(run: Positional[Path], *, json: bool = False) -> None:
    """Show the figures of a finished run on the test split, with 95 % intervals, beside the published ones.

    Args:
        run: run folder.
        json: print all figures as JSON; accuracies are 0 to 1 there.
    """
    from task1_asc.evaluate import class_rows, device_rows, open_run, read_published, read_scores, summary_rows

    opened = open_run(run)
    if json:
        print_json({**read_scores(opened), "published": read_published()})
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
    precision: Literal["float16", "float32"] = "float16",
) -> None:
    """Write the table of scenes and probabilities of an evaluation set into RUN/predictions/output.csv.

    Args:
        run: run folder.
        root: folder of the evaluation set, or the one that holds it.
        year: of the evaluation set.
        precision: of the network; float16 as the baseline, which is what its size limit counts.
    """
    from task1_asc.evaluate import open_run
    from task1_asc.evaluate import predict as write

    print(write(open_run(run), root, year, precision))


def package(runs: Positional[tuple[Path, ...]], *, label: str, meta: Path, seed: int | None = None) -> None:
    """Write, check and zip a submission: a sweep over the five subsets, or five runs.

    Args:
        runs: folder of a sweep, or folders of runs.
        label: Lastname_INST_task1_1.
        meta: META.yaml, made by `python -m submissions template task1_2024 --out META.yaml` and filled in.
        seed: which of several runs of a subset is handed in; left out, the lowest that all subsets have.
    """
    from task1_asc.submission import package as write

    print(write(runs, label, meta, seed=seed))


def report(
    runs: Positional[tuple[Path, ...]],
    *,
    out: Path | None = None,
    precision: Literal["float32", "float16"] = "float32",
) -> None:
    """Show the results of runs or sweeps, and write them into one report.html.

    Args:
        runs: folders of sweeps and runs.
        out: file to write; left out, report.html in the first folder.
        precision: of the network when it was tested.
    """
    from task1_asc.report import write_task1_report

    say(f"Wrote {write_task1_report(runs, out, precision)}.")


def _title(run: Any) -> str:
    from task1_asc.data import is_made_up_data

    made_up = "Made-up data: " if is_made_up_data(run.settings.data.root) else ""
    return f"{made_up}test split, subset {run.settings.subset} %, seed {run.settings.seed}"


def _sweep_name(name: str) -> str:
    """The name of a run without its parts that differ from cell to cell: small_subset{subset} to small."""
    return re.sub(r"[_-]?[a-z0-9.]*\{[^}]*\}", "", name).strip("_-") or "sweep"


VERBS = {
    "data": {"download": download_data, "check": check_data, "pack": pack_data},
    "train": config_verb(Task1Settings, train, config_for={"fast_check": SMALL}),
    "sweep": config_verb(Task1Settings, sweep),
    "evaluate": evaluate,
    "predict": predict,
    "package": package,
    "report": report,
}

if __name__ == "__main__":
    sys.exit(run("python -m task1_asc", VERBS))
