"""Made-up scores with the statistics of a trained system: smooth, high inside most events, and false alarms."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import uniform_filter1d

from task4_sed.scores.store import ScoreWriter, logit
from task4_sed.scores.tables import ScoreTables

FRAME_SECONDS = 0.064
NUM_FRAMES = 156


def made_up_scores(
    num_clips: int, num_classes: int, events_per_clip: float = 3.6, seed: int = 0, noise: float = 1.0
) -> tuple[dict[str, pd.DataFrame], dict[str, list], dict[str, float]]:
    """Score tables, events and durations by clip name; 10-second clips, 64-millisecond frames, float32 scores.

    Every clip has an event, events of one class do not touch, times have three decimals as in DESED.
    """
    generator = np.random.default_rng(seed)
    classes = [f"class_{index:03d}" for index in range(num_classes)]
    borders = np.round(np.arange(NUM_FRAMES + 1) * FRAME_SECONDS, 6)
    centres = (borders[1:] + borders[:-1]) / 2
    scores, ground_truth, durations = {}, {}, {}
    for index in range(num_clips):
        clip = f"clip_{index:05d}"
        logits = -3 + 2.5 * noise * uniform_filter1d(generator.standard_normal((NUM_FRAMES, num_classes)), 5, axis=0)
        logits += 0.8 * noise * generator.standard_normal(num_classes)
        events: list[tuple[float, float, str]] = []
        for _ in range(1 + generator.poisson(events_per_clip - 1)):
            label = int(generator.integers(num_classes))
            onset = float(np.round(generator.uniform(0, 9), 3))
            offset = float(np.round(min(10.0, onset + generator.gamma(1.5, 1.5) + 0.25), 3))
            if any(name == classes[label] and a <= offset and onset <= b for a, b, name in events):
                continue
            events.append((onset, offset, classes[label]))
            late, early = generator.normal(0, 0.12, size=2)
            heard = (centres > onset + late) & (centres < offset + early)
            logits[heard, label] += generator.normal(4, 2)
        probabilities = (1 / (1 + np.exp(-logits))).astype(np.float32)
        scores[clip] = pd.DataFrame(
            np.column_stack((borders[:-1], borders[1:], probabilities)), columns=["onset", "offset", *classes]
        )
        ground_truth[clip] = events
        durations[clip] = 10.0
    return scores, ground_truth, durations


def write_tables_as_store(tables: ScoreTables, path: Path, kind: str = "scores") -> None:
    """Score tables with frames of one length as a store."""
    frames = [tables.scores_of(index) for index in range(len(tables.clips))]
    most = max(map(len, frames))
    values = np.stack([np.pad(part, ((0, most - len(part)), (0, 0))) for part in frames])
    seconds = float(np.round(tables.borders_of(0)[1], 6))
    with ScoreWriter(path, tables.classes, frame_seconds=seconds, kind=kind, dtype="float32") as writer:
        ends = [tables.borders_of(index)[-1] for index in range(len(frames))]
        writer.write(tables.clips, logit(values) if kind == "logits" else values, ends)


def frame_table(scores: list[float], seconds: float = 0.1, name: str = "dog") -> pd.DataFrame:
    borders = np.round(np.arange(len(scores) + 1) * seconds, 6)
    return pd.DataFrame({"onset": borders[:-1], "offset": borders[1:], name: scores})
