"""Made-up recording devices: frequency response, dynamic range compression and noise floor.

Named as in TAU Urban Acoustic Scenes: a is a good recorder, b and c are phones, s1..s6 are "simulated" ones, of which
s4..s6 occur in the test split only; d and s7..s10 occur in evaluation sets only.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy.fft
import scipy.signal
from numpy.random import Generator

from common.data.audio import Waveform

SAMPLE_RATE = 44_100
TAPS = 1024


@dataclass(frozen=True)
class RecordingDevice:
    """How a device colours sound.

    Args:
        response: points (Hz, dB) of its frequency response.
        threshold: level in dB above which it compresses.
        ratio: of the compression; 1 is none.
        noise: level of its noise floor in dB.
    """

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
    """What a device makes of the sound at its place: (samples,) to (samples,), below 1."""
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
    """Turn down what is above the threshold, by the level of the last 10 to 100 ms."""
    if ratio == 1:
        return waveform
    block = SAMPLE_RATE // 100
    power = np.mean(waveform[: len(waveform) // block * block].reshape(-1, block) ** 2, axis=1) + 1e-12
    smooth = scipy.signal.lfilter([0.2], [1, -0.8], power, zi=[0.8 * power[:20].mean()])[0]
    level = 10 * np.log10(smooth)
    gain = -np.maximum(level - threshold, 0) * (1 - 1 / ratio)
    centres = (np.arange(len(gain)) + 0.5) * block
    return waveform * 10 ** (np.interp(np.arange(len(waveform)), centres, gain) / 20).astype(np.float32)
