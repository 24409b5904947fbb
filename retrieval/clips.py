"""Clips with captions as batches: windows of 10 s that hold signal, and the captions that describe them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler

from common.data.audio import AudioError, audio_info, read_audio
from common.data.loading import PackedClips, pack
from common.errors import UserError
from retrieval.data import check_split, exclude, missing_files, read_exclusions, read_manifest
from retrieval.settings import Data, DataSource


@dataclass
class Manifest:
    """Clips of one or several sources.

    clips: columns as `retrieval.data` names them.
    notes: what was left out, and why.
    """

    clips: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, sources: Sequence[DataSource], allow_missing: bool = False) -> "Manifest":
        """The manifests of several sources as one.

        Raises:
            UserError: if audio is missing and `allow_missing` is off, or no clip is left.
        """
        tables, notes = [], []
        for source in sources:
            table = read_manifest(source.dataset, source.root, source.split)
            for path in source.exclude:
                before = len(table)
                table, removed = exclude(table, read_exclusions(path), str(path))
                notes.append(f"{path.name} removed {removed} of {before} clips of {source.split}")
            absent = missing_files(table)
            if absent and not allow_missing:
                raise UserError(" ".join(check_split(table, source.root)) + " Set data.allow_missing to go on without.")
            if absent:
                table = table[~table["path"].isin(absent)]
                found = f"{len(table)} of {len(table) + len(absent)}"
                notes.append(f"{found} clips of {source.dataset} {source.split}, not comparable")
            tables.append(table)
        clips = pd.concat(tables, ignore_index=True)
        if clips.empty:
            raise UserError("No clip of the data is at hand.")
        return cls(clips, notes)

    def keys(self) -> list[str]:
        """One name per clip that no other clip has: dataset/split/file_name."""
        return [f"{row.dataset}/{row.split}/{row.file_name}" for row in self.clips.itertuples()]


class ReadPadded:
    """Reads the first `max_duration` seconds of a clip and fills up with zeros; for the cache."""

    def __init__(self, sample_rate: int, max_duration: float):
        self.sample_rate, self.max_duration = sample_rate, max_duration

    def __call__(self, row: dict) -> np.ndarray:
        """(max_duration * sample_rate,)."""
        waveform = read_audio(Path(row["filename"]), self.sample_rate, duration=self.max_duration)
        samples = round(self.max_duration * self.sample_rate)
        return np.pad(waveform[:samples], (0, max(0, samples - len(waveform))))


class CaptionedClips(Dataset):
    """Clips of a manifest; an item is asked for by (clip, captions, draw) from a `CaptionSampler`.

    Args:
        manifest: of the clips.
        sample_rate: Hz of the waveforms.
        settings: max_duration, window, cache and workers are used.
        random_part: a clip longer than `max_duration` gives a part drawn by (seed, draw), else its beginning.
        seed: of the parts.
    """

    def __init__(self, manifest: Manifest, sample_rate: int, settings: Data, random_part: bool, seed: int = 0):
        self.clips, self.sample_rate, self.settings = manifest.clips, sample_rate, settings
        self.random_part, self.seed = random_part, seed
        self.captions: list[tuple[str, ...]] = list(self.clips["captions"])
        self.window = round(settings.window * sample_rate)
        self.durations = [audio_info(path).duration for path in self.clips["path"]]
        self.packed = self._pack() if settings.cache is not None else None

    def _pack(self) -> PackedClips:
        """One store per rate and set of files under the cache folder; parts beyond `max_duration` are not kept."""
        names = pd.DataFrame({"filename": [str(path) for path in self.clips["path"]]})
        digest = pd.util.hash_pandas_object(names["filename"], index=False).sum() & 0xFFFFFFFF
        folder = Path(self.settings.cache or "") / f"{self.sample_rate}_{self.settings.max_duration:g}s_{digest:08x}"
        pack(
            names,
            ReadPadded(self.sample_rate, self.settings.max_duration),
            folder,
            sample_rate=self.sample_rate,
            num_samples=round(self.settings.max_duration * self.sample_rate),
            workers=max(1, self.settings.workers),
        )
        return PackedClips(folder)

    def __len__(self) -> int:
        return len(self.clips)

    def waveform(self, clip: int, draw: int = 0) -> torch.Tensor:
        """(samples,): at most `max_duration` seconds of the clip."""
        longest = self.settings.max_duration
        duration = min(self.durations[clip], longest)
        if self.packed is not None:
            return self.packed[clip]["waveform"][: max(1, round(duration * self.sample_rate))]
        start = 0.0
        if self.random_part and self.durations[clip] > longest:
            rng = np.random.default_rng((self.seed, draw, clip))
            start = rng.uniform(0, self.durations[clip] - longest)
        waveform = read_audio(self.clips["path"].iat[clip], self.sample_rate, start=start, duration=duration)
        if len(waveform) == 0:
            raise AudioError(f"{self.clips['path'].iat[clip]} holds no samples; download it again or exclude it.")
        return torch.from_numpy(waveform)

    def __getitem__(self, item: tuple[int, tuple[int, ...], int]) -> dict[str, Any]:
        clip, captions, draw = item
        return {
            "clip": clip,
            "windows": split_windows(self.waveform(clip, draw), self.window),
            "captions": [self.captions[clip][number] for number in captions],
        }


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Items to a batch of pairs.

    Returns:
        ``windows`` (windows, samples) of all clips, ``window_clip`` (windows,) position of the clip in the batch,
        ``captions`` list of pairs, ``caption_clip`` (pairs,) position of the clip, ``clip`` (clips,) in the manifest.
    """
    positions = torch.arange(len(items))
    return {
        "windows": torch.cat([item["windows"] for item in items]),
        "window_clip": positions.repeat_interleave(torch.tensor([len(item["windows"]) for item in items])),
        "captions": [caption for item in items for caption in item["captions"]],
        "caption_clip": positions.repeat_interleave(torch.tensor([len(item["captions"]) for item in items])),
        "clip": torch.tensor([item["clip"] for item in items]),
    }


