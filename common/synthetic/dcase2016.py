"""A made-up DCASE 2016 Task 2 in the form of HEAR: recordings of 120 s with office sounds over a room's noise."""

import json
from pathlib import Path

import numpy as np
from numpy.random import Generator

from common.data.audio import Waveform, write_wav
from common.data.made_up import claim_folder, finish_folder
from common.files import atomic_write
from common.output import Progress
from common.synthetic.events import EVENT_SOUNDS, RICH, SAMPLE_RATE, EventSound, band_noise, render_event

DEFAULT_CLIPS = 4
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


def write_dcase2016(root: Path, clips: int | None = None, seed: int = 0) -> dict[str, int]:
    """Write 16000/{train,valid,test}/*.wav, labelvocabulary.csv and {train,valid,test}.json below `root`.

    Args:
        root: folder of the data set.
        clips: training recordings; default 4. There are half as many for test, a fourth for validation.
        seed: the same seed gives the same files.

    Returns:
        Number of recordings by split.
    """
    clips = DEFAULT_CLIPS if clips is None else clips
    made_from = {"task": "dcase2016_task2", "clips": clips, "seed": seed}
    numbers = {"train": clips, "valid": max(1, clips // 4), "test": max(2, clips // 2)}
    if claim_folder(root, made_from):
        return numbers
    with Progress("Making up", sum(numbers.values()), "recordings") as progress:
        for position, (split, count) in enumerate(numbers.items()):
            random = np.random.default_rng((seed, position))
            table = {}
            for index in range(count):
                name = f"{split}_{index + 1:03d}.wav"
                waveform, table[name] = _recording(random)
                write_wav(root / str(SAMPLE_RATE) / split / name, waveform, SAMPLE_RATE, subtype="PCM_16")
                progress.advance()
            with atomic_write(root / f"{split}.json") as file:
                json.dump(table, file, indent=1)
    with atomic_write(root / "labelvocabulary.csv") as file:
        file.write("\n".join(["idx,label", *(f"{index},{name}" for index, name in enumerate(SOUNDS))]) + "\n")
    finish_folder(root, made_from, numbers)
    return numbers


def _recording(random: Generator) -> tuple[Waveform, list[dict]]:
    samples = SECONDS * SAMPLE_RATE
    waveform = 0.02 * band_noise(samples, (80, 1200), random).astype(np.float32)
    waveform += np.float32(0.002) * random.standard_normal(samples, dtype=np.float32)
    events: list[dict] = []
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
        position += 0.5 * seconds  # the next one may begin before this one ends
