"""Sound event detection with heterogeneous data and missing labels: DCASE Task 4 of 2024 (DESED and MAESTRO Real)."""

import sys
from pathlib import Path
from typing import Any

from common.cli import Positional, Precision, Repeated, print_json, print_table, run, say, sweep_verb, train_verb
from common.errors import UserError
from common.runs.folder import refuse_absent, refuse_no_run, run_folders
from task4_sed.pretraining import verbs as pretraining
from task4_sed.systems import SYSTEM, load_recipe

SMALL = "task4_sed/configs/small.yaml"


def download_data(*, root: Path, hop: float = 5, delete_archives: bool = False, allow_missing: bool = False) -> None:
    """Download MAESTRO Real, cut it into the windows of the challenge, and explain how to get DESED.

    Example: --root data/task4

    Args:
        root: folder of the data (data/dcase/dataset in the official recipe).
        hop: seconds between validation windows; 1 as before June 2024.
        delete_archives: remove each archive after unpacking.
        allow_missing: continue without missing recordings or annotations.
    """
    from task4_sed.data.maestro import HOW_TO_GET_DESED, download_maestro

    counts = download_maestro(root, hop, delete_archives, allow_missing)
    say(f"{', '.join(f'{count:,} windows of {name}' for name, count in counts.items())} are in {root}.")
    say(HOW_TO_GET_DESED)


def cut_data(*, source: Path, root: Path, hop: float = 5, allow_missing: bool = False) -> None:
    """Cut the unpacked MAESTRO Real into the windows of the challenge.

    Example: --source data/maestro --root data/task4

    Args:
        source: folder with development_audio and development_annotation.
        root: folder of the data.
        hop: seconds between validation windows; 1 as before June 2024.
        allow_missing: continue without missing recordings or annotations.
    """
    from task4_sed.data.maestro import prepare

    counts = prepare(source, root, hop, allow_missing=allow_missing)
    say(f"{', '.join(f'{count:,} windows of {name}' for name, count in counts.items())} are in {root}.")


def check_data(
    *, root: Path | None = None, table: Path | None = None, audio: Path | None = None, json: bool = False
) -> None:
    """Compare the data with the published counts, and list missing clips, damaged files and wrong rows.

    Example: --root data/task4

    Args:
        root: folder of the data of the challenge.
        table: own data instead: a table with filename, onset, offset, label and, optionally, split.
        audio: folder of the recordings that the table names; by default the folder of the table.
        json: print the report as JSON, with all missing clips.
    """
    from task4_sed.data.check import check_data as check
    from task4_sed.data.check import check_own

    if root is not None and table is None:
        check(root).show(json)
    elif table is not None and root is None:
        check_own(table, audio or table.parent).show(json)
    else:
        raise UserError("Give --root for the data of the challenge, or --table and --audio for own recordings.")


def pack_data(*, root: Path, sets: Repeated[str] = (), num_workers: int = 1, allow_missing: bool = False) -> None:
    """Pack sets into one file each, at 16 kHz and at least 10 s; resumes after an interruption.

    Example: --root data/task4 --sets weak --num_workers 4

    Args:
        root: folder of the data.
        sets: set to pack, such as weak; may be repeated; by default all available sets.
        num_workers: processes for decoding.
        allow_missing: also pack sets with missing clips.
    """
    from common.errors import UserError
    from task4_sed.data.sets import SETS, audio_folder, pack_set

    for name in sets or SETS:
        try:
            audio_folder(root, name)
        except UserError as error:
            if sets or not SETS[name].optional:
                raise
            say(str(error))
            continue
        say(str(pack_set(root, name, num_workers, allow_missing)))


def show_run(run: Any) -> None:
    """Print the figures of a finished run."""
    from task4_sed.reports.report import print_run

    print_run(run, _title(run))
    say(f"See `evaluate {run.folder}`.")


def evaluate(run: Positional[Path], *, json: bool = False) -> None:
    """Print the figures of a finished run on the test sets, with 95 % intervals and the published figures.

    Example: runs/task4_sed/small_seed0

    Args:
        run: run folder.
        json: print all figures as JSON, from 0 to 1.
    """
    refuse_no_run(run)
    from task4_sed.reports.report import class_rows, print_run, published_note, read_published, stage_rows

    opened = load_recipe().open(run)
    if json:
        print_json({**opened.read_evaluation(), "published": read_published(opened.settings.system)})
        return
    print_run(opened, _title(opened))
    for title, rows in class_rows(opened).items():
        print_table(rows, title=title)
    if stages := stage_rows(opened):
        print_table(stages, title="Each training and the ensembles, per cent")
    say(f"{published_note(opened.settings)} Intervals: bootstrap over recordings.".strip())


def predict(run: Positional[Path], *, root: Path, precision: Precision = "float32") -> None:
    """Score the clips of an evaluation set and write raw and post-processed tables to RUN/predictions.

    Example: runs/task4_sed/small_seed0 --root data/task4

    Args:
        run: run folder.
        root: folder of the data (with audio/eval24) or of the audio files.
        precision: of the network: float32, bf16, or auto, bf16 where this machine is quicker with it.
    """
    opened = load_recipe().open(run)
    refuse_absent([root], "give a folder that holds audio files")
    from common.inference.prepare import computing_in
    from task4_sed.systems import predict as write

    with computing_in(precision):
        print(write(opened, root))


def answer(run: Positional[Path]) -> None:
    """Score the files that `common serve --run` names, one line of JSON each from stdin.

    Example: runs/task4_sed/small_seed0

    Args:
        run: run folder.
    """
    from functools import partial

    from common.runs.helper import answer_lines
    from task4_sed.systems import score_file

    opened = load_recipe().open(run)
    opened.read_evaluation()
    answer_lines({"run": str(run)}, partial(score_file, opened))


