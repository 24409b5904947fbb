"""The recipe of AudioSet training: train one network, with a teacher's logits where they are given, then test it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import DataLoader

from common.audioset.data import DrawSampler, TaggingClips, class_balance_weights, open_audioset
from common.audioset.metrics import score_tags
from common.audioset.networks import load_trained, refuse_hot_kernels, tag_clips
from common.audioset.settings import FineTuneSettings, PretrainSettings, TaggingSettings
from common.audioset.tables import Classes, read_classes, refuse_missing_audioset
from common.data.files import is_made_up, write_json
from common.data.keyed_outputs import OutputWriter
from common.data.loading import EpochDraws, make_loader
from common.models.audio_model import AudioModel
from common.models.network import uses_gpu
from common.output import say
from common.registry.models import find_released
from common.registry.weights import fetch
from common.runs.energy import measure_energy
from common.runs.folder import is_main_process
from common.runs.recipe import Recipe
from common.runs.run import Run, is_done
from common.runs.stages import Stage
from common.training.checkpoints import read_weights, save_checkpoint
from common.training.seeds import seed_all

if TYPE_CHECKING:  # imported where a stage trains: Lightning takes seconds
    from common.audioset.train import TaggingTraining

WEIGHTS = "weights.pt"
"""Weights of the trained network under their official names: `tag --weights`, `finetune --model.weights`."""


def train_network(run: Run[PretrainSettings], settings: PretrainSettings, fast_check: bool = False) -> None:
    """Train on labels, and on the teacher's logits where they are given.

    Writes train/last.ckpt, weights.pt, metrics.csv and energy.json.
    """
    from common.audioset.train import TaggingTraining

    data, folder, classes = settings.data, run.folder / "train", read_classes(settings.data.root)
    seed_all(settings.seed)
    label_weight = None if settings.teacher is None else settings.teacher.label_weight
    module = TaggingTraining(settings, classes.names, label_weight=label_weight)
    rate = module.front_end.sample_rate
    clips = open_audioset(data.root, data.training, classes, rate, data.seconds, settings.teacher, settings.augment)
    sampler = make_sampler(settings, clips)
    say(f"train: {sampler.draws.count:,} of {len(clips):,} clips an epoch, {len(classes)} classes")
    watched = _open_test(settings, classes, rate) if data.watch_test else None
    with measure_energy(folder, settings.trainer):
        fit_network(module, folder, clips, sampler, watched, fast_check)


def fit_network(
    module: "TaggingTraining",
    folder: Path,
    clips: TaggingClips,
    sampler: DrawSampler,
    watched: TaggingClips | None = None,
    fast_check: bool = False,
) -> None:
    """Train a network on clips, with figures of `watched` clips in the log; write last.ckpt and weights.pt."""
    from common.training.trainer import fit, make_trainer

    settings = module.settings
    loaders = [training_loader(settings, clips, sampler)]
    if watched is not None:
        loaders.append(make_loader(watched, **loader_options(settings)))
    fit(make_trainer(settings.trainer, folder, settings.seed, fast_check=fast_check), module, *loaders)
    if is_main_process():
        save_checkpoint(read_weights(folder / "last.ckpt", module.tested_prefix), folder / WEIGHTS)


def test_network(run: Run[PretrainSettings], settings: PretrainSettings, fast_check: bool = False) -> None:
    """Score the trained network on the test clips.

    Reads train/weights.pt. Writes test/evaluation.json and test/logits.hdf (logits by file name).
    """
    classes = read_classes(settings.data.root)
    model = load_run_model(run)
    clips = _open_test(settings, classes, model.sample_rate)
    logits, facts = tag_clips(model, make_loader(clips, **loader_options(settings)), limit=2 if fast_check else None)
    scores = score_tags(logits, facts["target"], facts["filename"], np.random.default_rng(settings.seed))
    write_evaluation(run, settings, classes.names, facts["filename"], logits, scores)


def write_evaluation(
    run: Run[Any],
    settings: PretrainSettings | FineTuneSettings,
    labels: tuple[str, ...],
    names: list[str],
    logits: np.ndarray,
    scores: dict[str, Any],
) -> None:
    """Write test/evaluation.json and test/logits.hdf."""
    with OutputWriter(run.folder / "test" / "logits.hdf", names, logits.shape[1:]) as writer:
        writer.write(names, logits)
    made_up = is_made_up(settings.data.root)
    facts = {"seed": settings.seed, "made_up": made_up, "labels": labels}
    write_json(run.folder / "test" / "evaluation.json", {**facts, **scores})


def result_row(run: Run[Any]) -> dict[str, Any]:
    """mAP or accuracy, and its interval."""
    scores = run.read_evaluation()
    name = "mAP" if "mAP" in scores else "accuracy"
    return {name: scores[name]["value"], "low": scores[name]["low"], "high": scores[name]["high"]}


def is_made_up_set(settings: PretrainSettings | FineTuneSettings) -> bool:
    """Whether the clips are made up."""
    return is_made_up(settings.data.root)


def refuse_early(run: Run[PretrainSettings]) -> None:
    """Refuse missing files, a teacher of other classes and a DyMN that would not cool down."""
    refuse_missing_audioset(run.settings)
    fetch_weights(run)
    refuse_hot_kernels(run.settings)


def fetch_weights(run: Run[Any]) -> None:
    """Download released weights that a training starts from, unless it is done or has a file of weights."""
    model = run.settings.model
    released = find_released(model.name)
    if released is not None and model.weights is None and not is_done(run, "train"):
        fetch(released)


def load_run_model(run: Run[PretrainSettings]) -> AudioModel:
    """The trained model of a run in evaluation mode, on the GPU where there is one."""
    return load_trained(run.settings, read_classes(run.settings.data.root).names, run.checkpoint(f"train/{WEIGHTS}"))


def make_sampler(settings: PretrainSettings, clips: TaggingClips) -> DrawSampler:
    """Draws of the training epochs."""
    sampler = settings.sampler
    weights = class_balance_weights(clips.targets, sampler.offset) if sampler.balanced else None
    everything = len(clips) if weights is None or sampler.replacement else int(np.count_nonzero(weights))
    draws = EpochDraws(len(clips), sampler.clips_per_epoch or everything, weights, sampler.replacement)
    return DrawSampler(draws, settings.seed, sampler.order == "shuffled")


def training_loader(settings: TaggingSettings, clips: Any, sampler: DrawSampler) -> DataLoader[Any]:
    """Batches of an epoch; the last one may be shorter, as published."""
    return make_loader(clips, sampler=sampler, **loader_options(settings))


def loader_options(settings: TaggingSettings) -> dict[str, Any]:
    """Options of `make_loader`."""
    loader = settings.loader
    pin_memory = uses_gpu(settings.trainer)
    return {"batch_size": loader.batch_size, "num_workers": loader.num_workers, "pin_memory": pin_memory}


def _open_test(settings: PretrainSettings, classes: Classes, sample_rate: int) -> TaggingClips:
    data = settings.data
    return open_audioset(data.root, data.test, classes, sample_rate, data.seconds)


TRAINING = (
    "seed", "data.root", "data.training", "data.seconds", "loader.batch_size", "front_end", "model", "sampler",
    "teacher", "augment", "optim",
)  # fmt: skip
TRAINER = tuple(f"trainer.{name}" for name in ("epochs", "precision", "gradient_clip", "accumulate"))


def make_stages(settings: PretrainSettings) -> list[Stage]:
    """The stages of a run."""
    return [
        Stage("train", train_network, uses=(*TRAINING, *TRAINER)),
        Stage("test", test_network, uses=(*TRAINING, *TRAINER, "data.test"), alone=True),
    ]


RECIPE = Recipe(PretrainSettings, make_stages, result_row, is_made_up_set, refuse_early)
