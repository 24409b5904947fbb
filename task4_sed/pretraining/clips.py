"""Batches of AudioSet strong: mp3 out of HDF5, frame targets from the tables, targets of the teachers."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from common.data.encoded_store import EncodedClips, read_clip_names
from common.data.keyed_outputs import KeyedOutputs, KeyIndex
from common.data.labels import label_set
from common.data.loading import EpochDraws, make_plan_loader, rank_and_count
from common.errors import UserError
from common.features.augment import wavmix
from task4_sed.augment import draw_partners
from task4_sed.data.annotations import read_durations
from task4_sed.labels import CLIP_SECONDS, SAMPLE_RATE
from task4_sed.pretraining.settings import PretrainSettings, StrongDataSettings
from task4_sed.pretraining.tables import FRAMES, FrameTargets, StrongEvents, read_strong_table, temporal_weights
from task4_sed.settings import WavmixSettings

CLASSES = label_set("audioset_strong")
"""The 447 with training clips: the outputs of the networks."""
SCORED_CLASSES = label_set("audioset_strong_common")
"""The 407 with clips in both parts."""
KIND = "strong_logits"


@dataclass(frozen=True)
class StrongSet:
    """A part of AudioSet strong.

    name: "training" or "evaluation". events: of the clips with audio. audio: HDF5 files.
    listed: clips of the table. missing: names of clips without audio.
    """

    name: str
    events: StrongEvents
    audio: tuple[Path, ...]
    listed: int
    missing: tuple[str, ...]

    def sentence(self) -> str:
        """The number of missing clips."""
        return (
            f"{len(self.missing):,} of {self.listed:,} {self.name} clips have no audio (first {self.missing[0]}); "
            "`data check_strong` names their classes."
        )


def read_training_set(data: StrongDataSettings) -> StrongSet:
    """Training clips with audio; refuses missing clips unless `allow_missing`."""
    return _read_set("training", data, data.train_table, data.train_audio)


def read_evaluation_set(data: StrongDataSettings) -> tuple[StrongSet, dict[str, float]]:
    """Evaluation clips with audio, and the seconds of each; refuses missing clips as `read_training_set`."""
    clips = _read_set("evaluation", data, data.eval_table, data.eval_audio)
    return clips, read_evaluation_durations(data, clips.events.clips)


def read_evaluation_durations(data: StrongDataSettings, names: Sequence[str]) -> dict[str, float]:
    """Seconds of evaluation clips, by name; refuses clips without."""
    path = data.root / data.eval_durations
    durations = read_durations(path)
    absent = [name for name in names if name not in durations]
    if absent:
        raise UserError(f"{path} lacks {len(absent)} of {len(names)} clips (first {absent[0]}).")
    return durations


def audio_files(root: Path, pattern: str) -> tuple[Path, ...]:
    """HDF5 files below `root` that fit a pattern, at least one."""
    paths = tuple(sorted(Path(root).glob(pattern)))
    if not paths:
        raise UserError(f"{root} has no file {pattern}; `data pack_strong` makes it from a folder of clips.")
    return paths


def names_in(paths: Sequence[Path]) -> KeyIndex:
    """Names of the clips of HDF5 files."""
    return KeyIndex([name for path in paths for name in read_clip_names(path)], ", ".join(map(str, paths)))


@dataclass(frozen=True)
class BatchPlan:
    """The part of a batch that one process reads.

    rows: (clips,) of the data set. joint: clips of the whole batch. first: place of the first row in it.
    partner, partner_weight: (clips,) partner of wavmix, -1 for none, and the weight of the clip itself.
    seeds: (clips,) of random parts of long clips.
    """

    rows: NDArray[np.int64]
    joint: int
    first: int
    partner: NDArray[np.int64]
    partner_weight: NDArray[np.float32]
    seeds: NDArray[np.int64]


class JointBatches(DistributedSampler):
    """Plans the batches of each epoch; a `DistributedSampler`, so that Lightning leaves it as it is.

    `draws` are of an epoch, `batch_size` of all processes together.
    """

    def __init__(self, draws: EpochDraws, batch_size: int, seed: int, wavmix: WavmixSettings | None = None):
        # Not the initialiser above: it asks for processes before they have found each other.
        self.draws, self.batch_size, self.seed, self.wavmix, self.epoch = draws, batch_size, seed, wavmix, 0

    def __len__(self) -> int:
        world = rank_and_count()[1]
        if self.batch_size % world:
            raise UserError(f"data.batch_size {self.batch_size} cannot be shared by {world} processes; change it.")
        last = self.draws.count % self.batch_size
        return self.draws.count // self.batch_size + int(last >= world)

    def __iter__(self) -> Iterator[BatchPlan]:
        order = self.draws.order(self.seed, self.epoch)
        rank, world = rank_and_count()
        for number in range(len(self)):
            rows = order[number * self.batch_size : (number + 1) * self.batch_size]
            rows = rows[: len(rows) // world * world]  # only the last batch can lose clips: fewer than processes
            yield self._part(rows, number, rank, world)

    def _part(self, rows: NDArray, number: int, rank: int, world: int) -> BatchPlan:
        count = len(rows)
        random = np.random.default_rng((self.seed, self.epoch, number))
        seeds = random.integers(2**62, size=count)
        partner, weight = np.full(count, -1), np.ones(count, dtype=np.float32)
        if self.wavmix is not None:
            mixing = self.wavmix.probability, self.wavmix.alpha
            partner, weight = draw_partners(count, self.draws.num_clips, *mixing, random)
        own = slice(rank * count // world, (rank + 1) * count // world)
        return BatchPlan(rows[own], count, own.start, partner[own], weight[own], seeds[own])


class OrderedBatches(DistributedSampler):
    """Batches of all clips in their order, for scoring; the last batch is filled up with the last clip.

    `batch_size` is of all processes together, rounded up to a multiple of their number.
    """

    def __init__(self, num_clips: int, batch_size: int):
        self.num_clips, self.batch_size, self.epoch = num_clips, batch_size, 0

    def __len__(self) -> int:
        return math.ceil(self.num_clips / self._joint())

    def __iter__(self) -> Iterator[BatchPlan]:
        (rank, world), joint = rank_and_count(), self._joint()
        for number in range(len(self)):
            # A last batch that is not full has fewer clips, but as many for each process.
            left = min(joint, math.ceil((self.num_clips - number * joint) / world) * world)
            first = rank * left // world
            count = left // world
            rows = np.minimum(number * joint + first + np.arange(count), self.num_clips - 1)
            yield BatchPlan(rows, left, first, np.full(count, -1), np.ones(count, np.float32), np.zeros(count, int))

    def _joint(self) -> int:
        world = rank_and_count()[1]
        return math.ceil(self.batch_size / world) * world


class TeacherTargets:
    """Frame logits of teachers, found by file name, as probabilities.

    Args:
        path: HDF5 file with `filenames` and `strong_logits` (clips, 447, 250).
        names: of the clips, in the order in which rows are asked for.

    Raises:
        UserError: if the file is missing or cut off, lacks clips, or is of other classes or frames.
    """

    def __init__(self, path: Path, names: Sequence[str]):
        self.outputs = KeyedOutputs(path, KIND, (len(CLASSES), FRAMES))
        self.rows = self.outputs.rows(names, allow_missing=True)
        # PretrainedSED cuts the characters ".mp3" off the end of a name, one by one: Yabc3.mp3 may be stored as Yabc.
        shortened = [name.rstrip(".mp3") for name in names]
        self.rows = np.where(self.rows < 0, self.outputs.rows(shortened, allow_missing=True), self.rows)
        if (self.rows < 0).any():
            self.outputs.rows(names)  # names what is missing

    def gather(self, clips: np.ndarray) -> Tensor:
        """(clips, 447, 250) float32, 0..1."""
        return torch.from_numpy(self.outputs.read(self.rows[clips])).float().sigmoid_()


class PlannedClips(Dataset):
    """Clips with targets; an item is the part of a batch that a `BatchPlan` asks for, with its clips of wavmix added.

    ``waveform`` float32 (clips, 160000), 16 kHz; ``target`` float32 (clips, classes, 250); with teachers ``distilled``,
    likewise; ``row`` int64 (clips,); ``first`` and ``joint``, see `BatchPlan`.
    """

    def __getitem__(self, plan: BatchPlan) -> dict[str, Any]:
        batch: dict[str, Any] = self.gather(plan.rows, plan.seeds)
        mixed = np.flatnonzero(plan.partner >= 0)
        if len(mixed):
            partners = self.gather(plan.partner[mixed], plan.seeds[mixed] ^ 1)
            wavmix(batch, partners, torch.from_numpy(mixed), torch.from_numpy(plan.partner_weight[mixed]))
        return {**batch, "row": torch.from_numpy(plan.rows), "first": plan.first, "joint": plan.joint}

    def gather(self, rows: NDArray[np.int64], seeds: NDArray[np.int64]) -> dict[str, Tensor]:
        """Waveforms and targets of some clips; the seeds decide random parts."""
        raise NotImplementedError


class StrongClips(PlannedClips):
    """Clips of a set of AudioSet strong.

    `random_parts`: take any 10 s of longer clips; otherwise the first. `teachers`: file of their logits.
    """

    def __init__(self, clips: StrongSet, random_parts: bool = False, teachers: Path | None = None):
        self.clips = clips
        self.random_parts = random_parts
        self.audio = EncodedClips(clips.audio, SAMPLE_RATE, CLIP_SECONDS, clips.events.clips)
        self.targets = FrameTargets(clips.events, CLASSES)
        self.teachers = None if teachers is None else TeacherTargets(teachers, clips.events.clips)

    def __len__(self) -> int:
        return len(self.clips.events)

    def gather(self, rows: NDArray[np.int64], seeds: NDArray[np.int64]) -> dict[str, Tensor]:
        """See `PlannedClips`."""
        places = zip(rows.tolist(), seeds.tolist()) if self.random_parts else rows.tolist()
        gathered = {
            "waveform": self.audio.gather(list(places))["waveform"],
            "target": torch.from_numpy(self.targets.gather(rows)),
        }
        if self.teachers is not None:
            gathered["distilled"] = self.teachers.gather(rows)
        return gathered


def training_loader(clips: StrongClips, settings: PretrainSettings, pin_memory: bool) -> DataLoader:
    """Loader of training batches."""
    sampler = settings.sampler
    weights = temporal_weights(clips.targets, sampler.offset) if sampler.weights == "temporal" else None
    draws = EpochDraws(len(clips), sampler.draws or len(clips), weights, sampler.replacement)
    batches = JointBatches(draws, settings.data.batch_size, settings.seed, settings.augmentation.wavmix)
    return make_plan_loader(clips, batches, settings.data.num_workers, pin_memory)


def scoring_loader(clips: Dataset, num_clips: int, batch_size: int, num_workers: int = 0) -> DataLoader:
    """Loader of all clips once, in order."""
    return make_plan_loader(clips, OrderedBatches(num_clips, batch_size), num_workers)


def _read_set(name: str, data: StrongDataSettings, table: Path, pattern: str) -> StrongSet:
    events = read_strong_table(data.root / table)
    paths = audio_files(data.root, pattern)
    found = names_in(paths).rows(events.clips, allow_missing=True) >= 0
    missing = tuple(events.clips[row] for row in np.flatnonzero(~found))
    clips = StrongSet(name, events.select(np.flatnonzero(found)), paths, len(events), missing)
    if not found.any():
        raise UserError(f"None of the {len(events):,} clips of {data.root / table} is in {', '.join(map(str, paths))}.")
    if missing and not data.allow_missing:
        raise UserError(f"{clips.sentence()} Complete them, or set data.allow_missing.")
    return clips