class CaptionSampler(Sampler):
    """Batches of (clip, captions, epoch): every caption once an epoch, in an order drawn from (seed, epoch).

    With several processes each takes every n-th batch; they agree because nothing else is drawn from.

    Args:
        num_captions: captions of each clip.
        pairs_per_batch: pairs of clip and caption in a batch of one process.
        captions_per_clip: captions of a clip that come together.
        seed: of the order.
        rank: number of this process.
        world_size: number of processes.
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
        """Choose the epoch whose order is given next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[tuple[int, tuple[int, ...], int]]]:
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


def training_loader(clips: CaptionedClips, sampler: CaptionSampler, workers: int) -> DataLoader:
    """Batches as `collate` gives them, in the sampler's order."""
    return DataLoader(
        clips, batch_sampler=sampler, collate_fn=collate, num_workers=workers, persistent_workers=workers > 0
    )


def evaluation_loader(clips: CaptionedClips, batch_size: int, workers: int) -> DataLoader:
    """Every clip once, in the manifest's order, with all its captions."""
    order = [(clip, tuple(range(len(captions))), 0) for clip, captions in enumerate(clips.captions)]
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return DataLoader(clips, batch_sampler=batches, collate_fn=collate, num_workers=workers)


def split_windows(waveform: Tensor, window: int) -> Tensor:
    """A clip cut into windows without overlap, the last one filled with zeros: (samples,) to (windows, window).

    A clip of 12 s gives two windows of 10 s, not three: silence that only fills a batch is never encoded.
    """
    count = max(1, -(-waveform.shape[-1] // window))
    return functional.pad(waveform, (0, count * window - waveform.shape[-1])).view(count, window)
