"""Made-up recordings and voices that imitate them, in the layouts of QBV (coarse, fine), VimSketch and QVIM.

A sound is a course of pitch, loudness and noisiness over time, rendered with its own timbre. A voice follows the same
course, transposed into its range, a little late and inexact, with formants. An imitation and its recording share pitch
and loudness over time, as people imitate them, but no timbre.

Folders: `coarse grained` (QBV, ten folds), `fine grained/VocalSketch`, `fine grained/VocalImitationSet`,
`Vim_Sketch_Dataset`, `qvim-dev`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import signal

from common.synthetic.layout import DataSet, write_clip, write_rows

SAMPLE_RATE = 32000
FOLDS = 10
IMITATIONS = 8  # of each sound, by different voices
Array = np.ndarray


@dataclass(frozen=True)
class Course:
    """The part of a sound that an imitation keeps.

    Pitch (control points,) in semitones around the sound's own centre; loudness (control points,), 0..1; pulses per
    second, 0 for a steady sound; noisiness from 0 (tone) to 1 (noise); duration.
    """

    pitch: Array
    loudness: Array
    pulses: float
    noisiness: float
    seconds: float


def draw_course(rng: np.random.Generator) -> Course:
    """A course of eight control points."""
    steps = rng.normal(0, 3, 8) * (rng.random(8) < 0.6) + rng.normal(0, 1.5)
    loudness = np.clip(rng.uniform(0.2, 1, 8) * np.linspace(1, rng.uniform(0.2, 1.2), 8), 0.05, 1)
    pulses = float(rng.choice([0, 0, 2, 4, 7, 12]))
    return Course(
        np.cumsum(steps), loudness, pulses, float(rng.choice([0, 0.15, 0.5, 0.9])), float(rng.uniform(1.2, 3))
    )


def vary(course: Course, amount: float, rng: np.random.Generator) -> Course:
    """A sound of the same kind; `amount` is the distance from the course."""
    return Course(
        course.pitch + rng.normal(0, amount, len(course.pitch)),
        np.clip(course.loudness * rng.uniform(1 - 0.2 * amount, 1 + 0.2 * amount, len(course.loudness)), 0.02, 1),
        course.pulses * float(rng.uniform(1 - 0.1 * amount, 1 + 0.1 * amount)),
        float(np.clip(course.noisiness + rng.normal(0, 0.05 * amount), 0, 1)),
        course.seconds * float(rng.uniform(1 - 0.1 * amount, 1 + 0.1 * amount)),
    )


def render_recording(course: Course, rng: np.random.Generator) -> Array:
    """The sound with a random timbre: centre pitch, partials and resonance."""
    centre, bright = rng.uniform(150, 1200), rng.uniform(0.4, 1.6)
    partials = rng.uniform(0.2, 1, 10) / np.arange(1, 11) ** bright
    waveform = _render(course, centre, partials, rng)
    low = rng.uniform(80, 500)
    return _filtered(waveform, low, low * rng.uniform(8, 25))


def render_imitation(course: Course, rng: np.random.Generator) -> Array:
    """The same course by a voice: 100 to 350 Hz, two formants, delayed, imprecise in pitch and time."""
    imprecise = vary(course, 0.6, rng)
    narrow = Course(imprecise.pitch * rng.uniform(0.5, 0.9), *list(vars(imprecise).values())[1:])
    waveform = _render(narrow, rng.uniform(100, 350), 1 / np.arange(1, 17), rng)
    first, second = rng.uniform(300, 800), rng.uniform(900, 2400)
    voiced = _filtered(waveform, first * 0.8, first * 1.25) + 0.6 * _filtered(waveform, second * 0.85, second * 1.2)
    breath = 0.01 * rng.standard_normal(int(rng.uniform(0.05, 0.4) * SAMPLE_RATE))
    return np.concatenate([breath, voiced / (np.abs(voiced).max() + 1e-9)])


def count(sounds: int) -> dict[str, int]:
    """Imitations of each set, for a number of sounds in the coarse set; the other sets have a fifth of them."""
    few = max(4, sounds // 5)
    fine = dict.fromkeys(("VocalSketch", "VocalImitationSet", "Vim_Sketch_Dataset"), few * IMITATIONS)
    return {"coarse grained": sounds * IMITATIONS, **fine, "qvim-dev": few * 2}


def write(root: Path, sounds: int, counts: dict[str, int], seed: int) -> None:
    """Write all sets."""
    rng = np.random.default_rng((seed, 9))
    coarse, few = root / "coarse grained", max(4, sounds // 5)
    pairs = _write_pairs(coarse, coarse / "splits", sounds, rng)
    for fold in range(FOLDS):
        folder = coarse / "splits" / f"fold{fold}"
        _write_training_lists(folder, [pair for pair in pairs if pair.sound % FOLDS != fold])
        test = [(pair.imitation, pair.label) for pair in pairs if pair.sound % FOLDS == fold]
        _write_numbered(folder / "test.csv", _LIST, test)
    sketch = root / "fine grained" / "VocalSketch"
    _write_training_lists(sketch, _write_pairs(sketch, sketch, few, rng))
    _write_vocal_imitation_set(root / "fine grained" / "VocalImitationSet", few, rng)
    _write_vim_sketch(root / "Vim_Sketch_Dataset", few, rng)
    _write_qvim(root / "qvim-dev", few, rng)


def _write_vocal_imitation_set(root: Path, concepts: int, rng: np.random.Generator) -> None:
    """Each concept: one reference, nine more recordings of the same kind, imitations of the reference."""
    for concept in range(concepts):
        course, name = draw_course(rng), f"{concept:03d}concept"
        _write(root / "original_recordings" / "reference" / f"{name}_reference.wav", render_recording(course, rng))
        for number in range(9):
            other = render_recording(vary(course, 2.0, rng), rng)
            _write(root / "original_recordings" / "non_reference" / name / f"{name}_{number}.wav", other)
        for voice in range(IMITATIONS):
            _write(root / "vocal_imitations" / f"{name}_{voice}.wav", render_imitation(course, rng))


def _write_vim_sketch(root: Path, sounds: int, rng: np.random.Generator) -> None:
    references, imitations = [], []
    for sound in range(sounds):
        course, sound_id = draw_course(rng), f"{sound:03d}Sound"
        references.append([f"{sound + 1:03d}_{sound_id}.wav"])
        _write(root / "references" / references[-1][0], render_recording(course, rng))
        for voice in range(IMITATIONS):
            imitations.append([f"{sound * IMITATIONS + voice + 1:05d}_{sound_id}.wav"])
            _write(root / "vocal_imitations" / imitations[-1][0], render_imitation(course, rng))
    write_rows(root / "reference_file_names.csv", references, ",")
    write_rows(root / "vocal_imitation_file_names.csv", imitations, ",")


def _write_qvim(root: Path, sounds: int, rng: np.random.Generator) -> None:
    """Classes of four items each; two imitations of every item."""
    rows = []
    for sound in range(sounds):
        kind = f"Class{sound // 4}"
        if sound % 4 == 0:
            course = draw_course(rng)
        own = vary(course, 2.5, rng)
        _write(root / "Items" / kind / f"item{sound}.wav", render_recording(own, rng))
        queries = [f"query{sound}_{number}.wav" for number in (1, 2)]
        for name in queries:
            _write(root / "Queries" / kind / name, render_imitation(own, rng))
        rows.append([f"sound {sound}", kind, f"item{sound}.wav", *queries, ""])
    header = ["Label", "Class", "Items", "Query 1", "Query 2", "Query 3"]
    write_rows(root / "DEV Dataset.csv", [["made up", "", "", "", "", ""], header, *rows], ",")


@dataclass(frozen=True)
class _Pair:
    sound: int
    voice: int
    imitation: str
    recording: str
    label: str


_LIST = ("filename", "scene_label")


def _write_pairs(root: Path, tables: Path, sounds: int, rng: np.random.Generator) -> list[_Pair]:
    """Write recordings, imitations, and meta.csv into the folder `tables`."""
    pairs = []
    for sound in range(sounds):
        course, label = draw_course(rng), f"{sound:03d}A"
        recording = f"{sound + 1:03d}_{label}Made up_sound {sound}.wav"
        _write(root / "sound_recordings" / recording, render_recording(course, rng))
        for voice in range(IMITATIONS):
            imitation = f"{sound * IMITATIONS + voice + 1:05d}_{label}Made up_sound {sound}.wav"
            _write(root / "vocal_imitations" / imitation, render_imitation(course, rng))
            pairs.append(_Pair(sound, voice, imitation, recording, label))
    rows = []
    for pair in pairs:
        other = pair
        while other.sound == pair.sound:
            other = pairs[int(rng.integers(len(pairs)))]
        rows.append([pair.imitation, pair.recording, other.recording, pair.label])
    _write_numbered(tables / "meta.csv", ("filename", "positive_pair", "negative_pair", "scene_label"), rows)
    return pairs


def _render(course: Course, centre: float, partials: Array, rng: np.random.Generator) -> Array:
    samples = int(course.seconds * SAMPLE_RATE)
    at = np.linspace(0, len(course.pitch) - 1, samples)
    points = np.arange(len(course.pitch))
    frequency = centre * 2 ** (np.interp(at, points, course.pitch) / 12)
    loudness = np.interp(at, points, course.loudness)
    if course.pulses:
        phase = np.cumsum(np.full(samples, course.pulses / SAMPLE_RATE))
        loudness = loudness * (0.05 + np.clip(np.sin(2 * np.pi * phase), 0, 1))
    phase = 2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE
    tone = np.zeros(samples)
    for number, level in enumerate(partials, start=1):
        audible = frequency * number < 0.45 * SAMPLE_RATE
        tone += level * np.sin(number * phase) * audible
    noise = rng.standard_normal(samples)
    tone /= np.sqrt(np.mean(tone**2)) + 1e-9
    return loudness * ((1 - course.noisiness) * tone + course.noisiness * noise)


def _filtered(waveform: Array, low: float, high: float) -> Array:
    band = [low, min(high, 0.45 * SAMPLE_RATE)]
    return signal.sosfilt(signal.butter(1, band, "bandpass", fs=SAMPLE_RATE, output="sos"), waveform)


def _write(path: Path, waveform: Array) -> None:
    scaled = 0.7 * waveform / (np.abs(waveform).max() + 1e-9)
    write_clip(path, scaled.astype(np.float32), SAMPLE_RATE)


def _write_training_lists(folder: Path, pairs: list[_Pair]) -> None:
    """train.csv and val.csv: three imitations of each sound are held out; each is listed twice, as published."""
    for name, held_out in (("train", False), ("val", True)):
        rows = [(pair.imitation, pair.label) for pair in pairs if (pair.voice < 3) == held_out for _ in range(2)]
        _write_numbered(folder / f"{name}.csv", _LIST, rows)


def _write_numbered(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with an index as its first column, which has no name."""
    write_rows(path, [("", *columns), *((number, *row) for number, row in enumerate(rows))])


IMITATION = DataSet("imitation", 60, count, write, fewest_clips=FOLDS)
