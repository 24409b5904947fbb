"""The systems of Task 4, the baseline and the winner's two iterations, behind one recipe. No torch until it runs."""

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.settings import Settings
from task4_sed.baseline.settings import Task4Settings
from task4_sed.iterations.settings import TwoIterations
from task4_sed.settings import SystemSettings, validate_each_epoch

if TYPE_CHECKING:
    from common.runs.recipe import Recipe
    from common.runs.run import Run
    from common.runs.stages import Stage
    from task4_sed.data.sets import ClipSet


class AnySystem(Task4Settings):
    """Settings of either system: the two iterations' with `recipe: two_iterations` in the file, else the baseline's."""

    @classmethod
    def for_data(cls, data: Mapping[str, Any]) -> type[Settings]:
        """The settings class of a file's content."""
        return TwoIterations if data.get("recipe") == "two_iterations" else Task4Settings


LONGEST_CLIP = 11.0
"""Seconds up to which a clip is scored at once: its first 10 s, and the last score extends to the end."""
SYSTEM: type[SystemSettings] = AnySystem
"""Schema of the YAML files of both systems."""


def _system(settings: SystemSettings) -> Any:
    """The module with make_stages, prepare_stores, predict_logits and complexity_figures of a system."""
    from task4_sed.baseline import recipe as baseline
    from task4_sed.iterations import recipe as iterations

    return baseline if isinstance(settings, Task4Settings) else iterations


@cache
def load_recipe() -> "Recipe[SystemSettings]":
    """The recipe of both systems."""
    from common.runs.recipe import Objective, Recipe

    return Recipe(
        SYSTEM, make_stages, result_row, is_made_up, refuse_early=check_inputs, prepare=prepare_stores,
        for_check=validate_each_epoch, complete=complete_settings, objective=Objective(last_training, "val_objective"),
    )  # fmt: skip


def last_training(settings: SystemSettings) -> str:
    """The stage of the last network."""
    return settings.training_stages[-1]


def make_stages(settings: SystemSettings) -> "list[Stage]":
    """Stages of the system that the settings are of."""
    return _system(settings).make_stages(settings)


def complete_settings(settings: SystemSettings) -> SystemSettings:
    """The settings with what a table of own recordings decides."""
    if isinstance(settings, Task4Settings):
        from task4_sed.baseline.inputs import use_own_data

        return use_own_data(settings)
    return settings


def check_inputs(run: "Run[SystemSettings]") -> None:
    """Look for the files that a run needs, unless it is finished."""
    from common.runs.run import is_done

    if is_done(run, "test"):
        return
    if isinstance(run.settings, TwoIterations):
        from task4_sed.iterations.data import check_inputs as look_for_iterations

        look_for_iterations(run.settings)
    elif isinstance(run.settings, Task4Settings):
        from task4_sed.baseline.inputs import check_inputs as look

        look(run.settings)


def prepare_stores(settings: SystemSettings) -> None:
    """Make the packed stores and cached embeddings that several runs or stages share."""
    _system(settings).prepare_stores(settings)


def complexity_figures(settings: SystemSettings) -> dict[str, Any]:
    """Parameters and MACs for 10 s of the submitted network, or the sum over an ensemble."""
    return _system(settings).complexity_figures(settings)


def is_made_up(settings: SystemSettings) -> bool:
    """Whether the data of a run are made up."""
    from common.data import files

    return files.is_made_up(settings.data.root)


def result_row(run: "Run[SystemSettings]") -> dict[str, Any]:
    """Figures of a finished run in one flat row of a sweep's table; 0..1."""
    from common.runs.run import read_record
    from task4_sed.evaluate import FIGURES

    scores = run.read_evaluation()["networks"][run.settings.network]
    row: dict[str, Any] = {}
    for set_name, figures in scores["postprocessed"].items():
        row |= {f"{set_name}_{name}": figures[name]["value"] for name in FIGURES if name in figures}
    records = [read_record(run.folder, stage) for stage in run.settings.training_stages]
    energy = [record["energy_kwh"] for record in records]
    seconds = round(sum(record["seconds"] for record in records), 3)
    return row | {"train_seconds": seconds, "energy_kwh": None if None in energy else sum(energy)}


