"""Unpacking zip, tar and 7z archives of others; nothing is written outside the folder."""

import json
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath

from common.data.download import RemoteFile, download
from common.data.files import write_json
from common.errors import UserError, import_part

MARKS = ".unpacked"


def unpack(archive: Path, folder: Path) -> bool:
    """Unpack a zip, tar (also compressed) or 7z archive into a folder, once; a mark in the folder records it.

    All names are checked before the first file is written.

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
    with suppress(OSError, ValueError):
        if json.loads(mark.read_text(encoding="utf-8")) == content:
            return False
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                extract_zip(archive, zipped, folder)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                _refuse(archive, {one.name: not (one.isfile() or one.isdir()) for one in tar.getmembers()})
                tar.extractall(folder, filter="data")
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


def download_and_unpack(file: RemoteFile, archives: Path, folder: Path, delete: bool = False) -> None:
    """Download an archive and unpack it into a folder, unless that was done and the archive deleted (`delete`)."""
    archive = archives / file.name
    if (folder / MARKS / f"{file.name}.json").is_file() and not archive.is_file():
        return
    unpack(download(file, archives), folder)
    if delete:
        archive.unlink()


def extract_zip(path: Path, archive: zipfile.ZipFile, folder: Path) -> None:
    """Extract an open zip file after checking its members, see `unpack`."""
    check_zip(path, archive)
    archive.extractall(folder)


def check_zip(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse an open zip file for its members, see `unpack`."""
    members = archive.infolist()
    plain = (0, stat.S_IFREG, stat.S_IFDIR)
    _refuse(path, {one.filename: stat.S_IFMT(one.external_attr >> 16) not in plain for one in members})
    if any(member.flag_bits & 1 for member in members):
        raise UserError(f"{path} is encrypted; unpack it by hand.")


def _unpack_7z(archive: Path, folder: Path) -> None:
    py7zr = import_part(
        "py7zr",
        f"Unpacking {archive.name} needs py7zr, an optional part; install it with `pip install py7zr`, "
        f"or unpack {archive} into {folder} by hand.",
    )
    try:
        with py7zr.SevenZipFile(archive) as content:
            if content.needs_password():
                raise UserError(f"{archive} is encrypted; unpack it into {folder} by hand.")
            _refuse(archive, {one.filename: one.is_symlink for one in content.list()})
            content.extractall(folder)
    except (py7zr.exceptions.ArchiveError, lzma.LZMAError) as error:
        raise UserError(f"{archive} is damaged or cut off ({error}); delete it and download it again.") from error


def _refuse(archive: Path, is_special: Mapping[str, bool]) -> None:
    """Refuse an archive for the name of a member, or because a member is a link or a device."""
    for name, special in is_special.items():
        why = "is a link or a device" if special else None
        if ".." in PurePosixPath(name.replace("\\", "/")).parts:
            why = "would leave the folder"
        if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor:
            why = "has an absolute name"
        if why is not None:
            raise UserError(
                f"{archive}: the member {name} {why}; nothing was unpacked. Get the archive from its publisher."
            )
