"""Data sets for training: clips of a packed store, and loaders that gather a whole batch at once."""

import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from common.data.packed_store import open_store
from common.errors import UserError

MAPPED_BYTES = 32 * 2**20
"""Bytes that a data set reads from a store before it gives their pages back: they stay in the system's cache as long as
there is memory, but the process does not grow with the store."""
POOLED_BLOCKS = 32
"""Blocks of neighbouring clips that are shuffled together."""

Columns = Mapping[str, Tensor | Sequence[Any]]
"""Values of each clip by name, in the order of the clips."""


class Gathers(Protocol):
    """A data set that can give a whole batch at once."""

    def __len__(self) -> int: ...

    def gather(self, indices: Sequence[int]) -> dict[str, Any]:
        """The batch that torch's collate function would make of the items."""
        ...


class PackedClips(Dataset):
    """Clips of a packed store. Each process maps the array when it reads its first clip.

    Items are dicts: ``waveform`` float32 (samples,), ``filename``, ``index`` (row of the store's table), and `columns`.

    Args:
        filenames: the clips and their order; None takes all.
        columns: further values of each clip, such as its target, by name.

    Attributes:
        clips: their rows of the table, columns as packed.

    Raises:
        UserError: if there is no finished store, one of its files is missing or was changed, or it lacks one of
            `filenames`.
    """

    def __init__(self, folder: Path, filenames: Sequence[str] | None = None, columns: Columns | None = None):
        self.folder = Path(folder)
        self.columns = columns or {}
        info, table = open_store(self.folder)
        self.sample_rate, self.num_samples = info.plan.sample_rate, info.plan.num_samples
        self._scale = info.scale
        self._array: Tensor | None = None
        self._pages: Any = None
        self._read_bytes = 0
        self.rows = np.arange(len(table)) if filenames is None else self._find(table, filenames)
        self.clips = table.iloc[self.rows].reset_index(drop=True)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = int(self.rows[index])
        waveform = self._mapped[row].to(torch.float32).div_(self._scale)
        self._count_read(1)
        item = {"waveform": waveform, "filename": self.clips["filename"].iat[index], "index": row}
        return item | {name: values[index] for name, values in self.columns.items()}

    def gather(self, indices: Sequence[int]) -> dict[str, Any]:
        """A batch: ``waveform`` float32 (batch, samples), ``filename`` (list), ``index`` int64 (batch,)."""
        rows = self.rows[np.asarray(indices)]
        return {
            "waveform": self.waveforms(rows),
            "filename": self.clips["filename"].iloc[np.asarray(indices)].tolist(),
            "index": torch.from_numpy(rows),
        } | gather_columns(self.columns, indices)

    def waveforms(self, rows: NDArray, out: Tensor | None = None) -> Tensor:
        """(len(rows), samples), float32; `rows` are those of the store. Written into `out` where it is given."""
        gathered = empty_batch(len(rows), self.num_samples) if out is None else out
        for place in rows.argsort(kind="stable").tolist():  # in the order of the file, for disks that seek
            # One pass per clip, so that the samples are still in the processor's cache when they are converted.
            torch.mul(self._mapped[int(rows[place])], 1 / self._scale, out=gathered[place])
        self._count_read(len(rows))
        return gathered

    @property
    def _mapped(self) -> Tensor:
        if self._array is None:
            # Copy on write ("c"): torch takes no read-only arrays, and the file never changes.
            mapped = np.load(self.folder / "waveforms.npy", mmap_mode="c")
            self._array, self._pages = torch.from_numpy(mapped.view(np.ndarray)), mapped.base
        return self._array

    def _count_read(self, clips: int) -> None:
        self._read_bytes += clips * self.num_samples * self._mapped.element_size()
        if self._read_bytes > MAPPED_BYTES:
            self._pages.madvise(mmap.MADV_DONTNEED)
            self._read_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None, "_pages": None}  # a worker process maps the file itself

    def _find(self, table: pd.DataFrame, filenames: Sequence[str]) -> NDArray:
        rows = pd.Index(table["filename"]).get_indexer(pd.Index(filenames))
        if (rows < 0).any():
            absent = [name for name, row in zip(filenames, rows) if row < 0]
            raise UserError(
                f"The packed store {self.folder} lacks {len(absent)} of {len(filenames)} clips (first {absent[0]}); "
                "pack the data again into another folder."
            )
        return rows


