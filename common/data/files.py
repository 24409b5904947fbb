"""Atomic writing of files, the files below a folder, checksums and sizes in words."""

import hashlib
import json
import os
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from common.errors import UserError
from common.output import say


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` and rename it to `path` at the end; on an error it is removed.

    A reader sees the old file or the new one, never a part.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open `path` for atomic writing, "w" (UTF-8) or "wb"; see `atomic_path`."""
    encoding = None if "b" in mode else "utf-8"
    newline = None if "b" in mode else ""
    with atomic_path(path) as temporary, temporary.open(mode, encoding=encoding, newline=newline) as file:
        yield file
        file.flush()


def write_json(path: Path, data: object) -> None:
    """Write `data` as indented JSON, atomically."""
    with atomic_write(path) as file:
        json.dump(data, file, indent=2, ensure_ascii=False)
        file.write("\n")


def walk_files(folder: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones, links followed.

    A link back to a folder that it lies in, and a link to nothing are named on stderr. A broken link with an ending is
    given out like a file, so that a reader that needs it reports it.

    Raises:
        UserError: if a folder cannot be read.
    """
    for name, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        here = Path(name)
        around = [here, *here.parents][: len(here.relative_to(folder).parts) + 1]
        folders[:] = [inner for inner in folders if not inner.startswith(".") and not _leads_back(here / inner, around)]
        for path in (here / file for file in files if not file.startswith(".")):
            if path.exists() or path.suffix:
                yield path
            else:
                say(f"{path} is a link to {path.readlink()}, which does not exist; it is left out.")


def _leads_back(path: Path, around: Sequence[Path]) -> bool:
    if not path.is_symlink():
        return False
    target = path.resolve()
    loop = any(outer.resolve().is_relative_to(target) for outer in around)
    if loop:
        say(f"{path} is a link back to {target}, which it lies in; it is not followed.")
    return loop


def _refuse(error: OSError) -> None:
    raise UserError(f"The folder {error.filename} cannot be read: {error.strerror}.") from error


def paths_in(folder: Path, names: Iterable[str]) -> list[Path]:
    """Path of each name in a folder; names on the disk in another Unicode form (macOS splits accents off) are found."""
    names = list(names)
    if all(map(str.isascii, names)) or not folder.is_dir():
        return [folder / name for name in names]
    listed = {path.name for path in folder.iterdir()}
    composed = {unicodedata.normalize("NFC", name): name for name in listed}
    return [
        folder / (name if name in listed else composed.get(unicodedata.normalize("NFC", name), name)) for name in names
    ]


def compute_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def human_size(num_bytes: float) -> str:
    """1536 to "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(num_bytes) < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"
