"""Training clips of the two-iteration recipe: sets, pseudo-labels, and the batches of each process."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from common.data.audio import refuse_no_audio
from common.data.files import read_tsv
from common.data.loading import make_plan_loader, rank_and_count
from common.errors import UserError
from common.features.augment import wavmix
from task4_sed.augment import draw_partners
from task4_sed.data import sets
from task4_sed.data.annotations import clip_name
from task4_sed.data.clips import BatchPlan, GroupedBatches, GroupSampler, SoundEventClips
from task4_sed.data.sets import ClipSet, hold_out, set_layout, split_weak
from task4_sed.iterations.settings import KIND_OF_LABELS, KINDS, BatchSettings, StageSettings, TwoIterations
from task4_sed.labels import FRAME_SECONDS, NUM_FRAMES
from task4_sed.scores.store import ScoreStore
from task4_sed.settings import WavmixSettings

STORES = {
    "synthetic_train": "synth_train",
    "strong": "strong_train",
    "external_strong": "external_strong_train",
    "weak": "weak_train",
    "unlabeled": "unlabeled_train",
    "maestro_train": "maestro_real_train",
}
"""Published name of each training set's store; held-out weak clips are in weak_val."""

WAVMIXED = ("maestro", "strong", "synthetic")
"""Kinds of clips that are mixed as waveforms."""
Sets = dict[str, ClipSet]


def training_sets(settings: TwoIterations, batch: BatchSettings) -> tuple[Sets, Sets]:
    """Training and validation sets by name; reports missing clips."""
    choice = settings.validation
    names = [name for kind in KINDS if getattr(batch, kind) for name in getattr(settings.data.sets, kind)]
    training, held_out = hold_out({name: read_clips(settings, name) for name in names}, choice, settings.data.root)
    whole = {"synthetic_validation": choice.synthetic,
             "external_strong_validation": choice.external and "external_strong" in training}  # fmt: skip
    scored = {name: read_clips(settings, name) for name, wanted in whole.items() if wanted}
    return training, {**scored, **held_out}


def read_clips(settings: TwoIterations, name: str, everything: bool = False) -> ClipSet:
    """A set without the excluded clips; `everything`: with them."""
    data, clips = settings.data, sets.read_clips(settings, name)
    if everything or name not in data.exclude:
        return clips
    excluded = {clip_name(row) for row in read_tsv(data.root / data.exclude[name], ["filename"])["filename"]}
    return clips.select([row for row, file in enumerate(clips.filenames) if clip_name(file) not in excluded])


class DistilledClips(SoundEventClips):
    """Clips, and with pseudo-labels ``pseudo`` float32 (clips, classes, 156) in each batch; makes a missing store.

    Pseudo-labels belong to the first 10 s, so longer clips are not cropped at random.
    """

    def __init__(self, clips: ClipSet, settings: TwoIterations, pseudo: "PseudoLabels | None" = None):
        super().__init__(clips, settings.data.root, settings.labels, settings.data.packed)
        self.pseudo = pseudo

    def gather(
        self, indices: Sequence[int] | np.ndarray, random: np.random.Generator | None = None, out: Tensor | None = None
    ) -> dict[str, Any]:
        """See `SoundEventClips.gather`."""
        batch = super().gather(indices, None if self.pseudo is not None else random, out)
        if self.pseudo is not None:
            batch["pseudo"] = self.pseudo.gather(np.asarray(indices))
        return batch


class PseudoLabels:
    """Pseudo-labels of clips from a store of logits or scores, held in memory in half precision.

    Raises:
        UserError: for a missing or damaged store, missing clips, other classes or frames.
    """

    def __init__(self, path: Path, filenames: Sequence[str], classes: Sequence[str]):
        store = ScoreStore(path, classes, FRAME_SECONDS)
        if store.num_frames != NUM_FRAMES:
            raise UserError(f"{path} has {store.num_frames} frames per clip, expected {NUM_FRAMES} of 64 ms.")
        absent = [name for name in filenames if name not in store]
        if absent:
            raise UserError(
                f"{path} has no pseudo-labels of {len(absent)} of {len(filenames)} clips (first {absent[0]}); make it "
                "again from the same data."
            )
        try:
            self._values = np.stack([store.read_as("logits", name).astype(np.float16) for name in filenames])
        except OSError as error:
            raise UserError(f"{path} is cut off or damaged; write it again.") from error

    def gather(self, indices: np.ndarray) -> Tensor:
        """(clips, classes, 156), 0..1; indices into `filenames`."""
        return torch.from_numpy(self._values[indices]).float().sigmoid_().mT.contiguous()


