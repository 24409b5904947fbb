"""Sound sources of made-up acoustic scenes: coloured noise, tones, and events placed in time.

Every source is a function of (random generator, samples, character) at 44,100 Hz. `character`, 0..1, is constant at a
place: a tram keeps its pitch. The mixture sets the levels.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps

import numpy as np
import scipy.fft
import scipy.signal
from numpy.random import Generator
from numpy.typing import NDArray

from common.data.audio import Waveform

SAMPLE_RATE = 44_100
CYCLE = 8192  # entries of the table that holds one period of a tone
VOICES = 12
VOICE_SECONDS = 8

Source = Callable[[Generator, int, float], Waveform]


def coloured_noise(random: Generator, samples: int, points: Sequence[tuple[float, float]]) -> Waveform:
    """Noise with a spectrum through `points` (Hz, dB), linear over the logarithm of the frequency."""
    length = scipy.fft.next_fast_len(samples, real=True)
    gain = spectral_gain(length, points)
    spectrum = random.standard_normal(2 * len(gain), dtype=np.float32).view(np.complex64) * gain
    return scipy.fft.irfft(spectrum, length)[:samples] * np.float32(np.sqrt(length / 2))


def spectral_gain(length: int, points: Sequence[tuple[float, float]]) -> Waveform:
    """Amplitudes of the bins of a real FFT of `length` samples, through `points` (Hz, dB)."""
    hertz, decibel = zip(*points)
    return np.exp(np.interp(_log_frequencies(length), np.log(hertz), decibel) * (np.log(10) / 20)).astype(np.float32)


@lru_cache(maxsize=8)
def _log_frequencies(length: int) -> NDArray[np.float64]:
    return np.log(np.maximum(scipy.fft.rfftfreq(length, 1 / SAMPLE_RATE), 1))


def slow_curve(random: Generator, samples: int, hertz: float) -> Waveform:
    """A smooth random curve around 0, with standard deviation near 1 and about `hertz` turns a second."""
    count = max(4, int(samples / SAMPLE_RATE * hertz * 2) + 3)
    knots = random.standard_normal(count)
    return np.interp(np.arange(samples), np.linspace(0, samples, count), knots).astype(np.float32)


def decay(seconds: float, factor: float = 6.0) -> Waveform:
    """exp(-factor * t / seconds) over `seconds`."""
    return np.exp(-factor * np.linspace(0, 1, int(seconds * SAMPLE_RATE), dtype=np.float32))


def tone(hertz: NDArray | float, samples: int, harmonics: Sequence[float]) -> Waveform:
    """A sum of harmonics with the given amplitudes; `hertz` may be a curve over the samples."""
    phase = np.cumsum(np.broadcast_to(np.asarray(hertz, dtype=np.float64), samples)) / SAMPLE_RATE
    cycle = np.arange(CYCLE) * (2 * np.pi / CYCLE)
    table = np.zeros(CYCLE, dtype=np.float32)
    for order, amplitude in enumerate(harmonics, start=1):
        table += amplitude * np.sin(order * cycle).astype(np.float32)
    return table[(phase * CYCLE).astype(np.int64) % CYCLE]


def place(samples: int, times: Iterable[float], events: Iterable[Waveform]) -> Waveform:
    """Events at their times in seconds, cut at the end."""
    total = np.zeros(samples, dtype=np.float32)
    for time, event in zip(times, events):
        first = int(time * SAMPLE_RATE)
        last = min(first + len(event), samples)
        if 0 <= first < last:
            total[first:last] += event[: last - first]
    return total


def times_at_random(random: Generator, samples: int, per_second: float) -> list[float]:
    """Event times in seconds with the given mean rate."""
    duration = samples / SAMPLE_RATE
    return sorted(random.uniform(0, duration, random.poisson(per_second * duration)).tolist())


def at_random(per_second: float) -> Callable[[Callable[[Generator, float], Waveform]], Source]:
    """Turns a function of (random generator, character) that makes an event into a source of such events."""

    def as_source(make: Callable[[Generator, float], Waveform]) -> Source:
        @wraps(make)
        def source(random: Generator, samples: int, character: float) -> Waveform:
            times = times_at_random(random, samples, per_second)
            return place(samples, times, (make(random, character) for _ in times))

        return source

    return as_source


def ventilation(random: Generator, samples: int, character: float) -> Waveform:
    """Air conditioning of a hall: falling noise with mains hum."""
    noise = coloured_noise(random, samples, [(30, 0), (200 + 300 * character, -6), (2000, -26), (12000, -50)])
    hum = tone(50 + 8 * character, samples, [0.3, 0.8, 0.2, 0.3])
    return noise + 0.3 * np.float32(character) * hum * noise.std()


def rain(random: Generator, samples: int, character: float) -> Waveform:
    """Steady high noise with single drops."""
    noise = coloured_noise(random, samples, [(200, -24), (1500, -8), (6000 + 5000 * character, 0), (20000, -14)])
    times = times_at_random(random, samples, 12)
    drops = place(samples, times, (decay(0.01) * random.standard_normal(441, dtype=np.float32) for _ in times))
    return noise + 1.5 * noise.std() * drops


@dataclass(frozen=True)
class SwellingNoise:
    """Noise with a swaying level; points of its spectrum are Hz, Hz more at character 1, dB."""

    points: Sequence[tuple[float, float, float]]
    depth: float
    hertz: float

    def __call__(self, random: Generator, samples: int, character: float) -> Waveform:
        """(samples,)."""
        points = [(low + more * character, decibel) for low, more, decibel in self.points]
        noise = coloured_noise(random, samples, points)
        return noise * np.exp(self.depth * slow_curve(random, samples, self.hertz))


# Gusts at low frequencies.
wind = SwellingNoise([(20, 0, 0), (80, 80, -3), (500, 0, -30), (8000, 0, -60)], 0.8, 0.5)
# Rustling trees: high noise that swells.
leaves = SwellingNoise([(300, 0, -30), (2500, 2500, 0), (12000, 0, -12), (20000, 0, -30)], 0.7, 0.7)
# Falling water: broad noise with fast ripples.
fountain = SwellingNoise([(100, 0, -20), (700, 900, 0), (6000, 0, -6), (18000, 0, -24)], 0.35, 12)
# The hum of a city.
far_traffic = SwellingNoise([(30, 0, -6), (90, 60, 0), (800, 0, -15), (3000, 0, -34), (15000, 0, -60)], 0.3, 0.3)
# Wheels on rails: low noise and a broad hump that moves with the speed.
rolling_on_rails = SwellingNoise(
    [(30, 0, -4), (70, 0, 0), (175, 350, -10), (350, 700, -5), (1400, 2800, -26), (16000, 0, -55)], 0.4, 0.3
)


def cars(random: Generator, samples: int, character: float) -> Waveform:
    """Cars that pass: tyre noise that swells and fades."""

    def passing() -> Waveform:
        width, bright = random.uniform(0.5, 1.6), random.uniform(700, 1600)
        length = int(6 * width * SAMPLE_RATE)
        noise = coloured_noise(random, length, [(40, -6), (120, -2), (bright, 0), (4000, -16), (16000, -45)])
        return noise * np.hanning(length).astype(np.float32) ** 3

    per_second = 0.25 + 0.35 * character
    late = times_at_random(random, samples + 4 * SAMPLE_RATE, per_second)  # some start earlier
    total = place(samples + 4 * SAMPLE_RATE, late, (passing() for _ in late))
    return total[4 * SAMPLE_RATE :]


def diesel(random: Generator, samples: int, character: float) -> Waveform:
    """The engine of a bus, idling or pulling, and the shaking body."""
    firing = 24 + 18 * character + random.uniform(0, 14)
    pitch = firing * np.exp(0.12 * slow_curve(random, samples, 0.25))
    engine = tone(pitch, samples, [0.5, 1.0, 0.7, 0.6, 0.4, 0.5, 0.3, 0.3, 0.2, 0.2, 0.15, 0.1])
    body = coloured_noise(random, samples, [(25, 0), (150 + 100 * character, -8), (1200, -26), (8000, -50)])
    return engine + 0.9 * body / body.std() * np.exp(0.25 * slow_curve(random, samples, 1))


def electric_motor(random: Generator, samples: int, character: float) -> Waveform:
    """The whine of an electric drive that glides with the speed."""
    base = 180 + 500 * character
    pitch = base * np.exp(0.25 * slow_curve(random, samples, 0.2))
    return tone(pitch, samples, [1.0, 0.5, 0.25, 0.3]) * np.exp(0.4 * slow_curve(random, samples, 0.4))


def rail_joints(random: Generator, samples: int, character: float) -> Waveform:
    """Pairs of knocks in the rhythm of the speed."""
    period = random.uniform(0.5, 1.1) * (0.7 + 0.6 * character)
    starts = np.arange(random.uniform(0, period), samples / SAMPLE_RATE, period)
    ring = 140 + 160 * character

    def knock() -> Waveform:
        strike = 0.6 * random.standard_normal(3969).astype(np.float32)
        return (decay(0.09) * (tone(ring, 3969, [1.0, 0.4, 0.3]) + strike)).astype(np.float32)

    gap = 0.13 + 0.06 * character
    times = np.stack([starts, starts + gap], axis=1).ravel().tolist()
    return place(samples, times, (knock() for _ in times))


@at_random(0.2)
def brake_squeal(random: Generator, character: float) -> Waveform:
    """Squealing wheels or brakes: high tones that sway."""
    length = int(random.uniform(0.5, 2.0) * SAMPLE_RATE)
    pitch = (1200 + 2200 * character) * np.exp(0.05 * slow_curve(random, length, 4))
    return tone(pitch, length, [1.0, 0.4, 0.2]) * np.hanning(length).astype(np.float32)


@at_random(0.2)
def air_hiss(random: Generator, character: float) -> Waveform:
    """Compressed air of doors and brakes."""
    length = int(random.uniform(0.25, 0.8) * SAMPLE_RATE)
    noise = coloured_noise(random, length, [(500, -30), (3500 + 2500 * character, 0), (15000, -8)])
    return noise * decay(length / SAMPLE_RATE + 1e-4, 4)[:length]


def _resonances(formants: Sequence[float]) -> Waveform:
    time = np.arange(600) / SAMPLE_RATE
    parts = [
        level * np.exp(-np.pi * width * time) * np.sin(2 * np.pi * hertz * time)
        for hertz, width, level in zip(formants, (80, 110, 160), (1.0, 0.6, 0.35))
    ]
    return np.sum(parts, axis=0).astype(np.float32)


VOWELS = [
    _resonances(f)
    for f in ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))
]


@lru_cache(maxsize=1)
def voice_bank() -> list[Waveform]:
    """A dozen talkers, the same in every data set: voiced syllables with gliding pitch, and some hissing consonants."""
    random = np.random.default_rng(20_220_601)
    samples = VOICE_SECONDS * SAMPLE_RATE
    bank = []
    for number in range(VOICES):
        mean_pitch = 95 + 12 * number if number % 2 else 180 + 8 * number
        pitch = mean_pitch * np.exp(0.12 * slow_curve(random, samples, 2))
        source = (np.cumsum(pitch) / SAMPLE_RATE % 1).astype(np.float32) - 0.5
        voice, time = np.zeros(samples + 600, dtype=np.float32), 0.0
        while time < VOICE_SECONDS - 0.4:
            length = int(random.uniform(0.12, 0.28) * SAMPLE_RATE)
            first = int(time * SAMPLE_RATE)
            if random.random() < 0.25:
                syllable = 0.15 * coloured_noise(random, length, [(1500, -20), (5000, 0), (12000, -6)])
            else:
                vowel = VOWELS[random.integers(len(VOWELS))]
                syllable = scipy.signal.oaconvolve(source[first : first + length], vowel)[:length] * 0.1
            voice[first : first + length] += syllable * np.hanning(length).astype(np.float32)
            time += length / SAMPLE_RATE * random.uniform(0.8, 1.2) + (0.5 if random.random() < 0.08 else 0)
        bank.append(voice[:samples] / voice.std())
    return bank


def _voices(random: Generator, samples: int, count: int) -> Waveform:
    bank, total = voice_bank(), np.zeros(samples, dtype=np.float32)
    for _ in range(count):
        voice = bank[random.integers(len(bank))]
        shifted = np.resize(np.roll(voice, random.integers(len(voice))), samples)
        total += shifted * np.float32(random.lognormal(0, 0.6))
    return total


def few_voices(random: Generator, samples: int, character: float) -> Waveform:
    """One to three people who talk now and then."""
    talking = 1 / (1 + np.exp(-4 * slow_curve(random, samples, 0.4)))
    count = 1 + int(2.9 * character * random.random() + 0.5)
    return _voices(random, samples, count) * talking.astype(np.float32)


def crowd(random: Generator, samples: int, character: float) -> Waveform:
    """The babble of many."""
    return _voices(random, samples, 5 + int(4 * character)) * np.exp(0.2 * slow_curve(random, samples, 0.5))


def announcement(random: Generator, samples: int, character: float) -> Waveform:
    """A loudspeaker voice, with breaks."""
    voice = _voices(random, samples, 1)
    spectrum_limit = scipy.signal.firwin(255, [350, 3000 + 2500 * character], pass_zero=False, fs=SAMPLE_RATE)
    voice = scipy.signal.oaconvolve(voice, spectrum_limit.astype(np.float32), mode="same")
    start, length = random.uniform(-2, 7), random.uniform(2, 5)
    seconds = np.arange(samples) / SAMPLE_RATE
    return (voice * ((seconds > start) & (seconds < start + length))).astype(np.float32)


def steps(random: Generator, samples: int, character: float) -> Waveform:
    """One to four people walking."""
    total = np.zeros(samples, dtype=np.float32)
    for _ in range(random.integers(1, 5)):
        period, hardness = random.uniform(0.45, 0.6), random.uniform(0.5, 1.5) * (0.6 + character)
        times = np.arange(random.uniform(0, period), samples / SAMPLE_RATE, period)
        times = times + random.normal(0, 0.015, len(times))
        length = 2400
        noise = coloured_noise(random, length, [(80, -6), (300, 0), (1200 * hardness, -4), (6000, -22), (16000, -40)])
        step = noise * decay(length / SAMPLE_RATE, 9)[:length] * np.float32(random.lognormal(0, 0.5))
        total += place(samples, times.tolist(), (step * np.float32(random.uniform(0.7, 1.2)) for _ in times))
    return total


def suitcases(random: Generator, samples: int, character: float) -> Waveform:
    """Rolling wheels on a hard floor."""
    noise = coloured_noise(
        random, samples, [(100, -20), (500, -4), (1300 + 600 * character, 0), (5000, -14), (16000, -35)]
    )
    rattle = 1 + 0.7 * np.sign(np.sin(2 * np.pi * (16 + 10 * character) * np.arange(samples) / SAMPLE_RATE))
    presence = np.clip(slow_curve(random, samples, 0.3), 0, None)
    return (noise * rattle * presence).astype(np.float32)


def birds(random: Generator, samples: int, character: float) -> Waveform:
    """Chirps, each bird with its own register."""
    total = np.zeros(samples, dtype=np.float32)
    for _ in range(random.integers(1, 4)):
        register = 2300 + 3000 * character + random.uniform(-500, 1200)

        def chirp(register: float = register) -> Waveform:
            length = int(random.uniform(0.05, 0.18) * SAMPLE_RATE)
            sweep = np.linspace(random.uniform(0.85, 1.15), random.uniform(0.85, 1.15), length)
            return tone(register * sweep, length, [1.0, 0.15]) * np.hanning(length).astype(np.float32)

        times = [t + k * 0.16 for t in times_at_random(random, samples, 0.5) for k in range(random.integers(2, 6))]
        total += place(samples, times, (chirp() for _ in times)) * np.float32(random.lognormal(0, 0.5))
    return total


def music(random: Generator, samples: int, character: float) -> Waveform:
    """Chords out of a loudspeaker."""
    total = np.zeros(samples, dtype=np.float32)
    beat = random.uniform(0.35, 0.6)
    root = 110 * 2 ** (random.integers(0, 12) / 12)
    for index, start in enumerate(np.arange(0, samples / SAMPLE_RATE, beat)):
        degree = (0, 5, 7, 9)[(index // 4) % 4]
        for interval in (0, (4, 3)[index // 4 % 2], 7):
            length = int(beat * 1.6 * SAMPLE_RATE)
            pitch = root * 2 ** ((degree + interval + 12 * random.integers(0, 2)) / 12)
            note = tone(pitch, length, [1.0, 0.5 * character, 0.3, 0.15]) * decay(beat * 1.6 + 1e-4, 4)[:length]
            total += place(samples, [float(start)], [note])
    return total


def _strokes(pitches: Sequence[float], gap: float) -> Waveform:
    """One stroke of a bell after another."""
    length = int((0.5 + gap * len(pitches)) * SAMPLE_RATE)
    strokes = [tone(p, length, [1.0, 0.3, 0.2]) * decay(length / SAMPLE_RATE + 1e-4, 5)[:length] for p in pitches]
    return np.sum([place(length, [k * gap], [stroke]) for k, stroke in enumerate(strokes)], axis=0)


@at_random(0.2)
def door_chime(random: Generator, character: float) -> Waveform:
    """Two or three tones before doors close."""
    base = 600 + 500 * character
    return _strokes([base, base * 0.8, base * 0.8][: 2 + int(character * 1.99)], 0.35)


@at_random(0.2)
def warning_bell(random: Generator, character: float) -> Waveform:
    """The gong of a tram or the bell of a bicycle: a fast run of strokes."""
    return _strokes([1500 + 1300 * character] * 4, 0.12)


@at_random(0.6)
def beeps(random: Generator, character: float) -> Waveform:
    """Tills and ticket barriers."""
    length = 5000
    return tone(1800 + 1400 * character, length, [1.0, 0.1]) * np.hanning(length).astype(np.float32) ** 0.3


@at_random(1.5)
def dishes(random: Generator, character: float) -> Waveform:
    """Cups and cutlery."""
    length = 4410
    pitch = 2500 + 2500 * character * random.random() + random.uniform(0, 2500)
    return tone(pitch, length, [1.0, 0.0, 0.4]) * decay(0.1, 7)


@at_random(0.12)
def horn(random: Generator, character: float) -> Waveform:
    """A car's horn."""
    length = int(random.uniform(0.2, 0.7) * SAMPLE_RATE)
    return tone(330 + 150 * character, length, [0.6, 1.0, 0.8, 0.6, 0.4, 0.3]) * np.hanning(length) ** np.float32(0.2)
