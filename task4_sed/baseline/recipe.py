"""The recipe of Task 4: embeddings where they are wanted, training, tests on both data sets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.data.loading import make_loader
from common.errors import UserError
from common.output import say
from common.runs.energy import EnergyMeter
from common.runs.stages import Run, Runner, Stage, do_two_steps, is_done, read_record, run_stages
from common.training.trainer import fit, make_trainer, seed_all
from task4_sed.baseline.train import SoundEventTraining
from task4_sed.data.clips import make_training_loader, open_clips
from task4_sed.data.embeddings import load_frozen
from task4_sed.data.maestro import split_training_windows
from task4_sed.data.sets import ClipSet, is_made_up_data, missing_sentence, read_set, set_durations, split_weak
from task4_sed.evaluate import FIGURES, read_scores, score_network, test_sets
from task4_sed.scoring import Reference, annotations_of
from task4_sed.settings import SystemSettings, Task4Settings


def train_network(run: Run, settings: Task4Settings, fast_check: bool = False) -> None:
    """Train student and teacher.

    Writes train/last.ckpt, best.ckpt, metrics.csv and energy.json.
    """
    data, folder = settings.data, run.folder / "train"
    training, held_out = read_training_sets(settings)
    opened = {name: open_clips(clips, settings) for name, clips in training.items()}
    groups = [[opened[name] for name in group.sets] for group in data.batch]
    counts = [group.clips for group in data.batch]
    use_gpu = settings.trainer.accelerator != "cpu" and torch.cuda.is_available()
    loader = make_training_loader(groups, counts, settings.seed, data.num_workers, use_gpu)
    validation = [
        make_loader(open_clips(clips, settings), data.scoring_batch, num_workers=data.num_workers)
        for clips in held_out.values()
    ]
    references = [reference_of(clips, settings) for clips in held_out.values()]
    say(f"train: {', '.join(f'{len(clips)} {name}' for name, clips in training.items())}; {len(loader)} steps an epoch")
    seed_all(settings.seed)
    frozen = load_frozen(settings.embedding) if settings.embeddings == "live" else None
    module = SoundEventTraining(settings, frozen, references)
    monitor = "val_objective" if validation else None
    trainer = make_trainer(settings.trainer, folder, settings.seed, monitor=monitor, fast_check=fast_check)
    with EnergyMeter(folder if settings.trainer.measure_energy else None, settings.trainer.country):
        fit(trainer, module, loader, validation or None)


def read_training_sets(settings: Task4Settings) -> tuple[dict[str, ClipSet], dict[str, ClipSet]]:
    """Sets to train on and sets to validate on, by name; says what is missing of them."""
    data, choice = settings.data, settings.validation
    names = list(dict.fromkeys(name for group in data.batch for name in group.sets))
    training = {name: _read(settings, name) for name in names}
    held_out: dict[str, ClipSet] = {}
    if choice.synthetic:
        held_out["synthetic_validation"] = _read(settings, "synthetic_validation")
    if choice.weak and "weak" in training:
        training["weak"], held_out["weak"] = split_weak(training["weak"], data.root)
    if choice.maestro and "maestro_train" in training:
        windows = training["maestro_train"]
        chosen = split_training_windows(windows.filenames)
        training["maestro_train"] = windows.select(np.flatnonzero(chosen))
        held_out["maestro_train"] = windows.select(np.flatnonzero(~chosen))
    return training, held_out


def reference_of(clips: ClipSet, settings: SystemSettings) -> Reference:
    """Events and durations of a set that is validated on."""
    durations = set_durations(settings.data.root, clips.name) if clips.layout.kind == "strong" else {}
    return Reference(clips.name, annotations_of(clips), durations)


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
    settings: SystemSettings, folder: Path | None = None, redo: Sequence[str] = (), runner: Runner | None = None
) -> Run:
    """Do what is not done of a run.

    Args:
        settings: of the run.
        folder: of the run; None takes the one that the settings name.
        redo: stages to do again.
        runner: does stages side by side; None does one after another.

    Raises:
        UserError: if stages are to be done side by side and each on several devices.
    """
    run = Run(folder or settings.folder, settings)
    if runner is not None and (settings.trainer.devices not in ("auto", 1) or settings.trainer.num_nodes > 1):
        raise UserError(
            "Stages side by side have one device each; use --jobs and --on, or --trainer.devices, not both."
        )
    check_inputs(run)
    if runner is not None:
        prepare_stores(settings)
    run_stages(run, stages_of(settings), redo, runner)
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


def _read(settings: Task4Settings, name: str) -> ClipSet:
    clips = read_set(settings.data.root, name, settings.data.allow_missing, settings.labels.classes)
    if clips.missing:
        say(missing_sentence(name, len(clips.missing), len(clips) + len(clips.missing), clips.missing))
    return clips


TRAINING = ("seed", "data.root", "data.batch", "data.allow_missing", "labels", "embeddings", "embedding", "front_end",
            "model", "mixup", "loss", "teacher", "optim", "validation", "postprocessing.median_frames")  # fmt: skip
TRAINER = tuple(f"trainer.{name}" for name in ("epochs", "precision", "gradient_clip", "accumulate", "validate_every"))

STAGES = [
    Stage("train", train_network, uses=(*TRAINING, *TRAINER)),
    Stage("test", score_network, uses=(*TRAINING, *TRAINER, "postprocessing"), alone=True),
]
