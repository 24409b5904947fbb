"""MAESTRO Real: 10-s windows of the recordings with their soft labels, and the split of the training windows.

SOURCE/development_audio/**/*.wav           49 recordings of 3 to 5 minutes (Zenodo record 7244360)
SOURCE/development_annotation/**/*.txt      onset, offset, event, confidence; tab separated, without header, 1-s steps
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from common.data.archives import download_and_unpack
from common.data.audio import audio_info, read_audio, write_wav
from common.data.download import zenodo_files
from common.data.files import walk_files, write_text
from common.errors import UserError
from common.output import Progress, say

SCENES = ("cafe_restaurant", "city_center", "grocery_store", "metro_station", "residential_area")
WINDOW_SECONDS = 10
TRAIN_HOP = 1
VALIDATION_HOP = 5
"""Seconds, since June 2024; it was 1 s before, and the winner's paper keeps that (3,474 windows)."""

VALIDATION_RECORDINGS = tuple(
    f"{scene}_{number:02d}"
    for scene, numbers in zip(SCENES, ((4, 10, 13), (5, 9, 10), (1, 4, 12), (1, 4, 11), (3, 5, 6, 12)))
    for number in numbers
)
"""Recordings of the official validation set; the other 33 are training data."""


class Window(NamedTuple):
    """A part of a recording: first sample and the sample after the last."""

    first: int
    end: int


def split_windows(length: int, sample_rate: int, hop_seconds: float) -> Iterator[Window]:
    """Windows of a recording of `length` samples: the full ones, then one to the end if samples remain."""
    size, hop = int(WINDOW_SECONDS * sample_rate), int(hop_seconds * sample_rate)
    count = max(0, int((length - size + hop) / hop))
    for number in range(count):
        yield Window(number * hop, number * hop + size)
    last_end = (count - 1) * hop + size if count else 0
    if last_end < length and length - count * hop > 0:
        yield Window(count * hop, length)


def window_name(recording: str, window: Window, sample_rate: int) -> str:
    """`cafe_restaurant_13-020500-021149`: start and end in hundredths of a second, rounded down."""
    start, end = (int(sample / sample_rate * 100) for sample in (window.first, window.end))
    return f"{recording}-{start:06d}-{end:06d}"


def recording_name(clip: str) -> str:
    """Recording of a window."""
    return clip.split("-")[0]


def cut_labels(labels: pd.DataFrame, start: float, end: float) -> pd.DataFrame:
    """Rows that overlap with start..end seconds, cut to it, with times from its start, sorted by onset."""
    inside = labels[(labels["onset"] < end) & (labels["offset"] > start)]
    inside = inside.assign(
        onset=np.maximum(0.0, inside["onset"] - start), offset=np.minimum(end - start, inside["offset"] - start)
    )
    return inside.sort_values("onset", kind="stable")


def read_soft_labels(path: Path) -> pd.DataFrame:
    """Columns onset, offset, event_label, confidence of one recording; refuses a wrong row with file and line."""
    rows = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        for line, fields in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
            while fields and not fields[-1].strip():
                fields.pop()
            if not fields:
                continue
            try:
                onset, offset, label, confidence = fields
                row = (float(onset), float(offset), label, float(confidence))
            except ValueError:
                raise UserError(
                    f"{path}:{line} is not onset, offset, event and confidence with tabs between."
                ) from None
            if not 0 <= row[0] < row[1]:
                raise UserError(f"{path}:{line}: the event {label} lasts from {row[0]:g} to {row[1]:g} s.")
            if not 0 <= row[3] <= 1:
                raise UserError(f"{path}:{line}: the confidence of {label} is {row[3]:g}, outside 0..1.")
            rows.append(row)
    return pd.DataFrame(rows, columns=["onset", "offset", "event_label", "confidence"])


def cut_recordings(
    recordings: Sequence[Path], annotations: Mapping[str, Path], audio: Path, table: Path, hop_seconds: float
) -> int:
    """Cut recordings into mono windows with a table of their labels; existing windows are kept.

    Returns the number of windows. `annotations` are by name of the recording, `audio` is the folder of the windows.
    """
    parts, count = [], 0
    if not recordings:
        raise UserError(f"There is no recording for {table.name}; unpack the missing ones of MAESTRO Real.")
    with Progress("Cutting", len(recordings), "recordings") as progress:
        for path in sorted(recordings, key=lambda recording: recording.stem):
            labels = read_soft_labels(annotations[path.stem])
            info, waveform = audio_info(path), None
            for window in split_windows(info.samples, info.sample_rate, hop_seconds):
                name = f"{window_name(path.stem, window, info.sample_rate)}.wav"
                if not (audio / name).is_file():
                    waveform = read_audio(path) if waveform is None else waveform
                    write_wav(audio / name, waveform[window.first : window.end], info.sample_rate, subtype="PCM_16")
                start, end = window.first / info.sample_rate, window.end / info.sample_rate
                parts.append(cut_labels(labels, start, end).assign(filename=name))
                count += 1
            progress.advance()
    columns = ["filename", "onset", "offset", "event_label", "confidence"]
    whole = pd.concat(parts)[columns].sort_values("filename", kind="stable")
    write_text(table, whole.to_csv(sep="\t", index=False, lineterminator="\n"))
    return count


