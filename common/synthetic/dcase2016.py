"""A made-up DCASE 2016 Task 2 in the form of HEAR: recordings of 120 s with office sounds over a room's noise.

16000/{train,valid,test}/*.wav      recordings
{train,valid,test}.json             events of each recording: label, start and end in milliseconds
labelvocabulary.csv                 idx, label
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from common.data.audio import Waveform
from common.data.files import atomic_write
from common.output import Progress
from common.synthetic.events import EVENT_SOUNDS, RICH, SAMPLE_RATE, EventSound, band_noise, render_event
from common.synthetic.layout import DataSet, write_clip, write_rows

SECONDS = 120
EVENTS_PER_SECOND = 0.3

SOUNDS = {
    "clearthroat": EventSound((0.3, 0.8), (90, 160), RICH, band=(200, 1500), noise=0.6, shape="hits", rate=5),
    "cough": EventSound((0.2, 0.6), (150, 300), RICH, band=(800, 5000), noise=0.7, shape="hits", rate=4),
    "doorslam": EVENT_SOUNDS["door opens/closes"],
    "drawer": EVENT_SOUNDS["furniture dragging"],
    "keyboard": EventSound((0.5, 2.0), (2500, 4000), (1,), band=(2000, 7000), noise=0.6, shape="hits", rate=8),
    "keys": EventSound((0.5, 1.5), (4000, 6500), (1, 0.5), shape="hits", rate=11),
    "knock": EventSound((0.4, 1.2), (120, 220), (1, 0.3), band=(100, 900), noise=0.5, shape="hits", rate=4),
    "laughter": EVENT_SOUNDS["children voices"],
    "pageturn": EventSound((0.4, 1.0), band=(3000, 7500), noise=1, sway=0.6),
    "phone": EVENT_SOUNDS["Alarm_bell_ringing"],
    "speech": EVENT_SOUNDS["Speech"],
}


def count(clips: int) -> dict[str, int]:
    """Recordings of each split, for a number of training recordings."""
    return {"train": clips, "valid": max(1, clips // 4), "test": max(2, clips // 2)}


def write(root: Path, clips: int, counts: dict[str, int], seed: int) -> None:
    """Write recordings and tables."""
    with Progress("Making up", sum(counts.values()), "recordings") as progress:
        for position, (split, number) in enumerate(counts.items()):
            random = np.random.default_rng((seed, position))
            table = {}
            for index in range(number):
                name = f"{split}_{index + 1:03d}.wav"
                waveform, table[name] = _recording(random)
                write_clip(root / str(SAMPLE_RATE) / split / name, waveform, SAMPLE_RATE)
                progress.advance()
            with atomic_write(root / f"{split}.json") as file:
                json.dump(table, file, indent=1)
    write_rows(root / "labelvocabulary.csv", [("idx", "label"), *enumerate(SOUNDS)], ",")


def _recording(random: Generator) -> tuple[Waveform, list[dict[str, Any]]]:
    samples = SECONDS * SAMPLE_RATE
    waveform = 0.02 * band_noise(samples, (80, 1200), random).astype(np.float32)
    waveform += np.float32(0.002) * random.standard_normal(samples, dtype=np.float32)
    events: list[dict[str, Any]] = []
    position = 0.5
    while True:
        label = str(random.choice(list(SOUNDS)))
        shortest, longest = SOUNDS[label].seconds
        seconds = float(random.uniform(shortest, min(longest, 3)))
        position += float(random.exponential(1 / EVENTS_PER_SECOND - 1))
        if position + seconds > SECONDS - 0.5:
            return (waveform / np.abs(waveform).max() * np.float32(0.8)).astype(np.float32), events
        event = render_event(SOUNDS[label], seconds, random) * 0.02 * 10 ** (random.uniform(6, 24) / 20)
        first = round(position * SAMPLE_RATE)
        waveform[first : first + len(event)] += event.astype(np.float32)
        events.append(
            {"label": label, "start": round(1000 * position, 1), "end": round(1000 * (position + seconds), 1)}
        )
        position += 0.5 * seconds  # the next event may overlap this one


DCASE2016 = DataSet("dcase2016_task2", 4, count, write)
