"""A made-up Clotho: clips of one to three layered sounds, with captions that say what can be heard.

Captions name one sound or all of them, so several clips fit many captions; estimated correspondences can find them.
The layout is Zenodo 4783391, unpacked beside its tables; clips last 3 to 8 s (Clotho: 15 to 30 s).

    clotho_captions_{split}.csv clotho_metadata_{split}.csv {split}/*.wav     44.1 kHz, mono
    relevance_evaluation.csv            clips that truly fit each evaluation caption, in the form of DCASE 2025
    retrieval_captions.csv test/*.wav   the challenge's evaluation set
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import signal

from common.synthetic.layout import DataSet, write_clip, write_rows

SAMPLE_RATE = 44100
SPLITS = {"development": 4, "validation": 1, "evaluation": 1}  # shares of the clips
Array = np.ndarray


@dataclass(frozen=True)
class Sound:
    """A sound: how it is rendered, and phrases that describe it."""

    name: str
    render: Callable[[int, np.random.Generator, float], Array]  # samples, generator, pace (0.5 slow .. 2 fast)
    phrases: tuple[str, ...]
    rhythmic: bool  # whether slow and fast can be distinguished


def _noise(samples: int, rng: np.random.Generator, low: float, high: float) -> Array:
    sos = signal.butter(2, [low, high], "bandpass", fs=SAMPLE_RATE, output="sos")
    return signal.sosfilt(sos, rng.standard_normal(samples))


def _tone(frequency: Array, harmonics: tuple[float, ...]) -> Array:
    phase = 2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE
    return sum((level * np.sin((k + 1) * phase) for k, level in enumerate(harmonics)), np.zeros_like(phase))


def _repeat(
    samples: int, rng: np.random.Generator, interval: float, jitter: float, event: Callable[[], Array]
) -> Array:
    """Repeated events, every `interval` seconds with a relative deviation up to `jitter`."""
    out = np.zeros(samples)
    time = rng.uniform(0, interval)
    while (start := int(time * SAMPLE_RATE)) < samples:
        piece = event()[: samples - start]
        out[start : start + len(piece)] += piece
        time += interval * (1 + jitter * rng.uniform(-1, 1))
    return out


def _decay(length: int, rate: float) -> Array:
    return np.exp(-rate * np.arange(length) / SAMPLE_RATE)


def _bark(samples: int, rng: np.random.Generator, pace: float) -> Array:
    pitch = rng.uniform(350, 650)

    def event() -> Array:
        length = int(rng.uniform(0.12, 0.2) * SAMPLE_RATE)
        bend = pitch * np.linspace(1.3, 0.8, length)
        return (_tone(bend, (1, 0.8, 0.6, 0.4)) + 0.5 * rng.standard_normal(length)) * np.hanning(length)

    return _repeat(samples, rng, 0.8 / pace, 0.3, event)


def _chirp(samples: int, rng: np.random.Generator, pace: float) -> Array:
    pitch = rng.uniform(2500, 4500)

    def event() -> Array:
        length = int(rng.uniform(0.06, 0.14) * SAMPLE_RATE)
        sweep = pitch * (1 + 0.25 * np.sin(np.linspace(0, rng.uniform(2, 7), length)))
        return _tone(sweep, (1, 0.1)) * np.hanning(length)

    return _repeat(samples, rng, 0.35 / pace, 0.5, event)


def _rain(samples: int, rng: np.random.Generator, pace: float) -> Array:
    drops = _repeat(samples, rng, 0.03 / pace, 0.9, lambda: rng.standard_normal(220) * np.hanning(220))
    return 0.6 * _noise(samples, rng, 1000, 12000) + 0.4 * drops


def _engine(samples: int, rng: np.random.Generator, pace: float) -> Array:
    frequency = rng.uniform(45, 80) * pace * (1 + 0.03 * np.sin(np.linspace(0, samples / SAMPLE_RATE * 3, samples)))
    return _tone(frequency, (1, 0.8, 0.7, 0.5, 0.4, 0.3, 0.2)) + 0.2 * _noise(samples, rng, 60, 900)


def _siren(samples: int, rng: np.random.Generator, pace: float) -> Array:
    time = np.arange(samples) / SAMPLE_RATE
    frequency = 900 + 350 * np.sin(2 * np.pi * 0.5 * pace * time + rng.uniform(0, 6))
    return _tone(frequency, (1, 0.4, 0.25))


def _bell(samples: int, rng: np.random.Generator, pace: float) -> Array:
    pitch = rng.uniform(500, 1100)
    length, ratios = int(1.5 * SAMPLE_RATE), (1, 2.0, 2.76, 5.4)
    partials = sum(_tone(np.full(length, pitch * ratio), (1 / (k + 1),)) for k, ratio in enumerate(ratios))
    return _repeat(samples, rng, 1.2 / pace, 0.1, lambda: _decay(length, 3) * partials)


def _steps(samples: int, rng: np.random.Generator, pace: float) -> Array:
    length = int(0.09 * SAMPLE_RATE)
    return _repeat(samples, rng, 0.6 / pace, 0.08, lambda: _noise(length, rng, 80, 1400) * _decay(length, 45))


def _drip(samples: int, rng: np.random.Generator, pace: float) -> Array:
    envelope = _decay(int(0.08 * SAMPLE_RATE), 60)
    bend = np.linspace(0.7, 1.4, len(envelope))
    return _repeat(samples, rng, 0.7 / pace, 0.4, lambda: envelope * _tone(rng.uniform(1200, 2000) * bend, (1,)))


def _wind(samples: int, rng: np.random.Generator, pace: float) -> Array:
    gusts = np.interp(np.arange(samples), np.linspace(0, samples, 12), rng.uniform(0.1, 1, 12))
    return _noise(samples, rng, 120, 700) * gusts


def _beep(samples: int, rng: np.random.Generator, pace: float) -> Array:
    pitch = rng.uniform(1500, 2400)
    length = int(0.15 * SAMPLE_RATE)
    return _repeat(
        samples, rng, 0.5 / pace, 0.0, lambda: _tone(np.full(length, pitch), (1, 0, 0.3)) * np.hanning(length) ** 0.3
    )


def _clock(samples: int, rng: np.random.Generator, pace: float) -> Array:
    return _repeat(samples, rng, 0.5 / pace, 0.0, lambda: _noise(900, rng, 2500, 6000) * _decay(900, 300))


def _voices(samples: int, rng: np.random.Generator, pace: float) -> Array:
    def event() -> Array:
        length = int(rng.uniform(0.12, 0.3) * SAMPLE_RATE)
        voiced = _tone(rng.uniform(110, 240) * np.linspace(1.1, 0.9, length), tuple(1 / k for k in range(1, 18)))
        low = rng.uniform(350, 800)
        sos = signal.butter(2, [low, low * rng.uniform(1.8, 3)], "bandpass", fs=SAMPLE_RATE, output="sos")
        return signal.sosfilt(sos, voiced) * np.hanning(length)

    return _repeat(samples, rng, 0.22 / pace, 0.5, event)


SOUNDS = (
    Sound("dog", _bark, ("a dog barks", "a dog is barking", "barking of a dog", "a hound woofs"), True),
    Sound("birds", _chirp, ("birds chirp", "birds are singing", "a bird tweets", "chirping of birds"), True),
    Sound("rain", _rain, ("rain falls", "it is raining", "rain patters", "a heavy shower pours down"), False),
    Sound("engine", _engine, ("an engine runs", "a motor is idling", "an engine hums", "a machine rumbles"), False),
    Sound("siren", _siren, ("a siren wails", "an alarm siren is sounding", "an emergency siren rises and falls"), True),
    Sound("bell", _bell, ("a bell rings", "a bell is tolling", "chimes of a bell", "a church bell sounds"), True),
    Sound("steps", _steps, ("someone walks", "footsteps are heard", "a person is walking on a hard floor"), True),
    Sound("drip", _drip, ("water drips", "drops of water fall", "a tap is dripping", "dripping of water"), True),
    Sound("wind", _wind, ("the wind blows", "wind is howling", "gusts of wind", "a breeze rushes past"), False),
    Sound("beep", _beep, ("a device beeps", "an electronic beeping", "a machine is beeping"), True),
    Sound("clock", _clock, ("a clock ticks", "a clock is ticking", "ticking of a clock"), True),
    Sound("voices", _voices, ("people talk", "people are speaking", "a conversation of several people"), False),
)  # fmt: skip


def count(clips: int) -> dict[str, int]:
    """Clips of each split."""
    counts = {split: max(2, clips * share // sum(SPLITS.values())) for split, share in SPLITS.items()}
    return {**counts, "test": counts["evaluation"]}


def write(root: Path, clips: int, counts: dict[str, int], seed: int) -> None:
    """Write the clips and tables of all splits."""
    rng = np.random.default_rng((seed, 8))
    number = 0
    for split in SPLITS:
        scenes = [_draw_scene(rng) for _ in range(counts[split])]
        sounds = (" ".join(layer.sound.name for layer in scene) for scene in scenes)
        names = [f"{name} {index:04d}.wav" for index, name in enumerate(sounds, start=number)]
        if split != "evaluation":
            names[0] = f" {names[0].removesuffix('.wav')}, take (1).wav"  # as in Clotho: a leading blank, commas
        number += counts[split]
        for name, scene in zip(names, scenes, strict=True):
            write_clip(root / split / name, _render(scene, rng), SAMPLE_RATE)
        captions = [_captions(scene, rng) for scene in scenes]
        _write_tables(root, split, names, captions, number)
        if split == "evaluation":
            relevant: dict[str, str] = {}  # clips that hold all sounds of a caption, at its pace and distance
            for caption in (caption for five in captions for caption in five):
                fitting = [name for name, scene in zip(names, scenes, strict=True) if caption.fits(scene)]
                relevant.setdefault(caption.text, repr(fitting))
            rows = [("query", "audio_filenames"), *relevant.items()]
            write_rows(root / "relevance_evaluation.csv", rows, ",")
    queries = []
    for index in range(counts["test"]):
        scene = _draw_scene(rng)
        write_clip(root / "test" / f"{index:04d}.wav", _render(scene, rng), SAMPLE_RATE)
        queries.append((_captions(scene, rng)[0].text,))
    write_rows(root / "retrieval_captions.csv", [("caption",), *queries], ",")


@dataclass(frozen=True)
class _Layer:
    sound: Sound
    pace: str  # "slowly", "quickly" or ""
    far: bool


def _draw_scene(rng: np.random.Generator) -> tuple[_Layer, ...]:
    count = rng.choice([1, 2, 3], p=[0.25, 0.55, 0.2])
    layers: list[_Layer] = []
    for index in rng.choice(len(SOUNDS), size=count, replace=False):
        sound = SOUNDS[index]
        pace = rng.choice(["slowly", "quickly", ""]) if sound.rhythmic else ""
        layers.append(_Layer(sound, str(pace), bool(len(layers) > 0 and rng.random() < 0.5)))
    return tuple(layers)


def _render(scene: tuple[_Layer, ...], rng: np.random.Generator) -> Array:
    samples = int(rng.uniform(3, 8) * SAMPLE_RATE)
    mixture = 0.01 * rng.standard_normal(samples)
    for layer in scene:
        pace = {"slowly": 0.6, "quickly": 1.8, "": 1.0}[layer.pace]
        sound = layer.sound.render(samples, rng, pace)
        sound = sound / (np.sqrt(np.mean(sound**2)) + 1e-9)
        mixture += sound * (0.25 if layer.far else 1.0)
    return (0.5 * mixture / np.abs(mixture).max()).astype(np.float32)


@dataclass(frozen=True)
class _Caption:
    text: str
    named: tuple[_Layer, ...]
    detailed: bool  # whether it names pace and distance

    def fits(self, scene: tuple[_Layer, ...]) -> bool:
        if self.detailed:
            return set(self.named) <= set(scene)
        return {layer.sound.name for layer in self.named} <= {layer.sound.name for layer in scene}


def _captions(scene: tuple[_Layer, ...], rng: np.random.Generator) -> list[_Caption]:
    """Five captions: one names all details, two all sounds, two a single sound; one has commas and quotes."""
    captions = []
    for number in range(5):
        detailed = number == 0
        named = scene if number < 3 else (scene[int(rng.integers(len(scene)))],)
        parts = []
        for layer in (named[i] for i in rng.permutation(len(named))):
            details = (layer.pace, "in the distance" if layer.far else "") if detailed else ()
            parts.append(" ".join(part for part in (str(rng.choice(layer.sound.phrases)), *details) if part))
        joined = str(rng.choice([" while ", " and ", " as "])).join(parts)
        text = joined[0].upper() + joined[1:] + "."
        if number == 4 and len(scene) == 1:
            text = f'In this clip, "{joined}", nothing else stands out.'
        captions.append(_Caption(text, named, detailed))
    return captions


def _write_tables(root: Path, split: str, names: list[str], captions: list[list[_Caption]], first_id: int) -> None:
    line_end = "\n" if split == "evaluation" else "\r\n"  # as Clotho's own files
    header = ("file_name", *(f"caption_{i}" for i in range(1, 6)))
    rows = [(name, *(caption.text for caption in five)) for name, five in zip(names, captions, strict=True)]
    write_rows(root / f"clotho_captions_{split}.csv", [header, *rows], ",", line_end)
    header = ("file_name", "keywords", "sound_id", "sound_link", "start_end_samples", "manufacturer", "license")
    facts = ["", "", "made up", "http://creativecommons.org/publicdomain/zero/1.0/"]
    rows = [(name, "made up;synthetic", str(900000 + first_id - i), *facts) for i, name in enumerate(names)]
    write_rows(root / f"clotho_metadata_{split}.csv", [header, *rows], ",", line_end, "iso-8859-1")


RETRIEVAL = DataSet("retrieval", 240, count, write)
