"""Score tables: one tab-separated file per clip with the columns onset, offset and one per class.

The format of sed_scores_eval and the challenge. Frames may have any length, but follow each other without a gap. In
memory all clips form one array, class by class, so a metric reads one class at a time; large sets use a temporary file.
"""

import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from common.data.files import write_text
from common.errors import UserError, nearest, unknown
from task4_sed.data.annotations import clip_name

LARGEST_IN_MEMORY = 1 << 30
"""Largest array in bytes that is kept in memory."""
SMALL_FOLDER = 256_000_000
"""Bytes of tables up to which one process reads all at once."""


@dataclass(frozen=True)
class ScoreTables:
    """Scores of a set of clips.

    clips: names, sorted. classes: names, in the order of the tables.
    starts: (clips + 1,), first frame of each clip in `values`.
    borders: (frames + clips,), seconds; clip i has its frame borders at starts[i] + i .. starts[i + 1] + i, inclusive.
    values: (classes, frames), float64 or the type of a store; -inf is a score that no threshold reaches.
    """

    clips: tuple[str, ...]
    classes: tuple[str, ...]
    starts: np.ndarray
    borders: np.ndarray
    values: np.ndarray

    def column(self, name: str) -> np.ndarray:
        """(frames,) float64 scores of one class over all clips."""
        return np.ascontiguousarray(self.values[self.classes.index(name)], dtype=np.float64)

    def borders_of(self, index: int) -> np.ndarray:
        """(frames + 1,) frame borders of a clip in seconds."""
        return self.borders[self.starts[index] + index : self.starts[index + 1] + index + 1]

    def scores_of(self, index: int) -> np.ndarray:
        """(frames, classes) scores of a clip."""
        return np.asarray(self.values[:, self.starts[index] : self.starts[index + 1]]).T

    def tables(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """(clip, table) of all clips."""
        for index, clip in enumerate(self.clips):
            borders, scores = self.borders_of(index), self.scores_of(index).astype(np.float64)
            table = np.column_stack((borders[:-1], borders[1:], scores))
            yield clip, pd.DataFrame(table, columns=["onset", "offset", *self.classes])

    def select(self, clips: Sequence[str]) -> "ScoreTables":
        """Only these clips, in this order."""
        if tuple(clips) == self.clips:
            return self
        place = {clip: index for index, clip in enumerate(self.clips)}
        chosen = np.array([place[clip] for clip in clips], dtype=np.int64)
        counts = np.diff(self.starts)[chosen]
        starts = np.concatenate(([0], np.cumsum(counts)))
        rows = np.repeat(self.starts[chosen] - starts[:-1], counts) + np.arange(starts[-1])
        shift = self.starts[chosen] + chosen - (starts[:-1] + np.arange(len(chosen)))
        border_rows = np.repeat(shift, counts + 1) + np.arange(starts[-1] + len(chosen))
        values = empty_values(len(self.classes), int(starts[-1]), self.values.dtype)
        for index in range(len(self.classes)):
            values[index] = self.values[index][rows]
        return ScoreTables(tuple(clips), self.classes, starts, self.borders[border_rows], values)


def from_frames(frames: "Mapping[str, pd.DataFrame] | Iterable[tuple[str, pd.DataFrame]]") -> ScoreTables:
    """Score tables from data frames by clip name, as sed_scores_eval takes them; checked like files."""
    items = [(clip_name(clip), frame) for clip, frame in (frames.items() if isinstance(frames, Mapping) else frames)]
    items.sort(key=lambda item: item[0])
    if not items:
        raise UserError("There are no score tables to evaluate.")
    classes = _check_columns(list(items[0][1].columns), f"the score table of {items[0][0]}")
    arrays = []
    for clip, frame in items:
        where = f"the score table of {clip}"
        order = _column_order(list(frame.columns), classes, where)
        array = frame.to_numpy(dtype=np.float64)[:, order]
        _check_frames(array, where)
        arrays.append(array)
    return _join([clip for clip, _ in items], classes, arrays)


def score_files(folder: Path) -> list[Path]:
    """The .tsv files of a folder, sorted by name.

    Raises:
        UserError: if the folder is missing or has none; names sub-folders that have some.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder of score tables {folder}.")
    found = (file for file in folder.iterdir() if file.suffix == ".tsv" and file.name[0] != "." and file.is_file())
    files = sorted(found, key=lambda file: clip_name(file.stem))
    if not files:
        inside = sorted(path.name for path in folder.iterdir() if path.is_dir() and any(path.glob("*.tsv")))
        hint = f" Its sub-folders {', '.join(inside)} do; give one of them." if inside else ""
        raise UserError(f"{folder} holds no score tables (.tsv).{hint}")
    for file, other in pairwise(files):
        if clip_name(file.stem) == clip_name(other.stem):
            raise UserError(f"{file} and {other.name} are two tables of one clip; take one out.")
    return files


def read_folder(folder: Path, jobs: int = 1) -> ScoreTables:
    """The score tables of a folder; large ones by several processes."""
    files = score_files(folder)
    with files[0].open("rb") as stream:
        classes = _check_columns(_split(stream.readline(), files[0]), f"{files[0]}:1")
    if sum(file.stat().st_size for file in files) < SMALL_FOLDER:
        return _join([clip_name(file.stem) for file in files], classes, [_parse(file, classes) for file in files])
    return _read_large(files, classes, jobs)


def write_score_tables(scores: ScoreTables, folder: Path, fill_value: float | None = None) -> None:
    """One table per clip, each written whole or not at all; `fill_value` replaces -inf (submissions use 0)."""
    folder.mkdir(parents=True, exist_ok=True)
    for clip, table in scores.tables():
        if fill_value is not None:
            table = table.replace(-np.inf, fill_value)
        write_text(folder / f"{clip}.tsv", table.to_csv(sep="\t", index=False, lineterminator="\n"))


def empty_values(classes: int, frames: int, dtype: np.dtype | type = np.float64) -> np.ndarray:
    """(classes, frames) in memory, or in a temporary file with the lifetime of the array."""
    if classes * frames * np.dtype(dtype).itemsize <= LARGEST_IN_MEMORY:
        return np.empty((classes, frames), dtype=dtype)
    with tempfile.TemporaryFile(prefix="scores.") as file:
        return np.memmap(file, dtype=dtype, mode="w+", shape=(classes, frames))


def make_tables(
    clips: Iterable[str], classes: Iterable[str], borders: Sequence[np.ndarray], scores: Sequence[np.ndarray]
) -> ScoreTables:
    """Score tables from (frames + 1,) borders and (frames, classes) scores of each clip."""
    classes = tuple(classes)
    starts = np.concatenate(([0], np.cumsum([len(frames) for frames in scores]))).astype(np.int64)
    values = empty_values(len(classes), int(starts[-1]))
    for frames, start in zip(scores, starts):
        values[:, start : start + len(frames)] = frames.T
    return ScoreTables(tuple(clips), classes, starts, np.concatenate(borders), values)


def _join(clips: list[str], classes: tuple[str, ...], arrays: list[np.ndarray]) -> ScoreTables:
    borders = [np.append(array[:, 0], array[-1, 1]) for array in arrays]
    return make_tables(clips, classes, borders, [array[:, 2:] for array in arrays])


def _read_large(files: list[Path], classes: tuple[str, ...], jobs: int) -> ScoreTables:
    """Two passes with one batch of files in memory: count the frames, then parse."""
    counts = [sum(1 for line in file.read_bytes().split(b"\n") if line.strip()) - 1 for file in files]
    starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    values = empty_values(len(classes), int(starts[-1]))
    borders = np.empty(int(starts[-1]) + len(files))
    batches = [range(first, min(first + 64, len(files))) for first in range(0, len(files), 64)]
    parsed = Parallel(n_jobs=jobs, return_as="generator")(
        delayed(_parse_files)([files[index] for index in batch], classes) for batch in batches
    )
    for batch, arrays in zip(batches, parsed):
        rows = np.concatenate(arrays)
        values[:, starts[batch[0]] : starts[batch[-1] + 1]] = rows[:, 2:].T
        for index, array in zip(batch, arrays):
            first = starts[index] + index
            borders[first : first + len(array)] = array[:, 0]
            borders[first + len(array)] = array[-1, 1]
    return ScoreTables(tuple(clip_name(file.stem) for file in files), classes, starts, borders, values)


def _parse_files(files: list[Path], classes: tuple[str, ...]) -> list[np.ndarray]:
    return [_parse(file, classes) for file in files]


def _parse(file: Path, classes: tuple[str, ...]) -> np.ndarray:
    """(frames, 2 + classes) of one table, checked."""
    head, _, body = file.read_bytes().partition(b"\n")
    columns = _split(head, file)
    order = _column_order(columns, classes, f"{file}:1")
    array, lines = _read_numbers(file, body, len(columns))
    if order != list(range(len(columns))):
        array = array[:, order]
    _check_frames(array, str(file), lines)
    return array


def _read_numbers(file: Path, body: bytes, width: int) -> tuple[np.ndarray, Sequence[int]]:
    """Numbers (rows, width), and the line of each row; blank lines and empty cells after the last column are skipped.

    numpy's text reader is several times faster than a csv parser, but takes any white space for a tab or a new line. It
    reads tables in which these stand between numbers alone, with as many tabs in each line.
    """
    if not body.strip():
        raise UserError(f"{file} has a header but no frames.")
    tabs = [line.count(b"\t") for line in body.removesuffix(b"\n").split(b"\n")]
    doubtful = (b" ", b"\t\t", b"\t\n", b"\t\r", b"\n\t")
    if set(tabs) == {width - 1} and not body.startswith(b"\t") and not any(part in body for part in doubtful):
        with warnings.catch_warnings(), suppress(ValueError):
            warnings.simplefilter("ignore", DeprecationWarning)  # before numpy 2.3, text ends the reading early
            numbers = np.fromstring(body, sep="\t")
            if numbers.size == len(tabs) * width:
                return numbers.reshape(-1, width), range(2, len(tabs) + 2)
    rows, lines = [], []
    for number, line in enumerate(body.decode("utf-8", "replace").split("\n"), start=2):
        if not line.strip():
            continue
        cells = line.rstrip("\r").split("\t")
        while len(cells) > width and not cells[-1].strip():
            cells.pop()
        if len(cells) != width:
            raise UserError(f"{file}:{number}: {len(cells)} cells, but the header has {width} columns.")
        try:
            rows.append([float(cell) for cell in cells])
        except ValueError as error:
            raise UserError(f"{file}:{number}: {str(error).partition(': ')[2]} is not a number.") from None
        lines.append(number)
    return np.array(rows), lines


def _check_frames(array: np.ndarray, where: str, lines: Sequence[int] | None = None) -> None:
    onset, offset = array[:, 0], array[:, 1]

    def place(row: int) -> str:
        return f"{where}, frame {row + 1}" if lines is None else f"{where}:{lines[row]}"

    if not len(array):
        raise UserError(f"{where} has no frames.")
    if np.isnan(array).any() or np.isposinf(array).any() or not np.isfinite(array[:, :2]).all():
        bad = np.isnan(array) | np.isposinf(array)
        bad[:, :2] |= ~np.isfinite(array[:, :2])
        row, column = np.argwhere(bad)[0]
        raise UserError(f"{place(row)}: column {column + 1} is {array[row, column]}; scores must be numbers.")
    if (offset <= onset).any():
        row = int(np.flatnonzero(offset <= onset)[0])
        raise UserError(f"{place(row)}: a frame from {onset[row]:g} to {offset[row]:g} s has no length.")
    if (offset[:-1] != onset[1:]).any():
        row = int(np.flatnonzero(offset[:-1] != onset[1:])[0]) + 1
        raise UserError(
            f"{place(row)}: this frame starts at {onset[row]:g} s, but the one before ends at {offset[row - 1]:g} s; "
            "frames must follow each other in order and without a gap."
        )


def _split(head: bytes, file: Path) -> list[str]:
    try:
        return [name.strip() for name in head.decode("utf-8-sig").rstrip().split("\t")]
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no text table.") from error


def _check_columns(columns: list[str], where: str) -> tuple[str, ...]:
    if columns[:2] != ["onset", "offset"] or len(columns) < 3:
        found = ", ".join(columns[:4])
        raise UserError(
            f"{where}: columns must be onset, offset, then one per class, with tabs; here they are {found}."
        )
    classes = tuple(columns[2:])
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise UserError(f"{where}: the class {twice} has two columns.")
    if any("\\" in name or not name.strip() for name in classes):
        raise UserError(f"{where}: a class name is empty or has a backslash, which sed_scores_eval refuses.")
    return classes


def _column_order(columns: list[str], classes: tuple[str, ...], where: str) -> list[int]:
    """Positions of onset, offset and each class in these columns; classes may be in another order."""
    found = _check_columns(columns, where)
    if found == classes:
        return list(range(len(columns)))
    for name in classes:
        if name not in found:
            near = nearest(name, found, 1)
            hint = f" (it has {near[0]})" if near else ""
            raise UserError(f"{where}: no column for the class {name}, which the other tables have{hint}.")
    extra = [name for name in found if name not in classes]
    if extra:
        raise UserError(f"{where}: a column for the class {extra[0]}, which the other tables lack.")
    return [0, 1, *(columns.index(name) for name in classes)]


def only_classes(scores: ScoreTables, classes: Sequence[str]) -> ScoreTables:
    """The same tables with only these classes, in this order."""
    for name in classes:
        if name not in scores.classes:
            raise unknown("class", name, scores.classes)
    rows = [scores.classes.index(name) for name in classes]
    return ScoreTables(scores.clips, tuple(classes), scores.starts, scores.borders, np.asarray(scores.values[rows]))


T = TypeVar("T")


def median_filter(scores: ScoreTables, frames: int | Mapping[str, int]) -> ScoreTables:
    """Median over neighbouring frames of equal length, mirrored at the ends, as scipy and the baseline do."""
    from scipy.ndimage import median_filter as over_frames

    lengths = {name: choose_by_class(frames, name, "median filter length") for name in scores.classes}
    counts = np.diff(scores.starts)
    values = empty_values(len(scores.classes), int(scores.starts[-1]), scores.values.dtype)
    for index, name in enumerate(scores.classes):
        if lengths[name] < 1 or lengths[name] != int(lengths[name]):
            raise UserError(f"The median filter of {name} must be 1 frame or more, not {lengths[name]}.")
        column = np.asarray(scores.values[index])
        for count in np.unique(counts):  # clips of one length together
            rows = scores.starts[:-1][counts == count, None] + np.arange(count)
            values[index][rows] = over_frames(column[rows], size=(1, int(lengths[name])), mode="reflect")
    return replace(scores, values=values)


def choose_by_class(values: T | Mapping[str, T], name: str, what: str) -> T:
    """The value of a class; `values` may be one for all classes."""
    if not isinstance(values, Mapping):
        return values
    if name not in values:
        raise unknown(f"class with a {what}", name, values)
    return values[name]
