"""Made-up acoustic scenes: their sound sources, places and rooms, recordings of ten seconds, recording devices.

Similar scenes share sources (metro, tram and bus; square, pedestrian street and traffic street; airport, mall and
station). Places of one scene differ in sources, levels, colour and room. One second identifies a scene only in part.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy.fft
import scipy.signal
from numpy.random import Generator

from common.data.audio import Waveform
from common.synthetic import sounds as sources

SAMPLE_RATE = sources.SAMPLE_RATE
SECONDS = 10

# Share of the places with a source, and its level in dB there.
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
# Characters of a source in a scene (0..1 otherwise).
CHARACTERS = {
    ("metro", "rolling_on_rails"): (0.0, 0.6), ("tram", "rolling_on_rails"): (0.4, 1.0),
    ("metro", "electric_motor"): (0.0, 0.6), ("tram", "electric_motor"): (0.3, 1.0),
    ("tram", "warning_bell"): (0.0, 0.4), ("street_pedestrian", "warning_bell"): (0.5, 1.0),
    ("airport", "crowd"): (0.0, 0.5), ("shopping_mall", "crowd"): (0.5, 1.0), ("street_traffic", "cars"): (0.4, 1.0),
    ("metro_station", "ventilation"): (0.0, 0.5), ("shopping_mall", "ventilation"): (0.4, 1.0),
}  # fmt: skip
# Seconds of reverberation and its share of the sound, least and most.
ROOMS = {"hall": ((0.8, 2.2), (0.3, 0.6)), "vehicle": ((0.08, 0.25), (0.2, 0.4)), "outdoors": ((0.1, 0.5), (0.05, 0.2))}
ROOM_OF = {
    "airport": "hall", "bus": "vehicle", "metro": "vehicle", "metro_station": "hall", "park": "outdoors",
    "public_square": "outdoors", "shopping_mall": "hall", "street_pedestrian": "outdoors", "street_traffic": "outdoors",
    "tram": "vehicle",
}  # fmt: skip
PLACE_LEVEL_SPREAD = 2.0
RECORDING_LEVEL_SPREAD = 1.5
COLOUR_SPREAD = 2.0
TAPS = 1024  # of a device's impulse response
COLOUR_BANDS = (60, 200, 600, 1800, 5000, 14000)


@dataclass(frozen=True)
class Place:
    """Place of recordings: level in dB and character of each of its sources, colour and room."""

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
        if loudest > 0:  # these ten seconds may have no event
            mixture += source * np.float32(10 ** (decibel / 20) / loudest)
    mixture = _in_room(random, mixture, place)
    gain = 10 ** ((place.loudness + random.normal(0, 1.5)) / 20) / max(float(mixture.std()), 1e-9)
    mixture *= np.float32(gain)
    return mixture * np.float32(min(1, 0.5 / float(np.abs(mixture).max())))


def _in_room(random: Generator, waveform: Waveform, place: Place) -> Waveform:
    """Reverberation (decaying noise) and the colour of the place, in one multiplication of spectra."""
    tail_samples = int(place.reverberation * SAMPLE_RATE)
    tail = random.standard_normal(tail_samples, dtype=np.float32)
    tail *= sources.decay(place.reverberation + 1e-4)[:tail_samples]
    tail *= np.float32(place.wetness) / np.linalg.norm(tail)
    tail[0] += np.float32(1 - place.wetness)
    length = scipy.fft.next_fast_len(len(waveform) + tail_samples, real=True)
    spectrum = scipy.fft.rfft(waveform, length) * scipy.fft.rfft(tail, length)
    spectrum *= sources.spectral_gain(length, place.colour)
    return scipy.fft.irfft(spectrum, length)[: len(waveform)]


@dataclass(frozen=True)
class RecordingDevice:
    """Sound of a recording device: frequency response (Hz, dB), compression above a level in dB, noise floor in dB."""

    response: tuple[tuple[float, float], ...]
    threshold: float = 0.0
    ratio: float = 1.0
    noise: float = -90.0


DEVICES = {
    "a": RecordingDevice(((20, 0), (20000, 0)), noise=-85),
    "b": RecordingDevice(((60, -14), (150, -2), (900, 0), (2800, 4), (9000, 0), (16000, -12)), -32, 2, -72),
    "c": RecordingDevice(((50, -10), (250, 2), (1500, -1), (5000, 3), (12000, -4), (18000, -16)), -34, 1.7, -75),
    "s1": RecordingDevice(((60, -8), (300, 3), (1000, -3), (3500, 5), (8000, -3), (16000, -10)), -35, 2.5, -78),
    "s2": RecordingDevice(((60, 3), (200, 4), (700, -4), (2000, 1), (6000, -6), (14000, -14)), -33, 2, -76),
    "s3": RecordingDevice(((80, -12), (400, -3), (1600, 4), (4000, 0), (10000, 4), (17000, -6)), -36, 3, -74),
    "s4": RecordingDevice(
        ((80, -12), (300, -4), (1200, 4), (2500, -3), (5000, 1), (9000, -9), (16000, -16)), -34, 3, -74
    ),
    "s5": RecordingDevice(((50, 4), (150, 3), (500, -4), (1800, 3), (4500, -6), (12000, -9)), -37, 2.5, -73),
    "s6": RecordingDevice(((100, -13), (500, -5), (2000, 0), (4000, 6), (9000, 1), (15000, -11)), -36, 3.5, -72),
    "d": RecordingDevice(((60, -10), (200, 0), (1200, 2), (4000, -2), (9000, 3), (15000, -14)), -34, 2.2, -73),
    "s7": RecordingDevice(((60, -6), (250, -5), (900, 5), (3000, -4), (7000, 4), (16000, -12)), -36, 2.5, -72),
    "s8": RecordingDevice(((70, 4), (400, -5), (1500, -2), (3000, 6), (8000, -8), (14000, -18)), -37, 3, -70),
    "s9": RecordingDevice(((90, -16), (300, 4), (800, -5), (2200, 4), (6000, -2), (12000, -12)), -35, 2, -69),
    "s10": RecordingDevice(((60, -4), (200, -8), (700, 3), (2500, -5), (5000, 6), (13000, -8)), -38, 3.5, -71),
}


def record_with(random: Generator, waveform: Waveform, device: str) -> Waveform:
    """A device's recording of a sound: (samples,) to (samples,), below 1."""
    properties = DEVICES[device]
    coloured = scipy.signal.oaconvolve(waveform, _impulse_response(device))[: len(waveform)]
    coloured = _compress(coloured, properties.threshold, properties.ratio)
    coloured += random.standard_normal(len(waveform), dtype=np.float32) * np.float32(10 ** (properties.noise / 20))
    return np.clip(coloured, -0.999, 0.999).astype(np.float32)


