"""Which clips an epoch holds: weights against class imbalance, and a sampler for any number of devices."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data.distributed import DistributedSampler

from common.data.loading import rank_and_count
from common.errors import UserError

Draw = tuple[int, int]
"""Index of a clip, and the seed of what is random in reading it."""


def class_balance_weights(targets: Any, offset: float = 100.0) -> NDArray[np.float64]:
    """Sampling weight of each clip: sum over its classes of 1000 / (offset + clips of the class).

    EfficientAT and PaSST, datasets/audioset.py (get_ft_cls_balanced_sample_weights).

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


class EpochDraws(DistributedSampler):
    """Draws the clips of each epoch from (seed, epoch), and gives each process its share.

    The order of an epoch does not depend on the number of processes: process r of W takes draws r, r + W, ..., so that
    a step of W devices sees W batches' worth of consecutive draws. Up to W - 1 last draws are left out, so that all
    processes take the same number of steps. It derives from DistributedSampler so that Lightning leaves it as it is.

    Args:
        weights: (clips,), not all 0; None for equal ones.
        num_clips: length of the data set.
        seed: another seed, other draws.
        count: draws of an epoch over all processes; None for `num_clips`.
        replacement: draw clips independently; otherwise none comes twice in an epoch.
        shuffled: give the draws in random order; without, and without replacement, heavy clips come first.

    Raises:
        UserError: if more clips shall be drawn without replacement than have a weight.
    """

    def __init__(
        self,
        num_clips: int,
        seed: int,
        weights: NDArray | None = None,
        count: int | None = None,
        replacement: bool = False,
        shuffled: bool = True,
    ):
        self.num_clips, self.seed, self.epoch = num_clips, seed, 0
        self.weights = None if weights is None else np.asarray(weights, dtype=np.float64)
        drawable = num_clips if self.weights is None else int(np.count_nonzero(self.weights))
        self.count = (drawable if count is None else count) if not replacement else (count or num_clips)
        if not replacement and self.count > drawable:
            raise UserError(
                f"An epoch of {self.count:,} clips cannot be drawn without replacement from {drawable:,}; set "
                "sampler.clips_per_epoch to fewer (null takes all), or sampler.replacement to true."
            )
        self.replacement, self.shuffled = replacement, shuffled

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is drawn next; Lightning calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // rank_and_count()[1]

    def __iter__(self) -> Iterator[Draw]:
        rank, world = rank_and_count()
        draws, seeds = self.draw()
        share = slice(rank, len(self) * world, world)
        return iter(list(zip(draws[share].tolist(), seeds[share].tolist())))

    def draw(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Clips and seeds of the epoch, over all processes."""
        random = np.random.default_rng((self.seed, self.epoch))
        seeds = random.integers(2**62, size=self.count)
        if self.weights is None:
            if self.replacement:
                return random.integers(self.num_clips, size=self.count), seeds
            return random.permutation(self.num_clips)[: self.count], seeds
        if self.replacement:
            sums = np.cumsum(self.weights)
            return np.searchsorted(sums, random.random(self.count) * sums[-1], side="right"), seeds
        # Exponential clocks that run as fast as the weights: the first `count` to ring are a draw without replacement,
        # in its order. torch's multinomial does the same.
        with np.errstate(divide="ignore"):
            rings = random.exponential(size=self.num_clips) / self.weights
        first = np.argpartition(rings, self.count - 1)[: self.count]
        first = first[np.argsort(rings[first], kind="stable")]
        return (random.permutation(first) if self.shuffled else first), seeds