@dataclass(frozen=True)
class EpochDraws:
    """Draws the clips of an epoch from (seed, epoch): the same ones in every process.

    num_clips: of the data set. count: clips of an epoch.
    weights: (clips,) that clips are drawn with; None for equal ones.
    replacement: whether a clip may be drawn again. With weights and without replacement, heavy clips come first.
    """

    num_clips: int
    count: int
    weights: NDArray[np.float64] | None = None
    replacement: bool = False

    def __post_init__(self) -> None:
        possible = self.num_clips if self.weights is None else int(np.count_nonzero(self.weights))
        if not self.replacement and self.count > possible:
            raise UserError(
                f"An epoch of {self.count:,} clips cannot be drawn without replacement from {possible:,}; draw fewer "
                "(null takes all), or set sampler.replacement."
            )

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """(count,) clips of an epoch."""
        random = np.random.default_rng((seed, epoch))
        if self.replacement:
            share = None if self.weights is None else self.weights / self.weights.sum()
            return random.choice(self.num_clips, self.count, p=share)
        if self.weights is None:
            return random.permutation(self.num_clips)[: self.count]
        # Drawing one after another without replacement is sorting by weight with Gumbel noise.
        with np.errstate(divide="ignore"):
            keys = np.log(self.weights) + random.gumbel(size=self.num_clips)
        return np.argsort(-keys, kind="stable")[: self.count]


def gather_columns(columns: Columns, indices: Sequence[int]) -> dict[str, Any]:
    """Values of some clips: tensors stay tensors (batch, ...), all others become lists."""
    return {
        name: values[torch.as_tensor(indices)] if isinstance(values, Tensor) else [values[index] for index in indices]
        for name, values in columns.items()
    }


class EpochSampler(Sampler):
    """A permutation drawn from (seed, epoch), so that a resumed run sees the clips in the same order.

    Lightning calls `set_epoch`. With `block`, blocks of so many neighbours come in any order, and `POOLED_BLOCKS` of
    them are shuffled together: reads stay within these.
    """

    def __init__(self, num_items: int, seed: int, block: int | None = None):
        self.num_items, self.seed, self.block, self.epoch = num_items, seed, block, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is given next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_items

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        if self.block is None:
            return iter(random.permutation(self.num_items).tolist())
        return self._blocks(random, self.block)

    def _blocks(self, random: np.random.Generator, block: int) -> Iterator[int]:
        starts = random.permutation(np.arange(0, self.num_items, block))
        for first in range(0, len(starts), POOLED_BLOCKS):
            pool = np.add.outer(starts[first : first + POOLED_BLOCKS], np.arange(block)).ravel()
            yield from random.permutation(pool[pool < self.num_items]).tolist()


def make_loader(
    dataset: Any,
    batch_size: int,
    *,
    shuffle_seed: int | None = None,
    shuffle_block: int | None = None,
    num_workers: int = 0,
    drop_last: bool = False,
    pin_memory: bool = False,
    sampler: Sampler | None = None,
) -> DataLoader:
    """A loader of dicts of batches. Data sets with a method `gather` give each batch in one piece.

    Args:
        shuffle_seed: order drawn from (seed, epoch) by an `EpochSampler`; None keeps the order of the data set.
        shuffle_block: neighbouring clips that stay close, see `EpochSampler`.
        num_workers: processes; kept between epochs.
        sampler: order of the items, or other keys of the data set, in place of `shuffle_seed`.
    """
    gathers = hasattr(dataset, "gather")
    return DataLoader(
        _Gathered(dataset) if gathers else dataset,
        batch_size=batch_size,
        sampler=sampler or (None if shuffle_seed is None else EpochSampler(len(dataset), shuffle_seed, shuffle_block)),
        num_workers=num_workers,
        collate_fn=dict if gathers else None,
        drop_last=drop_last,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        # Without it, each epoch draws a number from the global generator.
        generator=torch.Generator().manual_seed(shuffle_seed or 0),
    )


def make_plan_loader(dataset: Dataset, plans: Sampler, num_workers: int = 0, pin_memory: bool = False) -> DataLoader:
    """A loader of whole batches: `plans` gives what the data set is asked for, such as the rows of each batch."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=plans,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        generator=torch.Generator(),  # without it, each epoch draws a number from the global one
    )


def rank_and_count() -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) outside of distributed training."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class _Gathered(Dataset):
    """Passes the loader's indices of a batch to `gather`."""

    def __init__(self, dataset: Gathers):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        return self.dataset.gather(indices)


def empty_batch(clips: int, samples: int) -> Tensor:
    """(clips, samples) float32, in a worker process in shared memory, so that handing it over copies nothing."""
    if get_worker_info() is None:
        return torch.empty(clips, samples)
    storage = torch.UntypedStorage._new_shared(clips * samples * 4)
    return torch.empty(0).set_(storage, 0, (clips, samples), (samples, 1))
