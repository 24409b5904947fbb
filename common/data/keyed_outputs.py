"""Outputs of teachers for many clips in one HDF5 file, found by file name, never by position.

    filenames                  (clips,) names; folders and audio endings do not count
    logits | strong_logits | ...   (clips, ...) one data set, usually float16

The layout of the field (PaSST, the system that won DCASE 2024 Task 4). The writer lays the rows out in one piece, so
that the reader maps the file instead of asking HDF5 for each row; compressed or chunked files are read too.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from common.data.audio import ENDINGS
from common.errors import UserError
from common.files import atomic_path

NAMES = "filenames"
MORE_ENDINGS = {".m4a", ".mp4", ".webm", ".aac"}


def clip_key(name: str) -> str:
    """A clip's name without folder and audio ending: "07/Y-abc.mp3" to "Y-abc"."""
    name = name.rpartition("/")[2]
    stem, dot, ending = name.rpartition(".")
    return stem if dot and f".{ending.lower()}" in ENDINGS | MORE_ENDINGS else name


class KeyIndex:
    """Finds names among many: a sorted array of bytes, small enough for two million clips in each worker process.

    Args:
        names: in the order of the rows.
        where: what they stand in, for the messages.

    Raises:
        UserError: if a name is there twice, with how many are.
    """

    def __init__(self, names: Iterable[str], where: str):
        self.where = where
        self._keys = np.array([clip_key(name) for name in names], dtype=np.bytes_)
        self._order = np.argsort(self._keys, kind="stable")
        self._sorted = self._keys[self._order]
        doubled = self._sorted[1:][self._sorted[1:] == self._sorted[:-1]]
        if len(doubled):
            raise UserError(
                f"{where} holds {doubled[0].decode()} more than once ({len(doubled)} names are doubled); "
                "each clip may be there once, write it again."
            )

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, row: int) -> str:
        """Name of a row, without folder and ending."""
        return self._keys[row].decode()

    def rows(self, names: Sequence[str], allow_missing: bool = False) -> NDArray[np.int64]:
        """Rows of `names`, with or without ending; -1 for those that are not there, where that is allowed.

        Raises:
            UserError: if names are missing, with how many and the first.
        """
        if not len(names):
            return np.zeros(0, dtype=np.int64)
        wanted = np.array([clip_key(name) for name in names], dtype=np.bytes_)
        place = np.minimum(np.searchsorted(self._sorted, wanted), max(0, len(self) - 1))
        found = self._sorted[place] == wanted if len(self) else np.zeros(len(wanted), dtype=bool)
        if not found.all() and not allow_missing:
            absent = [name for name, there in zip(names, found) if not there]
            raise UserError(
                f"{self.where} lacks {len(absent)} of {len(names)} clips (first {absent[0]}); complete it, or take "
                "these clips out of the table."
            )
        return np.where(found, self._order[place] if len(self) else -1, -1).astype(np.int64)


class KeyedOutputs:
    """Reads such a file; worker processes that fork or spawn each map it for themselves.

    Args:
        path: of the file.
        kind: name of the data set, such as "logits" or "strong_logits"; None takes the only one.
        shape: what a row must be, such as (527,) or (447, 250).

    Attributes:
        filenames: index of the names (see `KeyIndex`).
        kind: name of the data set.
        shape: of a row.

    Raises:
        UserError: if the file is missing, cut off, has no such data set, other rows, or doubled names.
    """

    def __init__(self, path: Path, kind: str | None = None, shape: Sequence[int] | None = None):
        self.path = Path(path)
        with open_hdf5(self.path) as file:
            self.kind = self._find_kind(file, kind)
            data = file[self.kind]
            names = [_text(name) for name in file[NAMES][:]]
            if data.ndim < 2 or data.shape[0] != len(names):
                raise UserError(
                    f"{self.path} names {len(names)} clips but its {self.kind} have the shape {data.shape}."
                )
            self.shape, self.dtype = tuple(data.shape[1:]), data.dtype
            # Where the values lie in the file, when they lie there in one piece and as they are.
            self._offset = data.id.get_offset()
        if shape is not None and tuple(shape) != self.shape:
            raise UserError(
                f"{self.path}: a clip has {self.kind} of shape {self.shape}, expected {tuple(shape)} (classes); "
                "take the outputs of a teacher with the same classes."
            )
        self.filenames = KeyIndex(names, str(self.path))
        self._reader: Any = None
        self._reader_process = -1

    def __len__(self) -> int:
        return len(self.filenames)

    def rows(self, names: Sequence[str], allow_missing: bool = False) -> NDArray[np.int64]:
        """Rows of clips; see `KeyIndex.rows`."""
        return self.filenames.rows(names, allow_missing)

    def read(self, rows: Sequence[int] | NDArray) -> NDArray:
        """(len(rows), *shape) in the type of the file, in the order asked for; zeros for row -1.

        Raises:
            UserError: if a value is NaN or infinite, with the clip.
        """
        rows = np.asarray(rows, dtype=np.int64)
        values = np.zeros((len(rows), *self.shape), dtype=self.dtype)
        data = self._data()
        for place, row in enumerate(rows.tolist()):
            if row >= 0:
                values[place] = data[row]
        if not np.isfinite(values).all():
            bad = np.flatnonzero(~np.isfinite(values).reshape(len(rows), -1).all(axis=1))
            raise UserError(
                f"{self.path}: the {self.kind} of {self.filenames.key(int(rows[bad[0]]))} hold NaN or infinity; "
                "let the teacher write them again."
            )
        return values

    def _find_kind(self, file: h5py.File, kind: str | None) -> str:
        kinds = [name for name in file if name != NAMES and isinstance(file[name], h5py.Dataset)]
        numeric = [name for name in kinds if file[name].dtype.kind == "f"]
        if NAMES not in file:
            raise UserError(f"{self.path} holds no teacher outputs: it has no data set {NAMES}.")
        if kind is None and len(numeric) == 1:
            return numeric[0]
        if kind is None or kind not in kinds:
            wanted = kind or "one data set of outputs"
            raise UserError(f"{self.path} has no {wanted} beside {NAMES}; it has {', '.join(kinds) or 'nothing else'}.")
        return kind

    def _data(self) -> Any:
        if self._reader is None or self._reader_process != os.getpid():
            if self._offset is not None:
                shape = (len(self), *self.shape)
                self._reader = np.memmap(self.path, dtype=self.dtype, mode="r", offset=self._offset, shape=shape)
            else:
                self._reader = h5py.File(self.path, "r")[self.kind]
            self._reader_process = os.getpid()
        return self._reader

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None, "_reader_process": -1}


