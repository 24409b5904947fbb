"""Mixtures of made-up events over a room's noise."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.random import Generator

from common.data.audio import Waveform
from common.synthetic.events import SAMPLE_RATE, EventSound, band_noise, render_event

Event = tuple[float, float, str]
"""Onset and offset in seconds, and the label."""


def room_noise(samples: int, random: Generator) -> Waveform:
    """Noise of a room, low and dark."""
    return band_noise(samples, (float(random.uniform(60, 200)), float(random.uniform(300, 1500))), random)


def place_events(
    labels: Iterable[str],
    duration: float,
    sounds: Mapping[str, EventSound],
    random: Generator,
    longest: float = np.inf,
    may_overlap: bool = False,
) -> list[Event]:
    """Events that fit into a clip, at most `longest` seconds each; equal labels overlap only with `may_overlap`."""
    events: list[Event] = []
    for label in labels:
        least, most = sounds[label].seconds
        seconds = min(float(random.uniform(least, min(most, longest))), duration - 0.1)
        onset = float(random.uniform(0, duration - seconds))
        same = [event for event in events if event[2] == label and not may_overlap]
        if all(onset > offset + 0.2 or onset + seconds < first - 0.2 for first, offset, _ in same):
            events.append((round(onset, 3), round(onset + seconds, 3), label))
    return sorted(events)


def add_events(
    waveform: Waveform,
    events: Iterable[Event],
    sounds: Mapping[str, EventSound],
    levels: tuple[float, float],
    random: Generator,
) -> None:
    """Add rendered events to a waveform, `levels` (least, most) dB above a root mean square of 1."""
    for onset, offset, label in events:
        event = render_event(sounds[label], offset - onset, random) * 10 ** (random.uniform(*levels) / 20)
        part = waveform[round(onset * SAMPLE_RATE) :][: len(event)]
        part += event[: len(part)].astype(np.float32)


def scale_to_random_peak(waveform: Waveform, peaks: tuple[float, float], random: Generator) -> Waveform:
    """The waveform with a peak between the two."""
    return (waveform * np.float32(random.uniform(*peaks)) / np.abs(waveform).max()).astype(np.float32)
