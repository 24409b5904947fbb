"""Sound events for made-up recordings: one recipe per class of DESED and MAESTRO, rendered and mixed at 16 kHz.

A recipe is a row of a table: a band of noise, a tone, their shares, and an envelope. The ear and a small network can
distinguish the classes; pitch, band, rhythm and level vary between events.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator

from common.data.audio import Waveform

SAMPLE_RATE = 16_000

Event = tuple[float, float, str]
"""Onset and offset in seconds, and the label."""


@dataclass(frozen=True)
class EventSound:
    """Sound of the events of a class.

    seconds: shortest and longest event. pitch: Hz of the tone, lowest and highest. harmonics: amplitudes.
    glide: octaves that the pitch moves over the event (or over each beat). band: Hz of the noise. noise: its share.
    shape: steady; pulses that last half of each period; hits that ring off. rate: periods per second.
    sway: depth of slow changes of level.
    """

    seconds: tuple[float, float]
    pitch: tuple[float, float] = (200, 300)
    harmonics: tuple[float, ...] = ()
    glide: float = 0.0
    band: tuple[float, float] = (100, 4000)
    noise: float = 0.0
    shape: Literal["steady", "pulses", "hits"] = "steady"
    rate: float = 4.0
    sway: float = 0.0


RICH = tuple(1 / order for order in range(1, 13))

EVENT_SOUNDS = {
    "Alarm_bell_ringing": EventSound((1, 8), (1200, 2400), (1, 0, 0.5), shape="pulses", rate=5),
    "Blender": EventSound((2, 8), (180, 320), RICH, band=(1500, 6000), noise=0.5, sway=0.2),
    "Cat": EventSound((0.5, 1.6), (500, 850), (1, 0.7, 0.5, 0.3), glide=-0.6),
    "Dishes": EventSound((0.3, 1.2), (3000, 5000), (1, 0.5), band=(3000, 7500), noise=0.2, shape="hits", rate=4),
    "Dog": EventSound((0.3, 1.6), (280, 480), RICH, glide=-0.8, band=(400, 2500), noise=0.3, shape="hits", rate=3),
    "Electric_shaver_toothbrush": EventSound((2, 9), (90, 140), (1,) * 16, sway=0.1),
    "Frying": EventSound((3, 10), band=(3500, 7800), noise=1, sway=0.3),
    "Running_water": EventSound((2, 10), band=(900, 3500), noise=1, sway=0.1),
    "Speech": EventSound((0.7, 4), (95, 240), RICH, glide=-0.3, band=(2500, 5000), noise=0.1, shape="pulses", rate=4.5),
    "Vacuum_cleaner": EventSound((4, 10), (420, 620), (1, 0.6, 0.4), band=(80, 2500), noise=0.6),
    "cutlery and dishes": EventSound(
        (1, 5), (2500, 4500), (1, 0.4), band=(2500, 7000), noise=0.2, shape="hits", rate=2
    ),
    "furniture dragging": EventSound(
        (1, 4), (140, 260), (1, 0.2, 0.9, 0.2, 0.8), band=(100, 1200), noise=0.5, sway=0.5
    ),
    "people talking": EventSound((4, 14), (110, 220), RICH, glide=0.2, noise=0.05, shape="pulses", rate=3.5, sway=0.4),
    "children voices": EventSound((2, 8), (380, 620), RICH, glide=0.5, shape="pulses", rate=3),
    "coffee machine": EventSound((3, 8), (60, 80), (1, 0.8, 0.6), band=(4500, 7800), noise=0.8, sway=0.4),
    "footsteps": EventSound((3, 10), band=(80, 700), noise=1, shape="hits", rate=1.9),
    "large_vehicle": EventSound((4, 12), (45, 75), RICH, band=(40, 400), noise=0.4, sway=0.3),
    "car": EventSound((3, 9), band=(300, 1500), noise=1, sway=0.6),
    "brakes_squeaking": EventSound((0.8, 3), (2000, 3000), (1, 0.6, 0.3), glide=0.1),
    "cash register beeping": EventSound((0.3, 2), (1700, 1900), (1,), shape="pulses", rate=1.5),
    "announcement": EventSound((3, 7), (160, 200), (0, 0, 1, 0.9, 0.8, 0.6, 0.5), shape="pulses", rate=4),
    "shopping cart": EventSound((2, 7), (900, 1300), (1, 0, 0.4), band=(1000, 5000), noise=0.7, shape="hits", rate=11),
    "metro leaving": EventSound((4, 9), (120, 160), (1, 0.5, 0.5), glide=1.5, band=(60, 900), noise=0.5),
    "metro approaching": EventSound((4, 9), (330, 420), (1, 0.5, 0.5), glide=-1.5, band=(60, 900), noise=0.5),
    "door opens/closes": EventSound((0.3, 1.2), band=(50, 350), noise=1, shape="hits", rate=1.2),
    "wind_blowing": EventSound((5, 15), band=(40, 250), noise=1, sway=0.9),
    "birds_singing": EventSound((2, 10), (3500, 5500), (1, 0.1), glide=0.5, shape="hits", rate=6),
}


def render_event(sound: EventSound, seconds: float, random: Generator) -> Waveform:
    """One event of `seconds`, with a root mean square of 1 and fades of 10 ms for exact borders."""
    samples = max(320, round(seconds * SAMPLE_RATE))
    time = np.arange(samples) / SAMPLE_RATE
    rate = sound.rate * random.uniform(0.85, 1.15)
    beat = time * rate % 1 if sound.shape != "steady" else time / seconds
    waveform = np.zeros(samples)
    if sound.harmonics:
        pitch = np.exp(random.uniform(*np.log(sound.pitch)))
        if sound.shape != "steady":  # each beat has a pitch of its own
            pitch = pitch * np.exp2(random.normal(0, 0.08, int(seconds * rate) + 2))[(time * rate).astype(int)]
        phase = 2 * np.pi * np.cumsum(pitch * np.exp2(sound.glide * beat)) / SAMPLE_RATE
        highest = np.max(pitch) * 2 ** max(0.0, sound.glide)
        audible = [k for k, level in enumerate(sound.harmonics, start=1) if level and (k * highest < 7800 or k == 1)]
        tone = sum((sound.harmonics[k - 1] * np.sin(k * phase) for k in audible), np.zeros(samples))
        waveform += (1 - sound.noise) * tone / (tone.std() + 1e-9)
    if sound.noise:
        noise = band_noise(samples, sound.band, random)
        waveform += sound.noise * noise / (noise.std() + 1e-9)
    if sound.shape == "pulses":
        waveform *= np.clip(np.sin(np.pi * np.minimum(beat / 0.7, 1)), 0, None) ** 0.4
    if sound.shape == "hits":
        waveform *= np.exp(-5 * beat)
    if sound.sway:
        knots = random.standard_normal(max(4, samples // 8000 + 3))
        waveform *= np.exp(sound.sway * np.interp(np.arange(samples), np.linspace(0, samples, len(knots)), knots))
    waveform *= np.minimum(1, np.minimum(np.arange(samples), np.arange(samples)[::-1]) / 160)
    return (waveform / (np.sqrt(np.mean(waveform**2)) + 1e-9)).astype(np.float32)


def band_noise(samples: int, band: tuple[float, float], random: Generator) -> Waveform:
    """Noise between two frequencies, 24 dB weaker an octave beyond them; standard deviation near 1."""
    length = 1 << (samples - 1).bit_length()
    hertz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    low, high = (edge * random.uniform(0.9, 1.1) for edge in band)
    gain = np.minimum(1, np.minimum((np.maximum(hertz, 1) / low) ** 4, (high / np.maximum(hertz, 1)) ** 4))
    spectrum = random.standard_normal((2, len(hertz)))
    noise = np.fft.irfft((spectrum[0] + 1j * spectrum[1]) * gain, length)[:samples]
    return (noise / (noise.std() + 1e-9)).astype(np.float32)


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


def mix(
    events: Iterable[Event],
    duration: float,
    sounds: Mapping[str, EventSound],
    random: Generator,
    *,
    levels: tuple[float, float],
    peaks: tuple[float, float],
    hiss: float | None = None,
    reverberant: bool = False,
) -> Waveform:
    """Rendered events over the low and dark noise of a room, `levels` (least, most) dB above it, with a random peak.

    `hiss` is the level of white noise in dB, None draws it; `reverberant` adds an early reflection.
    """
    room = (float(random.uniform(60, 200)), float(random.uniform(300, 1500)))
    waveform = band_noise(round(duration * SAMPLE_RATE), room, random)
    hiss = random.uniform(-25, -15) if hiss is None else hiss
    waveform += np.float32(10 ** (hiss / 20)) * random.standard_normal(len(waveform), dtype=np.float32)
    for onset, offset, label in events:
        event = render_event(sounds[label], offset - onset, random) * 10 ** (random.uniform(*levels) / 20)
        part = waveform[round(onset * SAMPLE_RATE) :][: len(event)]
        part += event[: len(part)].astype(np.float32)
    if reverberant:
        delay = int(random.integers(20, 120))
        waveform[delay:] += 0.5 * waveform[:-delay].copy()
    return (waveform * np.float32(random.uniform(*peaks)) / np.abs(waveform).max()).astype(np.float32)
