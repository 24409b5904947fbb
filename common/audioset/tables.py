"""AudioSet's tables and files on disk; no torch here.

    class_labels_indices.csv                 index, mid, display_name: the classes in the order of the outputs
    {balanced_train,unbalanced_train,eval}_segments.csv   YTID, start, end, "mid,mid,...", after three comment lines
    {...}_segments_mp3.hdf                   encoded clips, see encoded_store.py; or several, {...}_mp3_000.hdf, ...

Tables as on research.google.com/audioset, HDF5 files as PaSST and EfficientAT make them.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.audioset.settings import PretrainSettings, TaggingSettings
from common.data.files import read_tsv
from common.data.keyed_outputs import KeyedOutputs
from common.data.labels import label_table
from common.errors import UserError
from common.runs.run import RECORD

CLASSES_FILE = "class_labels_indices.csv"
SPLITS = ("balanced_train", "unbalanced_train", "eval")


@dataclass(frozen=True)
class Classes:
    """Names and identifiers (mids) of the classes, in the order of the outputs."""

    names: tuple[str, ...]
    mids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Segment:
    """A row of a segment table: which ten seconds of a video, and its classes."""

    video: str
    start: float
    end: float
    labels: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of its clip without ending: Y and the video's name."""
        return f"Y{self.video}"


def read_classes(root: Path) -> Classes:
    """Classes of `root`/class_labels_indices.csv, numbered from 0; where it is absent, the 527 of AudioSet."""
    path = Path(root) / CLASSES_FILE
    if not path.is_file():
        table = label_table("audioset")
        return Classes(tuple(row["name"] for row in table), tuple(row["mid"] for row in table))
    rows = read_tsv(path, ["index", "mid", "display_name"], separator=",")
    for number, index in enumerate(rows["index"]):
        if index != str(number):
            raise UserError(f"{path}:{number + 2} has the index {index}, expected {number}; restore the file.")
    return Classes(tuple(rows["display_name"]), tuple(rows["mid"]))


def read_segments(root: Path, split: str, classes: Classes) -> list[Segment]:
    """Rows of a segment table. Rows of another form, unknown classes and doubled videos are UserErrors."""
    path = Path(root) / f"{split}_segments.csv"
    if not path.is_file():
        raise UserError(f"{path} does not exist; get it from research.google.com/audioset/download.html.")
    number_of = {mid: number for number, mid in enumerate(classes.mids)}
    segments: list[Segment] = []
    seen: set[str] = set()
    with path.open(encoding="utf-8", newline="") as file:
        for line, row in enumerate(csv.reader(file, skipinitialspace=True), start=1):
            if not row or row[0].startswith("#"):
                continue
            try:
                video, start, end, mids = row
                labels = tuple(number_of[mid] for mid in mids.split(","))
                segments.append(Segment(video, float(start), float(end), labels))
            except KeyError as error:
                raise UserError(f"{path}:{line} has the class {error.args[0]}, which {CLASSES_FILE} lacks.") from error
            except ValueError as error:
                raise UserError(f'{path}:{line} is not of the form YTID, start, end, "mid,mid".') from error
            if video in seen:
                raise UserError(f"{path}:{line} names {video} again; take one of its rows out.")
            seen.add(video)
    return segments


def segment_targets(segments: Sequence[Segment], num_classes: int) -> NDArray[np.uint8]:
    """(segments, classes) of 0 and 1."""
    targets = np.zeros((len(segments), num_classes), dtype=np.uint8)
    for row, segment in enumerate(segments):
        targets[row, list(segment.labels)] = 1
    return targets


def find_files(root: Path, patterns: Sequence[str]) -> list[Path]:
    """HDF5 files below `root` that fit the patterns, at least one each, sorted within each pattern."""
    found: list[Path] = []
    for pattern in patterns:
        paths = sorted(Path(root).glob(pattern))
        if not paths:
            there = ", ".join(sorted(path.name for path in Path(root).glob("*.hdf"))) or "no .hdf file"
            lack = f"{root} has no {pattern} (it has {there})" if Path(root).is_dir() else f"There is no folder {root}"
            raise UserError(f"{lack}; make it with `audioset pack`, or change `data`.")
        found += [path for path in paths if path not in found]
    return found


def refuse_missing(settings: TaggingSettings) -> None:
    """Refuse a file of initial weights that is not there, unless the run is trained.

    Raises:
        UserError: without it.
    """
    weights = settings.model.weights
    if weights is not None and not weights.is_file() and not (settings.folder / "train" / RECORD).is_file():
        raise UserError(f"model.weights: there is no file {weights}.")


def refuse_missing_audioset(settings: PretrainSettings) -> None:
    """Refuse missing files of clips, teacher logits and weights (UserError)."""
    data = settings.data
    find_files(data.root, [*data.training, *data.test])
    if settings.teacher is not None:
        KeyedOutputs(settings.teacher.logits, "logits", (len(read_classes(data.root)),))
    refuse_missing(settings)
