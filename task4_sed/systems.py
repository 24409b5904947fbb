"""The systems of Task 4, the baseline and the two iterations, behind one set of functions."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from common.data.audio import list_audio
from common.errors import UserError
from common.files import write_json
from common.runs import stages
from common.runs.processes import Executor
from common.runs.stages import Run, Stage, do_two_steps, is_done, read_record, run_stages
from common.settings.yaml_file import read_yaml
from task4_sed.baseline.recipe import STAGES, _read, read_training_sets
from task4_sed.baseline.scores import _predict
from task4_sed.baseline.settings import Task4Settings
from task4_sed.data.clips import SoundEventClips, open_clips
from task4_sed.data.sets import (
    ClipSet,
    audio_folder,
    is_made_up_data,
    no_events,
)
from task4_sed.evaluate import FIGURES, PREDICTIONS, read_finisher, read_scores, test_sets
from task4_sed.schema import AnySystem
from task4_sed.scores.reading import read_scores as read_store
from task4_sed.scores.tables import write_score_tables
from task4_sed.settings import SystemSettings


def open_run(folder: Path) -> Run:
    """The run of this task in a folder; see `common.runs.stages.open_run`."""
    return stages.open_run(folder, AnySystem)


def predict(run: Run, root: Path) -> Path:
    """Score the clips of an evaluation set.

    Args:
        run: finished.
        root: of a tree with audio/eval24, or a folder of audio files.

    Returns:
        RUN/predictions: unprocessed/<clip>.tsv, postprocessed/<clip>.tsv, predictions.json (network, made_up, seconds
        of each clip).
    """
    settings = run.settings
    read_record(run.folder, "test")
    clips = evaluation_clips(Path(root))
    dataset = SoundEventClips(clips, Path(root), settings.labels, packed=False)
    folder = run.folder / PREDICTIONS
    store = folder / "logits.h5"
    (_predict if isinstance(settings, Task4Settings) else _predict_with_transformers)(run, dataset, store)
    raw = read_store(store)
    finished = read_finisher(run).of_new(raw)
    for name, tables in (("unprocessed", raw), ("postprocessed", finished)):
        for old in (folder / name).glob("*.tsv"):
            old.unlink()
        write_score_tables(tables, folder / name, fill_value=0.0)
    durations = {name: float(seconds) for name, seconds in zip(clips.filenames, dataset.durations)}
    facts = {"network": settings.network, "made_up": is_made_up_data(Path(root)), "durations": durations}
    write_json(folder / "predictions.json", facts)
    return folder


def _predict_with_transformers(run: Run, dataset: SoundEventClips, store: Path) -> None:
    from task4_sed.iterations.scores import predict_logits

    predict_logits(run, dataset, store)


def evaluation_clips(root: Path) -> ClipSet:
    """Clips of audio/eval24 below `root`, or of `root` itself."""
    try:
        folder = audio_folder(root, "eval24")
    except UserError:
        folder = root
    filenames = tuple(str(path.relative_to(folder)) for path in list_audio(folder))
    nested = [name for name in filenames if "/" in name]
    if nested:
        raise UserError(f"{folder} has no audio/eval24, and its clips lie in further folders ({nested[0]}).")
    return ClipSet("eval24", folder, filenames, no_events())


def read_published(settings: SystemSettings | None = None) -> dict[str, Any]:
    """Figures of the published system whose recipe a run has, see published.yaml; without settings of the baseline."""
    published = _published()
    if settings is None or isinstance(settings, Task4Settings):
        return published
    return published["two_iterations"]


@cache
def _published() -> dict[str, Any]:
    return read_yaml(Path(__file__).parent / "published.yaml").data


def stages_of(settings: SystemSettings) -> list[Stage]:
    """The recipe that the settings are of."""
    if isinstance(settings, Task4Settings):
        return STAGES
    from task4_sed.iterations.recipe import make_stages

    return make_stages(settings)


def check_inputs(run: Run) -> None:
    """Look for what a recipe of many stages will need in the end, where it is not done already."""
    if not isinstance(run.settings, Task4Settings) and not is_done(run, "test"):
        from task4_sed.iterations.data import check_inputs as check

        check(run.settings)


def run_recipe(
    settings: SystemSettings, folder: Path | None = None, redo: Sequence[str] = (), executor: Executor | None = None
) -> Run:
    """Do what is not done of a run.

    Args:
        settings: of the run.
        folder: of the run; None takes the one that the settings name.
        redo: stages to do again.
        executor: runs stages in other processes; None runs one after another.

    Raises:
        UserError: if stages are to be done side by side and each on several devices.
    """
    run = Run(folder or settings.folder, settings)
    if executor is not None and (settings.trainer.devices not in ("auto", 1) or settings.trainer.num_nodes > 1):
        raise UserError(
            "Stages side by side have one device each; use --jobs and --on, or --trainer.devices, not both."
        )
    check_inputs(run)
    if executor is not None:
        prepare_stores(settings)
    run_stages(run, stages_of(settings), redo, executor)
    return run


def prepare_stores(settings: SystemSettings) -> None:
    """Make what runs share, before several of them start: packed stores and cached embeddings."""
    if not isinstance(settings, Task4Settings):
        from task4_sed.iterations.recipe import prepare_stores as prepare

        prepare(settings)
        return
    training, held_out = read_training_sets(settings)
    for clips in (*training.values(), *held_out.values(), *(_read(settings, name) for name in test_sets(settings))):
        open_clips(clips, settings)


def check_recipe(settings: SystemSettings) -> None:
    """Do two steps of everything in a temporary folder, to see that it works."""
    trainer = settings.trainer.model_copy(update={"validate_every": 1})
    settings = settings.model_copy(update={"trainer": trainer})
    do_two_steps(settings, stages_of(settings))


def result_row(run: Run) -> dict[str, Any]:
    """The figures of a finished run in one flat row, for the table of a sweep; 0..1."""
    scores = read_scores(run)["networks"][run.settings.network]
    row: dict[str, Any] = {}
    for set_name, figures in scores["postprocessed"].items():
        row |= {f"{set_name}_{name}": figures[name]["value"] for name in FIGURES if name in figures}
    records = [read_record(run.folder, stage) for stage in run.settings.training_stages]
    energy = [record["energy_kwh"] for record in records]
    seconds = round(sum(record["seconds"] for record in records), 3)
    return row | {"train_seconds": seconds, "energy_kwh": None if None in energy else sum(energy)}


def is_made_up(settings: SystemSettings) -> bool:
    """Whether the data of a run are made up."""
    return is_made_up_data(settings.data.root)


def sweep_cell(settings: SystemSettings) -> dict[str, Any]:
    """One cell of a sweep: the run that the settings name, and its figures."""
    return result_row(run_recipe(settings))
