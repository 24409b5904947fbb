"""Queries with features as batches."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler

from retrieval.moments.annotations import Query, cut_windows
from retrieval.moments.features import FeatureReader
from retrieval.moments.losses import Draw, draw_targets
from retrieval.moments.settings import Detector


class Batch(NamedTuple):
    """Recordings and queries padded to the longest; masks are True where there is a second or a word.

    durations: seconds of each recording, or of its part. draws: targets, none in inference.
    """

    audio: Tensor
    audio_mask: Tensor
    text: Tensor
    text_mask: Tensor
    durations: list[float]
    draws: list[Draw]


class MomentQueries(Dataset):
    """Queries of a split; indexed by (epoch, rows) for training."""

    def __init__(self, queries: Sequence[Query], reader: FeatureReader, seconds: int, detector: Detector, seed: int):
        self.queries, self.reader, self.max_windows = queries, reader, detector.losses.max_windows
        self.max_seconds, self.max_words, self.seed = seconds, detector.max_words, seed

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, plan: tuple[int, Sequence[int]]) -> Batch:
        epoch, rows = plan
        queries = [self.queries[row] for row in rows]
        audio = [self.reader.audio(query)[: self.max_seconds] for query in queries]
        draws = []
        for query, vectors, row in zip(queries, audio, rows, strict=True):
            windows, rng = cut_windows(query, self.max_seconds), np.random.default_rng((self.seed, epoch, row))
            draws.append(draw_targets(windows, len(vectors), self.max_windows, rng))
        durations = [min(query.duration, float(self.max_seconds)) for query in queries]
        return collate(audio, [self.reader.text(query)[: self.max_words] for query in queries], durations, draws)


def collate(audio: Sequence[Any], text: Sequence[Any], durations: list[float], draws: list[Draw]) -> Batch:
    """Arrays (seconds, dim) and (words, dim) of each query to a batch."""
    return Batch(*_pad(audio), *_pad(text), durations, draws)


def _pad(arrays: Sequence[Any]) -> tuple[Tensor, Tensor]:
    vectors = [torch.as_tensor(one) for one in arrays]
    masks = [torch.ones(len(one), dtype=torch.bool) for one in vectors]
    return pad_sequence(vectors, batch_first=True), pad_sequence(masks, batch_first=True)


class QueryBatches(Sampler):
    """Batches (epoch, rows): every query once an epoch, in an order drawn from (seed, epoch).

    A last batch of one query is left out: the loss compares it with the query of its neighbour. Each of `world_size`
    processes takes every n-th batch, all equally many.
    """

    def __init__(self, num_queries: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1):
        self.num_queries, self.batch_size, self.seed = num_queries, batch_size, seed
        self.rank, self.world_size, self.epoch = rank, world_size, 0
        batches = -(-num_queries // batch_size)
        if batches > 1 and num_queries % batch_size == 1:
            batches -= 1
        self.batches = max(1, batches // world_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_queries).tolist()
        for number in range(self.rank, self.batches * self.world_size, self.world_size):
            yield self.epoch, order[number * self.batch_size : (number + 1) * self.batch_size]
