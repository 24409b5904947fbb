"""Arrays of many clips in one HDF5 file, found by file name, never by position: logits, frames, embeddings.

    filenames                          (clips,) names; audio endings do not count
    logits | strong_logits | frames    (clips, ...) one data set, usually float16
    ...                                (clips,) further columns, such as the ends of the clips
    attributes                         what the rows mean: classes, the model; texts are JSON

The layout of the field (PaSST, EfficientAT, the system that won DCASE 2024 Task 4). The rows of a known list of clips
are contiguous in the file, so that readers map them; compressed or chunked files are read through HDF5.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from common.data.audio import ENDINGS
from common.data.files import atomic_path
from common.errors import UserError

NAMES = "filenames"
WRITTEN = "written"
ROOM_LEFT = 4 << 20
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
        where: file or list that holds them, for the messages.
        key: the part of a name that counts.

    Raises:
        UserError: if names are doubled, with their number.
    """

    def __init__(self, names: Iterable[str], where: str, key: Callable[[str], str] = clip_key):
        self.where, self._key_of = where, key
        self.keys = self._encode(names)
        self._order = np.argsort(self.keys, kind="stable")
        self._sorted = self.keys[self._order]
        doubled = self._sorted[1:][self._sorted[1:] == self._sorted[:-1]]
        if len(doubled):
            raise UserError(
                f"{where} holds {doubled[0].decode()} more than once ({len(doubled)} names are doubled); "
                "each clip may be there once, write it again."
            )

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> str:
        """Name of a row, without what does not count."""
        return self.keys[row].decode()

    def names(self) -> tuple[str, ...]:
        """All names in the order of the rows, without what does not count."""
        return tuple(key.decode() for key in self.keys)

    def rows(self, names: Sequence[str], allow_missing: bool = False) -> NDArray[np.int64]:
        """Rows of `names`, with or without ending; -1 for missing ones, where that is allowed.

        Raises:
            UserError: if names are missing, with their number and the first.
        """
        if not len(names):
            return np.zeros(0, dtype=np.int64)
        wanted = self._encode(names)
        place = np.minimum(np.searchsorted(self._sorted, wanted), max(0, len(self) - 1))
        found = self._sorted[place] == wanted if len(self) else np.zeros(len(wanted), dtype=bool)
        if not found.all() and not allow_missing:
            absent = [name for name, there in zip(names, found) if not there]
            raise UserError(
                f"{self.where} lacks {len(absent)} of {len(names)} clips (first {absent[0]}); complete it, or take "
                "these clips out of the table."
            )
        return np.where(found, self._order[place] if len(self) else -1, -1).astype(np.int64)

    def _encode(self, names: Iterable[str]) -> NDArray[np.bytes_]:
        return np.array([self._key_of(name).encode() for name in names], dtype=np.bytes_)


class KeyedOutputs:
    """Reads such a file; worker processes that fork or spawn each map it for themselves.

    Args:
        kind: name of the data set, such as "logits", or several, of which the first found is taken; None takes the
            only one.
        shape: what a row must be, such as (527,) or (447, 250).
        key: the part of a file name that counts; see `KeyIndex`.

    Attributes:
        filenames: index of the names (see `KeyIndex`).
        attributes: what the file says about its rows.

    Raises:
        UserError: if the file is missing, cut off, has no such data set, other rows, or doubled names.
    """

    def __init__(
        self,
        path: Path,
        kind: str | Sequence[str] | None = None,
        shape: Sequence[int] | None = None,
        key: Callable[[str], str] = clip_key,
    ):
        self.path = Path(path)
        with open_hdf5(self.path) as file:
            self.kind = self._find_kind(file, kind)
            data = file[self.kind]
            names = read_names(file)
            if data.ndim < 2 or data.shape[0] != len(names):
                raise UserError(
                    f"{self.path} names {len(names)} clips but its {self.kind} have the shape {data.shape}."
                )
            if data.dtype.kind != "f":
                raise UserError(f"{self.path} holds {self.kind} of the type {data.dtype}, not floating-point numbers.")
            self.shape, self.dtype = tuple(data.shape[1:]), data.dtype
            # Position of the values in the file, if they are contiguous and not compressed.
            self._offset = data.id.get_offset()
            self.attributes = {name: _from_attribute(value) for name, value in file.attrs.items()}
        if shape is not None and tuple(shape) != self.shape:
            raise UserError(
                f"{self.path}: a clip has {self.kind} of shape {self.shape}, expected {tuple(shape)} (classes); "
                "take the outputs of a teacher with the same classes."
            )
        self.filenames = KeyIndex(names, str(self.path), key)
        self._reader: Any = None
        self._reader_process = -1

    def __len__(self) -> int:
        return len(self.filenames)

    def rows(self, names: Sequence[str], allow_missing: bool = False) -> NDArray[np.int64]:
        """Rows of clips; see `KeyIndex.rows`."""
        return self.filenames.rows(names, allow_missing)

    def read(self, rows: Sequence[int] | NDArray) -> NDArray:
        """(len(rows), *shape) in the type of the file, in the order of `rows`; zeros for row -1.

        Raises:
            UserError: if a value is NaN or infinite, with the clip.
        """
        rows = np.asarray(rows, dtype=np.int64)
        values = np.zeros((len(rows), *self.shape), dtype=self.dtype)
        if self._reader is None or self._reader_process != os.getpid():
            shape = (len(self), *self.shape)
            self._reader = (
                h5py.File(self.path, "r")[self.kind]
                if self._offset is None
                else np.memmap(self.path, dtype=self.dtype, mode="r", offset=self._offset, shape=shape)
            )
            self._reader_process = os.getpid()
        for place, row in enumerate(rows.tolist()):
            if row >= 0:
                values[place] = self._reader[row]
        if not np.isfinite(values).all():
            bad = np.flatnonzero(~np.isfinite(values).reshape(len(rows), -1).all(axis=1))
            raise UserError(
                f"{self.path}: the {self.kind} of {self.filenames.key(int(rows[bad[0]]))} hold NaN or infinity; "
                "let the teacher write them again."
            )
        return values

    def column(self, name: str) -> NDArray | None:
        """(clips,) another data set of the file; None where it has none of this name."""
        with open_hdf5(self.path) as file:
            return file[name][:] if name in file else None

    def _find_kind(self, file: h5py.File, kind: str | Sequence[str] | None) -> str:
        kinds = [name for name in file if name != NAMES and isinstance(file[name], h5py.Dataset)]
        wanted = [kind] if isinstance(kind, str) else kind or [name for name in kinds if file[name].dtype.kind == "f"]
        found = [name for name in wanted if name in kinds]
        if NAMES not in file:
            raise UserError(f"{self.path} holds no outputs of clips: it has no data set {NAMES}.")
        if not found or (kind is None and len(found) > 1):
            asked = "one data set of outputs" if kind is None else " or ".join(wanted)
            raise UserError(f"{self.path} has no {asked} beside {NAMES}; it has {', '.join(kinds) or 'nothing else'}.")
        return found[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None, "_reader_process": -1}


