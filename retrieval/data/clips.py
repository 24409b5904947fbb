"""Clips with captions as batches: windows of 10 s that hold signal, and the captions that describe them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler

from common.data.audio import Waveform, audio_info, read_audio, read_fixed
from common.data.loading import PackedClips, make_plan_loader
from common.data.packing import pack
from common.errors import UserError
from retrieval.data.captions import check_split, exclude, missing_files, read_exclusions, read_manifest
from retrieval.settings import Data, DataSource


@dataclass(frozen=True)
class Manifest:
    """Clips of one or several sources.

    clips: columns as `retrieval.data.captions` names them.
    notes: clips that were left out, and why.
    """

    clips: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    def keys(self) -> list[str]:
        """Unique name of each clip: dataset/split/file_name."""
        return [f"{row.dataset}/{row.split}/{row.file_name}" for row in self.clips.itertuples()]

    @cached_property
    def captions(self) -> list[tuple[str, ...]]:
        """Captions of each clip."""
        return list(self.clips["captions"])

    @cached_property
    def all_captions(self) -> list[str]:
        """Captions of all clips, one after another."""
        return [caption for group in self.captions for caption in group]

    @cached_property
    def durations(self) -> list[float]:
        """Seconds of each clip, from the headers of the files."""
        return [audio_info(path).duration for path in self.clips["path"]]


def read_clips(*sources: DataSource, allow_missing: bool = False) -> Manifest:
    """The manifests of several sources as one, read once in a process.

    Raises:
        UserError: if audio is missing and `allow_missing` is off, or no clip is left.
    """
    return _read_clips(Path.cwd(), *sources, allow_missing=allow_missing)


@lru_cache(maxsize=16)
def _read_clips(_current: Path, *sources: DataSource, allow_missing: bool) -> Manifest:
    """See `read_clips`; roots may be relative to the current folder."""
    tables, notes = [], []
    for source in sources:
        table = read_manifest(source.dataset, source.root, source.split)
        for path in source.exclude:
            before = len(table)
            table, removed = exclude(table, read_exclusions(path), str(path))
            notes.append(f"{path.name} removed {removed} of {before} clips of {source.split}")
        absent = missing_files(table)
        if absent and not allow_missing:
            raise UserError(" ".join(check_split(table, source.root)) + " data.allow_missing leaves them out.")
        if absent:
            table = table[~table["path"].isin(absent)]
            found = f"{len(table)} of {len(table) + len(absent)}"
            notes.append(f"{found} clips of {source.dataset} {source.split}, not comparable")
        tables.append(table)
    clips = pd.concat(tables, ignore_index=True)
    if clips.empty:
        raise UserError("None of the data's clips has audio.")
    return Manifest(clips, notes)


def read_beginning(row: dict[str, Any], num_samples: int, sample_rate: int) -> Waveform:
    """The first samples of a table's row for the cache, zeros after a shorter clip: (num_samples,)."""
    return read_fixed(row["filename"], num_samples, sample_rate)


Draw = tuple[int, tuple[int, ...], int]
"""Clip, numbers of its captions, and the number (epoch) that decides its part."""


