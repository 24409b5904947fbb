"""The recipe of Task 1: train one network on one subset, then test it."""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from common.data import make_loader
from common.energy import EnergyMeter
from common.output import say
from common.stages import Run, Stage, run_stages
from common.training import fit, make_trainer, seed_all
from task1_asc.data import (
    development_folder,
    hold_out_by_location,
    is_made_up_data,
    read_split,
    read_training_list,
    store_folder,
)
from task1_asc.evaluate import open_clips, read_scores, score_network
from task1_asc.settings import Task1Settings
from task1_asc.train import SceneTraining


def train_network(run: Run, settings: Task1Settings, fast_check: bool = False) -> None:
    """Train on the subset's clips.

    Writes train/last.ckpt, with held-out clips also train/best.ckpt, metrics.csv and energy.json.
    """
    data, folder = settings.data, run.folder / "train"
    if data.training_list is None:
        clips = read_split(data.root, settings.subset)
    else:
        clips = read_training_list(data.root, data.training_list, settings.subset)
    held_out = None
    if data.validation is not None:
        clips, held_out = hold_out_by_location(clips, data.validation.share, settings.seed)
    development = development_folder(data.root)
    dataset = open_clips(settings, clips, development)
    loaders: list[Any] = [make_loader(dataset, shuffle_seed=settings.seed, **_loading(settings))]
    if held_out is not None:
        loaders.append(make_loader(open_clips(settings, held_out, development), **_loading(settings)))
    say(f"train: {len(clips)} clips of subset {settings.subset}, {0 if held_out is None else len(held_out)} held out")
    seed_all(settings.seed)
    module = SceneTraining(settings, dataset.sample_rate)
    monitor = None if held_out is None else "val_macro_accuracy"
    trainer = make_trainer(settings.trainer, folder, settings.seed, monitor=monitor, fast_check=fast_check)
    with EnergyMeter(folder if settings.trainer.measure_energy else None, settings.trainer.country):
        fit(trainer, module, *loaders)


def run_recipe(settings: Task1Settings, folder: Path | None = None, redo: Sequence[str] = ()) -> Run:
    """Do what is not done of a run.

    Args:
        settings: of the run.
        folder: of the run; None takes the one that the settings name.
        redo: stages to do again.
    """
    run = Run(folder or settings.folder, settings)
    run_stages(run, STAGES, redo)
    return run


def check_recipe(settings: Task1Settings) -> Run:
    """Do two steps of everything in a temporary folder, to see that it works."""
    store = store_folder(settings.data.root, settings.data.sample_rate) / "store.json"
    data = settings.data.model_copy(update={"packed": settings.data.packed and store.is_file()})
    settings = settings.model_copy(update={"data": data})
    stages = [Stage(stage.name, partial(stage.work, fast_check=True), stage.uses, stage.needs) for stage in STAGES]
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run", settings)
        run_stages(run, stages)
    return run


def result_row(run: Run) -> dict[str, Any]:
    """The figures of a finished run in one flat row, for the table of a sweep; accuracies 0..1."""
    scores = read_scores(run)
    single = scores["float32"]
    row = {
        "macro_accuracy": single["macro_accuracy"]["value"],
        "macro_accuracy_low": single["macro_accuracy"]["low"],
        "macro_accuracy_high": single["macro_accuracy"]["high"],
        "macro_accuracy_float16": scores["float16"]["macro_accuracy"]["value"],
        "accuracy": single["accuracy"]["value"],
        "log_loss": single["log_loss"]["value"],
    }
    return row | {f"accuracy_{name}": figures["accuracy"] for name, figures in single["groups"].items()}


def is_made_up(settings: Task1Settings) -> bool:
    """Whether the data of a run are made up."""
    return is_made_up_data(settings.data.root)


def sweep_cell(settings: Task1Settings) -> dict[str, Any]:
    """One cell of a sweep: the run that the settings name, and its figures."""
    return result_row(run_recipe(settings))


def _loading(settings: Task1Settings) -> dict[str, Any]:
    loader, use_gpu = settings.loader, settings.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return {"batch_size": loader.batch_size, "num_workers": loader.num_workers, "pin_memory": use_gpu}


TRAINING = ("subset", "seed", "data", "loader.batch_size", "front_end", "model", "augment", "optim")
TRAINER = tuple(f"trainer.{name}" for name in ("epochs", "precision", "gradient_clip", "accumulate", "validate_every"))

STAGES = [
    Stage("train", train_network, uses=(*TRAINING, *TRAINER)),
    Stage("test", score_network, uses=(*TRAINING, *TRAINER)),
]