class OutputWriter:
    """Writes such a file within a `with` block; it appears whole, with a row for each name, or not at all.

    Args:
        path: of the file.
        filenames: all clips; their outputs may come in any order.
        shape: of a row, such as (527,).
        kind: name of the data set.
        dtype: float16 halves the size; values beyond its range are cut to it.
    """

    def __init__(
        self, path: Path, filenames: Sequence[str], shape: Sequence[int], kind: str = "logits", dtype: str = "float16"
    ):
        self.path, self.kind, self.dtype = Path(path), kind, np.dtype(dtype)
        self.shape = tuple(shape)
        self._keys = [clip_key(name) for name in filenames]
        self._index = KeyIndex(self._keys, f"The list of clips for {self.path.name}")
        self._written = np.zeros(len(self._keys), dtype=bool)

    def __enter__(self) -> "OutputWriter":
        # Closing first, then renaming: in the reverse order of entering.
        self._stack = ExitStack()
        self._file = self._stack.enter_context(h5py.File(self._stack.enter_context(atomic_path(self.path)), "w"))
        shape = (len(self._keys), *self.shape)
        self._data = self._file.create_dataset(self.kind, shape, dtype=self.dtype)
        return self

    def write(self, filenames: Sequence[str], values: Any) -> None:
        """Put the outputs (len(filenames), *shape), an array or tensor, at their places.

        Raises:
            UserError: for NaN or infinity (with the clip), or a clip that is not in the list.
        """
        if hasattr(values, "detach"):  # a tensor; torch is not needed to tell
            values = values.detach().float().cpu().numpy()
        values = np.asarray(values)
        if values.shape != (len(filenames), *self.shape):
            raise ValueError(f"{self.path.name}: outputs of shape {values.shape}, expected {self.shape} for each clip")
        if not np.isfinite(values).all():
            bad = filenames[int(np.argwhere(~np.isfinite(values))[0][0])]
            raise UserError(f"The outputs of {bad} for {self.path} hold NaN or infinity, so they were not stored.")
        rows = self._index.rows(filenames)
        limit = np.finfo(self.dtype).max
        for row, value in zip(rows.tolist(), np.clip(values, -limit, limit)):
            self._data[row] = value
        self._written[rows] = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is not None:
                raise error
            if not self._written.all():
                absent = np.flatnonzero(~self._written)
                raise UserError(
                    f"{len(absent)} of {len(self._keys)} clips got no outputs (first {self._keys[absent[0]]}), "
                    f"so {self.path} was not written."
                )
            self._file.create_dataset(NAMES, data=np.array(self._keys, dtype=np.bytes_))


def open_hdf5(path: Path) -> h5py.File:
    """Open a file for reading.

    Raises:
        UserError: if it is missing, cut off or no HDF5 file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    try:
        return h5py.File(path, "r")
    except PermissionError as error:
        raise UserError(f"{path} may not be read: {error.strerror}.") from error
    except OSError as error:
        raise UserError(f"{path} is cut off or no HDF5 file; write or download it again.") from error


def _text(name: Any) -> str:
    return name.decode("utf-8") if isinstance(name, bytes) else str(name)
