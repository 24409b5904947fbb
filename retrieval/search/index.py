"""A folder of sounds as vectors on the disk: made block by block, resumed after an interruption, added to later.

vectors.npy    (rows, dim) float32, or float16 with `half`; unit length
tags.npy       (rows, classes) float16, 0..1, of a model with a classifier
rows.npy       (rows,) number of the file, onset and offset in seconds
files.jsonl    a line for each file in the order of its rows: name, bytes, rows, and why it could not be read
plan.json      model, folder and windows, which do not change
index.json     what a search reads, written last: names by number (null for files that are gone), model, tags
"""

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from common.data.audio import AudioError, list_audio
from common.data.files import read_json, write_json
from common.errors import UserError
from common.output import Progress, say

if TYPE_CHECKING:  # a wrong folder is refused without torch
    from retrieval.search.searcher import Rows, Searcher

FILES_PER_BLOCK = 64
PLAN, JOURNAL, INDEX = "plan.json", "files.jsonl", "index.json"
ROW = np.dtype([("file", "<i4"), ("onset", "<f4"), ("offset", "<f4")])
SHORTEST_WINDOW = 0.5
SAMPLE, ALPHA = 500, 0.05


@dataclass(frozen=True)
class Windows:
    """Seconds of a window, and from one to the next."""

    length: float
    hop: float

    def __post_init__(self) -> None:
        """Refuse windows that leave gaps, or that no model hears."""
        if self.length < SHORTEST_WINDOW:
            raise UserError(f"--windows is {self.length:g} s; it must be at least {SHORTEST_WINDOW} s.")
        if not 0 < self.hop <= self.length:
            raise UserError(f"--hop is {self.hop:g} s; it must be above 0 and at most the window of {self.length:g} s.")


def build_index(
    searcher: "Searcher",
    run: Path | None,
    folder: Path,
    out: Path,
    skip_unreadable: bool = False,
    windows: Windows | None = None,
    half: bool = False,
) -> int:
    """Embed the audio files below `folder` that the index `out` does not hold yet; returns how many it holds then.

    An interrupted call resumes with the next file, and a repeated one adds new and changed files; rows of files that
    are gone or have changed stay on the disk and are not found. A file counts as changed when its size differs.

    Args:
        run: the run of the model; None for an audio model, which is stored by its name.
        skip_unreadable: leave out and name files that cannot be read; otherwise the first one ends the call.
        windows: a row for each window of a file instead of one for the whole file.
        half: store vectors in half precision.

    Raises:
        UserError: if `out` is an index of another model, folder or form, or no file can be read.
    """
    names = {str(path.relative_to(folder)): path.stat().st_size for path in list_audio(folder)}
    plan = {"model": searcher.identity, "folder": str(folder.resolve()), "half": half}
    plan["windows"] = None if windows is None else [windows.length, windows.hop]
    _claim(out, plan)
    with _Files(out, half) as files:
        pending = [name for name, size in names.items() if files.needs(name, size, skip_unreadable)]
        with Progress("Indexing", len(names), unit="files", done=len(names) - len(pending)) as progress:
            for name, rows in _embed(searcher, folder, pending, windows):
                try:
                    files.add(name, names[name], rows, progress)
                except AudioError as error:
                    files.drop(name, names[name], str(error))
                    if not skip_unreadable:
                        raise
                progress.advance()
    kept = [name if name in names and number == files.number[name] else None for number, name in enumerate(files.names)]
    kept = [None if name in files.unreadable else name for name in kept]
    found = len(kept) - kept.count(None)
    if not found:
        raise UserError(f"None of the {len(names)} files below {folder} could be read.")
    labels = list(searcher.labels) if (out / "tags.npy").is_file() else []
    unreadable = {name: reason for name, reason in files.unreadable.items() if name in names}
    content = {**plan, "rows": files.count, "unreadable": unreadable, "understands": searcher.understands}
    content |= {"fits": searcher.fits | _similarity_of_neighbours(out, kept), "labels": labels}
    write_json(out / INDEX, content | _origin(searcher, run, out) | {"files": kept})
    for name, reason in unreadable.items():
        say(f"left out {name}: {reason}")
    return found


