"""The recipe of fine-tuning: one network for each fold (or for the one split) of a labelled set, then their test."""

import errno
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.audioset.data import TaggingClips
from common.audioset.metrics import mean_average_precision, score_labels, score_tags
from common.audioset.recipe import TRAINER, WEIGHTS, loader_options
from common.audioset.sampling import EpochDraws
from common.audioset.settings import FineTuneSettings
from common.audioset.tasks import LabelledClips, read_task
from common.audioset.train import TaggingTraining, demand_cooling, load_trained, tag_clips
from common.data.encoded_store import EncodedClips, pack_encoded
from common.data.keyed_outputs import OutputWriter
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

SPLIT = "split"
"""Folder of the one network of a set without folds."""


def train_networks(run: Run, settings: FineTuneSettings, fast_check: bool = False) -> None:
    """Train a network for each fold; folds that are done are kept.

    Writes train/FOLD/{last.ckpt,weights.pt,metrics.csv} and train/energy.json.
    """
    clips = read_task(settings.data)
    folder = run.folder / "train"
    with EnergyMeter(folder if settings.trainer.measure_energy else None, settings.trainer.country):
        for number, fold in enumerate(_folds(settings, clips)):
            if not (folder / _name(fold) / WEIGHTS).is_file():
                _train_fold(settings, clips, fold, number, folder / _name(fold), fast_check)


def test_networks(run: Run, settings: FineTuneSettings, fast_check: bool = False) -> None:
    """Score each fold's network on the fold; figures are over the clips of all folds together.

    Writes test/evaluation.json and test/logits.hdf (logits by file name).
    """
    clips = read_task(settings.data)
    folds = _folds(settings, clips)
    logits: list[NDArray] = []
    rows: list[NDArray] = []
    of_fold = {}
    for fold in folds:
        model = load_fold_model(run, clips, fold)
        tested = _some(settings, clips, clips.test_rows(fold))
        whole = settings.data.test_on == "whole"
        loading = loader_options(settings) | ({"batch_size": 1} if whole else {})
        loader = make_loader(open_labelled(settings, clips, tested, model.sample_rate, whole), **loading)
        values, _ = tag_clips(model, loader, limit=2 if fast_check else None)
        logits.append(values)
        rows.append(tested[: len(values)])
        if len(folds) > 1:
            of_fold[str(fold)] = _figure(clips, values, rows[-1])
    values, chosen = np.concatenate(logits), np.concatenate(rows)
    names = [_clip_name(settings, clips.paths[row]) for row in chosen]
    with OutputWriter(run.folder / "test" / "logits.hdf", names, values.shape[1:]) as writer:
        writer.write(names, values)
    scores = _score(clips, values, chosen, settings.seed)
    facts = {"seed": settings.seed, "made_up": is_made_up(settings.data.root), "labels": clips.labels}
    write_json(run.folder / "test" / "evaluation.json", {**facts, **scores, "folds": of_fold})


def run_recipe(settings: FineTuneSettings, folder: Path | None = None, redo: Sequence[str] = ()) -> Run:
    """Do what is not done of a run.

    Args:
        settings: of the run.
        folder: of the run; None takes the one that the settings name.
        redo: stages to do again.
    """
    # Mistakes that other settings mend are found before a run folder keeps these ones.
    _folds(settings, read_task(settings.data))
    demand_cooling(settings)
    run = Run(folder or settings.folder, settings)
    run_stages(run, STAGES, redo)
    return run


def check_recipe(settings: FineTuneSettings) -> None:
    """Do two steps of everything in a temporary folder, to see that it works."""
    do_two_steps(settings, STAGES)


def load_fold_model(run: Run, clips: LabelledClips, fold: str | None) -> AudioModel:
    """The trained model of a fold in evaluation mode, on the GPU where there is one."""
    settings: Any = run.settings
    return load_trained(settings, clips.labels, run.folder / "train" / _name(fold) / WEIGHTS)


def open_labelled(
    settings: FineTuneSettings,
    clips: LabelledClips,
    rows: NDArray,
    sample_rate: int,
    whole: bool = False,
    training: bool = False,
) -> TaggingClips:
    """Some clips of a labelled set, from the store of all of them, which is made when absent.

    Args:
        settings: of the run.
        clips: the set.
        rows: which of them.
        sample_rate: Hz.
        whole: give each clip as long as it is, in batches of one.
        training: augment them.
    """
    store = _store(settings, clips, sample_rate)
    names = [_clip_name(settings, clips.paths[row]) for row in rows]
    audio = EncodedClips([store], sample_rate, None if whole else settings.data.seconds, names)
    weights = None if clips.weights is None else clips.weights[rows]
    return TaggingClips(audio, clips.targets[rows], weights, None, settings.augment if training else None)


