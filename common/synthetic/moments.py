"""A made-up CASTELLA: long recordings of sounds at known times over background, with a sentence for each kind of sound.

Lengths and counts of the windows follow CASTELLA: 48 % of the queries have one, half of all last under 5 s; whole
seconds, some unsorted, some end after the rounded duration. A synthetic set beside it is like Clotho-Moment: a minute,
one window, median 20 s. Recordings last 60 to 150 s (CASTELLA: 60 to 300 s).

    castella_{train,val,test}_release.jsonl clotho_moment_train_release.jsonl dcase2026_evaluation.jsonl
    audio/*.wav     32 kHz, mono
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from common.data.audio import resample
from common.data.files import atomic_write
from common.synthetic.layout import DataSet, draw_video, write_clip
from common.synthetic.retrieval import SAMPLE_RATE, SOUNDS, Array, Sound

WRITTEN_RATE = 32_000
SHARES = {
    "castella_train_release.jsonl": 10,
    "castella_val_release.jsonl": 3,
    "castella_test_release.jsonl": 4,
    "clotho_moment_train_release.jsonl": 10,
    "dcase2026_evaluation.jsonl": 3,
}
QUERIES = (2, 3)
"""Kinds of sound, each with a query, of recordings in turn (CASTELLA: 2.5 on average)."""
WINDOWS, WINDOW_SHARES = (1, 2, 3, 4, 6, 9), (0.48, 0.2, 0.12, 0.08, 0.08, 0.04)
LEVELS = (0.25, 1.0)
BACKGROUND = 0.08


def count(clips: int) -> dict[str, int]:
    """Queries of each file."""
    recordings = _recordings(clips)
    return {name: sum(QUERIES[n % 2] for n in range(number)) for name, number in recordings.items()}


def _recordings(clips: int) -> dict[str, int]:
    return {name: max(2, clips * share // sum(SHARES.values())) for name, share in SHARES.items()}


def write(root: Path, clips: int, counts: dict[str, int], seed: int, lengths: tuple[int, int] = (60, 150)) -> None:
    """Write the recordings, of `lengths` in seconds, and annotations of all splits."""
    rng = np.random.default_rng((seed, 6))
    for name, recordings in _recordings(clips).items():
        lines: list[dict[str, Any]] = []
        for number in range(recordings):
            like_clotho = name.startswith("clotho")
            vid = f"made_up_{number}_0.0_60.0" if like_clotho else draw_video(rng)
            vid = f"dcase2026_evaluation_audio_{number + 1:03d}" if name.startswith("dcase") else vid
            seconds = 60 if like_clotho else int(rng.integers(*lengths))
            length = seconds + (0.0 if like_clotho else rng.uniform(0, 0.9))  # the duration is rounded down
            kinds = [SOUNDS[index] for index in rng.choice(len(SOUNDS), QUERIES[number % 2], replace=False)]
            events = {kind: _draw_windows(rng, seconds, like_clotho) for kind in kinds}
            write_clip(root / "audio" / f"{vid}.wav", _render(events, length, rng), WRITTEN_RATE)
            for place, (kind, windows) in enumerate(events.items(), start=1):
                phrase = str(rng.choice(kind.phrases)).capitalize()
                line = {"qid": f"{vid}_{place}", "query": phrase, "duration": seconds, "vid": vid}
                if name.startswith("dcase"):
                    line["qid"] = f"dcase2026_evaluation_q{len(lines) + 1:03d}"
                else:
                    line["relevant_windows"] = windows
                lines.append(line)
        with atomic_write(root / name) as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


def _draw_windows(rng: np.random.Generator, seconds: int, like_clotho: bool) -> list[list[int]]:
    """Windows of one kind of sound, without overlap."""
    if like_clotho:
        length = int(np.clip(rng.lognormal(3.0, 0.4), 5, 45))
        start = int(rng.integers(0, seconds - length + 1))
        return [[start, start + length]]
    wanted = int(rng.choice(WINDOWS, p=WINDOW_SHARES))
    centre, spread = (1.88, 1.31) if wanted == 1 else (1.46, 1.08)
    found: list[list[int]] = []
    for _ in range(3 * wanted):
        length = int(np.clip(round(rng.lognormal(centre, spread)), 1, seconds // 2))
        start = int(rng.integers(0, seconds - length + 1))
        if len(found) < wanted and all(start + length < other[0] or start > other[1] for other in found):
            found.append([start, start + length])
    if rng.random() < 0.7:
        found.sort()
    late = max(found)
    if late[1] == seconds or rng.random() < 0.03:
        late[1] = seconds + 1  # the sound goes on to the end of the recording, which is not a whole second
    return found


def _render(events: dict[Sound, list[list[int]]], length: float, rng: np.random.Generator) -> Array:
    samples = int(length * SAMPLE_RATE)
    slow = np.interp(np.arange(samples), np.linspace(0, samples, 20), rng.uniform(0.5, 1, 20))
    mixture = BACKGROUND * slow * rng.standard_normal(samples)
    for sound, windows in events.items():
        level = rng.uniform(*LEVELS)
        for start, end in windows:
            first, last = start * SAMPLE_RATE, min(end * SAMPLE_RATE, samples)
            piece = sound.render(last - first, rng, 1.0)
            mixture[first:last] += level * piece / (np.sqrt(np.mean(piece**2)) + 1e-9)
    return resample((0.5 * mixture / np.abs(mixture).max()).astype(np.float32), SAMPLE_RATE, WRITTEN_RATE).clip(-1, 1)


MOMENTS = DataSet("moments", 60, count, write)
