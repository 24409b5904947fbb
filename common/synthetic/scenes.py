"""Made-up acoustic scenes: which sources are heard where, the places, their rooms, and a recording of ten seconds.

Similar scenes share sources (metro, tram and bus; square, pedestrian street and traffic street; airport, mall and
station), and places of one scene differ in what is heard, how loud, in colour and in room.
A second tells something, but not all.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.random import Generator

from common.data.audio import Waveform
from common.synthetic import sounds as sources

SAMPLE_RATE = sources.SAMPLE_RATE
SECONDS = 10

# Share of the places where a source is heard, and its level in dB there.
Mix = dict[str, tuple[float, float]]
SCENES: dict[str, Mix] = {
    "airport": {
        "ventilation": (0.9, -4), "crowd": (0.9, -4), "suitcases": (0.9, -3), "announcement": (0.6, -1),
        "steps": (0.7, -8), "dishes": (0.2, -14), "beeps": (0.3, -14), "music": (0.1, -10),
    },
    "bus": {
        "diesel": (0.95, 0), "far_traffic": (0.9, -3), "few_voices": (0.7, -8), "air_hiss": (0.7, -6),
        "door_chime": (0.4, -10), "announcement": (0.3, -6), "brake_squeal": (0.3, -12), "cars": (0.4, -10),
        "electric_motor": (0.15, -10),
    },
    "metro": {
        "rolling_on_rails": (1.0, 0), "electric_motor": (0.6, -10), "rail_joints": (0.7, -6), "few_voices": (0.7, -9),
        "door_chime": (0.5, -9), "announcement": (0.4, -6), "brake_squeal": (0.5, -10), "ventilation": (0.6, -6),
    },
    "metro_station": {
        "ventilation": (0.9, -3), "crowd": (0.7, -8), "rolling_on_rails": (0.9, -3), "announcement": (0.5, -3),
        "steps": (0.9, -6), "door_chime": (0.4, -9), "brake_squeal": (0.5, -9), "beeps": (0.3, -13),
        "suitcases": (0.2, -9),
    },
    "park": {
        "birds": (0.9, -5), "wind": (0.7, -5), "leaves": (0.9, -4), "far_traffic": (0.9, -5), "steps": (0.5, -12),
        "few_voices": (0.5, -12), "rain": (0.15, -6), "cars": (0.15, -14), "fountain": (0.1, -8),
    },
    "public_square": {
        "crowd": (0.7, -7), "few_voices": (0.5, -8), "steps": (0.7, -9), "fountain": (0.4, -5),
        "far_traffic": (0.95, -3), "music": (0.25, -8), "birds": (0.4, -11), "wind": (0.4, -6), "cars": (0.4, -9),
        "warning_bell": (0.2, -12),
    },
    "shopping_mall": {
        "crowd": (0.9, -5), "music": (0.9, -5), "ventilation": (0.9, -4), "steps": (0.7, -9), "dishes": (0.5, -12),
        "beeps": (0.5, -12), "announcement": (0.15, -4), "suitcases": (0.1, -9),
    },
    "street_pedestrian": {
        "steps": (0.95, -5), "crowd": (0.8, -6), "few_voices": (0.6, -7), "far_traffic": (0.9, -4), "music": (0.3, -9),
        "birds": (0.3, -12), "cars": (0.35, -9), "wind": (0.3, -7), "warning_bell": (0.25, -12), "dishes": (0.2, -14),
        "suitcases": (0.15, -10),
    },
    "street_traffic": {
        "cars": (1.0, 0), "far_traffic": (1.0, -3), "horn": (0.3, -9), "few_voices": (0.3, -12), "steps": (0.4, -12),
        "wind": (0.3, -7), "rain": (0.2, -8), "diesel": (0.4, -8), "birds": (0.2, -13), "brake_squeal": (0.2, -13),
    },
    "tram": {
        "rolling_on_rails": (1.0, -2), "electric_motor": (0.8, -7), "rail_joints": (0.5, -8), "warning_bell": (0.5, -9),
        "brake_squeal": (0.5, -8), "door_chime": (0.3, -10), "few_voices": (0.8, -7), "announcement": (0.4, -7),
        "cars": (0.3, -10), "far_traffic": (0.5, -6),
    },
}  # fmt: skip
# Seconds of reverberation and the share of it in the sound, least and most.
# Where a source has another character than elsewhere (0..1 otherwise).
CHARACTERS = {
    ("metro", "rolling_on_rails"): (0.0, 0.6), ("tram", "rolling_on_rails"): (0.4, 1.0),
    ("metro", "electric_motor"): (0.0, 0.6), ("tram", "electric_motor"): (0.3, 1.0),
    ("tram", "warning_bell"): (0.0, 0.4), ("street_pedestrian", "warning_bell"): (0.5, 1.0),
    ("airport", "crowd"): (0.0, 0.5), ("shopping_mall", "crowd"): (0.5, 1.0), ("street_traffic", "cars"): (0.4, 1.0),
    ("metro_station", "ventilation"): (0.0, 0.5), ("shopping_mall", "ventilation"): (0.4, 1.0),
}  # fmt: skip
ROOMS = {"hall": ((0.8, 2.2), (0.3, 0.6)), "vehicle": ((0.08, 0.25), (0.2, 0.4)), "outdoors": ((0.1, 0.5), (0.05, 0.2))}
ROOM_OF = {
    "airport": "hall", "bus": "vehicle", "metro": "vehicle", "metro_station": "hall", "park": "outdoors",
    "public_square": "outdoors", "shopping_mall": "hall", "street_pedestrian": "outdoors", "street_traffic": "outdoors",
    "tram": "vehicle",
}  # fmt: skip
PLACE_LEVEL_SPREAD = 2.0
RECORDING_LEVEL_SPREAD = 1.5
COLOUR_SPREAD = 2.0
COLOUR_BANDS = (60, 200, 600, 1800, 5000, 14000)


@dataclass(frozen=True)
class Place:
    """Where recordings are made: what is heard there at which level in dB, each source's character, colour and room."""

    scene: str
    levels: dict[str, float]
    characters: dict[str, float]
    colour: tuple[tuple[float, float], ...]
    loudness: float
    reverberation: float
    wetness: float