def prepare(
    source: Path,
    root: Path,
    hop_seconds: float = VALIDATION_HOP,
    validation_recordings: Sequence[str] = VALIDATION_RECORDINGS,
    allow_missing: bool = False,
) -> dict[str, int]:
    """Write the training and validation windows of the challenge below `root`, and the durations of the recordings.

    Returns the number of windows by set. `source` holds development_audio and development_annotation; `hop_seconds` is
    of the validation windows: 1, as before June 2024, makes 3,474 windows. `allow_missing`: continue without validation
    recordings that are missing, and without recordings that have no annotation; they are named.
    """
    audio, texts = source / "development_audio", source / "development_annotation"
    recordings = sorted(path for path in walk_files(audio) if path.suffix == ".wav") if audio.is_dir() else []
    if not recordings:
        raise UserError(
            f"{source} has no development_audio with wav files; give the folder where MAESTRO was unpacked."
        )
    annotations = {path.stem: path for path in walk_files(texts) if path.suffix == ".txt"} if texts.is_dir() else {}
    validation = set(validation_recordings)
    absent = sorted(validation - {path.stem for path in recordings})
    silent = sorted({path.stem for path in recordings} - set(annotations))
    for names, what in ((absent, "validation recordings are missing"), (silent, "recordings have no annotation")):
        if names and not allow_missing:
            raise UserError(
                f"{len(names)} {what} in {source}; the first is {names[0]}. Unpack them, or continue without them with "
                "--allow_missing."
            )
        if names:
            say(f"{len(names)} {what} in {source} ({', '.join(names)}); scores will not be comparable.")
    recordings = [path for path in recordings if path.stem in annotations]
    counts = {}
    for split in ("train", "validation"):
        chosen = [path for path in recordings if (path.stem in validation) == (split == "validation")]
        audio, table = root / f"audio/maestro_real_{split}", root / f"metadata/maestro_real_{split}.tsv"
        hop = TRAIN_HOP if split == "train" else hop_seconds
        counts[f"maestro_{split}"] = cut_recordings(chosen, annotations, audio, table, hop)
    durations = {path.stem: audio_info(path).duration for path in recordings}
    seconds = pd.Series(durations, name="duration").rename_axis("filename")
    write_text(root / "metadata/maestro_real_durations.tsv", seconds.to_csv(sep="\t", lineterminator="\n"))
    return counts


def split_training_windows(clips: Sequence[str], share: float = 0.9, seed: int = 42) -> np.ndarray:
    """(clips,) bool: training windows to train on; the others validate. The baseline's split.

    The recordings of each scene, in order of first appearance, are shuffled, and the first int(share * n) taken; one
    generator for all scenes.
    """
    generator = np.random.RandomState(seed)
    chosen: set[str] = set()
    for scene in SCENES:
        names = dict.fromkeys(recording_name(clip) for clip in clips)
        recordings = np.array([name for name in names if name.rpartition("_")[0] == scene])
        generator.shuffle(recordings)
        chosen |= set(recordings[: int(share * len(recordings))])
    return np.array([recording_name(clip) in chosen for clip in clips], dtype=bool)


MAESTRO_RECORD = 7244360
MAESTRO_ARCHIVES = ("development_audio.zip", "development_annotation.zip")
HOW_TO_GET_DESED = (
    "DESED comes with the package `desed` (pip install desed) or from its Zenodo records, which project.inria.fr/desed "
    "lists; ask the organisers for YouTube clips that are gone. `data check` names missing clips."
)


def download_maestro(
    root: Path, hop_seconds: float = 5, delete_archives: bool = False, allow_missing: bool = False
) -> dict[str, int]:
    """Download MAESTRO Real and cut it into the windows of the challenge; resumes after an interruption.

    Returns the number of windows by set. Recordings stay in `root/MAESTRO_original`; `hop_seconds` is of the validation
    windows.
    """
    archives, source = Path(root) / "archives", Path(root) / "MAESTRO_original" / "maestro_dev"
    known = {file.name: file for file in zenodo_files(MAESTRO_RECORD, archives)}
    for name in MAESTRO_ARCHIVES:
        if name not in known:
            raise UserError(f"Zenodo record {MAESTRO_RECORD} has no {name}; it has {', '.join(sorted(known))}.")
        download_and_unpack(known[name], archives, source, delete_archives)
    return prepare(source, Path(root), hop_seconds, allow_missing=allow_missing)
