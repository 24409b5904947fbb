"""A made-up DESED and MAESTRO Real in the official layout of DCASE 2024 Task 4, small enough for a demonstration.

Domestic clips of 10 s (some shorter) hold one to four events with known borders over a room's noise; real clips differ
from synthetic ones in level and room. Recordings of public places are cut into windows of 10 s, with soft labels per
second from several made-up listeners. Audio is 16 kHz, mono.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator

from common.data.audio import Waveform
from common.data.labels import DESED, MAESTRO
from common.output import Progress
from common.synthetic.events import EVENT_SOUNDS, SAMPLE_RATE, Event, mix, place_events
from common.synthetic.layout import DataSet, draw_video, write_clip, write_rows

# Shares of the DESED clips; the published sets have 1578, 14412, 10000, 2500, 3470, 1168 and 692 clips.
DESED_SHARES = {
    "weak": 0.12,
    "unlabeled": 0.14,
    "synthetic_train": 0.30,
    "synthetic_validation": 0.08,
    "strong": 0.14,
    "validation": 0.13,
    "public_evaluation": 0.09,
}
_SYNTH_TRAIN, _SYNTH_VALIDATION = (f"{split}/synthetic21_{split}/soundscapes" for split in ("train", "validation"))
AUDIO = {
    "weak": "audio/train/weak",
    "unlabeled": "audio/train/unlabel_in_domain",
    "synthetic_train": f"dcase_synth/audio/{_SYNTH_TRAIN}",
    "synthetic_validation": f"dcase_synth/audio/{_SYNTH_VALIDATION}",
    "strong": "audio/train/strong_label_real",
    "validation": "audio/validation/validation",
    "public_evaluation": "eval/desed_public_eval/audio/eval/public",
    "maestro_train": "audio/maestro_real_train",
    "maestro_validation": "audio/maestro_real_validation",
    "eval24": "audio/eval24",
}
EVENT_TABLES = {
    "synthetic_train": f"dcase_synth/metadata/{_SYNTH_TRAIN}.tsv",
    "synthetic_validation": f"dcase_synth/metadata/{_SYNTH_VALIDATION}.tsv",
    "strong": "metadata/train/audioset_strong.tsv",
    "validation": "metadata/validation/validation.tsv",
    "public_evaluation": "eval/desed_public_eval/metadata/eval/public.tsv",
}
DURATION_TABLES = {
    "synthetic_validation": "dcase_synth/metadata/validation/synthetic21_validation/durations.tsv",
    "validation": "metadata/validation/validation_durations.tsv",
    "public_evaluation": "eval/desed_public_eval/metadata/eval/public_durations.tsv",
}
SCENES = {
    "cafe_restaurant": ("people talking", "cutlery and dishes", "coffee machine", "furniture dragging"),
    "city_center": ("car", "people talking", "footsteps", "brakes_squeaking", "large_vehicle"),
    "grocery_store": ("shopping cart", "cash register beeping", "people talking", "children voices"),
    "metro_station": ("metro approaching", "metro leaving", "footsteps", "announcement", "door opens/closes"),
    "residential_area": ("birds_singing", "wind_blowing", "car", "children voices", "footsteps"),
}
HOPS = {"maestro_train": 1, "maestro_validation": 5}
WINDOW_SECONDS = 10.0
LISTENERS = 5


@dataclass(frozen=True)
class _Clip:
    name: str
    waveform: Waveform
    events: list[Event]


def count(clips: int) -> dict[str, int]:
    """Clips of each set."""
    numbers = {name: max(8, round(0.68 * clips * share)) for name, share in DESED_SHARES.items()}
    for name, hop in HOPS.items():
        numbers[name] = sum(len(_windows(seconds, hop)) for _, _, seconds in _recordings(name, clips))
    return numbers | {"eval24": max(6, clips // 30)}


def write(root: Path, clips: int, counts: dict[str, int], seed: int) -> None:
    """Write the whole tree of Task 4, as the official recipe leaves it in data/dcase/dataset."""
    with Progress("Making up", sum(counts.values())) as progress:
        for position, name in enumerate(DESED_SHARES):
            random = np.random.default_rng((seed, position))
            made = [_desed_clip(name, index, random) for index in range(counts[name])]
            _write_audio(root, name, made, progress)
            _write_desed_tables(root, name, made)
        for position, name in enumerate(HOPS):
            random = np.random.default_rng((seed, 100 + position))
            _write_maestro(root, name, _recordings(name, clips), random, progress)
        random = np.random.default_rng((seed, 200))
        for index in range(counts["eval24"]):  # clips of both data sets, with names that do not show which
            if index % 2:
                scene = list(SCENES)[index // 2 % len(SCENES)]
                labels = [str(label) for label in random.choice(SCENES[scene], 3)]
                events = place_events(labels, WINDOW_SECONDS, EVENT_SOUNDS, random)
                waveform = _mix(events, WINDOW_SECONDS, (4, 18), random)
            else:
                waveform = _desed_clip("eval24", index, random).waveform
            _write_audio(root, "eval24", [_Clip(f"{index:04d}.wav", waveform, [])], progress)


def _recordings(name: str, clips: int) -> list[tuple[str, int, float]]:
    """Scene, number and seconds of each recording of a MAESTRO set."""
    if name == "maestro_train":
        seconds = 12.3 + min(6, clips // 60)  # windows overlap by 9 s: longer recordings have many
        return [(scene, number, seconds) for scene in SCENES for number in range(2)]
    return [(scene, 2, 20.6 + 5 * min(4, clips // 115)) for scene in SCENES]


def _windows(seconds: float, hop: float) -> list[tuple[float, float]]:
    """Start and end of the windows of a recording; the last one is shorter."""
    count = int((seconds - WINDOW_SECONDS + hop) / hop)
    windows = [(number * hop, number * hop + WINDOW_SECONDS) for number in range(count)]
    return [*windows, (count * hop, seconds)] if (count - 1) * hop + WINDOW_SECONDS < seconds else windows


def _desed_clip(set_name: str, index: int, random: Generator) -> _Clip:
    synthetic = set_name.startswith("synthetic")
    shorter = not synthetic and random.random() < 0.1
    duration = round(random.uniform(4, 9.5), 1) if shorter else 10.0
    empty = set_name == "validation" and index % 40 == 7
    number = 0 if empty else int(random.integers(1, 5 if synthetic else 4))
    labels = [DESED[index % len(DESED)], *random.choice(DESED, 4)][:number]
    events = place_events(labels, duration, EVENT_SOUNDS, random)
    waveform = _mix(events, duration, (8, 22) if synthetic else (3, 20), random, reverberant=not synthetic)
    if synthetic:
        return _Clip(f"{index}.wav", waveform, events)
    video, start = draw_video(random), 10 * int(random.integers(0, 40))
    if set_name == "public_evaluation":
        return _Clip(f"{video}_{start}_{start + 10}.wav", waveform, events)
    return _Clip(f"Y{video}_{start}.000_{start + 10}.000.wav", waveform, events)


def _mix(
    events: list[Event], duration: float, levels: tuple[float, float], random: Generator, reverberant: bool = True
) -> Waveform:
    return mix(events, duration, EVENT_SOUNDS, random, levels=levels, peaks=(0.15, 0.8), reverberant=reverberant)


def _write_desed_tables(root: Path, name: str, clips: list[_Clip]) -> None:
    if name == "weak":
        weak = [(clip.name, ",".join(sorted({label for _, _, label in clip.events}))) for clip in clips]
        write_rows(root / "metadata/train/weak.tsv", [("filename", "event_labels"), *weak])
    if name == "unlabeled":
        names = [(clip.name,) for clip in clips]
        write_rows(root / "metadata/train/unlabel_in_domain.tsv", [("filename",), *names])
    if name in EVENT_TABLES:
        rows = [("filename", "onset", "offset", "event_label")]
        for clip in clips:
            events = [(clip.name, f"{onset:.3f}", f"{offset:.3f}", label) for onset, offset, label in clip.events]
            rows += events or [(clip.name, "", "", "")]
        write_rows(root / EVENT_TABLES[name], rows)
    if name in DURATION_TABLES:
        durations = [(clip.name, f"{len(clip.waveform) / SAMPLE_RATE:.1f}") for clip in clips]
        write_rows(root / DURATION_TABLES[name], [("filename", "duration"), *durations])


def _write_maestro(
    root: Path, name: str, recordings: list[tuple[str, int, float]], random: Generator, progress: Progress
) -> None:
    rows, durations = [], []
    for scene, number, seconds in recordings:
        labels = [str(label) for label in random.choice(SCENES[scene], max(3, round(seconds / 4)))]
        events = place_events(labels, seconds, EVENT_SOUNDS, random)
        waveform = _mix(events, seconds, (4, 18), random)
        soft = _soft_labels(events, seconds, random)
        durations.append((f"{scene}_{number:02d}", len(waveform) / SAMPLE_RATE))
        for start, end in _windows(seconds, HOPS[name]):
            stem = f"{scene}_{number:02d}-{int(start * 100):06d}-{int(end * 100):06d}"
            part = waveform[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
            write_clip(root / AUDIO[name] / f"{stem}.wav", part, SAMPLE_RATE)
            progress.advance()
            for onset, offset, label, confidence in soft:
                if onset < end and offset > start:
                    times = f"{max(0.0, onset - start):g}", f"{min(end - start, offset - start):.6g}"
                    rows.append((f"{stem}.wav", *times, label, f"{confidence:.6g}"))
    columns = ("filename", "onset", "offset", "event_label", "confidence")
    write_rows(root / f"metadata/maestro_real_{name.removeprefix('maestro_')}.tsv", [columns, *rows])
    if name == "maestro_validation":
        write_rows(root / "metadata/maestro_real_durations.tsv", [("filename", "duration"), *durations])


def _soft_labels(events: list[Event], seconds: float, random: Generator) -> list[tuple[float, float, str, float]]:
    """Per second and class, the share of listeners who noticed it; longer events are noticed more often."""
    rows = []
    for start in range(int(np.ceil(seconds))):
        for label in MAESTRO:
            shared = sum(
                max(0.0, min(offset, start + 1) - max(onset, start)) for onset, offset, name in events if name == label
            )
            noticed = random.binomial(LISTENERS, min(0.97, 0.03 + 1.1 * shared)) / LISTENERS
            if noticed > 0:
                rows.append((float(start), float(min(start + 1, seconds)), label, float(noticed)))
    return rows


def _write_audio(root: Path, name: str, clips: list[_Clip], progress: Progress) -> None:
    for clip in clips:
        write_clip(root / AUDIO[name] / clip.name, clip.waveform, SAMPLE_RATE)
        progress.advance()


TASK4 = DataSet("task4_sed", 460, count, write)
