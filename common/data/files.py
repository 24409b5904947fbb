"""Files that the kit writes and reads back: JSON, tables, checksums, the marker of made-up data.

Every error of reading names the file, and the line where there is one, what is wrong, and what to do.
"""

import csv
import hashlib
import json
import os
import re
import tempfile
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from common.errors import UserError, nearest
from common.output import say

if TYPE_CHECKING:  # pandas is imported when a table is read
    import pandas as pd

MARKER = "made_up.json"
"""File in the folder of a made-up data set."""


def refuse_target(path: Path) -> None:
    """Refuse a place where no file can be written: a folder, below a file, or where nothing may be changed."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file to write.")
    above = next(place for place in path.parents if place.exists())
    if not above.is_dir():
        raise UserError(f"{path} cannot be written: {above} is a file. Choose another place.")
    if not os.access(above, os.W_OK):
        raise UserError(f"{path} cannot be written: nothing may be changed in {above}. Choose another place.")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` and rename it to `path` at the end; on an error it is removed.

    A reader sees the old file or the new one, never a part.
    """
    path = Path(path)
    refuse_target(path)
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


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, atomically."""
    with atomic_write(path) as file:
        file.write(text)


def write_json(path: Path, data: object) -> None:
    """Write `data` as indented JSON, atomically."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


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


