"""A submission opened for checking: its systems, their tables and meta files."""

import csv
import glob
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import BaseModel, Field, ValidationError

from common.data.audio import natural_key
from common.errors import UserError
from submissions.files import (
    check_sizes,
    is_of_macos,
    list_folder,
    list_zip,
    official_names,
    read_meta_files,
    unzip,
)
from submissions.rules import Rules, matches, recognise
from submissions.schema import MetaFile

DECLARATION = "made_up_evaluation_set.json"
"""File at the top of a package on a made-up evaluation set; see EvaluationFiles."""

MAX_LINE = 2_000_000
NAME_COLUMNS = ("filename", "id", "scene_label", "predicted_bst_second_level_class", "index", "caption")
"""Columns of output tables that hold the clip or query, or its label; the others hold scores or ranked files."""


class Unreadable(Exception):
    """A rule cannot be checked, because a file that it needs is missing or broken; another rule reports that."""


class NeedsOption(Unreadable):
    """A rule cannot be checked without an option of the command."""


class Broken(Unreadable):
    """A file that a rule needs is broken, which no other rule reports; arguments: its place, and what is wrong."""


class EvaluationFiles(BaseModel, strict=True):
    """The evaluation set of a package: files, and for some tasks durations in seconds or queries.

    qids: id to (query, recording), where queries are about one recording.
    """

    files: list[str]
    made_up: bool = False
    source: str = ""
    durations: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    queries: list[str] = []
    qids: dict[str, tuple[str, str]] = {}


