"""The files of a package, in a folder or a zip. Nothing outside the package is read."""

import lzma
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from common.data.archives import check_zip, extract_zip
from common.data.files import human_size
from common.errors import UserError
from submissions.rules import Rules

MAX_ENTRIES = 2_000_000
MAX_TEXT_MB = {".yaml": 1, ".py": 1, ".json": 10}
"""Parsing these takes up to a hundred times the memory."""
MAX_META = 1_000_000


def list_folder(folder: Path) -> dict[str, Path]:
    """Name below `folder` to path of every file. Links are followed within the folder.

    Raises:
        UserError: if a link is broken, leaves the folder or leads to a folder that holds it, or an entry is neither a
            file nor a folder.
    """
    root = folder.resolve()
    found: dict[str, Path] = {}
    waiting: list[tuple[Path, str, tuple[Path, ...]]] = [(folder, "", ())]
    while waiting:
        place, prefix, above = waiting.pop()
        above = (*above, place.resolve())
        for path in sorted(place.iterdir()):
            if path.is_symlink():
                _refuse_link(path, root, above)
            if path.is_dir():
                waiting.append((path, f"{prefix}{path.name}/", above))
            elif path.is_file():
                found[prefix + path.name] = path
            else:
                raise UserError(f"{path} is neither a file nor a folder. Remove it from the package.")
        if len(found) + len(waiting) > MAX_ENTRIES:
            raise UserError(f"{folder} has more than {MAX_ENTRIES:,} files and folders, links included.")
    return dict(sorted(found.items()))


def _refuse_link(path: Path, root: Path, above: Iterable[Path]) -> None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise UserError(f"{path} is a broken link, to {path.readlink()}. Put the file itself there.") from None
    if not target.is_relative_to(root):
        raise UserError(f"{path} is a link that leaves the package, to {target}. Put the file itself there.")
    if target in above:
        raise UserError(f"{path} is a link to a folder that holds it. Remove it.")


def list_zip(path: Path) -> dict[str, int]:
    """Name to unpacked size of each file in a zip.

    Raises:
        UserError: if it is no zip, is encrypted, or holds links, a name twice or one that leaves its folder.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_zip(path, archive)
            members = [member for member in archive.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(path, error) from error
    names = [PurePosixPath(member.filename).as_posix() for member in members]
    if doubled := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{path} is refused: it holds {doubled[0]!r} twice.")
    return {name: member.file_size for name, member in zip(names, members, strict=True)}


def read_meta_files(path: Path, names: Iterable[str]) -> str:
    """Text of the small meta files among `names`, of a folder or a zip; "" for those that cannot be read."""
    texts = []
    for name in (name for name in names if name.endswith(".meta.yaml")):
        try:
            if path.is_dir():
                with (path / name).open("rb") as file:
                    texts.append(file.read(MAX_META))
            else:
                with zipfile.ZipFile(path) as archive, archive.open(name) as member:
                    texts.append(member.read(MAX_META))
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, OSError,
                ValueError, KeyError):  # fmt: skip
            continue
    return b"\n".join(texts).decode("utf-8", errors="replace")


def unzip(path: Path, folder: Path) -> None:
    """Unpack a zip after checking all its members.

    Raises:
        UserError: if it is damaged, or fails where `list_zip` does.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            extract_zip(path, archive, folder)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, OSError,
            ValueError) as error:  # fmt: skip
        raise _damaged(path, error) from error


def check_sizes(path: Path, sizes: Mapping[str, int], rules: Rules) -> None:
    """Refuse a package with more data than its challenge can need; `sizes` is bytes by name."""
    for name, size in sizes.items():
        most = min(rules.max_file_mb, MAX_TEXT_MB.get(PurePosixPath(name).suffix, rules.max_file_mb))
        if size > most * 1e6:
            raise UserError(
                f"{path} is refused: {name} has {human_size(size)}; such a file of {rules.name} has at most {most} MB."
            )
    if sum(sizes.values()) > rules.max_package_mb * 1e6:
        raise UserError(
            f"{path} is refused: it holds {human_size(sum(sizes.values()))}; a package of {rules.name} has at most "
            f"{rules.max_package_mb:,} MB."
        )


def is_of_macos(name: str) -> bool:
    """Whether macOS adds a file of this name to folders and zips."""
    path = PurePosixPath(name)
    return "__MACOSX" in path.parts or path.name == ".DS_Store" or path.name.startswith("._")


def official_names(names: Iterable[str], folder: str) -> dict[str, str]:
    """Name as in a package to name below `folder`, whichever level of the package the folder is."""
    names = list(names)
    tops = {name.partition("/")[0] for name in names if re.match(r"[^/]+/(task\d+/|setup\.py$)", name)}
    prefix = ""
    if not any(re.match(r"task\d+/|setup\.py$", name) for name in names) and len(tops) == 1:
        top = f"{tops.pop()}/"
        return {name.removeprefix(top): name for name in names}
    if re.fullmatch(r"task\d+", folder):
        prefix = f"{folder}/"
    elif any(re.fullmatch(r"[^/]*\.meta\.yaml", name) for name in names):
        number = re.search(r"task(\d+)", folder)
        prefix = f"task{number[1]}/{folder}/" if number else ""
    return {prefix + name: name for name in names}


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is not a whole zip file: {error}. Make it again with `submissions pack`.")
