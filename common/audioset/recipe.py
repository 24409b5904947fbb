"""The recipe of AudioSet training: train one network, with a teacher's logits where they are given, then test it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.audioset.data import Classes, TaggingClips, find_files, open_audioset, read_classes
from common.audioset.metrics import score_tags
from common.audioset.sampling import EpochDraws, class_balance_weights
from common.audioset.settings import PretrainSettings
from common.audioset.train import TaggingTraining, demand_cooling, load_trained, tag_clips
from common.data.keyed_outputs import KeyedOutputs, OutputWriter
from common.data.loading import make_loader
from common.data.made_up import is_made_up
from common.errors import UserError
from common.files import write_json
from common.models.audio_model import AudioModel
from common.output import say
from common.runs.energy import EnergyMeter
from common.runs.folder import is_main_process
from common.runs.stages import Run, Stage, do_two_steps, run_stages
from common.training.checkpoints import save_checkpoint, weights_of
from common.training.seeds import seed_all
from common.training.trainer import fit, make_trainer

WEIGHTS = "weights.pt"
"""Weights of the trained network under their official names: `tag --weights`, `finetune --model.weights`."""


def train_network(run: Run, settings: PretrainSettings, fast_check: bool = False) -> None:
    """Train on labels, and on the teacher's logits where they are given.

    Writes train/last.ckpt, weights.pt, metrics.csv and energy.json.
    """
    data, folder, classes = settings.data, run.folder / "train", read_classes(settings.data.root)
    seed_all(settings.seed)
    label_weight = None if settings.teacher is None else settings.teacher.label_weight
    module = TaggingTraining(settings, classes.names, label_weight=label_weight)
    rate = module.front_end.sample_rate
    clips = open_audioset(data.root, data.training, classes, rate, data.seconds, settings.teacher, settings.augment)
    loading = loader_options(settings)
    sampler = make_sampler(settings, clips)
    watched = _open_test(settings, classes, rate) if data.watch_test else None
    loaders: list[Any] = [make_loader(clips, sampler=sampler, drop_last=True, **loading)]
    if watched is not None:
        loaders.append(make_loader(watched, **loading))
    say(f"train: {sampler.count:,} of {len(clips):,} clips an epoch, {len(classes)} classes")
    if len(loaders[0]) == 0:
        raise UserError(
            f"An epoch of {sampler.count:,} clips holds no batch of {settings.loader.batch_size} for each device; "
            "make loader.batch_size smaller."
        )
    trainer = make_trainer(settings.trainer, folder, settings.seed, fast_check=fast_check)
    with EnergyMeter(folder if settings.trainer.measure_energy else None, settings.trainer.country):
        fit(trainer, module, *loaders)
    if is_main_process():
        save_checkpoint(weights_of(folder / "last.ckpt", module.tested_prefix), folder / WEIGHTS)


def test_network(run: Run, settings: PretrainSettings, fast_check: bool = False) -> None:
    """Score the trained network on the test clips.

    Reads train/weights.pt. Writes test/evaluation.json and test/logits.hdf (logits by file name).
    """
    classes = read_classes(settings.data.root)
    model = load_run_model(run)
    clips = _open_test(settings, classes, model.sample_rate)
    logits, facts = tag_clips(model, make_loader(clips, **loader_options(settings)), limit=2 if fast_check else None)
    folder = run.folder / "test"
    with OutputWriter(folder / "logits.hdf", facts["filename"], logits.shape[1:]) as writer:
        writer.write(facts["filename"], logits)
    scores = score_tags(logits, facts["target"], facts["filename"], np.random.default_rng(settings.seed))
    write_json(
        folder / "evaluation.json",
        {"seed": settings.seed, "made_up": is_made_up(settings.data.root), "labels": classes.names, **scores},
    )


def run_recipe(settings: PretrainSettings, folder: Path | None = None, redo: Sequence[str] = ()) -> Run:
    """Do what is not done of a run.

    Args:
        settings: of the run.
        folder: of the run; None takes the one that the settings name.
        redo: stages to do again.
    """
    refuse_early(settings)
    run = Run(folder or settings.folder, settings)
    run_stages(run, STAGES, redo)
    return run


def refuse_early(settings: PretrainSettings) -> None:
    """Find mistakes that other settings mend before a run folder keeps these ones.

    Raises:
        UserError: for absent files, a teacher of other classes, a DyMN that would not cool down.
    """
    data, classes = settings.data, read_classes(settings.data.root)
    find_files(data.root, [*data.training, *data.test])
    if settings.teacher is not None:
        KeyedOutputs(settings.teacher.logits, "logits", (len(classes),))
    demand_cooling(settings)


def check_recipe(settings: PretrainSettings) -> None:
    """Do two steps of everything in a temporary folder, to see that it works."""
    do_two_steps(settings, STAGES)


def load_run_model(run: Run) -> AudioModel:
    """The trained model of a run in evaluation mode, on the GPU where there is one."""
    settings: Any = run.settings
    path = run.folder / "train" / WEIGHTS
    if not path.is_file():
        raise UserError(f"{run.folder} is not trained yet: {path} is missing. Finish it with --resume {run.folder}.")
    return load_trained(settings, read_classes(settings.data.root).names, path)


def make_sampler(settings: PretrainSettings, clips: TaggingClips) -> EpochDraws:
    """Draws of the training epochs."""
    sampler = settings.sampler
    weights = class_balance_weights(clips.targets, sampler.offset) if sampler.balanced else None
    return EpochDraws(
        len(clips), settings.seed, weights, sampler.clips_per_epoch, sampler.replacement, sampler.order == "shuffled"
    )


def loader_options(settings: Any) -> dict[str, Any]:
    """Options of `make_loader` that the settings of a run give."""
    loader, use_gpu = settings.loader, settings.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return {"batch_size": loader.batch_size, "num_workers": loader.num_workers, "pin_memory": use_gpu}


def _open_test(settings: PretrainSettings, classes: Classes, sample_rate: int) -> TaggingClips:
    data = settings.data
    return open_audioset(data.root, data.test, classes, sample_rate, data.seconds)


TRAINING = (
    "seed", "data.root", "data.training", "data.seconds", "loader.batch_size", "front_end", "model", "sampler",
    "teacher", "augment", "optim",
)  # fmt: skip
TRAINER = tuple(f"trainer.{name}" for name in ("epochs", "precision", "gradient_clip", "accumulate"))

STAGES = [
    Stage("train", train_network, uses=(*TRAINING, *TRAINER)),
    Stage("test", test_network, uses=(*TRAINING, *TRAINER, "data.test"), alone=True),
]