def read_json(path: Path, remedy: str, keys: Mapping[str, Any] | None = None, kind: type[Any] = dict) -> Any:
    """The content of a JSON file that the kit wrote, usually a dict.

    Args:
        path: of the file.
        remedy: what to do when it is missing or damaged, such as "delete it and train again".
        keys: names that it must have, with the types of their values (as for `isinstance`).
        kind: list for a file that holds one.

    Raises:
        UserError: if it is missing, cannot be read, is not JSON, or is of another form.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; {remedy}.") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged in line {error.lineno} ({error.msg}); {remedy}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}); {remedy}.") from error
    if not issubclass(type(content), kind):
        raise UserError(f"{path} is damaged: it holds a {type(content).__name__}, not a {kind.__name__}; {remedy}.")
    for name, expected in (keys or {}).items():
        if name not in content:
            raise UserError(f"{path} is damaged: it has no {name}; {remedy}.")
        if not isinstance(content[name], expected):
            raise UserError(f"{path} is damaged: its {name} is {json.dumps(content[name])[:40]}; {remedy}.")
    return content


def compute_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def new_folder(path: Path) -> Path:
    """Make a folder that nothing else writes to: `path`, or with _2, _3, ... where it exists already."""
    for number in count(1):
        place = path if number == 1 else path.with_name(f"{path.name}_{number}")
        with suppress(FileExistsError):
            place.mkdir(parents=True)
            return place
    raise AssertionError


def digest_files(paths: Sequence[Path], memory: Path) -> list[str]:
    """SHA-256 of each file's content, so that a copy of a data set is known again.

    `memory`: JSON file of earlier digests, which hold as long as size and time of a file stay.
    """
    known: dict[str, list[Any]] = read_json(memory, "delete it") if memory.is_file() else {}
    names = [str(path.resolve()) for path in paths]
    facts = {name: [stat.st_size, stat.st_mtime_ns] for name in names for stat in [Path(name).stat()]}
    new = [name for name, own in facts.items() if known.get(name, [])[:2] != own]
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter
        for name, digest in zip(new, pool.map(compute_sha256, map(Path, new))):
            known[name] = [*facts[name], digest]
    if new:
        with suppress(OSError, UserError):  # a folder that cannot be written only costs time
            write_json(memory, known)
    return [known[name][2] for name in names]


def human_size(num_bytes: float) -> str:
    """1536 to "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(num_bytes) < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def read_tsv(path: Path, columns: Iterable[str], key: str | None = None, separator: str = "\t") -> "pd.DataFrame":
    """Read a table with a header line, every cell as text.

    Args:
        path: UTF-8; further columns are kept.
        columns: required, without empty cells.
        key: column without doubled values.
        separator: of columns; with any other than a tab, cells may be quoted.

    Returns:
        The table; the row on line n of the file has the index n - 2.

    Raises:
        UserError: if the file is missing or no text, lacks a column, has an empty row above others, an empty cell,
            a row with more cells than columns, or a doubled key.
    """
    import pandas as pd

    path = Path(path)
    columns = list(columns)
    if not path.is_file():
        raise UserError(f"{path} is a folder, not a table." if path.is_dir() else f"{path} does not exist.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # of cells beyond the last column
            table = pd.read_csv(
                path, sep=separator, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig",
                quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL, index_col=False,
            ).fillna("")  # fmt: skip
    except pd.errors.EmptyDataError as error:
        raise UserError(f"{path} is empty; it needs the header {' '.join(columns)}.") from error
    except pd.errors.ParserError as error:
        found = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        place, what = (f":{found[2]}", f"{found[3]} cells, expected {found[1]}") if found else ("", str(error))
        raise UserError(f"{path}{place} has {what}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a table of text ({error.reason} at byte {error.start}).") from error
    except pd.errors.ParserWarning as error:
        raise UserError(f"{path} has rows with more cells than its header has columns.") from error
    for column in columns:
        if column not in table.columns:
            raise UserError(
                f"{path}:1 has no column {column}; it has {' '.join(map(str, table.columns))} (between {separator!r})."
            )
    blank = table.apply(lambda column: column.str.strip() == "")
    while len(table) and blank.iloc[-1].all():  # blank lines at the end
        table, blank = table.iloc[:-1], blank.iloc[:-1]
    rows = table.index[blank.all(axis=1)]
    if len(rows):
        raise UserError(f"{path}:{rows[0] + 2} is an empty row; take it out.")
    for column in columns:
        rows = table.index[blank[column]]
        if len(rows):
            raise UserError(f"{path}:{rows[0] + 2} has nothing in the column {column}.")
    if table.empty:
        raise UserError(f"{path} has a header but no rows.")
    if key is not None:
        doubled = table.index[table[key].duplicated()]
        if len(doubled):
            value = table[key][doubled[0]]
            first = table.index[table[key] == value][0]
            raise UserError(f"{path}:{doubled[0] + 2} names {value} again (first on line {first + 2}); take one out.")
    return table


def refuse_unknown(path: Path, table: "pd.DataFrame", column: str, kind: str, names: Iterable[str]) -> None:
    """Refuse a column that holds anything but `names`.

    Raises:
        UserError: naming file, line, the value, and the nearest of the names.
    """
    names = list(names)
    wrong = table.index[~table[column].isin(names)]
    if len(wrong):
        value = table[column][wrong[0]]
        near = nearest(value, names)
        hint = f"near it: {', '.join(near)}" if near else f"there are: {', '.join(names)}"
        more = f" ({len(wrong)} rows in all)" if len(wrong) > 1 else ""
        raise UserError(f"{path}:{wrong[0] + 2} has the {kind} {value}{more}, which does not exist; {hint}.")


def claim_folder(folder: Path, made_from: dict) -> bool:
    """Mark a folder as made-up data, before anything else is written into it.

    `made_from` holds the arguments that determine the content, such as task, clips and seed.

    Returns:
        True if the same content is there already, complete.

    Raises:
        UserError: if the folder holds files without the marker, which may be a real data set, or other made-up data.
    """
    marker = folder / MARKER
    if marker.is_file():
        content = read_marker(folder)
        if content.get("made_from") != made_from:
            raise UserError(
                f"{folder} holds made-up data of {content.get('made_from')}, asked is {made_from}; "
                "give another --root or delete that folder."
            )
        return bool(content.get("whole"))
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(
                f"{folder} holds files that were not made up (no {MARKER}), perhaps the real data set; "
                "give another --root."
            )
        write_json(marker, {"made_up": True, "whole": False, "made_from": made_from})
    except OSError as error:
        raise UserError(f"Cannot write into {folder}: {error.strerror}.") from error
    return False


def finish_folder(folder: Path, made_from: dict, numbers: dict) -> None:
    """Mark a claimed folder as complete, with counts for `data check`."""
    write_json(folder / MARKER, {"made_up": True, "whole": True, "made_from": made_from, "numbers": numbers})


def is_made_up(folder: Path) -> bool:
    """Whether a data set's folder holds made-up data; reports say so in their headings."""
    return (Path(folder) / MARKER).is_file()


def read_marker(folder: Path) -> dict:
    """The content of the marker file; see `read_json`."""
    return read_json(Path(folder) / MARKER, "delete the folder and synthesize again")