def package(runs: Positional[tuple[Path, ...]], *, label: str, meta: Path, reference: Path) -> None:
    """Write, check and zip a submission: a sweep over three seeds, or three runs.

    Example: runs/task4_sed/small --label Lastname_INST_task4_1 --meta META.yaml --reference runs/task4_sed/reference

    Args:
        runs: a sweep folder or run folders.
        label: Lastname_INST_task4_1.
        meta: completed META.yaml from `python -m submissions template task4_2024 --out META.yaml`.
        reference: run of the baseline for 10 epochs on this machine, the reference for the energy.
    """
    run_folders(runs)  # refuses at once, without torch
    from task4_sed.submission import package as write

    print(write(runs, label, meta, reference))


def report(runs: Positional[tuple[Path, ...]], *, out: Path | None = None) -> None:
    """Print the results of runs or sweeps and write them to one report.html.

    Example: runs/task4_sed/small

    Args:
        runs: run or sweep folders.
        out: file to write; by default report.html in the first folder.
    """
    run_folders(runs)  # refuses at once, without torch
    from task4_sed.reports.report import write_task4_report

    say(f"Wrote {write_task4_report(runs, out)}.")


def compare(
    paths: Positional[tuple[Path, ...]],
    *,
    ground_truth: Path | None = None,
    durations: Path | None = None,
    json: bool = False,
) -> None:
    """Compare systems with the first of them: paired differences with 95 % intervals, also per class.

    Example: runs/task4_sed/small runs/task4_sed/other

    Args:
        paths: runs, sweeps (each value of a swept setting is a system, seeds belong together), or folders of score
            tables, which need the two tables below.
        ground_truth: table with filename, onset, offset, event_label; scores all systems on it.
        durations: table with filename, duration.
        json: print all differences as JSON, from 0 to 1.
    """
    refuse_absent(paths)
    from common.reports.compare import print_comparison
    from task4_sed.reports.compare import compare_systems

    print_comparison(compare_systems(paths, ground_truth, durations), json)


def psds(
    scores: Positional[tuple[Path, ...]],
    *,
    ground_truth: Path,
    durations: Path,
    classes: Repeated[str] = (),
    alpha_st: float = 1.0,
    draws: int = 1000,
    jobs: int = 0,
    plots: bool = False,
    out: Path | None = None,
    cross_check: bool = False,
    json: bool = False,
) -> None:
    """Score the output of any system: PSDS1, PSDS2, collar F1 and intersection F1, with intervals.

    Example: scores --ground_truth events.tsv --durations durations.tsv

    Args:
        scores: folder of score tables (a .tsv per clip), score store (.h5), folder of operating points (a table of
            detections per threshold, named by it), or table of detections. Several systems are compared with the
            first: paired differences with intervals.
        ground_truth: table with filename, onset, offset, event_label.
        durations: table with filename, duration.
        classes: score this class only; may be repeated.
        alpha_st: weight of the deviation over classes; 0 gives the mean of the single-class scores (AudioSet strong).
        draws: resamplings of the recordings for the 95 % intervals; 0 for none.
        jobs: number of processors; 0 for all.
        plots: plot the PSD-ROC curves.
        out: folder for the plots; by default a new runs/task4_sed/psds/NAME.
        cross_check: compare with sed_scores_eval and psds_eval, and explain differences.
        json: print the figures as JSON.
    """
    tables = {ground_truth: "ground truth table", durations: "durations table"}
    for path, what in (dict.fromkeys(scores, "folder of score tables") | tables).items():
        if not path.exists():  # refuses at once, without pandas
            raise UserError(f"There is no {what} {path}.")
    if min(jobs, draws) < 0:
        raise UserError(f"--jobs is {jobs} and --draws {draws}; neither can be negative.")
    from task4_sed.metrics.command import score

    if len(scores) > 1:
        from common.reports.compare import print_comparison
        from task4_sed.metrics.compare import compare_scores

        if plots or cross_check:
            raise UserError("--plots and --cross_check take one system; call `psds` for each.")
        options: dict[str, Any] = {"classes": classes, "alpha_st": alpha_st, "draws": draws, "jobs": jobs}
        print_comparison([compare_scores(scores, ground_truth, durations, **options)], json)
        return
    score(
        scores[0], ground_truth, durations, classes=classes, alpha_st=alpha_st, draws=draws, jobs=jobs, plots=plots,
        out=out, with_cross_check=cross_check, as_json=json,
    )  # fmt: skip


def _title(run: Any) -> str:
    from common.data.files import is_made_up

    made_up = "Made-up data: " if is_made_up(run.settings.data.root) else ""
    return f"{made_up}{run.settings.network}, post-processed, seed {run.settings.seed}; per cent"


VERBS: dict[str, Any] = {
    "data": {
        "download": download_data,
        "cut": cut_data,
        "check": check_data,
        "pack": pack_data,
        "check_strong": pretraining.check_strong,
        "pack_strong": pretraining.pack_strong,
    },
    "train": train_verb(SYSTEM, load_recipe, show_run, "Train one system and test it on both data sets.", SMALL),
    "sweep": sweep_verb(SYSTEM, load_recipe),
    "evaluate": evaluate,
    "predict": predict,
    "answer": answer,
    "package": package,
    "report": report,
    "compare": compare,
    "psds": psds,
    **pretraining.VERBS,
}

if __name__ == "__main__":
    sys.exit(run("python -m task4_sed", VERBS))
