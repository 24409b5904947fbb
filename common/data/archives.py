"""Unpacking zip, tar and 7z archives that others made, without letting them write elsewhere."""

import json
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from common.errors import UserError
from common.files import write_json

MARKS = ".unpacked"


def unpack(archive: Path, folder: Path) -> bool:
    """Unpack a zip, tar (also compressed) or 7z archive into a folder; once, as a mark in the folder notes.

    All names are checked before the first file is written.

    Args:
        archive: the file.
        folder: made when absent.

    Returns:
        False if this archive was unpacked there before.

    Raises:
        UserError: if it is no archive, is damaged, has a member that would leave the folder, has an absolute name, is a
            link or a device, or nothing can be written; or py7zr is missing, an optional part.
    """
    archive, folder = Path(archive), Path(folder)
    if not archive.is_file():
        raise UserError(f"There is no archive {archive}.")
    mark = folder / MARKS / f"{archive.name}.json"
    content = {"size": archive.stat().st_size, "modified": archive.stat().st_mtime_ns}
    if mark.is_file() and _same(mark, content):
        return False
    try:
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, folder)
        elif tarfile.is_tarfile(archive):
            _unpack_tar(archive, folder)
        elif archive.suffix == ".7z":
            _unpack_7z(archive, folder)
        else:
            raise UserError(
                f"{archive} is no zip, tar or 7z archive, or it is cut off; delete it and download it again."
            )
        write_json(mark, content)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise UserError(f"{archive} is damaged ({error}); delete it and download it again.") from error
    except NotImplementedError as error:
        raise UserError(f"{archive} cannot be unpacked here ({error}); unpack it into {folder} by hand.") from error
    except OSError as error:
        raise UserError(f"Cannot unpack {archive} into {folder}: {error.strerror or error}.") from error
    return True


def unpacked_and_deleted(archive: Path, folder: Path) -> bool:
    """Whether an archive was unpacked into a folder and removed since."""
    return (folder / MARKS / f"{archive.name}.json").is_file() and not archive.is_file()


def _same(mark: Path, content: dict) -> bool:
    try:
        return json.loads(mark.read_text(encoding="utf-8")) == content
    except ValueError:
        return False


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        members = content.infolist()
        _refuse_bad_names(archive, [member.filename for member in members])
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(archive, member.filename, "is a link or a device")
            if member.flag_bits & 1:
                raise UserError(f"{archive} is encrypted; unpack it into {folder} by hand.")
        for member in members:
            if not member.is_dir():
                with content.open(member) as source:
                    _write(folder / member.filename, source)


def _unpack_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as content:
        members = content.getmembers()
        _refuse_bad_names(archive, [member.name for member in members])
        for member in members:
            if not (member.isfile() or member.isdir()):
                raise _refused(archive, member.name, "is a link or a device")
        for member in members:
            source = content.extractfile(member) if member.isfile() else None
            if source is not None:
                with source:
                    _write(folder / member.name, source)


def _unpack_7z(archive: Path, folder: Path) -> None:
    try:
        import py7zr
    except ImportError as error:
        raise UserError(
            f"Unpacking {archive.name} needs py7zr, an optional part; install it with `pip install py7zr`, "
            f"or unpack {archive} into {folder} by hand."
        ) from error
    try:
        with py7zr.SevenZipFile(archive) as content:
            if content.needs_password():
                raise UserError(f"{archive} is encrypted; unpack it into {folder} by hand.")
            members = content.list()
            _refuse_bad_names(archive, [member.filename for member in members])
            for member in members:
                if member.is_symlink:
                    raise _refused(archive, member.filename, "is a link or a device")
            content.extractall(folder)
    except (py7zr.exceptions.ArchiveError, lzma.LZMAError) as error:
        raise UserError(f"{archive} is damaged or cut off ({error}); delete it and download it again.") from error


def _refuse_bad_names(archive: Path, names: Iterable[str]) -> None:
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or PureWindowsPath(name).drive:
            raise _refused(archive, name, "has an absolute name")
        if ".." in parts:
            raise _refused(archive, name, "would leave the folder")


def _refused(archive: Path, name: str, why: str) -> UserError:
    return UserError(f"{archive}: the member {name} {why}; nothing was unpacked. Get the archive from its publisher.")


def _write(path: Path, source: IO[bytes]) -> None:
    # Whole or not at all is for the archive: its mark is written last. A link that is there already is not followed.
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        path.unlink()
    with path.open("wb") as file:
        shutil.copyfileobj(source, file, 2**20)
