"""MAESTRO Real: 10-s windows of the recordings with their soft labels, and the split of the training windows.

SOURCE/development_audio/**/*.wav           49 recordings of 3 to 5 minutes (Zenodo record 7244360)
SOURCE/development_annotation/**/*.txt      onset, offset, event, confidence; tab separated, without header, 1-s steps
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common.data.audio import audio_info, read_audio, write_wav
from common.data.files import atomic_write
from common.errors import UserError
from common.output import Progress

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


@dataclass(frozen=True)
class Window:
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
    """Columns onset, offset, event_label, confidence of one recording.

    Raises:
        UserError: with file and line, for a row other than onset, offset, event and confidence, negative or swapped
            times, and a confidence outside 0..1.
    """
    rows = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        for line, fields in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
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
    with Progress("Cutting", len(recordings), "recordings") as progress:
        for path in sorted(recordings, key=lambda recording: recording.stem):
            if path.stem not in annotations:
                raise UserError(f"{path} has no annotation {path.stem}.txt; unpack development_annotation beside it.")
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
    with atomic_write(table) as file:
        whole.to_csv(file, sep="\t", index=False, lineterminator="\n")
    return count


def prepare(
    source: Path,
    root: Path,
    hop_seconds: float = VALIDATION_HOP,
    validation_recordings: Sequence[str] = VALIDATION_RECORDINGS,
) -> dict[str, int]:
    """Write the training and validation windows of the challenge below `root`, and the durations of the recordings.

    Returns the number of windows by set. `source` holds development_audio and development_annotation; `hop_seconds` is
    of the validation windows: 1, as before June 2024, makes 3,474 windows.
    """
    recordings = sorted((source / "development_audio").rglob("*.wav"))
    if not recordings:
        raise UserError(
            f"{source} has no development_audio with wav files; give the folder where MAESTRO was unpacked."
        )
    annotations = {path.stem: path for path in (source / "development_annotation").rglob("*.txt")}
    validation = set(validation_recordings)
    absent = sorted(validation - {path.stem for path in recordings})
    if absent:
        raise UserError(f"{len(absent)} validation recordings are not in {source}; the first is {absent[0]}.wav.")
    counts = {}
    for split in ("train", "validation"):
        chosen = [path for path in recordings if (path.stem in validation) == (split == "validation")]
        audio, table = root / f"audio/maestro_real_{split}", root / f"metadata/maestro_real_{split}.tsv"
        hop = TRAIN_HOP if split == "train" else hop_seconds
        counts[f"maestro_{split}"] = cut_recordings(chosen, annotations, audio, table, hop)
    durations = {path.stem: audio_info(path).duration for path in recordings}
    with atomic_write(root / "metadata/maestro_real_durations.tsv") as file:
        pd.Series(durations, name="duration").rename_axis("filename").to_csv(file, sep="\t", lineterminator="\n")
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
