"""Scores of windows, joined into scores of whole recordings."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from common.data.files import atomic_path
from task4_sed.scores.store import ScoreStore, ScoreWriter


def join_windows(path: Path) -> None:
    """Replace a store of windows, named RECORDING-START-END in hundredths of a second, by one of whole recordings.

    Where two windows overlap, each half is of the window that it is deeper inside of. Beyond the end of a recording its
    last frame is held.
    """
    store = ScoreStore(path)
    windows: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for name in store.filenames:
        recording, start, _ = name.rsplit("-", 2)
        windows[recording].append((int(start) / 100, name))
    first_frames = {name: round(start / store.frame_seconds) for parts in windows.values() for start, name in parts}
    frames = max(first_frames.values()) + store.num_frames
    with (
        atomic_path(path) as joined,
        ScoreWriter(joined, store.classes, frame_seconds=store.frame_seconds, dtype="float32") as writer,
    ):
        for recording, parts in sorted(windows.items()):
            values = np.zeros((1, frames, len(store.classes)), dtype=np.float32)
            covered = 0
            for _, name in sorted(parts):
                first = first_frames[name]
                kept = max(first, (first + covered) // 2)
                values[0, kept:] = store[name][-1]
                values[0, kept : first + store.num_frames] = store[name][kept - first :]
                covered = first + store.num_frames
            last_start, last = max(parts)
            writer.write([recording], values, [last_start + store.end_of(last)])
