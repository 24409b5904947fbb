"""A miniature AudioSet with rare classes, sounds that occur together, and missing labels.

    class_labels_indices.csv, {...}_segments.csv         the official tables, of fewer classes
    audio/{...}_segments/[NN/]Y<video>.mp3              clips of up to 2.5 s, 32 kHz
    {...}_segments_mp3.hdf                               the same, packed

As in AudioSet, labels of training clips are incomplete (one in six is missing), some classes have a parent class, and
some segments of the tables are no longer available.
"""

from pathlib import Path

import numpy as np
from numpy.random import Generator

from common.data.audio import Waveform, resample
from common.data.encoded_store import encode_audio
from common.data.files import atomic_write
from common.data.labels import label_table
from common.synthetic.events import EVENT_SOUNDS, SAMPLE_RATE, band_noise, render_event
from common.synthetic.layout import DataSet, draw_video, write_rows

SECONDS = 2.5
OUTPUT_RATE = 32_000
SHARES = {"balanced_train": 0.2, "unbalanced_train": 0.55, "eval": 0.25}
MISSING_LABELS = 1 / 6
GONE = 0.02

# AudioSet's class, its event sound, its parent, its places; frequent ones first.
SOUNDS = (
    ("Speech", "Speech", None, "home street"),
    ("Car", "car", "Vehicle", "street"),
    ("Dog", "Dog", "Animal", "home street"),
    ("Bird", "birds_singing", "Animal", "street"),
    ("Wind", "wind_blowing", None, "street"),
    ("Dishes, pots, and pans", "Dishes", None, "home"),
    ("Cat", "Cat", "Animal", "home"),
    ("Truck", "large_vehicle", "Vehicle", "street"),
    ("Walk, footsteps", "footsteps", None, "home street"),
    ("Frying (food)", "Frying", None, "home"),
    ("Vacuum cleaner", "Vacuum_cleaner", None, "home"),
    ("Alarm", "Alarm_bell_ringing", None, "home street"),
    ("Blender", "Blender", None, "home"),
    ("Electric toothbrush", "Electric_shaver_toothbrush", None, "home"),
)


def count(clips: int) -> dict[str, int]:
    """Segments of each split, and classes."""
    segments = {split: max(len(SOUNDS), round(share * clips)) for split, share in SHARES.items()}
    return {**segments, "classes": len(_class_names())}


def write(root: Path, clips: int, counts: dict[str, int], seed: int) -> None:
    """Write the tables, the clips and the packed files."""
    from common.audioset.packing import pack_split

    names = _class_names()
    mids = {row["name"]: row["mid"] for row in label_table("audioset") if row["name"] in names}
    classes = [(number, mid, name) for number, (name, mid) in enumerate(mids.items())]
    write_rows(root / "class_labels_indices.csv", [("index", "mid", "display_name"), *classes], ",")
    random, drawn = np.random.default_rng((seed, 0)), set[str]()
    while len(drawn) < sum(counts[split] for split in SHARES):
        drawn.add(draw_video(random))
    videos = sorted(drawn)
    for number, split in enumerate(SHARES):
        own = [videos.pop() for _ in range(counts[split])]
        _write_split(root, split, own, mids, np.random.default_rng((seed, 1, number)))
        pack_split(root, root / "audio" / f"{split}_segments", split, quiet=True)


def _write_split(root: Path, split: str, videos: list[str], mids: dict[str, str], random: Generator) -> None:
    # The first classes are about ten times as frequent as the last, except in the balanced part.
    slope = 1.0 if split == "unbalanced_train" else 0.25
    prior = 1 / np.arange(1, len(SOUNDS) + 1) ** slope
    rows = []
    for number, video in enumerate(videos):
        heard = _draw_sounds(prior, random)
        waveform = _render(heard, random)
        if random.random() >= GONE or number == 0:
            part = f"{number % 3:02d}" if split == "unbalanced_train" else ""
            path = root / "audio" / f"{split}_segments" / part / f"Y{video}.mp3"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_audio(resample(waveform, SAMPLE_RATE, OUTPUT_RATE), OUTPUT_RATE))
        labels = _labels(heard, random, complete=split == "eval")
        start = 10 * int(random.integers(30))
        rows.append((video, start, start + 10, ",".join(mid for name, mid in mids.items() if name in labels)))
    with atomic_write(root / f"{split}_segments.csv") as file:
        file.write("# Segments csv, made up\n")
        file.write(f"# num_ytids={len(rows)}, num_segs={len(rows)}, num_unique_labels={len(mids)}\n")
        file.write("# YTID, start_seconds, end_seconds, positive_labels\n")
        file.writelines(f'{video}, {start:.3f}, {end:.3f}, "{labels}"\n' for video, start, end, labels in rows)


def _draw_sounds(prior: np.ndarray, random: Generator) -> list[int]:
    """One to three sounds of the same place."""
    first = int(random.choice(len(SOUNDS), p=prior / prior.sum()))
    place = random.choice(SOUNDS[first][3].split())
    together = np.array([place in where for *_, where in SOUNDS]) * prior
    together[first] = 0
    count = int(random.choice(3, p=(0.45, 0.35, 0.2)))
    return [first, *random.choice(len(SOUNDS), count, replace=False, p=together / together.sum()).tolist()]


def _labels(heard: list[int], random: Generator, complete: bool) -> set[str]:
    """Names of the heard classes and their parents; training clips lack some, never all."""
    kept = [sound for sound in heard if complete or random.random() >= MISSING_LABELS] or heard[:1]
    names = {SOUNDS[sound][0] for sound in kept}
    return names | {parent for sound in kept if (parent := SOUNDS[sound][2]) is not None}


def _render(heard: list[int], random: Generator) -> Waveform:
    """Events over noise, 16 kHz, at most 2.5 s; one clip in ten is shorter."""
    seconds = random.uniform(1.2, SECONDS) if random.random() < 0.1 else SECONDS
    samples = round(seconds * SAMPLE_RATE)
    waveform = 0.01 * band_noise(samples, (60, random.uniform(800, 4000)), random)
    for sound in heard:
        recipe = EVENT_SOUNDS[SOUNDS[sound][1]]
        length = min(seconds, random.uniform(max(0.4, recipe.seconds[0]), max(1.0, recipe.seconds[1])))
        event = render_event(recipe, length, random)[:samples]
        first = int(random.integers(samples - len(event) + 1))
        waveform[first : first + len(event)] += 0.01 * 10 ** (random.uniform(-6, 14) / 20) * event
    return (waveform * (random.uniform(0.1, 0.9) / np.abs(waveform).max())).astype(np.float32)


def _class_names() -> list[str]:
    """Classes of SOUNDS and their parents, in AudioSet's order."""
    wanted = {name for name, *_ in SOUNDS} | {parent for _, _, parent, _ in SOUNDS if parent}
    return [row["name"] for row in label_table("audioset") if row["name"] in wanted]


AUDIOSET = DataSet("audioset", 900, count, write)