@dataclass
class Index:
    """A finished index; vectors and tags stay on disk.

    files: by number; None for files that are gone.
    vectors: (rows, dim), memory-mapped, unit length.
    rows: (rows,) file, onset, offset.
    tags: (rows, classes) 0..1, None without a classifier.
    content: of index.json.
    """

    folder: Path
    files: list[str | None]
    vectors: NDArray[Any]
    rows: NDArray[Any]
    tags: NDArray[Any] | None = None
    content: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Index":
        """Open an index.

        Raises:
            UserError: if it is missing or not finished.
        """
        path = folder / INDEX
        if not path.is_file():
            state = "is no index; `python -m retrieval index DIR --model mn04.as --out INDEX` makes one"
            if (folder / PLAN).is_file():
                state = "is not finished; run the same `index` again"
            raise UserError(f"{folder} {state}.")
        content = read_json(path, "index again", {"files": list, "model": str})
        read_json(path, "index again", {"name" if "name" in content else "run": str})
        files, vectors = content["files"], _map(folder / "vectors.npy")
        count = content.get("rows", len(files))
        if (folder / "rows.npy").is_file():
            rows = _map(folder / "rows.npy")[:count]
        else:  # of an earlier version: a row for each file
            rows = np.zeros(count, ROW)
            rows["file"] = np.arange(count)
        if vectors.dtype.kind != "f" or vectors.ndim != 2 or len(vectors) < count or not vectors.size:
            found = f"vectors {vectors.dtype} {vectors.shape}, {count} rows"
            raise UserError(f"{folder} is damaged: {found}; index again.")
        tags = _map(folder / "tags.npy")[:count] if content.get("labels") else None
        return cls(folder, files, vectors[:count], rows, tags, content)

    @property
    def windowed(self) -> bool:
        """Whether rows are windows of files."""
        return bool(self.content.get("windows"))

    @property
    def sounds(self) -> Path:
        """The folder of the files."""
        return Path(self.content.get("folder", "."))

    @property
    def understands(self) -> list[str]:
        """Kinds of query: text, voice, example."""
        kinds = self.content.get("understands", "text")
        return [kinds, "example"] if isinstance(kinds, str) else kinds

    def rows_of(self, file: int) -> slice:
        """Rows of a file."""
        first, end = np.searchsorted(self.rows["file"], [file, file + 1]).tolist()
        return slice(first, end)

    def left_out(self) -> NDArray[np.int64]:
        """Rows of files that are gone."""
        gone = [number for number, name in enumerate(self.files) if name is None]
        return np.flatnonzero(np.isin(self.rows["file"], gone)) if gone else np.empty(0, np.int64)

    def searcher(self) -> "Searcher":
        """The model that made the index, loaded once.

        Raises:
            UserError: if the model has changed since.
        """
        return self._searcher

    @cached_property
    def _searcher(self) -> "Searcher":
        from retrieval.search.searcher import load_audio_searcher, load_searcher

        name, weights = self.content.get("name"), self.content.get("weights")
        if name is None:
            run = self.folder / self.content["run"]
            searcher, name = load_searcher(run), str(run)
        else:
            name = str(self.folder / name) if self.content.get("of_a_run") else name
            searcher = load_audio_searcher(name, None if weights is None else self.folder / weights)
        if searcher.identity != self.content["model"]:
            raise UserError(f"{self.folder} was made by another model than {name} now holds. Index again.")
        return searcher


