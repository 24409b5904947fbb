"""The verb `compare`: systems on the test sets, from the scores that their tests wrote."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.reports.compare import Comparison, Draws, Measured
from common.runs.run import Run
from common.runs.systems import compare_paths
from task4_sed.data.annotations import read_events
from task4_sed.data.sets import label_file, set_durations
from task4_sed.evaluate import test_sets
from task4_sed.metrics.command import all_scores, psds_parameters
from task4_sed.metrics.compare import available, draws_of, measure_scores, of_evaluation
from task4_sed.metrics.evaluation_set import evaluation_set
from task4_sed.metrics.segments import mean_partial_auc, segment_evaluation_set, segment_f1
from task4_sed.postprocessing.finisher import tune_finisher
from task4_sed.scores.store import read_scores
from task4_sed.scores.tables import ScoreTables
from task4_sed.scoring import evaluated_classes
from task4_sed.systems import load_recipe

DRAWS = 1000


def compare_systems(
    paths: Sequence[Path], ground_truth: Path | None = None, durations: Path | None = None
) -> list[Comparison]:
    """Compare runs and sweeps on their test sets; with a ground truth also folders of score tables, on it.

    Raises:
        UserError: if a folder of scores has no ground truth, or there is nothing to compare.
    """
    if (ground_truth is None) != (durations is None):
        raise UserError("--ground_truth and --durations belong together: give both tables, or none.")

    def of_folder(folder: Path) -> Measured:
        if ground_truth is None or durations is None:
            raise UserError(f"{folder} is no run; folders of scores need --ground_truth F.tsv --durations F.tsv.")
        return measure_scores(folder, ground_truth, durations)

    def of_run(run: Run[Any]) -> Measured:
        if ground_truth is None or durations is None:
            return measure(run)
        name, tables = next(iter(finished_scores(run).items()))
        classes = evaluated_classes(run.settings, name.startswith("maestro"))
        return of_evaluation(str(run.folder), evaluation_set(tables, ground_truth, durations, classes=classes))

    return compare_paths(paths, load_recipe().open, of_run, of_folder)


def measure(run: Run[Any]) -> Measured:
    """Figures of a finished run on its test sets, post-processed; first the rank score where it has both sets."""
    figures: dict[str, Draws] = {}
    parts: dict[str, dict[str, Draws]] = {}
    sets: dict[str, Sequence[str]] = {}
    counts = []
    content, root = run.read_evaluation(), run.settings.data.root
    finished = finished_scores(run)
    for name, tables in finished.items():
        is_maestro = name.startswith("maestro")
        reference = read_events(label_file(root, name)), set_durations(root, name)
        make = segment_evaluation_set if is_maestro else evaluation_set
        evaluation = make(tables, *reference, classes=evaluated_classes(run.settings, is_maestro))
        prefix = "" if name in ("validation", "own_test") or is_maestro else f"{name.replace('_', ' ')} "
        if is_maestro:
            mpauc, f1 = mean_partial_auc(evaluation, draws=DRAWS), segment_f1(evaluation, draws=DRAWS)
            found, of_classes = draws_of({"mpauc": mpauc, "segment_f1": f1}, prefix)
        else:
            found, of_classes = draws_of(all_scores(evaluation, psds_parameters(), DRAWS, available()), prefix)
        figures, parts = figures | found, parts | of_classes
        sets[name] = [*evaluation.clips, *evaluation.classes]
        counts.append(f"{len(evaluation.clips):,}")
    if "mpAUC" in figures and "PSDS1" in figures:
        count = min(len(figures["PSDS1"]), len(figures["mpAUC"]))
        figures = {"rank score": figures["PSDS1"][:count] + figures["mpAUC"][:count], **figures}
    counted = f"{' + '.join(counts)} recordings"
    return Measured(str(run.folder), run.settings.seed, sets, counted, figures, parts, content["made_up"])


def finished_scores(run: Run[Any]) -> dict[str, ScoreTables]:
    """Post-processed scores of the test sets, as the stage test computes them."""
    settings, folder = run.settings, run.folder / "test" / "scores"
    names = list(run.read_evaluation()["networks"][settings.network]["postprocessed"])
    raw = {name: read_scores(folder / f"{name}_{settings.network}.h5") for name in names}
    tuned_on, root = test_sets(settings)[0], settings.data.root
    reference = read_events(label_file(root, tuned_on)), set_durations(root, tuned_on)
    finisher = tune_finisher(raw.get(tuned_on), *reference, settings)
    return {name: finisher.process_set(scores, name) for name, scores in raw.items()}
