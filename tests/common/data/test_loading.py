"""Draws of an epoch: which clips, how often, and what is refused; the memory that reading takes."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.data.loading import POOLED_BLOCKS, EpochDraws, EpochSampler, PackedClips
from common.data.packing import pack
from common.errors import UserError


def drawn(draws, epochs):
    """How often each clip comes over some epochs."""
    counts = Counter(clip for epoch in range(epochs) for clip in draws.order(5, epoch).tolist())
    return np.array([counts[clip] for clip in range(draws.num_clips)])


@pytest.mark.parametrize("weights", [None, np.array([1.0, 3.0, 2.0, 4.0])])
def test_an_epoch_of_all_clips_holds_each_once(weights):
    order = EpochDraws(4, 4, weights).order(0, 0)
    assert sorted(order.tolist()) == [0, 1, 2, 3] and order.dtype == np.int64


def test_without_weights_each_clip_is_drawn_equally_often():
    """The first and the last, too: 4,000 draws of 1 in 5 are 800, give or take 25."""
    assert drawn(EpochDraws(5, 1), 4000) == pytest.approx(800, abs=100)
    assert drawn(EpochDraws(5, 2), 2000) == pytest.approx(800, abs=100)
    assert drawn(EpochDraws(5, 1, replacement=True), 4000) == pytest.approx(800, abs=100)


def test_with_replacement_clips_come_as_often_as_their_weights():
    weights = np.array([0.0, 1.0, 2.0, 1.0])
    draws = EpochDraws(4, 4000, weights, replacement=True)
    assert drawn(draws, 1) == pytest.approx([0, 1000, 2000, 1000], abs=120)


def test_the_last_clip_is_drawn_and_one_of_weight_zero_never():
    weights = np.array([0.0, 1.0, 1.0, 0.0, 2.0])
    counts = drawn(EpochDraws(5, 2, weights), 500)
    assert counts[0] == counts[3] == 0
    assert counts[4] > counts[1] > 200


def test_heavy_clips_come_first():
    weights = np.array([1e-9, 1.0, 1e9])
    assert all(EpochDraws(3, 3, weights).order(0, epoch).tolist() == [2, 1, 0] for epoch in range(20))


def test_epochs_and_seeds_differ_and_repeat():
    draws = EpochDraws(50, 50)
    orders = {(seed, epoch): draws.order(seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)}
    assert len({tuple(order) for order in orders.values()}) == 4
    assert draws.order(1, 0).tolist() == orders[1, 0]


@pytest.mark.parametrize(
    ("count", "weights", "possible"), [(4, None, 3), (3, [1.0, 0.0, 1.0], 2), (1, [0.0, 0.0, 0.0], 0)]
)
def test_more_than_there_are_is_refused_without_replacement(count, weights, possible):
    weights = None if weights is None else np.array(weights)
    with pytest.raises(
        UserError, match=f"An epoch of {count} clips cannot be drawn without replacement from {possible}"
    ):
        EpochDraws(3, count, weights)
    assert EpochDraws(3, possible, weights).count == possible
    if possible:
        assert len(EpochDraws(3, count, weights, replacement=True).order(0, 0)) == count


def test_a_sampler_gives_each_item_once_in_another_order_each_epoch():
    sampler = EpochSampler(30, seed=3)
    first = list(sampler)
    sampler.set_epoch(1)
    assert sorted(first) == sorted(sampler) == list(range(30)) and len(sampler) == 30
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_blocks_of_neighbours_are_shuffled_in_pools():
    assert sorted(EpochSampler(1001, 3, block=4)) == list(range(1001))
    sampler = EpochSampler(1000, 3, block=4)
    order = list(sampler)
    pool = order[: 4 * POOLED_BLOCKS]
    assert len({clip // 4 for clip in pool}) == POOLED_BLOCKS
    assert max(pool) > 500 and pool != sorted(pool)
    assert order == list(sampler)
    sampler.set_epoch(1)
    assert order != list(sampler)


def test_a_store_that_is_read_does_not_stay_in_the_memory_of_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr("common.data.loading.MAPPED_BYTES", 2**20)
    clips = pd.DataFrame({"filename": [f"{index}.wav" for index in range(64)]})
    rows = {f"{index}.wav": np.full(64_000, index / 64, np.float32) for index in range(64)}  # 8 MB
    pack(clips, lambda row: rows[row["filename"]], tmp_path / "store", sample_rate=8000, num_samples=64_000)
    packed = PackedClips(tmp_path / "store")
    for first in range(0, 64, 4):
        indices = np.arange(first, first + 4)[::-1]
        assert packed.gather(indices)["waveform"][:, 0].tolist() == (indices / 64).tolist()
    lines = Path("/proc/self/smaps").read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if "waveforms.npy" in line)
    resident = next(line for line in lines[place:] if line.startswith("Rss:"))
    assert 0 <= int(resident.split()[1]) <= 1024 + 512
