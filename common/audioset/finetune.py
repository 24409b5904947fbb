"""The recipe of fine-tuning: one network for each fold (or for the one split) of a labelled set, then their test."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.audioset.data import DrawSampler, TaggingClips
from common.audioset.metrics import accuracy, mean_average_precision, score_labels, score_tags
from common.audioset.networks import load_trained, refuse_hot_kernels, tag_clips
from common.audioset.recipe import (
    TRAINER,
    WEIGHTS,
    fetch_weights,
    fit_network,
    is_made_up_set,
    loader_options,
    result_row,
    write_evaluation,
)
from common.audioset.settings import FineTuneSettings
from common.audioset.tables import refuse_missing
from common.audioset.tasks import TEST, TRAIN, VALIDATION, LabelledClips, read_task
from common.data.encoded_store import EncodedClips, pack_encoded
from common.data.files import digest_files
from common.data.loading import EpochDraws, make_loader
from common.errors import UserError
from common.output import say
from common.runs.energy import measure_energy
from common.runs.folder import make_once
from common.runs.recipe import Recipe
from common.runs.run import Run
from common.runs.stages import Stage
from common.training.seeds import seed_all

SPLIT = "split"
"""Folder of the one network of a set without folds."""


def train_networks(run: Run[FineTuneSettings], settings: FineTuneSettings, fast_check: bool = False) -> None:
    """Train a network for each fold; finished folds are kept.

    Writes train/FOLD/{last.ckpt,weights.pt,metrics.csv} and train/energy.json.
    """
    clips = read_task(settings.data)
    folder = run.folder / "train"
    with measure_energy(folder, settings.trainer):
        for number, fold in enumerate(_folds(settings, clips)):
            if not (folder / _name(fold) / WEIGHTS).is_file():
                _train_fold(settings, clips, fold, number, folder / _name(fold), fast_check)


def _train_fold(
    settings: FineTuneSettings, clips: LabelledClips, fold: str | None, number: int, folder: Path, fast_check: bool
) -> None:
    from common.audioset.train import TaggingTraining

    seed_all(settings.seed, number)
    module = TaggingTraining(settings, clips.labels, clips.objective)
    rate = module.front_end.sample_rate
    rows, watched = (_some(settings, clips, clips.rows(part, fold)) for part in (TRAIN, VALIDATION))
    say(f"train {_name(fold)}: {len(rows):,} clips, {len(clips.labels)} classes")
    training = open_labelled(settings, clips, rows, rate, training=True)
    sampler = DrawSampler(EpochDraws(len(rows), len(rows)), settings.seed)
    validation = open_labelled(settings, clips, watched, rate) if len(watched) else None
    fit_network(module, folder, training, sampler, validation, fast_check)


def test_networks(run: Run[FineTuneSettings], settings: FineTuneSettings, fast_check: bool = False) -> None:
    """Score each fold's network on the fold; figures are over the clips of all folds together.

    Writes test/evaluation.json and test/logits.hdf (logits by file name).
    """
    clips = read_task(settings.data)
    folds = _folds(settings, clips)
    logits: list[NDArray[Any]] = []
    rows: list[NDArray[Any]] = []
    of_fold = {}
    for fold in folds:
        model = load_trained(settings, clips.labels, run.checkpoint(f"train/{_name(fold)}/{WEIGHTS}"), clips.objective)
        tested = _some(settings, clips, clips.rows(TEST, fold))
        whole = settings.data.test_on == "whole"
        loading = loader_options(settings) | ({"batch_size": 1} if whole else {})
        loader = make_loader(open_labelled(settings, clips, tested, model.sample_rate, whole), **loading)
        values, facts = tag_clips(model, loader, limit=2 if fast_check else None)
        logits.append(values)
        rows.append(tested[: len(values)])
        figure = accuracy if clips.objective == "one_label" else mean_average_precision
        of_fold[str(fold)] = figure(values, clips.targets[rows[-1]], facts["weight"])
    values, chosen = np.concatenate(logits), np.concatenate(rows)
    names = [_clip_name(settings, clips.paths[row]) for row in chosen]
    truth = clips.targets[chosen], [clips.recordings[row] for row in chosen], np.random.default_rng(settings.seed)
    if clips.objective == "one_label":
        scores = score_labels(values, *truth)
    else:
        scores = score_tags(values, *truth, None if clips.weights is None else clips.weights[chosen])
    write_evaluation(run, settings, clips.labels, names, values, {**scores, "folds": of_fold if len(folds) > 1 else {}})


def refuse_early(run: Run[FineTuneSettings]) -> None:
    """Refuse unknown folds, missing clips or weights, a DyMN that would not cool down; tell of a made split."""
    clips = read_task(run.settings.data)
    _folds(run.settings, clips)
    refuse_missing(run.settings)
    fetch_weights(run)
    refuse_hot_kernels(run.settings)
    if clips.note:
        say(clips.note)


def fill_in_digest(settings: FineTuneSettings) -> FineTuneSettings:
    """The settings with a digest of the clips and one of their labels and parts."""
    data, clips = settings.data, read_task(settings.data)
    contents = digest_files(clips.paths, data.store / "digests.json")
    names = [_clip_name(settings, path) for path in clips.paths]
    facts = clips.labels, sorted(zip(names, clips.targets.tolist(), clips.parts.tolist(), clips.recordings))
    digest = "-".join(
        hashlib.sha256(repr(fact).encode()).hexdigest()[:12] for fact in (sorted(zip(names, contents)), facts)
    )
    return settings.model_copy(update={"data": data.model_copy(update={"digest": digest})})


def open_labelled(
    settings: FineTuneSettings,
    clips: LabelledClips,
    rows: NDArray[Any],
    sample_rate: int,
    whole: bool = False,
    training: bool = False,
) -> TaggingClips:
    """Some `rows` of a labelled set, out of the store of all clips, which is made when absent.

    `whole` clips keep their length, in batches of one; `training` clips are augmented.
    """
    store = _store(settings, clips, sample_rate)
    names = [_clip_name(settings, clips.paths[row]) for row in rows]
    audio = EncodedClips([store], sample_rate, None if whole else settings.data.seconds, names)
    weights = None if clips.weights is None else clips.weights[rows]
    return TaggingClips(audio, clips.targets[rows], weights, None, settings.augment if training else None)


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


def _some(settings: FineTuneSettings, clips: LabelledClips, rows: NDArray[Any]) -> NDArray[Any]:
    """`data.clips` clips of each part."""
    limit = settings.data.clips
    if limit is None:
        return rows
    random = np.random.default_rng(settings.seed)
    order = random.permutation(len(clips))
    kept = [order[clips.parts[order] == part][:limit] for part in sorted(set(clips.parts.tolist()))]
    return np.intersect1d(rows, np.concatenate(kept))


def _clip_name(settings: FineTuneSettings, path: Path) -> str:
    """A unique name for a clip, also of clips that differ only in their folder."""
    return path.relative_to(settings.data.root).with_suffix("").as_posix().replace("/", "__").replace(".", "_")


def _store(settings: FineTuneSettings, clips: LabelledClips, sample_rate: int) -> Path:
    """The HDF5 file of all clips, resampled and losslessly packed; its name changes when a clip changes."""
    data = settings.data
    digest = (data.digest or fill_in_digest(settings).data.digest or "").split("-")[0]
    name = f"_{sample_rate}_{digest}.hdf"
    path = next(data.store.glob(f"*{name}"), data.store / f"{data.root.resolve().name}{name}")
    return make_once(
        path, partial(_pack, [_clip_name(settings, clip) for clip in clips.paths], clips.paths, sample_rate)
    )


def _pack(names: list[str], paths: list[Path], sample_rate: int, path: Path) -> None:
    say(f"Packing {len(names):,} clips into {path.parents[1] / path.name}")
    pack_encoded(paths, path, names=names, encode_rate=sample_rate, encode_format="flac", strict=True)


DATA = tuple(f"data.{name}" for name in ("task", "digest", "folds", "clips", "seconds"))
TRAINING = ("seed", *DATA, "loader.batch_size", "front_end", "model", "augment", "optim")


def make_stages(settings: FineTuneSettings) -> list[Stage]:
    """The stages of a run."""
    return [
        Stage("train", train_networks, uses=(*TRAINING, *TRAINER)),
        Stage("test", test_networks, uses=(*TRAINING, *TRAINER, "data.test_on"), alone=True),
    ]


RECIPE = Recipe(FineTuneSettings, make_stages, result_row, is_made_up_set, refuse_early, complete=fill_in_digest)
