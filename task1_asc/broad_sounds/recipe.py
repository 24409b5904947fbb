"""The recipe of broad sounds: for each fold up to three trainings, then one test of all.

fold<k>_curated         stage 1: the curated clips of the fold's training part
fold<k>_pseudo_labels   mean probabilities of the fold's networks for the crowd's clips, by file name
fold<k>_crowd           stage 2: the crowd's clips, towards pseudo-labels and labels
fold<k>_final           stage 3: the curated clips again
test                    figures of every fold and their means

The networks of a fold never meet its test clips, not even through pseudo-labels. The baseline is stage 1 alone.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from common.data.keyed_outputs import KeyedOutputs, OutputWriter
from common.data.loading import EpochSampler, make_loader
from common.errors import UserError
from common.output import say
from common.runs.energy import measure_energy
from common.runs.recipe import Objective, Recipe
from common.runs.stages import Stage
from common.training.seeds import derive_seed, seed_all
from task1_asc.broad_sounds.data import Fold, SoundSet, is_free, is_made_up_data, read_sounds, write_splits
from task1_asc.broad_sounds.embeddings import read_inputs, refuse_missing
from task1_asc.broad_sounds.evaluate import SoundRun, folds_of, mean_logits, phase_folder, result_row, score_run
from task1_asc.broad_sounds.model import EVALUATION_BATCH, SoundClips, SoundNetwork, load_network, make_network
from task1_asc.broad_sounds.settings import CrowdLearning, Learning, SoundSettings
from task1_asc.broad_sounds.taxonomy import CODES


def train_phase(run: SoundRun, settings: SoundSettings, fold: int, phase: str, fast_check: bool = False) -> None:
    """One training of the networks of a fold: from random weights or from the weights of the previous training.

    Writes fold<k>_<phase>/member<m>/network.ckpt (the epoch of the best validation) and metrics.csv.
    """
    from task1_asc.broad_sounds.train import train_network  # Lightning

    curated, learning = read_sounds(settings.data.curated), settings.phases[phase]
    part = folds_of(curated, settings)[fold]
    validation = SoundSplit(curated, part.validation, one_hot(curated), np.ones(len(curated.ids), np.float32))
    if isinstance(learning, CrowdLearning):
        training = crowd_part(run, settings, fold, curated, part)
    else:
        rows = part.train[is_free(curated)[part.train]] if settings.data.commercial_only else part.train
        training = SoundSplit(curated, rows, one_hot(curated), confidence_weights(curated, learning))
    say(f"fold {fold}, {phase}: {len(training.rows):,} clips, {len(validation.rows):,} to choose the epoch")
    before = list(settings.phases).index(phase) - 1
    vectors = read_inputs(curated, settings.inputs)
    folder = run.folder / f"fold{fold}_{phase}"
    with measure_energy(folder, settings.trainer):
        for member in range(settings.members):
            seed = derive_seed(settings.seed, fold, member, before + 1)
            seed_all(seed)
            if before < 0:
                network = make_network(settings, vectors)
            else:
                earlier = phase_folder(run, fold, list(settings.phases)[before], member)
                network = load_network(settings, vectors, earlier / "network.ckpt")
            loaders = partial(make_loaders, network, learning, training, validation, settings, seed)
            train_network(network, learning, loaders, folder / f"member{member}", seed, settings.trainer, fast_check)


@dataclass(frozen=True)
class SoundSplit:
    """Rows of a data set, with the targets (clips, 23) and weights (clips,) of all of its clips."""

    sounds: SoundSet
    rows: NDArray[np.int64]
    target: NDArray[np.float32]
    weight: NDArray[np.float32]


def make_loaders(
    network: SoundNetwork,
    learning: Learning,
    training: SoundSplit,
    validation: SoundSplit,
    settings: SoundSettings,
    seed: int,
) -> tuple[Any, Any]:
    """Loaders of training, in the order of (seed, epoch), and validation."""
    if len(training.rows) < learning.batch_size:
        raise UserError(
            f"{len(training.rows)} training clips give no batch of {learning.batch_size}; set a smaller batch_size."
        )
    from task1_asc.broad_sounds.train import BalancedSampler

    classes = training.target[training.rows].argmax(axis=1)
    sampler = (
        EpochSampler(len(classes), seed) if learning.balance == 0 else BalancedSampler(classes, learning.balance, seed)
    )
    clips, held_out = (open_clips(network, split, settings) for split in (training, validation))
    size = EVALUATION_BATCH if network.encoder is None else learning.batch_size
    return make_loader(clips, learning.batch_size, sampler=sampler, drop_last=True), make_loader(held_out, size)


def open_clips(network: SoundNetwork, split: SoundSplit, settings: SoundSettings) -> SoundClips:
    """The clips of a split with the inputs that the network has."""
    vectors, encoder = read_inputs(split.sounds, settings.inputs), network.encoder
    if encoder is None:
        return SoundClips(vectors, split.rows, split.target, split.weight)
    refuse_missing(split.sounds)
    seconds = settings.inputs.audio.finetuned_seconds
    paths = split.sounds.paths()
    return SoundClips(vectors, split.rows, split.target, split.weight, paths, encoder.sample_rate, seconds)


def one_hot(sounds: SoundSet) -> NDArray[np.float32]:
    """(clips, 23) the labels of a data set."""
    return np.eye(len(CODES), dtype=np.float32)[sounds.targets]


def confidence_weights(sounds: SoundSet, learning: Learning) -> NDArray[np.float32]:
    """(clips,) weights in the loss; 1 for clips without confidence."""
    if learning.confidence_weights is None:
        return np.ones(len(sounds.ids), np.float32)
    table = np.array([1.0, *learning.confidence_weights], dtype=np.float32)
    return table[sounds.clips["confidence"].fillna(0).round().astype(int)]


def crowd_part(run: SoundRun, settings: SoundSettings, fold: int, curated: SoundSet, part: Fold) -> SoundSplit:
    """The crowd's clips that a fold may learn from, with softened labels."""
    assert settings.crowd is not None and settings.data.crowd is not None
    crowd = read_sounds(settings.data.crowd)
    kept = ~np.isin(crowd.ids, [curated.ids[row] for row in np.concatenate([part.test, part.validation])])
    if settings.data.protocol == "uploader":
        unseen = curated.clips["uploader"].iloc[np.concatenate([part.test, part.validation])]
        kept &= ~crowd.clips["uploader"].isin(unseen).to_numpy()
    if settings.data.commercial_only:
        kept &= is_free(crowd)
    if settings.crowd.hold_out:
        kept[folds_of(crowd, settings)[fold].test] = False
    stored = KeyedOutputs(run.folder / f"fold{fold}_pseudo_labels" / "probabilities.h5", "logits", (len(CODES),))
    soft, share = stored.read(stored.rows(crowd.ids)), settings.crowd.pseudo_weight
    target = (1 - share) * one_hot(crowd) + share * soft.astype(np.float32)
    return SoundSplit(crowd, np.flatnonzero(kept), target, confidence_weights(crowd, settings.crowd))


