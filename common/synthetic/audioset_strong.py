"""A made-up AudioSet strong in the layout of the field: official tables, clips as mp3 in HDF5 files.

Clips of about 10 s hold one to five events with known borders over a room's noise, of twelve of the 456 classes; the
frequent ones have some ten times the clips of rare ones, as in AudioSet. Two classes occur in one part only.
"""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.random import Generator

from common.data.audio import Waveform
from common.data.encoded_store import encode_mp3
from common.data.labels import label_set, label_table
from common.data.made_up import claim_folder, finish_folder
from common.files import atomic_path, atomic_write
from common.output import Progress
from common.synthetic.events import EVENT_SOUNDS, SAMPLE_RATE, EventSound, band_noise, render_event

DEFAULT_CLIPS = 240
SHARES = {"balanced_train": 0.25, "unbalanced_train": 0.5, "eval": 0.25}
CLIP_SECONDS = 10.0

SOUNDS = {
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
"""Names of classes, frequent ones first, and how they sound."""
TRAINING_ONLY, EVALUATION_ONLY = "Booing", "Vibration"

Event = tuple[float, float, str]


@dataclass(frozen=True)
class _Clip:
    youtube_id: str
    start: int
    waveform: Waveform
    events: list[Event]


def write_audioset_strong(root: Path, clips: int | None = None, seed: int = 0) -> dict[str, int]:
    """Write the tables and HDF5 files below `root`.

    Args:
        root: folder of the data set.
        clips: of all parts together; default 240.
        seed: the same seed gives the same files.

    Returns:
        Number of clips by part.
    """
    clips = DEFAULT_CLIPS if clips is None else clips
    made_from = {"task": "audioset_strong", "clips": clips, "seed": seed}
    numbers = {name: max(4, round(clips * share)) for name, share in SHARES.items()}
    if claim_folder(root, made_from):
        return numbers
    parts: dict[str, list[_Clip]] = {}
    with Progress("Making up", sum(numbers.values())) as progress:
        for position, (name, count) in enumerate(numbers.items()):
            random = np.random.default_rng((seed, position))
            parts[name] = [_clip(name, random) for _ in range(count)]
            _write_audio(root / f"{name}_segments_mp3.hdf", parts[name], name == "unbalanced_train")
            progress.advance(count)
    _write_events(root / "audioset_train_strong.tsv", [*parts["balanced_train"], *parts["unbalanced_train"]])
    _write_events(root / "audioset_eval_strong.tsv", parts["eval"])
    durations = [f"Y{clip.youtube_id},{len(clip.waveform) / SAMPLE_RATE:.3f}" for clip in parts["eval"]]
    with atomic_write(root / "eval_durations.csv") as file:
        file.write("\n".join(["filename,duration", *durations]) + "\n")
    finish_folder(root, made_from, numbers)
    return numbers


def _clip(part: str, random: Generator) -> _Clip:
    letters = list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    duration = round(float(random.uniform(6, 9.8)), 3) if random.random() < 0.08 else CLIP_SECONDS
    events = _place(_labels(part, random), duration, random)
    return _Clip(
        "".join(random.choice(letters, 11)), 10 * int(random.integers(0, 40)), _mix(events, duration, random), events
    )


def _labels(part: str, random: Generator) -> list[str]:
    """Names of a clip's events; the first class of the table is ten times as likely as the last."""
    weights = np.geomspace(1, 0.1, len(SOUNDS))
    labels = [str(name) for name in random.choice(list(SOUNDS), int(random.integers(1, 5)), p=weights / weights.sum())]
    if random.random() < 0.05:
        labels.append(EVALUATION_ONLY if part == "eval" else TRAINING_ONLY)
    return labels


def _sound(label: str) -> EventSound:
    if label == TRAINING_ONLY:
        return EVENT_SOUNDS["children voices"]
    return EVENT_SOUNDS["announcement" if label == EVALUATION_ONLY else SOUNDS[label]]


def _place(labels: list[str], duration: float, random: Generator) -> list[Event]:
    events = []
    for label in labels:
        shortest, longest = _sound(label).seconds
        seconds = min(float(random.uniform(shortest, min(longest, 6))), duration - 0.1)
        onset = float(random.uniform(0, duration - seconds))
        events.append((round(onset, 3), round(onset + seconds, 3), label))
    return sorted(events)


def _mix(events: list[Event], duration: float, random: Generator) -> Waveform:
    """Events 6 to 22 dB above a room's noise."""
    samples = round(duration * SAMPLE_RATE)
    waveform = band_noise(samples, (float(random.uniform(60, 200)), float(random.uniform(300, 1500))), random)
    waveform += np.float32(0.1) * random.standard_normal(samples, dtype=np.float32)
    for onset, offset, label in events:
        event = render_event(_sound(label), offset - onset, random) * 10 ** (random.uniform(6, 22) / 20)
        part = waveform[round(onset * SAMPLE_RATE) :][: len(event)]
        part += event[: len(part)].astype(np.float32)
    return (waveform * np.float32(random.uniform(0.2, 0.8)) / np.abs(waveform).max()).astype(np.float32)


def _write_audio(path: Path, clips: list[_Clip], in_folders: bool) -> None:
    """The layout of PaSST: audio_name, mp3, target (packed bits of the 527 clip classes)."""
    classes = {name: index for index, name in enumerate(label_set("audioset"))}
    target = np.zeros((len(clips), len(classes)), dtype=bool)
    names = []
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        mp3 = file.create_dataset("mp3", (len(clips),), dtype=h5py.vlen_dtype(np.dtype("uint8")))
        for row, clip in enumerate(clips):
            mp3[row] = np.frombuffer(encode_mp3(clip.waveform, SAMPLE_RATE), dtype=np.uint8)
            names.append(f"{'unbalanced_train_segments_part00/' if in_folders else ''}Y{clip.youtube_id}.mp3".encode())
            for _, _, label in clip.events:
                if label in classes:
                    target[row, classes[label]] = True
        file.create_dataset("audio_name", data=np.array(names))
        file.create_dataset("target", data=np.packbits(target, axis=1))


def _write_events(path: Path, clips: list[_Clip]) -> None:
    mids = {row["name"]: row["mid"] for row in label_table("audioset_strong")}
    rows = [
        f"{clip.youtube_id}_{clip.start * 1000}\t{onset:.3f}\t{offset:.3f}\t{mids[label]}"
        for clip in clips
        for onset, offset, label in clip.events
    ]
    with atomic_write(path) as file:
        file.write("\n".join(["segment_id\tstart_time_seconds\tend_time_seconds\tlabel", *rows]) + "\n")