class OutputWriter:
    """Writes such a file within a `with` block; it appears whole or not at all.

    Args:
        filenames: all clips, which are written in any order. None takes the clips that are written.
        shape: of a row, such as (527,); None takes the shape of the first.
        dtype: float16 halves the size; values beyond its range are cut to it.
        attributes: what the rows mean, such as the classes; numbers, or anything that JSON can hold.
        key: the part of a file name that counts; see `KeyIndex`.
        resume: keep the rows of a block that ends early, also by kill -9, for the next writer of the same file. Needs
            `filenames`.

    Raises:
        UserError: if names are doubled; with `resume`, if the earlier rows have other clips or attributes.
    """

    def __init__(
        self,
        path: Path,
        filenames: Sequence[str] | None,
        shape: Sequence[int] | None = None,
        kind: str = "logits",
        dtype: str = "float16",
        *,
        attributes: Mapping[str, Any] | None = None,
        key: Callable[[str], str] = clip_key,
        resume: bool = False,
    ):
        self.path, self.kind, self.dtype = Path(path), kind, np.dtype(dtype)
        self.shape = None if shape is None else tuple(shape)
        self.attributes = {
            name: value if isinstance(value, int | float) else json.dumps(value)
            for name, value in (attributes or {}).items()
        }
        self.resume, self._key_of = resume, key
        self._index = None if filenames is None else KeyIndex(filenames, f"The list of clips for {self.path.name}", key)
        self._written = np.zeros(0 if filenames is None else len(filenames), dtype=bool)
        self._arrived: dict[str, None] = {}  # names in their order, without a list

    def __enter__(self) -> Self:
        self._context = self._writing()
        self._context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)

    @property
    def missing(self) -> NDArray[np.int64]:
        """Places in the list of clips that have no row yet."""
        return np.flatnonzero(~self._written)

    def write(self, filenames: Sequence[str], values: Any) -> None:
        """Store the rows (len(filenames), *shape) of clips, an array or tensor.

        Raises:
            UserError: for NaN or infinity (with the clip), a clip that is not in the list or doubled, or a row of
                another shape than the first.
        """
        if hasattr(values, "detach"):  # a tensor; torch need not be imported
            values = values.detach().float().cpu().numpy()
        values = np.asarray(values)
        self._check(filenames, values)
        if self._index is None:
            for name in map(self._key_of, filenames):
                if name in self._arrived:
                    raise UserError(f"{name} was stored twice in {self.path}; file names must differ.")
                self._arrived[name] = None
            rows = np.arange(len(self._arrived) - len(filenames), len(self._arrived))
        else:
            rows = self._index.rows(filenames)
        limit = np.finfo(self.dtype).max
        require_room(self._temporary, values.size * self.dtype.itemsize)
        with h5py.File(self._temporary, "a") as file:
            data = file[self.kind] if self.kind in file else self._create(file, values.shape[1:])
            if self._index is None:
                data.resize(len(self._arrived), axis=0)
            for row, value in zip(rows.tolist(), np.clip(values, -limit, limit)):
                data[row] = value
        if self._index is not None:
            self._written[rows] = True
        if self.resume:  # after the rows are in the file
            with h5py.File(self._temporary, "a") as file:
                file[WRITTEN][:] = self._written

    def columns(self) -> dict[str, NDArray]:
        """Further data sets of the file, with a value for each clip."""
        return {}

    @contextmanager
    def _writing(self) -> Iterator[None]:
        place = _kept_path if self.resume else atomic_path
        with place(self.path) as self._temporary:
            if not (self.resume and self._resumes()):
                require_room(self._temporary, 0 if self._index is None else self._index.keys.nbytes)
                with h5py.File(self._temporary, "w") as file:
                    file.attrs.update(self.attributes)
                    if self._index is not None:
                        file.create_dataset(NAMES, data=self._index.keys)
                        if self.shape is not None:
                            self._create(file, self.shape)
                    if self.resume:
                        file.create_dataset(WRITTEN, data=self._written)
            yield
            self._finish()

    def _resumes(self) -> bool:
        """Whether there are rows of an earlier block; they are kept."""
        assert self._index is not None, "only a list of clips can be resumed"
        try:
            with h5py.File(self._temporary, "r") as file:
                names, attributes, written = file[NAMES][:], dict(file.attrs), file[WRITTEN][:]
                self.shape = file[self.kind].shape[1:] if self.kind in file else self.shape
        except (OSError, KeyError):  # none, or a kill cut its first bytes
            return False
        if attributes != self.attributes or not np.array_equal(names, self._index.keys):
            raise UserError(
                f"{self._temporary} is the beginning of {self.path.name} of other clips or another model; delete it."
            )
        self._written = written
        return True

    def _create(self, file: h5py.File, shape: Sequence[int]) -> h5py.Dataset:
        self.shape = tuple(shape)
        if self._index is not None:
            return file.create_dataset(self.kind, (len(self._index), *shape), dtype=self.dtype)
        return file.create_dataset(
            self.kind, (0, *shape), maxshape=(None, *shape), chunks=(1, *shape), dtype=self.dtype
        )

    def _check(self, filenames: Sequence[str], values: NDArray) -> None:
        if len(values) != len(filenames):
            raise ValueError(f"{self.path.name}: {len(filenames)} clips cannot have outputs of shape {values.shape}")
        if self.shape is not None and values.shape[1:] != self.shape:
            raise UserError(
                f"{filenames[0]} has outputs of shape {values.shape[1:]}, but {self.path} holds clips of {self.shape}."
            )
        if not np.isfinite(values).all():
            bad = filenames[int(np.argwhere(~np.isfinite(values))[0][0])]
            raise UserError(f"The outputs of {bad} for {self.path} hold NaN or infinity, so they were not stored.")

    def _finish(self) -> None:
        if len(self.missing):
            first = self._index.key(int(self.missing[0])) if self._index is not None else ""
            raise UserError(
                f"{len(self.missing)} of {len(self._written)} clips got no outputs (first {first}), so {self.path} was "
                "not written."
            )
        if self.shape is None:
            raise UserError(f"No clip was written to {self.path}, so there is no such file.")
        with h5py.File(self._temporary, "a") as file:
            if self._index is None:
                file.create_dataset(NAMES, data=np.array([name.encode() for name in self._arrived]))
            if self.resume:
                del file[WRITTEN]
            for name, values in self.columns().items():
                file.create_dataset(name, data=values)