class _Files:
    """The growing files of an index; what a line of the journal does not name is cut off when they are opened."""

    def __init__(self, out: Path, half: bool):
        self.out, self.type = out, np.dtype(np.float16 if half else np.float32)
        self.names: list[str] = []
        self.number: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.unreadable: dict[str, str] = {}
        self.count = 0
        self.arrays: dict[str, _GrowingArray] = {}

    def __enter__(self) -> Self:
        path = self.out / JOURNAL
        whole = 0
        if path.is_file():
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1  # a kill may cut the last line
            for line, text in enumerate(content[:whole].splitlines(), start=1):
                try:
                    self._note(*json.loads(text))
                except (ValueError, TypeError) as error:
                    reason = f"{path} is damaged in line {line} ({error}); delete {self.out} and index again."
                    raise UserError(reason) from error
        for kind in ("vectors", "tags", "rows") if self.count else ():
            if (self.out / f"{kind}.npy").is_file():
                self.arrays[kind] = _GrowingArray(self.out / f"{kind}.npy", self.count)
        self.journal: IO[bytes] = path.open("ab", buffering=0)
        self.journal.truncate(whole)
        return self

    def __exit__(self, *error: Any) -> None:
        self.journal.close()
        for array in self.arrays.values():
            array.close()

    def needs(self, name: str, size: int, skip_unreadable: bool) -> bool:
        """Whether a file must be read."""
        return self.sizes.get(name) != size or (name in self.unreadable and not skip_unreadable)

    def add(self, name: str, size: int, rows: "Iterable[Rows]", progress: Progress) -> None:
        """Add the rows of a file.

        Raises:
            UserError: if a vector holds NaN or infinity.
        """
        added = 0
        for vectors, tags, times in rows:
            if not np.isfinite(vectors).all() or (tags is not None and not np.isfinite(tags).all()):
                raise UserError(f"The embedding of {name} holds NaN or infinity; use another model or other weights.")
            own = np.zeros(len(vectors), ROW)
            own["file"], own["onset"], own["offset"] = len(self.names), times[:, 0], times[:, 1]
            parts = {"vectors": vectors.astype(self.type), "rows": own}
            if tags is not None:
                parts["tags"] = tags.astype(np.float16)
            for kind, values in parts.items():
                if kind not in self.arrays:
                    self.arrays[kind] = _GrowingArray(self.out / f"{kind}.npy", self.count, values)
                self.arrays[kind].append(values)
            added += len(vectors)
            if times[-1, 1]:
                progress.advance(0, f"({name}: {times[-1, 1]:,.0f} s)")
        self._write(name, size, added)

    def drop(self, name: str, size: int, reason: str) -> None:
        """Note a file that cannot be read, without the rows before the damage."""
        for array in self.arrays.values():
            array.cut(self.count)
        self._write(name, size, 0, reason)

    def _write(self, *values: Any) -> None:
        write_whole(self.journal, json.dumps(values).encode() + b"\n")
        self._note(*values)

    def _note(self, name: str, size: int, count: int, reason: str | None = None) -> None:
        self.number[name], self.sizes[name] = len(self.names), size
        self.names.append(name)
        self.count += count
        self.unreadable.pop(name, None)
        if reason is not None:
            self.unreadable[name] = reason


