"""Score tables from any source: a folder, a store, data frames."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from task4_sed.scores.store import CLIPS_AT_ONCE, ScoreStore
from task4_sed.scores.tables import (
    SMALL_FOLDER,
    ScoreTables,
    _check_columns,
    _header,
    _join,
    _parse,
    _read_large,
    empty_values,
    from_frames,
    score_files,
)


def read_score_tables(source: "ScoreTables | str | Path | Mapping[str, pd.DataFrame]", jobs: int = 1) -> ScoreTables:
    """Score tables of a folder of .tsv files, of a score store (.h5), or from data frames by clip name.

    Args:
        source: the folder, the store, a mapping, or score tables.
        jobs: processes that parse files, from 256 MB on.

    Raises:
        UserError: with file and line, for a gap between frames, a frame without length, NaN, wrong columns, text.
    """
    if isinstance(source, ScoreTables):
        return source
    if isinstance(source, Mapping):
        return from_frames(source)
    source = Path(source)
    if source.is_file() and source.suffix in (".h5", ".hdf5"):
        return read_scores(source)
    files = score_files(source)
    classes = _check_columns(_header(files[0]), f"{files[0]}:1")
    sizes = [file.stat().st_size for file in files]
    if sum(sizes) < SMALL_FOLDER:
        return _join([file.stem for file in files], classes, [_parse(file, classes) for file in files])
    return _read_large(files, classes, jobs)


def read_scores(path: Path, classes: Sequence[str] | None = None) -> ScoreTables:
    """Probabilities of a store as score tables, sorted by clip name; float32."""
    store = ScoreStore(path, classes)
    clips = tuple(sorted(store.filenames))
    counts = np.array([store.num_frames_of(clip) for clip in clips], dtype=np.int64)
    starts = np.concatenate(([0], np.cumsum(counts)))
    values = empty_values(len(store.classes), int(starts[-1]), np.float32)
    borders = []
    for first in range(0, len(clips), CLIPS_AT_ONCE):
        block = clips[first : first + CLIPS_AT_ONCE]
        rows = [store.read_as("scores", clip)[: counts[first + place]] for place, clip in enumerate(block)]
        values[:, starts[first] : starts[first + len(block)]] = np.concatenate(rows).T
        for place, clip in enumerate(block):
            edges = np.round(np.arange(counts[first + place] + 1) * store.frame_seconds, 6)
            edges[-1] = store.end_of(clip)
            borders.append(edges)
    return ScoreTables(clips, store.classes, starts, np.concatenate(borders), values)
