"""Batches of Task 4: waveforms of packed stores, targets and cached embeddings, a whole batch at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from common.data.loading import PackedClips, empty_batch, make_plan_loader
from task4_sed.data.embeddings import EmbeddingStore, embed_set, embedding_folder, identity, is_embedded
from task4_sed.data.sets import ClipSet, file_durations, pack_set, read_row, read_set, store_folder
from task4_sed.data.targets import EventTargets
from task4_sed.labels import CLIP_SAMPLES, SAMPLE_RATE, LabelSettings
from task4_sed.settings import EmbeddingSettings, SystemSettings


class SoundEventClips(Dataset):
    """One set of clips.

    `gather` returns a batch: ``waveform`` float32 (clips, 160000), 16 kHz; ``strong`` (clips, classes, 156), ``weak``
    (clips, classes), ``valid`` bool (clips, classes); ``filename`` (list), ``duration`` (list, seconds of the whole
    clip); with a store of embeddings ``embeddings`` float16 (clips, tokens, dim). `packed`: read the packed store, made
    when absent; otherwise the audio files.
    """

    def __init__(
        self, clips: ClipSet, root: Path, labels: LabelSettings, packed: bool = True,
        embeddings: EmbeddingStore | None = None,
    ):  # fmt: skip
        self.clips = clips
        self.embeddings = embeddings
        self.targets = EventTargets(len(clips), clips.events, clips.layout.domain, labels)
        self.packed = open_store(clips, root, labels.classes) if packed else None
        if self.packed is None:
            seconds = file_durations(clips.folder, clips.filenames)
            self.durations = np.array([seconds[name] for name in clips.filenames])
            longest = max(CLIP_SAMPLES, round(self.durations.max() * SAMPLE_RATE))
            self._read = partial(read_row, folder=clips.folder, num_samples=longest)
        else:
            self.durations = self.packed.clips["duration"].to_numpy(dtype=np.float64)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch = self.gather([index])
        return {name: value[0] for name, value in batch.items()}

    def gather(
        self, indices: Sequence[int] | np.ndarray, random: np.random.Generator | None = None, out: Tensor | None = None
    ) -> dict[str, Any]:
        """A batch; waveforms are written into `out` (clips, 160000).

        `random` draws the crop of a clip longer than 10 s (its embeddings stay those of its first 10 s); None takes the
        first 10 s.
        """
        indices = np.asarray(indices, dtype=np.int64)
        starts = np.zeros(len(indices), dtype=np.int64)
        spare = np.maximum(0, np.round(self.durations[indices] * SAMPLE_RATE).astype(np.int64) - CLIP_SAMPLES)
        if random is not None and spare.any():
            starts = random.integers(0, spare + 1)
        targets = self.targets.gather(indices, starts / SAMPLE_RATE)
        batch: dict[str, Any] = {
            "waveform": self._waveforms(indices, starts, out),
            "strong": torch.from_numpy(targets.strong),
            "weak": torch.from_numpy(targets.weak),
            "valid": torch.from_numpy(targets.valid),
            "filename": [self.clips.filenames[index] for index in indices],
            "duration": self.durations[indices].tolist(),
        }
        if self.embeddings is not None:
            batch["embeddings"] = self.embeddings.gather(indices)
        return batch

    def waveforms(self, indices: np.ndarray) -> Tensor:
        """The first 10 s of some clips, (clips, 160000)."""
        return self._waveforms(indices, np.zeros(len(indices), dtype=np.int64))

    def _waveforms(self, indices: np.ndarray, starts: np.ndarray, out: Tensor | None = None) -> Tensor:
        out = empty_batch(len(indices), CLIP_SAMPLES) if out is None else out
        if self.packed is not None and self.packed.num_samples == CLIP_SAMPLES:
            return self.packed.waveforms(self.packed.rows[indices], out)
        if self.packed is None:
            read = [self._read({"filename": self.clips.filenames[index]}) for index in indices]
            waveforms = torch.from_numpy(np.stack(read))
        else:
            waveforms = self.packed.waveforms(self.packed.rows[indices])
        for row, first in enumerate(starts.tolist()):
            out[row] = waveforms[row, first : first + CLIP_SAMPLES]
        return out


def open_store(clips: ClipSet, root: Path, classes: Sequence[str]) -> PackedClips:
    """The packed store of a set in the order of `clips`; packs it when absent."""
    store = store_folder(root, clips.name)
    if not (store / "store.json").is_file():
        pack_set(root, clips.name, allow_missing=True, classes=classes)
    return PackedClips(store, clips.filenames)


@dataclass(frozen=True)
class BatchPlan:
    """Clips of a batch.

    rows: per group, (clips,) indices into the sets of the group laid end to end. seed: of random crops.
    """

    rows: tuple[np.ndarray, ...]
    seed: tuple[int, ...]


class GroupSampler(Sampler):
    """Plans the batches of an epoch: each group walks through its clips in an order drawn from (seed, epoch, group).

    Groups restart in each epoch; the epoch ends with the group that has the fewest whole batches. `sizes`: clips of
    each group; `counts`: of each group in a batch.
    """

    def __init__(self, sizes: Sequence[int], counts: Sequence[int], seed: int):
        self.sizes, self.counts, self.seed, self.epoch = tuple(sizes), tuple(counts), seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the next epoch; Lightning calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return min(size // count for size, count in zip(self.sizes, self.counts))

    def __iter__(self) -> Iterator[BatchPlan]:
        orders = [
            np.random.default_rng((self.seed, self.epoch, group)).permutation(size)
            for group, size in enumerate(self.sizes)
        ]
        for number in range(len(self)):
            parts = zip(orders, self.counts, strict=True)
            rows = tuple(order[number * count : (number + 1) * count] for order, count in parts)
            yield BatchPlan(rows, (self.seed, self.epoch, number))


class GroupedBatches(Dataset):
    """Training batches; an item joins the batches of `SoundEventClips.gather` of all groups, of one or more sets each.

    `sizes`: clips of each group.
    """

    def __init__(self, groups: Sequence[Sequence[SoundEventClips]]):
        self.groups = [list(sets) for sets in groups]
        self.starts = [np.concatenate(([0], np.cumsum([len(clips) for clips in sets]))) for sets in self.groups]
        self.sizes = [int(starts[-1]) for starts in self.starts]

    def __len__(self) -> int:
        return sum(self.sizes)

    def __getitem__(self, plan: BatchPlan) -> dict[str, Any]:
        random = np.random.default_rng(plan.seed)
        # Waveforms are most of a batch: each is written once, to its place.
        waveforms = empty_batch(sum(len(rows) for rows in plan.rows), CLIP_SAMPLES)
        parts: list[dict[str, Any]] = []
        position = 0
        for sets, starts, rows in zip(self.groups, self.starts, plan.rows):
            owner = np.searchsorted(starts, rows, side="right") - 1
            for number, clips in enumerate(sets):
                own = rows[owner == number] - starts[number]
                if len(own):
                    parts.append(clips.gather(own, random, waveforms[position : position + len(own)]))
                    position += len(own)
        batch: dict[str, Any] = {"waveform": waveforms}
        for name, first in parts[0].items():
            if name in batch:
                continue
            values = [part[name] for part in parts]
            batch[name] = torch.cat(values) if isinstance(first, Tensor) else list(chain(*values))
        return batch


def make_training_loader(
    groups: Sequence[Sequence[SoundEventClips]], counts: Sequence[int], seed: int, num_workers: int, pin_memory: bool
) -> DataLoader:
    """Loader of training batches; `counts` clips of each group."""
    dataset = GroupedBatches(groups)
    return make_plan_loader(dataset, GroupSampler(dataset.sizes, counts, seed), num_workers, pin_memory)


def open_clips(clips: ClipSet, settings: SystemSettings, embedding: EmbeddingSettings | None = None) -> SoundEventClips:
    """A set for training and scoring, with cached embeddings of a model; makes its stores when absent."""
    root, packed, precision = settings.data.root, settings.data.packed, settings.data.inference_precision
    embeddings = None
    if embedding is not None:
        folder = embedding_folder(root, embedding, clips.name)
        if not is_embedded(folder):
            whole = read_set(root, clips.name, allow_missing=True, classes=settings.labels.classes)
            source = SoundEventClips(whole, root, settings.labels, packed)
            embed_set(folder, whole.filenames, source.waveforms, embedding, settings.trainer, precision)
        embeddings = EmbeddingStore(folder, clips.filenames, identity(embedding, precision))
    return SoundEventClips(clips, root, settings.labels, packed, embeddings)