class _GrowingArray:
    """Rows added to an .npy file; its header tells how many when it is closed.

    count: rows of an existing file that are kept; `like` has the form of a new one's rows.

    Raises:
        UserError: if an existing file has fewer rows.
    """

    def __init__(self, path: Path, count: int, like: NDArray[Any] | None = None):
        self.file, self.count = path.open("r+b" if like is None else "w+b", buffering=0), count
        if like is None:
            like = _map(path)
        self.like = np.empty((0, *like.shape[1:]), like.dtype)
        self.row_bytes = like.dtype.itemsize * int(np.prod(like.shape[1:]))
        self.start = self._write_header()
        if self.file.seek(0, os.SEEK_END) < self.start + count * self.row_bytes:
            raise UserError(f"{path} is cut off; delete {path.parent} and index again.")
        self.cut(count)

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows at the end."""
        write_whole(self.file, np.ascontiguousarray(rows).tobytes())
        self.count += len(rows)

    def cut(self, count: int) -> None:
        """Keep the first `count` rows."""
        self.file.truncate(self.start + count * self.row_bytes)
        self.file.seek(0, os.SEEK_END)
        self.count = count

    def close(self) -> None:
        """Write the number of rows."""
        self._write_header()
        self.file.close()

    def _write_header(self) -> int:
        """Write the header, of one size whatever the number of rows, and return that size."""
        form = np.lib.format.header_data_from_array_1_0(self.like) | {"shape": (self.count, *self.like.shape[1:])}
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, form)
        self.file.seek(0)
        write_whole(self.file, header.getvalue())
        return len(header.getvalue())


def write_whole(file: IO[bytes], content: bytes | memoryview) -> None:
    """Write to a file without a buffer; where a disk is full, one call may write a part and tell only how much."""
    while content:
        content = content[file.write(content) :]


def _embed(
    searcher: "Searcher", folder: Path, names: Sequence[str], windows: Windows | None
) -> "Iterator[tuple[str, Iterable[Rows]]]":
    """Each file with its rows; files that are embedded as a whole run in blocks, the bad ones of a block alone."""
    if windows is not None:
        yield from ((name, searcher.embed_windows(folder / name, windows.length, windows.hop)) for name in names)
        return
    for start in range(0, len(names), FILES_PER_BLOCK):
        block = names[start : start + FILES_PER_BLOCK]
        try:
            found = searcher.embed_rows([folder / name for name in block])
        except AudioError:
            yield from ((name, map(searcher.embed_rows, [[folder / name]])) for name in block)
            continue
        for row, name in enumerate(block):
            own = slice(row, row + 1)
            tags = None if found.tags is None else found.tags[own]
            yield name, [found._replace(vectors=found.vectors[own], tags=tags, times=found.times[own])]


def _similarity_of_neighbours(out: Path, files: Sequence[str | None]) -> dict[str, float]:
    """The similarity to the nearest other file that 95 % of the indexed files reach; none below 19 files.

    A query that belongs to the collection like its own files stays below it in 5 % of the cases (a conformal test); a
    query below it is farther from everything than these files are from each other.
    """
    from retrieval.search.ranking import nearest_of_other_files

    rows = _map(out / "rows.npy")
    file = np.where([name is None for name in files], -1, np.arange(len(files)))[rows["file"]].astype(np.int32)
    alive = np.flatnonzero(file >= 0)
    if len(np.unique(file[alive])) < 1 / ALPHA - 1:
        return {}
    sample = np.sort(np.random.default_rng(0).permutation(alive)[:SAMPLE])
    nearest = nearest_of_other_files(_map(out / "vectors.npy"), file, sample).sort().values
    return {"example": round(float(nearest[int(ALPHA * (len(sample) + 1)) - 1]), 4)}


def _origin(searcher: "Searcher", run: Path | None, out: Path) -> dict[str, Any]:
    """How a search finds the model again."""
    if run is not None:
        return {"run": os.path.relpath(run, out)}
    folder = searcher.weights is None and Path(searcher.name).is_dir()
    return {
        "name": os.path.relpath(searcher.name, out) if folder else searcher.name,
        "of_a_run": folder,
        "weights": None if searcher.weights is None else os.path.relpath(searcher.weights, out),
    }


def _map(path: Path) -> NDArray[Any]:
    """An array on the disk; writing to it stays in memory, as torch wants it."""
    try:
        return np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is missing or cut off; index again.") from error


def _claim(out: Path, plan: Mapping[str, Any]) -> None:
    """Go on with an index of the same model, folder and form, refuse any other."""
    path = out / PLAN
    if path.is_file():
        old = read_json(path, f"delete {out} and index again")
        if old == plan:
            return
        changed = [key for key in {**plan, **old} if old.get(key) != plan.get(key)]
        raise UserError(f"{out} was made with another {' and '.join(changed)}; choose another --out or delete it.")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} holds other files; choose another --out.")
    write_json(path, plan)
