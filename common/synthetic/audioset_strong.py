"""A made-up AudioSet strong in the layout of the field: official tables, clips as mp3 in HDF5 files.

Clips of about 10 s hold one to five events with known borders over a room's noise, of twelve of the 456 classes; the
frequent ones have about ten times the clips of rare ones, as in AudioSet. Two classes occur in one part only.
"""

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.random import Generator

from common.data.audio import Waveform
from common.data.encoded_store import encode_audio
from common.data.files import atomic_path
from common.data.labels import label_set, label_table
from common.output import Progress
from common.synthetic.events import EVENT_SOUNDS, SAMPLE_RATE, Event, mix, place_events
from common.synthetic.layout import DataSet, draw_video, write_rows

SHARES = {"balanced_train": 0.25, "unbalanced_train": 0.5, "eval": 0.25}
CLIP_SECONDS = 10.0
LONGEST_EVENT = 6.0

FREQUENT_FIRST = {
    "Speech": "Speech",
    "Vehicle": "large_vehicle",
    "Dog": "Dog",
    "Bird vocalization, bird call, bird song": "birds_singing",
    "Water tap, faucet": "Running_water",
    "Walk, footsteps": "footsteps",
    "Vacuum cleaner": "Vacuum_cleaner",
    "Alarm": "Alarm_bell_ringing",
    "Dishes, pots, and pans": "Dishes",
    "Electric shaver, electric razor": "Electric_shaver_toothbrush",
}
"""Classes and their event sounds."""
TRAINING_ONLY, EVALUATION_ONLY = "Booing", "Vibration"
SOUNDS = {
    label: EVENT_SOUNDS[sound]
    for label, sound in {**FREQUENT_FIRST, TRAINING_ONLY: "children voices", EVALUATION_ONLY: "announcement"}.items()
}


class _Clip(NamedTuple):
    youtube_id: str
    start: int
    waveform: Waveform
    events: list[Event]


def count(clips: int) -> dict[str, int]:
    """Clips of each part."""
    return {name: max(4, round(clips * share)) for name, share in SHARES.items()}


def write(root: Path, clips: int, counts: dict[str, int], seed: int) -> None:
    """Write the tables and HDF5 files."""
    parts: dict[str, list[_Clip]] = {}
    with Progress("Making up", sum(counts.values())) as progress:
        for position, (name, number) in enumerate(counts.items()):
            random = np.random.default_rng((seed, position))
            parts[name] = [_clip(name, random) for _ in range(number)]
            _write_audio(root / f"{name}_segments_mp3.hdf", parts[name], name == "unbalanced_train")
            progress.advance(number)
    _write_events(root / "audioset_train_strong.tsv", [*parts["balanced_train"], *parts["unbalanced_train"]])
    _write_events(root / "audioset_eval_strong.tsv", parts["eval"])
    durations = [(f"Y{clip.youtube_id}", f"{len(clip.waveform) / SAMPLE_RATE:.3f}") for clip in parts["eval"]]
    write_rows(root / "eval_durations.csv", [("filename", "duration"), *durations], ",")


def _clip(part: str, random: Generator) -> _Clip:
    duration = round(float(random.uniform(6, 9.8)), 3) if random.random() < 0.08 else CLIP_SECONDS
    events = place_events(_labels(part, random), duration, SOUNDS, random, longest=LONGEST_EVENT, may_overlap=True)
    video, start = draw_video(random), 10 * int(random.integers(0, 40))
    return _Clip(
        video, start, mix(events, duration, SOUNDS, random, levels=(6, 22), peaks=(0.2, 0.8), hiss=-20), events
    )


def _labels(part: str, random: Generator) -> list[str]:
    """Names of a clip's events; the first class of the table is ten times as likely as the last."""
    weights = np.geomspace(1, 0.1, len(FREQUENT_FIRST))
    drawn = random.choice(list(FREQUENT_FIRST), int(random.integers(1, 5)), p=weights / weights.sum())
    labels = [str(name) for name in drawn]
    if random.random() < 0.05:
        labels.append(EVALUATION_ONLY if part == "eval" else TRAINING_ONLY)
    return labels


def _write_audio(path: Path, clips: list[_Clip], in_folders: bool) -> None:
    """The layout of PaSST: audio_name, mp3, target (packed bits of the 527 clip classes)."""
    classes = {name: index for index, name in enumerate(label_set("audioset"))}
    target = np.zeros((len(clips), len(classes)), dtype=bool)
    folder = "unbalanced_train_segments_part00/" if in_folders else ""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        mp3 = file.create_dataset("mp3", (len(clips),), dtype=h5py.vlen_dtype(np.dtype("uint8")))
        for row, clip in enumerate(clips):
            mp3[row] = np.frombuffer(encode_audio(clip.waveform, SAMPLE_RATE), dtype=np.uint8)
            target[row, [classes[label] for _, _, label in clip.events if label in classes]] = True
        file.create_dataset("audio_name", data=np.array([f"{folder}Y{clip.youtube_id}.mp3".encode() for clip in clips]))
        file.create_dataset("target", data=np.packbits(target, axis=1))


def _write_events(path: Path, clips: list[_Clip]) -> None:
    mids = {row["name"]: row["mid"] for row in label_table("audioset_strong")}
    rows = [
        (f"{clip.youtube_id}_{clip.start * 1000}", f"{onset:.3f}", f"{offset:.3f}", mids[label])
        for clip in clips
        for onset, offset, label in clip.events
    ]
    write_rows(path, [("segment_id", "start_time_seconds", "end_time_seconds", "label"), *rows])


AUDIOSET_STRONG = DataSet("audioset_strong", 240, count, write)