def _train_fold(
    settings: FineTuneSettings, clips: LabelledClips, fold: str | None, number: int, folder: Path, fast_check: bool
) -> None:
    seed_all(settings.seed, number)
    module = TaggingTraining(settings, clips.labels, clips.objective)
    rate = module.front_end.sample_rate
    rows = _some(settings, clips, clips.training_rows(fold))
    training = open_labelled(settings, clips, rows, rate, training=True)
    batch = min(settings.loader.batch_size, len(rows))
    loading = loader_options(settings) | {"batch_size": batch}
    loaders: list[Any] = [
        make_loader(training, sampler=EpochDraws(len(rows), settings.seed), drop_last=True, **loading)
    ]
    watched = _some(settings, clips, clips.validation_rows(fold))
    if len(watched):
        loaders.append(make_loader(open_labelled(settings, clips, watched, rate), **loading))
    say(f"train {_name(fold)}: {len(rows):,} clips, {len(clips.labels)} classes")
    trainer = make_trainer(settings.trainer, folder, settings.seed, fast_check=fast_check)
    fit(trainer, module, *loaders)
    if is_main_process():
        save_checkpoint(weights_of(folder / "last.ckpt", module.tested_prefix), folder / WEIGHTS)


def _score(clips: LabelledClips, logits: NDArray, rows: NDArray, seed: int) -> dict[str, Any]:
    recordings, random = [clips.recordings[row] for row in rows], np.random.default_rng(seed)
    if clips.objective == "one_label":
        return score_labels(logits, clips.targets[rows], recordings, random)
    return score_tags(logits, clips.targets[rows], recordings, random, _weights(clips, rows))


def _figure(clips: LabelledClips, logits: NDArray, rows: NDArray) -> float:
    """Accuracy or mAP of some clips, 0..1."""
    if clips.objective == "one_label":
        return float((logits.argmax(axis=1) == clips.targets[rows].argmax(axis=1)).mean())
    return mean_average_precision(logits, clips.targets[rows], _weights(clips, rows))


def _weights(clips: LabelledClips, rows: NDArray) -> NDArray | None:
    return None if clips.weights is None else clips.weights[rows]


def _folds(settings: FineTuneSettings, clips: LabelledClips) -> list[str | None]:
    """Folds to test in turn, or [None] for a set with one split."""
    chosen = settings.data.folds
    if not clips.folds:
        if chosen:
            raise UserError("data.folds: the set has one split and no folds; leave them out.")
        return [None]
    for fold in chosen or []:
        if fold not in clips.folds:
            raise UserError(f"data.folds: there is no fold {fold}; there are {', '.join(clips.folds)}.")
    return list(chosen or clips.folds)


def _name(fold: str | None) -> str:
    return SPLIT if fold is None else f"fold_{fold}"


def _some(settings: FineTuneSettings, clips: LabelledClips, rows: NDArray) -> NDArray:
    """`data.clips` clips of each part."""
    limit = settings.data.clips
    if limit is None:
        return rows
    random = np.random.default_rng(settings.seed)
    order = random.permutation(len(clips))
    kept = [order[clips.parts[order] == part][:limit] for part in sorted(set(clips.parts.tolist()))]
    return np.intersect1d(rows, np.concatenate(kept))


def _clip_name(settings: FineTuneSettings, path: Path) -> str:
    """A name that differs from clip to clip, also where folders tell them apart."""
    return path.relative_to(settings.data.root).with_suffix("").as_posix().replace("/", "__").replace(".", "_")


def _store(settings: FineTuneSettings, clips: LabelledClips, sample_rate: int) -> Path:
    """The HDF5 file of all clips, resampled and losslessly packed; its name changes when a clip changes."""
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in clips.paths]
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
    folder = settings.data.store or settings.data.root / "encoded"
    path = folder / f"clips_{sample_rate}_{digest}.hdf"
    if path.is_file():
        return path
    if not is_main_process():  # the first process makes it
        while not path.is_file():
            time.sleep(0.5)
        return path
    names = [_clip_name(settings, clip) for clip in clips.paths]
    say(f"Packing {len(names):,} clips into {path}")
    try:
        pack_encoded(clips.paths, path, names=names, encode_rate=sample_rate, encode_format="flac", strict=True)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise UserError(f"{folder} cannot be written ({error.strerror}); set data.store to another folder.") from error
    return path


DATA = tuple(f"data.{name}" for name in ("task", "root", "table", "folds", "clips", "seconds"))
TRAINING = ("seed", *DATA, "loader.batch_size", "front_end", "model", "augment", "optim")

STAGES = [
    Stage("train", train_networks, uses=(*TRAINING, *TRAINER)),
    Stage("test", test_networks, uses=(*TRAINING, *TRAINER, "data.test_on"), alone=True),
]
