"""The clips that a run learns from: the subset's, those held out of it, and what the teachers say about them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from task1_asc.data.tau2022 import (
    SAMPLE_RATE,
    SceneClips,
    development_folder,
    hold_out_by_location,
    pack_data,
    read_split,
    read_training_list,
    store_folder,
)
from task1_asc.data.teacher_logits import TaughtClips, read_logits
from task1_asc.settings import Task1Settings

CHECKED_BATCHES = 2


@dataclass(frozen=True)
class TrainingClips:
    """Clips of one run.

    settings: of the run.
    train: table of the clips to learn from.
    held_out: table of those that choose the epoch; None where the last epoch is taken.
    logits: of the teachers, (clips of `train`, classes), or None.
    """

    settings: Task1Settings
    train: pd.DataFrame
    held_out: pd.DataFrame | None = None
    logits: NDArray[np.float32] | None = None

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms that `open` gives."""
        return self.settings.data.sample_rate if self.settings.data.packed else SAMPLE_RATE

    @property
    def filenames(self) -> list[str]:
        """All clips that have a say in what is learned."""
        held_out = [] if self.held_out is None else self.held_out["filename"].tolist()
        return self.train["filename"].tolist() + held_out

    def open(self, clips: pd.DataFrame) -> SceneClips:
        """Clips to read."""
        return open_clips(self.settings, clips, development_folder(self.settings.data.root))

    def with_logits(self) -> Any:
        """The clips to learn from, with the teachers' logits where there are some."""
        dataset = self.open(self.train)
        return dataset if self.logits is None else TaughtClips(dataset, self.logits)

    def of_device(self, device: str) -> "TrainingClips":
        """Those that a device recorded; none is held out."""
        own = (self.train["source_label"] == device).to_numpy()
        logits = None if self.logits is None else self.logits[own]
        return replace(self, train=self.train[own], held_out=None, logits=logits)

    def without_held_out(self) -> "TrainingClips":
        """The same to learn from, the last epoch taken."""
        return replace(self, held_out=None)

    def some(self, count: int, seed: int) -> pd.DataFrame:
        """A random choice of the clips to learn from, at most all of them."""
        rows = np.random.default_rng((seed, count)).permutation(len(self.train))[:count]
        return self.train.iloc[np.sort(rows)]


def read_training_clips(settings: Task1Settings, fast_check: bool = False, logits: Path | None = None) -> TrainingClips:
    """The clips of a run.

    Args:
        settings: of the run.
        fast_check: take only as many clips as two steps need.
        logits: file of the teachers' logits; None learns from labels alone.

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
        taught = read_logits(logits, settings.subset, data.root, clips["filename"].tolist())
    return TrainingClips(settings, clips, held_out, taught)


def open_clips(settings: Task1Settings, clips: pd.DataFrame, folder: Path) -> SceneClips:
    """Clips of the development set, out of the packed store where the settings say so; it is made when absent."""
    if not settings.data.packed:
        return SceneClips(clips, folder)
    pack_data(settings.data.root, settings.data.sample_rate)
    return SceneClips(clips, folder, store_folder(settings.data.root, settings.data.sample_rate))


def loading(settings: Task1Settings) -> dict[str, Any]:
    """How clips come to the device, for `make_loader`."""
    loader, use_gpu = settings.loader, settings.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return {"batch_size": loader.batch_size, "num_workers": loader.num_workers, "pin_memory": use_gpu}
