"""Clips of TAU Urban Acoustic Scenes for training and testing, out of a packed store or wav files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from common.data.loading import Columns, PackedClips, gather_columns, make_loader
from common.models.network import uses_gpu
from task1_asc.data.tau2022 import (
    CLASSES,
    CLIP_SAMPLES,
    SAMPLE_RATE,
    development_folder,
    evaluation_folder,
    hold_out_by_location,
    read_clips,
    read_evaluation,
    read_split,
    read_training_list,
)
from task1_asc.settings import Task1Settings

if TYPE_CHECKING:
    from common.data.packing import PackReport

CHECKED_BATCHES = 2


class WavClips(Dataset):
    """One-second wav files: mono, 44,100 Hz. Items and batches as of `PackedClips`, without ``index``."""

    def __init__(self, folder: Path, filenames: Sequence[str], columns: Columns):
        from common.data.audio import ReadClip

        self.filenames, self.columns = list(filenames), columns
        self.read = ReadClip(folder, SAMPLE_RATE, CLIP_SAMPLES, expected_rate=SAMPLE_RATE, expected_channels=1)
        self.sample_rate = SAMPLE_RATE

    def __len__(self) -> int:
        return len(self.filenames)

    def __getitem__(self, index: int) -> dict[str, Any]:
        waveform = torch.from_numpy(self.read({"filename": self.filenames[index]}))
        item = {"waveform": waveform, "filename": self.filenames[index]}
        return item | {name: values[index] for name, values in self.columns.items()}

    def gather(self, indices: Sequence[int]) -> dict[str, Any]:
        """A batch: ``waveform`` float32 (batch, samples), ``filename`` (list), and the columns."""
        filenames = [self.filenames[index] for index in indices]
        waveforms = [torch.from_numpy(self.read({"filename": filename})) for filename in filenames]
        return {"waveform": torch.stack(waveforms), "filename": filenames} | gather_columns(self.columns, indices)


SceneClips = PackedClips | WavClips


def open_clips(clips: pd.DataFrame, folder: Path, store: Path | None = None, **columns: Any) -> SceneClips:
    """Clips to read; batches have ``waveform``, ``filename`` and, where they are known, labels.

    Args:
        clips: table with the column ``filename``; ``scene_label`` gives ``target`` (index into `CLASSES`),
            ``source_label`` or ``device_id`` gives ``recording_device``.
        folder: that ``filename`` is relative to.
        store: folder of a packed store with the clips, which is read in place of the wav files.
        columns: further values of each clip by name.
    """
    if "scene_label" in clips.columns:
        columns["target"] = torch.tensor([CLASSES.index(label) for label in clips["scene_label"]])
    for device in ("source_label", "device_id"):
        if device in clips.columns:
            columns["recording_device"] = clips[device].tolist()
    filenames = clips["filename"].tolist()
    return WavClips(folder, filenames, columns) if store is None else PackedClips(store, filenames, columns)


@dataclass(frozen=True)
class TrainingClips:
    """Clips of one run.

    settings: of the run.
    train: table of the training clips.
    held_out: table of the clips that select the epoch; None takes the last epoch.
    logits: of the teachers, (clips of `train`, classes), or None.
    """

    settings: Task1Settings
    train: pd.DataFrame
    held_out: pd.DataFrame | None = None
    logits: NDArray[np.float32] | None = None

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms."""
        return self.settings.data.sample_rate if self.settings.data.packed else SAMPLE_RATE

    @property
    def filenames(self) -> list[str]:
        """All clips used for training or model selection."""
        held_out = [] if self.held_out is None else self.held_out["filename"].tolist()
        return self.train["filename"].tolist() + held_out

    def training_loader(self, settings: Task1Settings) -> DataLoader:
        """Batches of the training clips, shuffled, with ``teacher_logits`` where there are some."""
        columns = {} if self.logits is None else {"teacher_logits": torch.from_numpy(self.logits)}
        return scene_loader(settings, open_development(settings, self.train, **columns), shuffle=True)

    def for_device(self, recording_device: str) -> "TrainingClips":
        """The training clips of a recording device; none is held out."""
        own = (self.train["source_label"] == recording_device).to_numpy()
        logits = None if self.logits is None else self.logits[own]
        return replace(self, train=self.train[own], held_out=None, logits=logits)

    def without_held_out(self) -> "TrainingClips":
        """The same training clips; the last epoch is taken."""
        return replace(self, held_out=None)

    def some(self, count: int, seed: int) -> pd.DataFrame:
        """A random choice of training clips, at most all of them."""
        rows = np.random.default_rng((seed, count)).permutation(len(self.train))[:count]
        return self.train.iloc[np.sort(rows)]