class SharedBatches(DistributedSampler):
    """The batches of an epoch, shared by the processes that train together.

    Batches are planned as for one process; rank r of n takes the batches r, r + n, ... A step of the optimiser uses the
    same batches on any number of processes that divides its number of batches.
    """

    def __init__(self, batches: GroupSampler):
        # Not DistributedSampler's __init__, which shares single clips; the base class keeps Lightning from wrapping it.
        self.batches = batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is planned next; Lightning calls it."""
        self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batches) // rank_and_count()[1]

    def __iter__(self) -> Iterator[BatchPlan]:
        rank, count = rank_and_count()
        last = len(self) * count
        return (plan for number, plan in enumerate(self.batches) if number < last and number % count == rank)


class WavmixedBatches(GroupedBatches):
    """Training batches in which some clips are mixed with another clip of their whole set, as waveforms.

    `mixing` is of each group; None leaves its clips alone.
    """

    def __init__(self, groups: Sequence[Sequence[SoundEventClips]], mixing: Sequence[WavmixSettings | None]):
        super().__init__(groups)
        self.mixing = list(mixing)

    def __getitem__(self, plan: BatchPlan) -> dict[str, Any]:
        batch = super().__getitem__(plan)
        random = np.random.default_rng((*plan.seed, 1))
        partners, rows, weights = [], [], []
        position = 0
        for starts, own, wanted in zip(self.starts, plan.rows, self.mixing):
            partner, weight = np.full(len(own), -1), np.ones(len(own), dtype=np.float32)
            if wanted is not None:
                partner, weight = draw_partners(len(own), int(starts[-1]), wanted.probability, wanted.alpha, random)
            mixed = np.flatnonzero(partner >= 0)
            # A batch is gathered set by set: partners are put in that order, so that each stays with its row.
            mixed = mixed[np.argsort(np.searchsorted(starts, partner[mixed], side="right"), kind="stable")]
            partners.append(partner[mixed])
            rows.append(position + mixed)
            weights.append(weight[mixed])
            position += len(own)
        if sum(len(part) for part in partners):
            others = super().__getitem__(BatchPlan(tuple(partners), (*plan.seed, 2)))
            mixed_in: dict[str, Tensor] = {
                name: others[name] for name in ("waveform", "strong", "pseudo") if name in others
            }
            wavmix(batch, mixed_in, *(torch.from_numpy(np.concatenate(part)) for part in (rows, weights)))
        return batch


def training_loader(
    settings: TwoIterations, stage: StageSettings, training: Sets, pseudo_folder: Path | None, seed: int,
    pin_memory: bool,
) -> DataLoader:  # fmt: skip
    """Loader of training batches, in the order of `KINDS`; without a folder of pseudo-labels there are none."""
    classes, batch = settings.labels.classes, stage.batch
    opened = {}
    for name, clips in training.items():
        pseudo = None
        if pseudo_folder is not None:
            pseudo = PseudoLabels(pseudo_folder / f"{STORES[name]}.h5", clips.filenames, classes)
        opened[name] = DistilledClips(clips, settings, pseudo)
    kinds = [kind for kind in KINDS if getattr(batch, kind)]
    mixing = [stage.augment.wavmix if kind in WAVMIXED else None for kind in kinds]
    groups = WavmixedBatches([[opened[name] for name in getattr(settings.data.sets, kind)] for kind in kinds], mixing)
    counts = [getattr(batch, kind) for kind in kinds]
    for kind, size, count in zip(kinds, groups.sizes, counts):
        if size < count:
            raise UserError(f"A batch takes {count} {kind} clips, but there are {size}; lower batch.{kind}.")
    batches = SharedBatches(GroupSampler(groups.sizes, counts, seed))
    return make_plan_loader(groups, batches, settings.data.num_workers, pin_memory)


def stores_to_write(settings: TwoIterations) -> Iterator[tuple[str, ClipSet]]:
    """Published name of the store, and clips, of every training set."""
    batch = settings.stage1.batch
    for kind in KINDS:
        for name in getattr(settings.data.sets, kind) if getattr(batch, kind) else ():
            clips = read_clips(settings, name, everything=True)
            if name == "weak" and settings.validation.weak:
                clips, others = split_weak(clips, settings.data.root)
                yield "weak_val", others
            yield STORES[name], clips


def check_inputs(settings: TwoIterations) -> None:
    """Refuse sets with other labels than their part of the batch needs, and missing files, before training starts."""
    used: set[str] = set()
    for kind in KINDS:
        for name in getattr(settings.data.sets, kind):
            found = set_layout(name).kind
            if found != KIND_OF_LABELS[kind]:
                raise UserError(
                    f"data.sets.{kind} names {name}, whose labels are {found}; it needs sets with "
                    f"{KIND_OF_LABELS[kind]} labels."
                )
    for name in settings.names:
        own = settings.transformers[name]
        if own.weights is not None and not own.untrained and not own.weights.is_file():
            raise UserError(
                f"transformers.{name}.weights: there is no file {own.weights}. Get it, name another, or try the "
                f"recipe with --transformers.{name}.untrained true."
            )
        for which in ((1, 1), (1, 2), (2, 1)):
            stage = settings.stage(name, *which)
            used |= {kind for kind in KINDS if getattr(stage.batch, kind)}
            wanted = stage.augment.impulse_responses
            if wanted is not None:
                refuse_no_audio(
                    wanted.folder, "augment.impulse_responses", "Put responses of microphones there (such as MicIRP), "
                    "or leave them out with --stage2.augment.impulse_responses null.",
                )  # fmt: skip
    for path in settings.data.exclude.values():
        if not (settings.data.root / path).is_file():
            raise UserError(
                f"data.exclude: there is no {settings.data.root / path}. Get the list from the winner's code, or train "
                "on all clips with --data.exclude {}."
            )
    training = [name for kind in sorted(used) for name in getattr(settings.data.sets, kind)]
    sets.check_sets(settings, training, settings.validation.synthetic)
