"""A submission opened for checking: a folder or a zip, its systems, their tables and meta files."""

import csv
import json
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath

import pandas as pd

from common.errors import UserError
from common.files import human_size
from submissions.meta_file import BrokenMeta, MetaFile
from submissions.rules import Rules, recognise

DECLARATION = "made_up_evaluation_set.json"
"""File at the top of a package whose outputs belong to a made-up evaluation set; see EvaluationFiles."""
MAX_UNPACKED = 50 * 2**30


class Unreadable(Exception):
    """A file that a check needs cannot be read; another check says why."""


class EvaluationFiles:
    """The evaluation set a package belongs to: files, and for some tasks durations in seconds or queries."""

    def __init__(
        self,
        files: list[str],
        made_up: bool,
        source: str,
        durations: dict[str, float] | None = None,
        queries: list[str] | None = None,
    ):
        self.files = files
        self.made_up = made_up
        self.source = source
        self.durations = durations or {}
        self.queries = queries or []


class System:
    """One of a team's systems: the files below task<number>/<label>/."""

    def __init__(self, label: str, prefix: str, files: dict[str, Path], rules: Rules):
        self.label = label
        self.prefix = prefix
        self.files = files
        self.rules = rules
        self._tables: dict[str, pd.DataFrame] = {}

    def place(self, name: str, line: int | None = None) -> str:
        """Name of a file of this system within the package, with its line."""
        return f"{self.prefix}/{name}" + (f":{line}" if line else "")

    @property
    def meta_name(self) -> str:
        """Name of the meta file."""
        return f"{self.label}.meta.yaml"

    @cached_property
    def meta_or_error(self) -> MetaFile | BrokenMeta:
        """The meta file, or why it is none.

        Raises:
            Unreadable: if it is missing.
        """
        if self.meta_name not in self.files:
            raise Unreadable(f"{self.meta_name} is missing")
        try:
            return MetaFile(self.files[self.meta_name])
        except BrokenMeta as error:
            return error

    @property
    def meta(self) -> MetaFile:
        """The meta file.

        Raises:
            Unreadable: if it is missing or broken.
        """
        if isinstance(self.meta_or_error, BrokenMeta):
            raise Unreadable(f"{self.meta_name} is broken")
        return self.meta_or_error

    def meta_place(self, *address: str | int) -> str:
        """Place of a value of the meta file."""
        return self.place(self.meta_name, self.meta.line(address))

    @property
    def table_names(self) -> list[str]:
        """Output tables that are there, in the order of numbers in their names."""
        pattern = self.rules.tables.files.format(label=self.label)
        names = [name for name in self.files if fnmatchcase(name, pattern)]
        return sorted(
            names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
        )

    def table(self, name: str) -> pd.DataFrame:
        """An output table; row i stands on line i + 2 of the file. Columns without text are numbers.

        Raises:
            Unreadable: if its rows cannot be read as a table with the columns of the rules.
        """
        if name not in self._tables:
            table = read_table(self.files[name], self.rules.tables.separator)
            columns = self.rules.tables.columns
            if columns and list(table.columns) != columns:
                raise Unreadable(f"{name} has other columns")
            self._tables[name] = table
        return self._tables[name]

    def tables(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """Every output table with its name."""
        if not self.table_names:
            raise Unreadable("there is no output table")
        for name in self.table_names:
            yield name, self.table(name)


class Package:
    """A team's submission.

    Attributes:
        name: of the folder or zip.
        files: official name (task1/<label>/<file>) to the file on disk.
        rules: of the task and year.
        evaluation: the evaluation set, or None when it is neither public, nor given, nor declared.
        folder: where its files lie.
        run_code: whether checks may run code of the package.
    """

    def __init__(
        self,
        name: str,
        files: dict[str, Path],
        rules: Rules,
        folder: Path,
        evaluation_set: Path | None = None,
        run_code: bool = False,
    ):
        self.name = name
        self.files = files
        self.rules = rules
        self.folder = folder
        self.run_code = run_code
        self.evaluation = _evaluation_files(files, rules, evaluation_set)

    @property
    def task_folder(self) -> str:
        """Name of the folder that holds the systems."""
        return f"task{self.rules.task}"

    @cached_property
    def systems(self) -> list[System]:
        """One per folder below task<number>/, or per module of an inference package."""
        if self.rules.layout == "inference_package":
            return self._inference_systems()
        labels = sorted(
            {parts[1] for parts in map(_parts, self.files) if len(parts) > 2 and parts[0] == self.task_folder}
        )
        systems = []
        for label in labels:
            prefix = f"{self.task_folder}/{label}"
            files = {
                name[len(prefix) + 1 :]: path for name, path in self.files.items() if name.startswith(prefix + "/")
            }
            systems.append(System(label, prefix, files, self.rules))
        return systems

    def _inference_systems(self) -> list[System]:
        systems = []
        for module in filter(None, (re.fullmatch(r"([^/]+)/(\1_\d+)\.py", name) for name in self.files)):
            prefix = f"predictions/{module[2]}"
            files = {
                name[len(prefix) + 1 :]: path for name, path in self.files.items() if name.startswith(prefix + "/")
            }
            systems.append(System(module[2], prefix, files, self.rules))
        return systems

    @property
    def shared_files(self) -> list[str]:
        """Files that belong to no system."""
        return [name for name in self.files if not (len(_parts(name)) > 2 and _parts(name)[0] == self.task_folder)]


@contextmanager
def open_package(
    path: Path, rules: Rules | None = None, evaluation_set: Path | None = None, run_code: bool = False
) -> Iterator[Package]:
    """Open a folder or a zip for checking; `rules` are told from its files when not given.

    The folder may be the package, its task<number> folder, or the folder of one system.

    Raises:
        UserError: if there is no such package, the zip is broken or climbs out of its folder, or no rules fit.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist. Give a package's folder or zip, such as submissions/out/<team>.")
    with tempfile.TemporaryDirectory(prefix="submission_") as scratch:
        folder = path
        if path.is_file():
            folder = Path(scratch)
            unzip(path, folder)
        files = _official_names(folder)
        if not files:
            raise UserError(f"{path} holds no files.")
        rules = rules or recognise(list(files))
        yield Package(path.absolute().name, files, rules, folder, evaluation_set, run_code)


def read_table(path: Path, separator: str) -> pd.DataFrame:
    """Read an output table as it stands: blank lines kept, so that row i is line i + 2.

    Raises:
        Unreadable: if the rows do not have one length or the file is not UTF-8.
    """
    quoting = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    text_columns = {"filename": str, "scene_label": str, "caption": str, "index": str}
    text_columns |= {f"file_name_{rank}": str for rank in range(1, 11)}
    try:
        table = pd.read_csv(
            path, sep=separator, quoting=quoting, skip_blank_lines=False, keep_default_na=False, dtype=text_columns
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
        raise Unreadable(f"{path.name} is not a table") from error
    if not isinstance(table.index, pd.RangeIndex):  # a longer row makes pandas take its first field as an index
        raise Unreadable(f"{path.name} has rows longer than its header")
    return table


def unzip(path: Path, folder: Path) -> None:
    """Unpack a zip, nothing of it before all its members were looked at.

    Raises:
        UserError: if it is no zip, is damaged, holds links, a name twice, or a name that leads out of its folder.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_bad_members(path, archive.infolist())
            for member in archive.infolist():
                if not member.is_dir():
                    target = folder / member.filename
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as source, target.open("wb") as file:
                        shutil.copyfileobj(source, file, 2**20)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise UserError(f"{path} is not a whole zip file: {error}. Make it again with `submissions pack`.") from error


def _refuse_bad_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    seen = set()
    for member in members:
        name = PurePosixPath(member.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in member.filename or re.match(r"^[A-Za-z]:", str(name)):
            raise UserError(f"{path} is refused: its member {member.filename!r} climbs out of the folder.")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(f"{path} is refused: its member {member.filename!r} is a link.")
        if member.filename in seen:
            raise UserError(f"{path} is refused: it holds {member.filename!r} twice.")
        seen.add(member.filename)
    size = sum(member.file_size for member in members)
    if size > MAX_UNPACKED:
        raise UserError(f"{path} is refused: it would unpack to {human_size(size)}.")


def _official_names(folder: Path) -> dict[str, Path]:
    """Files below `folder`, named as in a package, whichever level of the package the folder is."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    tops = {_parts(name)[0] for name in files}
    if len(tops) == 1 and not any(re.fullmatch(r"task\d+", top) for top in tops) and all("/" in name for name in files):
        top = tops.pop()
        if any(re.match(rf"{re.escape(top)}/task\d+/", name) or name == f"{top}/setup.py" for name in files):
            files = {name[len(top) + 1 :]: path for name, path in files.items()}
    prefix = ""
    absolute = folder.resolve()
    if re.fullmatch(r"task\d+", absolute.name):
        prefix = f"{absolute.name}/"
    elif any(re.fullmatch(r"[^/]*\.meta\.yaml", name) for name in files):
        number = re.search(r"task(\d+)", absolute.name)
        prefix = f"task{number.group(1)}/{absolute.name}/" if number else ""
    return {prefix + name: path for name, path in files.items()}


def _evaluation_files(files: dict[str, Path], rules: Rules, given: Path | None) -> EvaluationFiles | None:
    if given:
        return read_evaluation_set(given)
    if DECLARATION in files:
        declared = read_evaluation_set(files[DECLARATION], name=DECLARATION)
        declared.made_up = True  # whatever the file says: a package cannot choose its own official set
        return declared
    official = rules.evaluation_set
    if official and official.numbered:
        names = [f"{number}.wav" for number in range(official.numbered)]
        return EvaluationFiles(names, made_up=False, source=official.name)
    return None


def read_evaluation_set(path: Path, name: str | None = None) -> EvaluationFiles:
    """Read the list of an evaluation set.

    A .json holds {"made_up": true, "files": [...], "durations": {file: seconds}, "queries": [...]} (the last two where
    a task needs them); a .csv (comma) or .tsv (tab) has a column filename or file_name, and duration or caption.

    Raises:
        UserError: if the file is neither.
    """
    name = name or str(path)
    if not path.is_file():
        raise UserError(f"{name} does not exist. Give the list of the evaluation set as .json, .csv or .tsv.")
    try:
        if path.suffix == ".json":
            data = json.loads(path.read_text(encoding="utf-8"))
            durations = {str(file): float(seconds) for file, seconds in data.get("durations", {}).items()}
            made_up = bool(data.get("made_up", False))
            return EvaluationFiles(list(map(str, data["files"])), made_up, name, durations, data.get("queries"))
        table = pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t", keep_default_na=False)
        column = "filename" if "filename" in table.columns else "file_name"
        files = table[column].astype(str)
        durations = dict(zip(files, table["duration"].astype(float))) if "duration" in table.columns else {}
        queries = list(table["caption"].astype(str)) if "caption" in table.columns else []
        return EvaluationFiles(list(dict.fromkeys(files)), False, name, durations, queries)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f'{name} is not the list of an evaluation set. It needs {{"files": [...]}} as .json, '
            "or a column filename as .csv or .tsv."
        ) from error


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name).parts