def write_pseudo_labels(run: SoundRun, settings: SoundSettings, fold: int, fast_check: bool = False) -> None:
    """Probabilities of the crowd's clips after stage 1, from the mean logits of the fold's networks.

    Writes fold<k>_pseudo_labels/probabilities.h5, by file name.
    """
    assert settings.data.crowd is not None
    crowd = read_sounds(settings.data.crowd)
    logits = mean_logits(run, crowd, fold, "curated", np.arange(len(crowd.ids)))
    path = run.folder / f"fold{fold}_pseudo_labels" / "probabilities.h5"
    with OutputWriter(path, crowd.ids, (len(CODES),), dtype="float32", attributes={"classes": list(CODES)}) as writer:
        writer.write(crowd.ids, softmax(logits, axis=1))


def write_folds(run: SoundRun, settings: SoundSettings, fast_check: bool = False) -> None:
    """Write the folds: folds/fold_<k>/splits.csv; compute the vectors that are not in the cache yet."""
    curated = read_sounds(settings.data.curated)
    write_splits(run.folder / "folds", curated.ids, folds_of(curated, settings))
    prepare(settings)


def prepare(settings: SoundSettings) -> None:
    """Compute the vectors of all sets that are not in the cache.

    Raises:
        UserError: if the vectors of two sets have different sizes.
    """
    roots = list(filter(None, (settings.data.curated, settings.data.crowd)))
    sizes = [read_inputs(read_sounds(root), settings.inputs).sizes for root in roots]
    for side, size in sizes[0].items():
        if sizes[-1][side] != size:
            raise UserError(
                f"The {side} vectors of {roots[0]} hold {size} numbers, those of {roots[-1]} {sizes[-1][side]}; take "
                "the vectors of one encoder."
            )


DATA = ("data.curated", "data.protocol", "data.splits", "data.split_seed")
MACHINE = ("trainer.precision",)
NETWORK = ("seed", *DATA, "data.commercial_only", "inputs", "network", "members", "curated", *MACHINE)


def make_stages(settings: SoundSettings) -> list[Stage]:
    """The stages of all folds, and the test."""
    stages = [Stage("folds", write_folds, uses=(*DATA, "inputs"), needs=(), alone=True)]
    for fold in settings.data.folds:
        uses: tuple[str, ...] = NETWORK
        needs = ["folds"]
        for phase in settings.phases:
            if phase == "crowd":
                uses = (*uses, "data.crowd")
                labels = f"fold{fold}_pseudo_labels"
                work = partial(write_pseudo_labels, fold=fold)
                stages.append(Stage(labels, work, uses=uses, needs=tuple(needs), alone=True))
                needs.append(labels)
            uses = (*uses, phase) if phase not in uses else uses
            name = f"fold{fold}_{phase}"
            stages.append(Stage(name, partial(train_phase, fold=fold, phase=phase), uses=uses, needs=tuple(needs)))
            needs.append(name)
    used = (*NETWORK, "data.folds", "data.crowd", "crowd", "final")
    return [*stages, Stage("test", score_run, uses=used, alone=True)]


def is_made_up(settings: SoundSettings) -> bool:
    """Whether the data of a run are made up."""
    return is_made_up_data(settings.data.curated)


def check_inputs(run: SoundRun) -> None:
    """Refuse missing clips, wrong tables and folds before a folder is made."""
    folds_of(read_sounds(run.settings.data.curated), run.settings)
    if run.settings.data.crowd is not None:
        read_sounds(run.settings.data.crowd)


def for_check(settings: SoundSettings) -> SoundSettings:
    """One fold is enough for two steps."""
    return settings.model_copy(update={"data": settings.data.model_copy(update={"folds": settings.data.folds[:1]})})


def last_trainings(settings: SoundSettings) -> str:
    """The last training of each network of each fold."""
    return f"fold*_{list(settings.phases)[-1]}/member*"


RECIPE = Recipe(
    SoundSettings, make_stages, result_row, is_made_up, check_inputs, prepare, for_check,
    objective=Objective(last_trainings, "val_hF"),
)  # fmt: skip