def read_training_clips(settings: Task1Settings, fast_check: bool = False, logits: Path | None = None) -> TrainingClips:
    """The clips of a run.

    Args:
        settings: of the run.
        fast_check: take only as many clips as two steps need.
        logits: file of the teachers' logits; None trains on labels alone.

    Raises:
        UserError: as `read_split`, `read_training_list` and `read_logits`.
    """
    data = settings.data
    if data.training_list is None:
        clips = read_split(data.root, settings.subset)
    else:
        clips = read_training_list(data.root, data.training_list, settings.subset)
    held_out = None
    if data.validation is not None:
        clips, held_out = hold_out_by_location(clips, data.validation.share, settings.seed)
    if fast_check:
        clips = clips.iloc[:: max(1, len(clips) // (CHECKED_BATCHES * settings.loader.batch_size))]
    taught = None
    if logits is not None:
        from task1_asc.data.teacher_logits import read_logits

        taught = read_logits(logits, settings.subset, data.root, clips["filename"].tolist())
    return TrainingClips(settings, clips, held_out, taught)


def open_development(settings: Task1Settings, clips: pd.DataFrame, **columns: Any) -> SceneClips:
    """Clips of the development set, from the packed store if the settings say so; it is made when absent.

    A store that is there is checked by its own digests; `data pack` compares it with the wav files.
    """
    folder, store = development_folder(settings.data.root), None
    if settings.data.packed:
        store = store_folder(settings.data.root, settings.data.sample_rate)
        if not (store / "store.json").is_file():
            pack_data(settings.data.root, settings.data.sample_rate)
    return open_clips(clips, folder, store, **columns)


def scene_loader(settings: Task1Settings, clips: SceneClips, shuffle: bool = False) -> DataLoader:
    """Batches of clips; the order of shuffled ones depends on the seed and the epoch."""
    return make_loader(
        clips,
        settings.loader.batch_size,
        shuffle_seed=settings.seed if shuffle else None,
        shuffle_block=settings.loader.shuffle_block,
        num_workers=settings.loader.num_workers,
        pin_memory=uses_gpu(settings.trainer),
    )


def store_folder(root: Path, sample_rate: int, dtype: str = "int16", evaluation: int | None = None) -> Path:
    """Where `pack_data` puts a store of the development set, or of a year's evaluation set."""
    name = "development" if evaluation is None else f"evaluation_{evaluation}"
    return Path(root) / "packed" / f"{name}_{sample_rate}_{dtype}"


def pack_data(
    root: Path, sample_rate: int = 32_000, dtype: str = "int16", evaluation: int | None = None, workers: int = 1
) -> "PackReport":
    """Pack the clips of the training and test splits, or of a year's evaluation set, into `store_folder`.

    Development clips in neither split must not be used in 2024 and 2025 and are left out. Resampling is the baseline's
    (torchaudio's windowed sinc, Hann, width 6, rolloff 0.99).

    Raises:
        UserError: as `common.data.packing.pack`.
    """
    from common.data.audio import ReadClip
    from common.data.packing import pack

    if evaluation is None:
        folder, clips = development_folder(root), read_clips(root)
        used = set(read_split(root, 100)["filename"]) | set(read_split(root, "test")["filename"])
        clips = clips[clips["filename"].isin(used)]
    else:
        folder, clips = evaluation_folder(root, evaluation), read_evaluation(root, evaluation)
    num_samples = -(-CLIP_SAMPLES * sample_rate // SAMPLE_RATE)
    read = ReadClip(folder, sample_rate, num_samples, expected_rate=SAMPLE_RATE, expected_channels=1)
    store = store_folder(root, sample_rate, dtype, evaluation)
    return pack(
        clips, read, store, sample_rate=sample_rate, num_samples=num_samples, dtype=dtype, root=folder, workers=workers
    )