def draw_place(random: Generator, scene: str) -> Place:
    """A place of a scene."""
    mix = SCENES[scene]
    heard = [name for name, (share, _) in mix.items() if random.random() < share] or [next(iter(mix))]
    levels = {name: mix[name][1] + random.normal(0, PLACE_LEVEL_SPREAD) for name in heard}
    tilt = random.normal(0, COLOUR_SPREAD)
    steps = np.linspace(-1, 1, len(COLOUR_BANDS)) * tilt + random.normal(0, COLOUR_SPREAD, len(COLOUR_BANDS))
    seconds, wet = ROOMS[ROOM_OF[scene]]
    return Place(
        scene,
        levels,
        {name: float(random.uniform(*CHARACTERS.get((scene, name), (0.0, 1.0)))) for name in heard},
        tuple(zip(COLOUR_BANDS, steps.tolist())),
        float(random.normal(-30, 3)),
        float(random.uniform(*seconds)),
        float(random.uniform(*wet)),
    )


def record(random: Generator, place: Place) -> Waveform:
    """Ten seconds at a place, (441000,): its sources at the levels of the moment, in its room, with its colour."""
    samples = SECONDS * SAMPLE_RATE
    mixture = np.zeros(samples, dtype=np.float32)
    for name, level in place.levels.items():
        source = getattr(sources, name)(random, samples, place.characters[name])
        loudest = np.sqrt(np.mean(source.reshape(SECONDS, -1) ** 2, axis=1).max())
        decibel = level + random.normal(0, RECORDING_LEVEL_SPREAD)
        if loudest > 0:  # no event may have fallen into these ten seconds
            mixture += source * np.float32(10 ** (decibel / 20) / loudest)
    mixture = _in_room(random, mixture, place)
    gain = 10 ** ((place.loudness + random.normal(0, 1.5)) / 20) / max(float(mixture.std()), 1e-9)
    mixture *= np.float32(gain)
    return mixture * np.float32(min(1, 0.5 / float(np.abs(mixture).max())))


def _in_room(random: Generator, waveform: Waveform, place: Place) -> Waveform:
    """Reverberation as decaying noise, and the colour of the place, in one multiplication of spectra."""
    tail_samples = int(place.reverberation * SAMPLE_RATE)
    tail = random.standard_normal(tail_samples, dtype=np.float32)
    tail *= sources.decay(place.reverberation + 1e-4)[:tail_samples]
    tail *= np.float32(place.wetness) / np.linalg.norm(tail)
    tail[0] += np.float32(1 - place.wetness)
    length = scipy.fft.next_fast_len(len(waveform) + tail_samples, real=True)
    spectrum = scipy.fft.rfft(waveform, length) * scipy.fft.rfft(tail, length)
    spectrum *= sources.spectral_gain(length, place.colour)
    return scipy.fft.irfft(spectrum, length)[: len(waveform)]
