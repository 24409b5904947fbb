"""Made-up sounds of the Broad Sound Taxonomy: a curated set, a larger one with noisy labels, an evaluation set.

The layout of DCASE 2026 Task 1, with vectors in place of LAION-CLAP's. Classes of one top level sound alike; what an
uploader uploads is alike and of few classes; audio and text each say a part about the class.

    BSD10k/     audio/*.wav metadata/BSD10k_metadata.csv metadata/BST_description.csv features/clap_*_embeddings/*.npy
    BSD35k-CS/  the same, with -other classes; a quarter of the labels are wrong, most of them by a sibling
    BSD2k/      anonymous ids, no classes
"""

import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import signal

from common.synthetic.layout import DataSet, write_clip, write_rows

SAMPLE_RATE = 44100
VECTOR, LATENT = 512, 12
HABIT, SEEN, BACKGROUND = 0.6, 1.3, 2.0
"""Standard deviations: of an uploader's places, of a modality's view of a place, of the rest of a vector."""
SECONDS = (0.007, 0.01, 30.0, 0.05)
"""Lengths of the first clips of each set; others are drawn."""
WRONG_LABELS, WRONG_TOP = 0.25, 0.3  # share of the crowd's labels, and of these with another top level
FEW = 8  # clips of the rarest class: five folds and a validation part need them
WORDS = {
    "m-sp": "drum solo", "m-si": "guitar melody", "m-m": "band song", "is-p": "snare hit", "is-s": "violin note",
    "is-w": "flute note", "is-k": "piano key", "is-e": "synth patch", "sp-s": "woman reading", "sp-c": "people talking",
    "sp-p": "robot voice", "fx-o": "kitchen door", "fx-v": "car passing", "fx-m": "engine motor", "fx-h": "footsteps",
    "fx-a": "dog bark", "fx-n": "thunder rain", "fx-ex": "weird texture", "fx-el": "laser whoosh",
    "ss-n": "forest birds", "ss-i": "office room", "ss-u": "street city", "ss-s": "space drone",
}  # fmt: skip
"""Code of each class to words of its titles."""
CODES = tuple(WORDS)
TOPS = tuple(dict.fromkeys(code.split("-")[0] for code in CODES))
LICENCES = ("publicdomain/zero/1.0", "by/4.0", "by-nc/4.0")
COLUMNS = (
    "sound_id", "class", "class_idx", "class_top", "confidence", "uploader", "license", "title", "tags", "description",
)  # fmt: skip
Array = np.ndarray


@dataclass(frozen=True)
class World:
    """What all sets share: places of the classes in a small space, and the way from there to both vectors."""

    centres: Array
    to_audio: Array
    to_text: Array

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "World":
        """Centres of siblings lie near each other."""
        tops = rng.standard_normal((len(TOPS), LATENT))
        own = [tops[TOPS.index(code.split("-")[0])] + rng.standard_normal(LATENT) for code in CODES]
        return cls(np.stack(own), *rng.standard_normal((2, LATENT, VECTOR)))


@dataclass(frozen=True)
class Clips:
    """True classes, uploaders, and vectors (clips, 512) of unit length."""

    classes: Array
    uploaders: Array
    audio: Array
    text: Array