class CaptionedClips(Dataset):
    """Clips of a manifest; indexed by the draws of a batch, from a `CaptionSampler`.

    Args:
        settings: max_duration, window, encode_silence, cache and num_workers are used.
        random_part: a clip longer than `max_duration` gives a part drawn by (seed, draw), else its beginning.
    """

    def __init__(self, manifest: Manifest, sample_rate: int, settings: Data, random_part: bool, seed: int = 0):
        self.paths, self.captions = list(manifest.clips["path"]), manifest.captions
        self.sample_rate, self.settings = sample_rate, settings
        self.random_part, self.seed = random_part, seed
        self.window = round(settings.window * sample_rate)
        self.packed = None if settings.cache is None else _open_cache(manifest, sample_rate, settings, settings.cache)
        durations = manifest.durations if self.packed is None else self.packed.clips["duration"]
        self.durations: list[float] = list(durations)

    def __len__(self) -> int:
        return len(self.paths)

    def waveform(self, clip: int, draw: int = 0) -> Tensor:
        """(samples,): at most `max_duration` seconds of the clip."""
        longest = self.settings.max_duration
        duration = min(self.durations[clip], longest)
        drawn = self.random_part and self.durations[clip] > longest
        if self.packed is not None and not drawn:
            return self.packed[clip]["waveform"][: max(1, round(duration * self.sample_rate))]
        rng = np.random.default_rng((self.seed, draw, clip))
        start = rng.uniform(0, self.durations[clip] - longest) if drawn else 0.0
        waveform = read_audio(self.paths[clip], self.sample_rate, start=start, duration=duration)
        return torch.from_numpy(waveform)

    def __getitem__(self, draws: Sequence[Draw]) -> dict[str, Any]:
        return collate([self.read(*draw) for draw in draws])

    def read(self, clip: int, captions: Sequence[int], draw: int) -> dict[str, Any]:
        """One item of a batch: clip, windows (windows, samples), samples, captions."""
        waveform = self.waveform(clip, draw)
        windows = split_windows(waveform, self.window)
        if self.settings.encode_silence:
            most = -(-round(self.settings.max_duration * self.sample_rate) // self.window)
            windows = functional.pad(windows, (0, 0, 0, max(0, most - len(windows))))
        return {
            "clip": clip,
            "windows": windows,
            "samples": len(waveform),
            "captions": [self.captions[clip][number] for number in captions],
        }


def _open_cache(manifest: Manifest, sample_rate: int, settings: Data, folder: Path) -> PackedClips:
    """One store per rate and set of files; a clip longer than `max_duration` is kept up to there.

    Its table has the durations, so that no file is touched when the store is there.
    """
    names = pd.Series([str(path) for path in manifest.clips["path"]])
    digest = pd.util.hash_pandas_object(names, index=False).sum() & 0xFFFFFFFF
    store = folder / f"{sample_rate}Hz_{settings.max_duration:g}s_{digest:08x}"
    num_samples = round(settings.max_duration * sample_rate)
    if not (store / "store.json").is_file():
        pack(
            pd.DataFrame({"filename": names, "duration": manifest.durations}),
            partial(read_beginning, num_samples=num_samples, sample_rate=sample_rate),
            store,
            sample_rate=sample_rate,
            num_samples=num_samples,
            workers=max(1, settings.num_workers),
        )
    return PackedClips(store)


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Items to a batch of pairs.

    ``windows`` (windows, samples) of all clips, ``window_clip`` (windows,) position of the clip in the batch,
    ``samples`` (clips,) samples of each clip before padding, ``captions`` list of pairs, ``caption_clip`` (pairs,)
    position of the clip, ``clip`` (clips,) in the manifest, ``rows`` list of the clips of the pairs in the manifest.
    """
    positions = torch.arange(len(items))
    return {
        "windows": torch.cat([item["windows"] for item in items]),
        "window_clip": positions.repeat_interleave(torch.tensor([len(item["windows"]) for item in items])),
        "samples": torch.tensor([item["samples"] for item in items]),
        "captions": [caption for item in items for caption in item["captions"]],
        "rows": [item["clip"] for item in items for _ in item["captions"]],
        "caption_clip": positions.repeat_interleave(torch.tensor([len(item["captions"]) for item in items])),
        "clip": torch.tensor([item["clip"] for item in items]),
    }


class CaptionSampler(Sampler):
    """Batches of draws: every caption once an epoch, in an order drawn from (seed, epoch), no shorter last batch.

    Args:
        num_captions: captions of each clip.
        pairs_per_batch: pairs of clip and caption in a batch of one process.
        captions_per_clip: captions of a clip that come together.
        rank: number of this process, of `world_size`; each takes every n-th batch.
    """

    def __init__(
        self,
        num_captions: Sequence[int],
        pairs_per_batch: int,
        captions_per_clip: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.num_captions, self.per_clip, self.seed = num_captions, captions_per_clip, seed
        self.units_per_batch = max(1, pairs_per_batch // captions_per_clip)
        self.rank, self.world_size, self.epoch = rank, world_size, 0
        units = sum(-(-count // captions_per_clip) for count in num_captions)
        self.batches = units // self.units_per_batch // world_size
        if self.batches == 0:
            raise UserError(
                f"{units} groups of captions do not fill one batch of {self.units_per_batch} on each of {world_size} "
                "devices; lower pairs_per_batch."
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[Draw]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        units = []
        for clip, count in enumerate(self.num_captions):
            order = rng.permutation(count).tolist()
            units += [
                (clip, tuple(order[start : start + self.per_clip]), self.epoch)
                for start in range(0, count, self.per_clip)
            ]
        order = rng.permutation(len(units))
        for batch in range(self.rank, self.batches * self.world_size, self.world_size):
            chosen = order[batch * self.units_per_batch : (batch + 1) * self.units_per_batch]
            yield [units[i] for i in chosen]


def evaluation_loader(clips: CaptionedClips, batch_size: int) -> DataLoader:
    """Every clip once, in the manifest's order, with all its captions."""
    order = [(clip, tuple(range(len(captions))), 0) for clip, captions in enumerate(clips.captions)]
    batches: Any = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return make_plan_loader(clips, batches, clips.settings.num_workers)


def split_windows(waveform: Tensor, window: int) -> Tensor:
    """A clip cut into windows without overlap, the last one filled with zeros: (samples,) to (windows, window).

    A clip of 12 s gives two windows of 10 s, not three.
    """
    count = max(1, -(-waveform.shape[-1] // window))
    return functional.pad(waveform, (0, count * window - waveform.shape[-1])).view(count, window)