@cache
def _impulse_response(device: str) -> Waveform:
    """The response with minimum phase, by the folded cepstrum."""
    length = 8 * TAPS
    frequencies = np.maximum(np.abs(scipy.fft.fftfreq(length, 1 / SAMPLE_RATE)), 1)
    hertz, decibel = zip(*DEVICES[device].response)
    log_magnitude = np.interp(np.log(frequencies), np.log(hertz), decibel) * np.log(10) / 20
    cepstrum = scipy.fft.ifft(log_magnitude).real
    cepstrum[1 : length // 2] *= 2
    cepstrum[length // 2 + 1 :] = 0
    response = scipy.fft.ifft(np.exp(scipy.fft.fft(cepstrum))).real[:TAPS]
    return response.astype(np.float32)


def _compress(waveform: Waveform, threshold: float, ratio: float) -> Waveform:
    """Reduce levels above the threshold; a level is measured over the last 10 to 100 ms."""
    if ratio == 1:
        return waveform
    block = SAMPLE_RATE // 100
    power = np.mean(waveform[: len(waveform) // block * block].reshape(-1, block) ** 2, axis=1) + 1e-12
    smooth = scipy.signal.lfilter([0.2], [1, -0.8], power, zi=[0.8 * power[:20].mean()])[0]
    level = 10 * np.log10(smooth)
    gain = -np.maximum(level - threshold, 0) * (1 - 1 / ratio)
    centres = (np.arange(len(gain)) + 0.5) * block
    return waveform * 10 ** (np.interp(np.arange(len(waveform)), centres, gain) / 20).astype(np.float32)