@dataclass(eq=False)
class System:
    """One of a team's systems: the files below task<number>/<label>/."""

    label: str
    prefix: str
    files: dict[str, Path]
    rules: Rules
    known_evaluation: EvaluationFiles | None
    _tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    def evaluation(self, part: str = "files") -> EvaluationFiles:
        """The evaluation set; NeedsOption if its files, durations or queries are unknown."""
        known = self.known_evaluation
        if known is None or not getattr(known, part):
            raise NeedsOption(f"the {part} of {self.rules.evaluation_set.name} are not known; give --evaluation_set")
        return known

    def place(self, name: str, line: int | None = None) -> str:
        """Name of a file of this system within the package, with its line."""
        return f"{self.prefix}/{name}" + (f":{line}" if line else "")

    @property
    def package(self) -> str:
        """Name of the Python package that holds this system's module."""
        return self.label.rpartition("_")[0]

    def pattern(self, pattern: str) -> str:
        """A pattern of the rules for this system's label."""
        return pattern.format(label=glob.escape(self.label))

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
        """Output tables, by the numbers in their names; Unreadable if there is none."""
        pattern = self.pattern(self.rules.tables.files)
        names = [name for name in self.files if matches(name, pattern)]
        if not names:
            raise Unreadable(f"{self.label} has no output table")
        return sorted(names, key=natural_key)

    def table(self, name: str) -> pd.DataFrame:
        """An output table; columns without text are numbers. Unreadable if it has not the columns of the rules."""
        if name not in self._tables:
            table = read_table(self.files[name], self.rules.tables.separator)
            if self.rules.tables.columns and list(table.columns) not in self.rules.tables.headers:
                raise Unreadable(f"{name} has other columns")
            if table.empty:
                raise Unreadable(f"{name} has no rows")
            self._tables[name] = table
        return self._tables[name]

    def tables(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """Every output table with its name."""
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
        of_macos: names of files that macOS added; not among `files`.
        evaluation: the evaluation set, or None when it is neither public, nor given, nor declared.
        run_code: whether checks may run code of the package.
    """

    name: str
    files: dict[str, Path]
    of_macos: list[str]
    rules: Rules
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
    path: Path,
    rules: Rules | None = None,
    evaluation_set: Path | EvaluationFiles | None = None,
    run_code: bool = False,
) -> Iterator[Package]:
    """Open a folder or a zip for checking; without `rules`, they are recognised from its files.

    The folder may be the package, its task<number> folder, or the folder of one system.

    Raises:
        UserError: if there is no such package, the zip is damaged, a link or name leaves it, it is larger than the
            challenge can need, or no rules fit.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist. Give a package's folder or zip, such as submissions/out/<team>.")
    with tempfile.TemporaryDirectory(prefix="submission_") as scratch:
        folder = path if path.is_dir() else Path(scratch)
        if path.is_dir():
            sizes = {name: file.stat().st_size for name, file in list_folder(path).items()}
        else:
            sizes = list_zip(path)
        names = official_names((name for name in sizes if not is_of_macos(name)), folder.resolve().name)
        if not names:
            raise UserError(f"{path} holds no files.")
        rules = rules or recognise(list(names), read_meta_files(path, names.values()))
        check_sizes(path, sizes, rules)
        if not path.is_dir():
            unzip(path, folder)
        files = {official: folder / name for official, name in names.items()}
        evaluation = _evaluation_files(files, rules, evaluation_set)
        of_macos = [name for name in sizes if is_of_macos(name)]
        yield Package(path.absolute().name, files, of_macos, rules, evaluation, run_code)


def read_table(path: Path, separator: str) -> pd.DataFrame:
    """Read an output table; Unreadable if rows are huge or do not have one length, or the file is not UTF-8."""
    if has_a_huge_line(path.read_bytes()):
        raise Unreadable(f"{path.name} has a line of more than {MAX_LINE:,} bytes")
    text_columns = dict.fromkeys((*NAME_COLUMNS, *(f"file_name_{rank}" for rank in range(1, 11))), str)
    try:
        table = pd.read_csv(
            path, sep=separator, quoting=csv_quoting(separator), skip_blank_lines=False, keep_default_na=False,
            dtype=text_columns, low_memory=False,
        )  # fmt: skip
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
        raise Unreadable(f"{path.name} is not a table") from error
    if not isinstance(table.index, pd.RangeIndex):  # a longer row makes pandas take its first field as an index
        raise Unreadable(f"{path.name} has rows longer than its header")
    words = table.select_dtypes(bool).columns  # True and False are text, no numbers
    table[words] = table[words].astype(str).astype(object)
    return table


def has_a_huge_line(content: bytes) -> bool:
    """Whether a line is too long for a row of a table, which would take much memory to read."""
    return len(content) > MAX_LINE and max(map(len, content.splitlines())) > MAX_LINE


def csv_quoting(separator: str) -> Literal[0, 3]:
    """Fields of tab-separated tables are never quoted."""
    return csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL


def _evaluation_files(
    files: dict[str, Path], rules: Rules, given: Path | EvaluationFiles | None
) -> EvaluationFiles | None:
    if given is not None:
        return given if isinstance(given, EvaluationFiles) else read_evaluation_set(given)
    if DECLARATION in files:
        declared = read_evaluation_set(files[DECLARATION], name=DECLARATION)
        declared.made_up = True  # whatever the file says: a package cannot choose its own official set
        return declared
    official = rules.evaluation_set
    if official.numbered:
        return EvaluationFiles(files=[f"{number}.wav" for number in range(official.numbered)], source=official.name)
    return None


def read_evaluation_set(path: Path, name: str | None = None) -> EvaluationFiles:
    """Read the list of an evaluation set.

    A .json holds {"made_up": true, "files": [...], "durations": {file: seconds}, "queries": [...]} (the last two where
    a task needs them); a .jsonl has a qid, query, vid and duration in each line; a .csv (comma) or .tsv (tab) has a
    column filename, file_name or anonymous_id, and duration or caption.

    Raises:
        UserError: if the file is neither.
    """
    name = name or str(path)
    if not path.is_file():
        raise UserError(f"{name} does not exist. Give the list of the evaluation set as .json, .csv or .tsv.")
    try:
        if path.suffix == ".json":
            return EvaluationFiles.model_validate_json(path.read_bytes()).model_copy(update={"source": name})
        if path.suffix == ".jsonl":
            return _evaluation_of_lines(path.read_text(encoding="utf-8"), name)
        table = pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t", keep_default_na=False)
        column = next((column for column in ("filename", "anonymous_id") if column in table), "file_name")
        files = table[column].astype(str).tolist()
        durations = dict(zip(files, table["duration"].astype(float))) if "duration" in table else {}
        queries = table["caption"].astype(str).tolist() if "caption" in table else []
        return EvaluationFiles(files=list(dict.fromkeys(files)), source=name, durations=durations, queries=queries)
    except (ValidationError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{name} is not the list of an evaluation set ({_first_line(error)}). "
            'It needs {"files": [...]} as .json, a qid in each line as .jsonl, or a column filename as .csv or .tsv.'
        ) from error


def _evaluation_of_lines(text: str, name: str) -> EvaluationFiles:
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    qids = {str(row["qid"]): (str(row["query"]), str(row["vid"])) for row in rows}
    durations = {str(row["vid"]): float(row["duration"]) for row in rows}
    if len(qids) < len(rows):
        raise ValueError(f"{len(rows)} lines hold {len(qids)} different qids")
    return EvaluationFiles(files=list(durations), source=name, durations=durations, qids=qids)


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))} {first['msg']}".lstrip()
    return str(error).partition("\n")[0]
