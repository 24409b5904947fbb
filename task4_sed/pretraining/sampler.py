"""The clips of each batch, drawn for all processes together, so that their number does not change the training.

A batch is planned as a whole from (seed, epoch, number), and each process takes its part. The gradients averaged over
the processes then equal the gradients of one process with the whole batch.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from common.data.loading import EpochDraws, rank_and_count
from common.errors import UserError
from task4_sed.augment import draw_partners
from task4_sed.settings import WavmixSettings


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
