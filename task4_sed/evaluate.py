"""Evaluation of a run: logits of clips, figures of the test sets, and the tuned post-processing."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.data.files import is_made_up, read_json, write_json
from common.errors import UserError
from common.runs.run import Run
from task4_sed.data.annotations import read_events
from task4_sed.data.sets import audio_folder, label_file, published_clips, set_durations, set_layout
from task4_sed.metrics.evaluation_set import evaluation_set
from task4_sed.metrics.f1 import collar_f1, intersection_f1
from task4_sed.metrics.operating_points import versions
from task4_sed.metrics.polyphonic import PSDS1, PSDS2, polyphonic_scores
from task4_sed.metrics.resampling import plain_figures
from task4_sed.metrics.segments import mean_partial_auc, rank_interval, rank_score, segment_f1
from task4_sed.postprocessing.finisher import Finisher, plain_boxes, tune_finisher
from task4_sed.scores.store import read_scores as read_store
from task4_sed.scores.tables import ScoreTables
from task4_sed.scoring import evaluated_classes
from task4_sed.settings import SystemSettings

PREDICTIONS = "predictions"
FIGURES = ("psds1", "psds2", "collar_f1", "intersection_f1", "mpauc", "segment_f1")
"""Names of the figures, of DESED sets and of MAESTRO."""
DRAWS = 1000


def write_evaluation(folder: Path, settings: SystemSettings, networks: Sequence[str], missing: dict[str, int]) -> None:
    """Write the figures of raw and post-processed scores to `folder`/evaluation.json, and tuned boxes to boxes.json.

    evaluation.json: seed, made_up, network (the submitted one), versions; by network and "raw" or "postprocessed" for
    each set `FIGURES` with value, per_class and interval, and clips; `rank_score`. Of more than two networks only the
    submitted one has intervals. Reads `folder`/scores/<set>_<network>.h5; `missing`: number of clips by test set.
    """
    found, tuned_on = {}, test_sets(settings)[0]
    for network in networks:
        raw = {name: read_store(folder / "scores" / f"{name}_{network}.h5") for name in missing}
        finisher = tune_finisher(raw.get(tuned_on), *_reference(settings, tuned_on), settings)
        if network == settings.network and finisher.boxes is not None:
            write_json(folder / "boxes.json", plain_boxes(finisher.boxes))
        finished = {name: finisher.process_set(scores, name) for name, scores in raw.items()}
        draws = DRAWS if network == settings.network or len(networks) <= 2 else 0
        found[network] = {
            "raw": _all_figures(raw, settings, missing, draws),
            "postprocessed": _all_figures(finished, settings, missing, draws),
        }
    made_up = is_made_up(settings.data.root)
    facts = {"seed": settings.seed, "made_up": made_up, "network": settings.network, "versions": versions()}
    write_json(folder / "evaluation.json", {**facts, "networks": found})


def test_sets(settings: SystemSettings) -> list[str]:
    """Test sets: validation, MAESTRO if the system has its classes, public evaluation if its audio exists.

    Of own data their test recordings.
    """
    if settings.own_data:
        return ["own_test"]
    names = ["validation"]
    if evaluated_classes(settings, maestro=True):
        names.append("maestro_validation")
    try:
        audio_folder(settings.data.root, "public_evaluation")
    except UserError:
        return names
    return [*names, "public_evaluation"]


def read_finisher(run: Run[Any]) -> Finisher:
    """The post-processing of a finished run."""
    if run.settings.postprocessing.boxes is None:
        return Finisher(run.settings)
    path = run.folder / "test" / "boxes.json"
    remedy = "test again with --resume RUN --redo test"
    try:
        return Finisher.read(run.settings, read_json(path, remedy))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: a class has no three numbers or nulls; {remedy}.") from error


def desed_figures(scores: ScoreTables, settings: SystemSettings, name: str, draws: int = DRAWS) -> dict[str, Any]:
    """PSDS1, PSDS2, collar and intersection F1 of a DESED set: value, per_class, interval; and clips."""
    jobs = len(os.sched_getaffinity(0))
    events, durations = _reference(settings, name)
    evaluation = evaluation_set(scores, events, durations, classes=evaluated_classes(settings, False), jobs=jobs)
    psds1, psds2 = polyphonic_scores(evaluation, [PSDS1, PSDS2], draws=draws, jobs=jobs)
    found: dict[str, Any] = {"psds1": psds1, "psds2": psds2}
    found["collar_f1"] = collar_f1(evaluation, draws=draws, jobs=jobs)
    found["intersection_f1"] = intersection_f1(evaluation, draws=draws, jobs=jobs)
    return {**plain_figures(found), "whole": psds1, "clips": evaluation.report.as_json()}


def maestro_figures(scores: ScoreTables, settings: SystemSettings, name: str, draws: int = DRAWS) -> dict[str, Any]:
    """mpAUC and best segment F1 of joined MAESTRO windows: value, per_class, interval; and clips."""
    events, durations = _reference(settings, name)
    classes = evaluated_classes(settings, True)
    auc = mean_partial_auc(scores, events, durations, classes=classes, draws=draws)
    best = segment_f1(scores, events, durations, classes=classes, draws=draws)
    figures = plain_figures({"mpauc": auc, "segment_f1": best})
    return {**figures, "whole": auc, "clips": {"scored": len(scores.clips), "comparable": True}}


def _all_figures(
    tables: dict[str, ScoreTables], settings: SystemSettings, missing: dict[str, int], draws: int
) -> dict[str, Any]:
    every: dict[str, Any] = {}
    for name, scores in tables.items():
        figures = maestro_figures if set_layout(name).domain == "maestro" else desed_figures
        every[name] = figures(scores, settings, name, draws)
        clips, expected = every[name]["clips"], published_clips(settings.data.root, name)
        clips["expected"] = expected or clips["scored"] + missing[name]
        clips["comparable"] = clips["scored"] >= clips["expected"] and not missing[name]
    whole = {name: figures.pop("whole") for name, figures in every.items()}
    if "maestro_validation" in every:
        psds1, mpauc = every["validation"]["psds1"]["value"], every["maestro_validation"]["mpauc"]["value"]
        interval = rank_interval(whole["validation"], whole["maestro_validation"]) if draws else None
        every["validation"]["rank_score"] = {"value": rank_score(psds1, mpauc), "interval": interval}
    return every


def _reference(settings: SystemSettings, name: str) -> tuple[Any, dict[str, float]]:
    return read_events(label_file(settings.data.root, name)), set_durations(settings.data.root, name)