def draw_clips(world: World, clips: int, rng: np.random.Generator) -> Clips:
    """Clips of one set, at least eight of each class, in no order; uploaders have a handful of clips each."""
    frequency = rng.uniform(0.3, 1, len(CODES))
    drawn = rng.choice(len(CODES), max(0, clips - FEW * len(CODES)), p=frequency / frequency.sum())
    classes = rng.permutation(np.concatenate([np.repeat(np.arange(len(CODES)), FEW), drawn]))[:clips]
    favourites = rng.integers(0, len(CODES), max(6, clips // 6))
    alike = (favourites[None] == classes[:, None]) + 0.01
    uploaders = (alike.cumsum(axis=1) > rng.random((clips, 1)) * alike.sum(axis=1, keepdims=True)).argmax(axis=1)
    habits = HABIT * rng.standard_normal((len(favourites), LATENT))
    places = world.centres[classes] + habits[uploaders]

    def vectors(way: Array) -> Array:
        seen = (places + SEEN * rng.standard_normal(places.shape)) @ way
        seen += BACKGROUND * rng.standard_normal((clips, VECTOR))
        return (seen / np.linalg.norm(seen, axis=1, keepdims=True)).astype(np.float32)

    return Clips(classes, uploaders, vectors(world.to_audio), vectors(world.to_text))


def count(clips: int) -> dict[str, int]:
    """Clips of each set, -other classes included."""
    return {"BSD10k": clips, "BSD35k-CS": clips + 4 * len(TOPS), "BSD2k": max(8, clips // 5)}


def write(root: Path, clips: int, counts: dict[str, int], seed: int) -> None:
    """Write the three sets."""
    rng = np.random.default_rng((seed, 26))
    world = World.draw(rng)
    numbers = iter(rng.permutation(900_000)[: sum(counts.values())] + 1000)
    for name, total in counts.items():
        write_set(root, name, draw_clips(world, total, rng), [str(next(numbers)) for _ in range(total)], rng)


def write_set(
    root: Path, name: str, clips: Clips, ids: list[str], rng: np.random.Generator, audio: bool = True
) -> None:
    """Write one set; `audio` false leaves the wav files out."""
    folder, labels = root / name, [CODES[index] for index in clips.classes]
    if name == "BSD35k-CS":
        labels = [_wrong_label(code, rng) if rng.random() < WRONG_LABELS else code for code in labels]
        for place, top in enumerate(TOPS * 4):
            labels[place] = f"{top}-other"
    if name == "BSD2k":
        ids = [str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in ids]
    rows = []
    for place, (sound_id, code, true) in enumerate(zip(ids, labels, clips.classes)):
        text = _text(CODES[true], place, rng)
        confidence = "" if name == "BSD35k-CS" or place % 50 == 7 else int(rng.choice([2, 3, 4, 5]))
        link = f"http://creativecommons.org/{'' if 'zero' in (own := str(rng.choice(LICENCES))) else 'licenses/'}{own}/"
        facts = (code, class_number(code), code.split("-")[0], confidence, f"user{clips.uploaders[place]}", link)
        rows.append([sound_id, *text] if name == "BSD2k" else [sound_id, *facts, *text])
        if audio:
            seconds = SECONDS[place] if place < len(SECONDS) else float(np.exp(rng.uniform(np.log(0.1), np.log(1.2))))
            write_clip(folder / "audio" / f"{sound_id}.wav", _render(int(true), seconds, rng), SAMPLE_RATE)
    header = ["anonymous_id", *COLUMNS[-3:]] if name == "BSD2k" else COLUMNS
    write_rows(folder / "metadata" / f"{name}_metadata.csv", [header, *rows], ",")
    if name != "BSD2k":
        described = [[code, class_number(code), f"{code} {words}", code.split("-")[0], words, f"Sounds of {words}.", ""]
                     for code, words in WORDS.items()]  # fmt: skip
        keys = ["class_key", "class_idx", "class_key_long", "top_level", "second_level", "description", "examples"]
        write_rows(folder / "metadata" / "BST_description.csv", [keys, *described], ",")
    for side, vectors in (("audio", clips.audio), ("text", clips.text)):
        vector_folder = folder / "features" / f"clap_{side}_embeddings"
        vector_folder.mkdir(parents=True, exist_ok=True)
        for sound_id, vector in zip(ids, vectors):
            np.save(vector_folder / f"{sound_id}.npy", vector)


def class_number(code: str) -> int:
    """`class_idx`: the top level, then two digits of the second level."""
    top, _, second = code.partition("-")
    siblings = [other for other in CODES if other.startswith(f"{top}-")]
    return 100 * (TOPS.index(top) + 1) + (99 if second == "other" else siblings.index(code) + 1)


def _wrong_label(code: str, rng: np.random.Generator) -> str:
    siblings = [other for other in CODES if other != code and other.split("-")[0] == code.split("-")[0]]
    others = [other for other in CODES if other.split("-")[0] != code.split("-")[0]]
    return str(rng.choice(others if rng.random() < WRONG_TOP else siblings))


def _text(code: str, place: int, rng: np.random.Generator) -> tuple[str, str, str]:
    """Title, tags, description; some with commas, quotes and line breaks, some empty."""
    words = WORDS[code] if rng.random() < 0.7 else WORDS[str(rng.choice(CODES))]
    if place % 40 == 11:
        return "", "", ""
    title = f'{words}, "take {place}"' if place % 3 == 0 else f"{words} {place}"
    description = f'Recorded at home.\nA {words}, cut; "as it is"' if place % 4 == 0 else f"This is {words}."
    return title, ",".join(words.split()), description


def _render(index: int, seconds: float, rng: np.random.Generator) -> Array:
    """A class has a pitch, a share of noise, a band and a rate of pulses; siblings share the first two."""
    samples = max(1, round(seconds * SAMPLE_RATE))
    top = TOPS.index(CODES[index].split("-")[0])
    pitch = 90 * 2 ** (top + rng.uniform(-0.3, 0.3))
    time = np.arange(samples) / SAMPLE_RATE
    tone = sum(np.sin(2 * np.pi * pitch * order * time) / order for order in range(1, 6))
    low = 150 * 2 ** (index % 6)
    band = signal.butter(2, [low, min(4 * low, 20000)], "bandpass", fs=SAMPLE_RATE, output="sos")
    noise = 3 * signal.sosfilt(band, rng.standard_normal(samples))
    pulses = 0.2 + 0.8 * (np.sin(2 * np.pi * (1 + index % 4 * 3) * time + rng.uniform(0, 6)) > 0)
    mixed = (0.2 + 0.15 * top) * noise + (1 - 0.15 * top) * tone * pulses + 0.05 * rng.standard_normal(samples)
    return (0.6 * mixed / (np.abs(mixed).max() + 1e-9)).astype(np.float32)


BROAD_SOUNDS = DataSet("broad_sounds", 460, count, write, fewest_clips=FEW * len(CODES))
