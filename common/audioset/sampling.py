"""Which clips an epoch holds: weights against class imbalance, and a sampler for any number of devices."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data.distributed import DistributedSampler

from common.data.loading import EpochDraws, rank_and_count

Draw = tuple[int, int]
"""Index of a clip, and the seed of its augmentation."""


def class_balance_weights(targets: Any, offset: float = 100.0) -> NDArray[np.float64]:
    """Sampling weight of each clip: sum over its classes of 1000 / (offset + clips of the class).

    EfficientAT and PaSST, datasets/audioset.py (get_ft_cls_balanced_sample_weights).

    >>> class_balance_weights(np.array([[1, 0], [1, 1], [0, 0]]), offset=8.0).round(1).tolist()
    [100.0, 211.1, 0.0]

    Args:
        targets: (clips, classes) of 0 and 1, an array or `PackedTargets`.
        offset: added to each class's count, so that the rarest classes do not outweigh all others.

    Returns:
        (clips,).
    """
    # In parts: the labels of all of AudioSet take 1 GB when they are unpacked.
    parts = np.array_split(np.arange(len(targets)), -(-len(targets) // 50_000))
    counts = np.sum([targets[part].sum(axis=0, dtype=np.int64) for part in parts], axis=0)
    with np.errstate(divide="ignore"):
        per_class = np.where(counts > 0, 1000.0 / (offset + counts), 0.0)
    return np.concatenate([targets[part] @ per_class for part in parts])


class DrawSampler(DistributedSampler[Draw]):
    """Gives each process its share of an epoch's draws, with a seed for each clip.

    The order of an epoch does not depend on the number of processes: process r of W takes draws r, r + W, ...; up to
    W - 1 last draws are left out, so that all take the same number of steps. Lightning replaces no DistributedSampler.

    Args:
        draws: of an epoch.
        seed: another seed, other draws.
        shuffled: give the draws in random order; without, and without replacement, heavy clips come first.
    """

    def __init__(self, draws: EpochDraws, seed: int, shuffled: bool = True):
        # Not the initialiser above: it asks for processes before they have found each other.
        self.draws, self.seed, self.shuffled, self.epoch = draws, seed, shuffled, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is drawn next; Lightning calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.draws.count // rank_and_count()[1]

    def __iter__(self) -> Iterator[Draw]:
        rank, world = rank_and_count()
        order, random = self.draws.order(self.seed, self.epoch), np.random.default_rng((self.seed, self.epoch, 1))
        if self.shuffled:
            random.shuffle(order)
        seeds = random.integers(2**62, size=len(order))
        share = slice(rank, len(self) * world, world)
        return iter(list(zip(order[share].tolist(), seeds[share].tolist())))