def predict(run: "Run[SystemSettings]", root: Path) -> Path:
    """Score the clips of an evaluation set; clips of more than 11 s in windows, which are joined.

    Args:
        run: finished.
        root: of a tree with audio/eval24, or a folder of audio files.

    Returns:
        RUN/predictions: unprocessed/<clip>.tsv, postprocessed/<clip>.tsv, predictions.json (network, made_up, seconds
        of each clip).
    """
    from common.data import files
    from common.data.files import write_json
    from common.runs.run import read_record
    from task4_sed.data.sets import file_durations
    from task4_sed.evaluate import PREDICTIONS, read_finisher
    from task4_sed.scores.tables import write_score_tables

    read_record(run.folder, "test")
    clips = _evaluation_clips(Path(root))
    seconds = file_durations(clips.folder, clips.filenames)
    folder = run.folder / PREDICTIONS
    raw = _score_clips(run, clips, max(seconds.values()), folder / "logits.h5")
    finished = read_finisher(run).process(raw)
    for name, tables in (("unprocessed", raw), ("postprocessed", finished)):
        for old in (folder / name).glob("*.tsv"):
            old.unlink()
        write_score_tables(tables, folder / name, fill_value=0.0)
    facts = {"network": run.settings.network, "made_up": files.is_made_up(Path(root)), "durations": seconds}
    write_json(folder / "predictions.json", facts)
    return folder


def score_file(run: "Run[SystemSettings]", file: str) -> dict[str, Any]:
    """Post-processed scores of one file: labels, edges of the frames in seconds, scores (frames, classes)."""
    from task4_sed.data.sets import ClipSet, file_durations, no_events
    from task4_sed.evaluate import read_finisher

    path = Path(file)
    clips = ClipSet("eval24", path.parent, (path.name,), no_events())
    seconds = file_durations(clips.folder, clips.filenames)[path.name]
    with tempfile.TemporaryDirectory() as folder:
        raw = _score_clips(run, clips, seconds, Path(folder) / "logits.h5")
        finished = read_finisher(run).process(raw)
    borders, scores = finished.borders_of(0), finished.scores_of(0).clip(min=0)
    heard = int((borders[:-1] < seconds).sum())
    edges = [*borders[:heard].tolist(), seconds]
    return {"labels": finished.classes, "edges": edges, "scores": scores[:heard].tolist()}


def _score_clips(run: "Run[SystemSettings]", clips: "ClipSet", longest: float, store: Path) -> Any:
    """Raw scores by clip; those of clips of more than 11 s are joined from windows."""
    from task4_sed.data.clips import SoundEventClips
    from task4_sed.data.own import cut_long
    from task4_sed.scores.store import read_scores
    from task4_sed.scores.windows import join_windows

    with tempfile.TemporaryDirectory() as windows:
        scored = cut_long(clips, Path(windows)) if longest > LONGEST_CLIP else clips
        dataset = SoundEventClips(scored, scored.folder, run.settings.labels, packed=False)
        _system(run.settings).predict_logits(run, dataset, store)
    if scored is not clips:
        join_windows(store)
    return read_scores(store)


def _evaluation_clips(root: Path) -> "ClipSet":
    """Clips of audio/eval24 below `root`, or of `root` itself."""
    from common.data.audio import list_audio
    from common.errors import UserError
    from task4_sed.data.sets import ClipSet, audio_folder, no_events

    try:
        folder = audio_folder(root, "eval24")
    except UserError:
        folder = root
    filenames = tuple(str(path.relative_to(folder)) for path in list_audio(folder))
    nested = [name for name in filenames if "/" in name]
    if nested:
        raise UserError(f"{folder} has no audio/eval24, and its clips lie in further folders ({nested[0]}).")
    return ClipSet("eval24", folder, filenames, no_events())
