"""A submission opened for checking: a folder or a zip, its systems, their tables and meta files."""

import csv
import json
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Literal

import pandas as pd

from common.data.archives import extract_zip
from common.data.audio import natural_key
from common.data.files import human_size
from common.errors import UserError
from submissions.rules import Rules, recognise
from submissions.schema import MetaFile

DECLARATION = "made_up_evaluation_set.json"
"""File at the top of a package on a made-up evaluation set; see EvaluationFiles."""
MAX_UNPACKED = 50 * 2**30


class Unreadable(Exception):
    """A file that a check needs cannot be read; another check reports why."""


@dataclass
class EvaluationFiles:
    """The evaluation set of a package: files, and for some tasks durations in seconds or queries."""

    files: list[str]
    made_up: bool
    source: str
    durations: dict[str, float] = field(default_factory=dict)
    queries: list[str] = field(default_factory=list)


@dataclass(eq=False)
class System:
    """One of a team's systems: the files below task<number>/<label>/."""

    label: str
    prefix: str
    files: dict[str, Path]
    rules: Rules
    evaluation: EvaluationFiles | None
    _tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    def place(self, name: str, line: int | None = None) -> str:
        """Name of a file of this system within the package, with its line."""
        return f"{self.prefix}/{name}" + (f":{line}" if line else "")

    @cached_property
    def meta_file(self) -> MetaFile:
        """The meta file, which may be broken; Unreadable if it is missing."""
        if self.meta_name not in self.files:
            raise Unreadable(f"{self.meta_name} is missing")
        return MetaFile(self.files[self.meta_name])

    @property
    def meta_name(self) -> str:
        """Name of the meta file."""
        return f"{self.label}.meta.yaml"

    @property
    def meta(self) -> MetaFile:
        """The meta file; Unreadable if it is missing or broken."""
        if self.meta_file.data is None:
            raise Unreadable(f"{self.meta_name} is broken")
        return self.meta_file

    def meta_place(self, *address: str | int) -> str:
        """Place of a value of the meta file."""
        return self.place(self.meta_name, self.meta.line(address))

    @property
    def table_names(self) -> list[str]:
        """Output tables that exist, in the order of the numbers in their names."""
        pattern = self.rules.tables.files.format(label=self.label)
        names = [name for name in self.files if fnmatchcase(name, pattern)]
        return sorted(names, key=natural_key)

    def table(self, name: str) -> pd.DataFrame:
        """An output table; columns without text are numbers. Unreadable if it has not the columns of the rules."""
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
        yield from ((name, self.table(name)) for name in self.table_names)

    def row_place(self, name: str, row: int) -> str:
        """Place of row `row` (from 0) of an output table; quoted texts above it may contain line breaks."""
        above = self.table(name).iloc[:row]
        breaks = sum(int(column.str.count("\n").sum()) for _, column in above.items() if column.dtype == object)
        return self.place(name, row + 2 + breaks)


@dataclass
class Package:
    """A team's submission.

    Attributes:
        name: of the folder or zip.
        files: official name (task1/<label>/<file>) to the file on disk.
        evaluation: the evaluation set, or None when it is neither public, nor given, nor declared.
        run_code: whether checks may run code of the package.
    """

    name: str
    files: dict[str, Path]
    rules: Rules
    folder: Path
    evaluation: EvaluationFiles | None
    run_code: bool = False

    @property
    def task_folder(self) -> str:
        """Name of the folder that holds the systems."""
        return f"task{self.rules.task}"

    @cached_property
    def systems(self) -> list[System]:
        """One per folder below task<number>/, or per module of an inference package."""
        if self.rules.layout == "inference_package":
            modules = filter(None, (re.fullmatch(r"([^/]+)/(\1_\d+)\.py", name) for name in self.files))
            return [self._system(module[2], f"predictions/{module[2]}") for module in modules]
        labels = sorted({name.split("/")[1] for name in self.files if self._is_of_a_system(name)})
        return [self._system(label, f"{self.task_folder}/{label}") for label in labels]

    @property
    def shared_files(self) -> list[str]:
        """Files that belong to no system."""
        return [name for name in self.files if not self._is_of_a_system(name)]

    def _is_of_a_system(self, name: str) -> bool:
        return name.startswith(f"{self.task_folder}/") and name.count("/") > 1

    def _system(self, label: str, prefix: str) -> System:
        start = f"{prefix}/"
        files = {name.removeprefix(start): path for name, path in self.files.items() if name.startswith(start)}
        return System(label, prefix, files, self.rules, self.evaluation)


@contextmanager
def open_package(
    path: Path, rules: Rules | None = None, evaluation_set: Path | None = None, run_code: bool = False
) -> Iterator[Package]:
    """Open a folder or a zip for checking; without `rules`, they are recognised from its files.

    The folder may be the package, its task<number> folder, or the folder of one system.

    Raises:
        UserError: if there is no such package, the zip is damaged or unsafe, or no rules fit.
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
        evaluation = _evaluation_files(files, rules, evaluation_set)
        yield Package(path.absolute().name, files, rules, folder, evaluation, run_code)


def read_table(path: Path, separator: str) -> pd.DataFrame:
    """Read an output table; Unreadable if the rows do not have one length or the file is not UTF-8."""
    text_columns = {"filename": str, "scene_label": str, "caption": str, "index": str}
    text_columns |= {f"file_name_{rank}": str for rank in range(1, 11)}
    try:
        table = pd.read_csv(
            path, sep=separator, quoting=csv_quoting(separator), skip_blank_lines=False, keep_default_na=False,
            dtype=text_columns,
        )  # fmt: skip
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
        raise Unreadable(f"{path.name} is not a table") from error
    if not isinstance(table.index, pd.RangeIndex):  # a longer row makes pandas take its first field as an index
        raise Unreadable(f"{path.name} has rows longer than its header")
    return table


def csv_quoting(separator: str) -> Literal[0, 3]:
    """Fields of tab-separated tables are never quoted."""
    return csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL


def unzip(path: Path, folder: Path) -> None:
    """Unpack a zip after checking all its members.

    Raises:
        UserError: if it is no zip, is damaged, too large, holds links, a name twice, or one that leaves its folder.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = Counter(archive.namelist())
            if doubled := [name for name, count in names.items() if count > 1]:
                raise UserError(f"{path} is refused: it holds {doubled[0]!r} twice.")
            size = sum(member.file_size for member in archive.infolist())
            if size > MAX_UNPACKED:
                raise UserError(f"{path} is refused: it would unpack to {human_size(size)}.")
            extract_zip(path, archive, folder)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise UserError(f"{path} is not a whole zip file: {error}. Make it again with `submissions pack`.") from error


def _official_names(folder: Path) -> dict[str, Path]:
    """Files below `folder`, named as in a package, whichever level of the package the folder is."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    tops = {name.split("/")[0] for name in files}
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
    if official.numbered:
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
            files, queries = [str(file) for file in data["files"]], data.get("queries") or []
            return EvaluationFiles(files, bool(data.get("made_up")), name, durations, queries)
        table = pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t", keep_default_na=False)
        files = table["filename" if "filename" in table else "file_name"].astype(str).tolist()
        durations = dict(zip(files, table["duration"].astype(float))) if "duration" in table else {}
        queries = table["caption"].astype(str).tolist() if "caption" in table else []
        return EvaluationFiles(list(dict.fromkeys(files)), False, name, durations, queries)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f'{name} is not the list of an evaluation set. It needs {{"files": [...]}} as .json, '
            "or a column filename as .csv or .tsv."
        ) from error