def require_room(path: Path, num_bytes: int) -> None:
    """Raise the error of a full disk before HDF5 meets it, which then ends the process by a segmentation fault.

    Raises:
        OSError: if the disk of `path` has no room for `num_bytes` and what HDF5 holds back until it closes the file.
    """
    if shutil.disk_usage(path.parent).free < num_bytes + ROOM_LEFT:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


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


def read_names(file: h5py.File, data_set: str = NAMES) -> list[str]:
    """File names that a data set holds, as bytes or as text."""
    names = file[data_set]
    if not isinstance(names, h5py.Dataset) or names.ndim != 1 or names.dtype.kind not in "SO":
        raise UserError(f"{file.filename}: {data_set} is no list of texts; write or download the file again.")
    try:
        return [name.decode() if isinstance(name, bytes) else str(name) for name in names[:]]
    except UnicodeDecodeError as error:
        raise UserError(f"{file.filename}: a name in {data_set} is no UTF-8; write or download it again.") from error


@contextmanager
def _kept_path(path: Path) -> Iterator[Path]:
    """As `atomic_path`, always the same temporary path, which stays when the block ends with an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    yield part
    part.replace(path)


def _from_attribute(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value.item()
    except (ValueError, AttributeError):  # text, or an empty value, of a file that others wrote
        return value
