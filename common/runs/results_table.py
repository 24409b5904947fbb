"""results.csv of a sweep: one line per cell, appended whole, repaired after an interruption."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.data.files import atomic_write
from common.errors import UserError
from common.output import say

Row = dict[str, str]


class ResultsTable:
    """Rows of the finished cells of a sweep; the first columns name the cell.

    An interruption in the middle of a line loses only that line. All values are texts, as written.

    Args:
        path: results.csv; need not exist.
        keys: columns that name the cell, such as subset and seed.
    """

    def __init__(self, path: Path, keys: Sequence[str]):
        self.path = path
        self.keys = list(keys)
        self.columns: list[str] = []
        self.rows: list[Row] = []
        if path.exists():
            self._read()

    def names(self) -> set[tuple[str, ...]]:
        """Names of the finished cells: the values of the key columns."""
        return {self._name(row) for row in self.rows}

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row, and flush it to the disk."""
        written = {name: as_text(value) for name, value in row.items()}
        self.rows = [kept for kept in self.rows if self._name(kept) != self._name(written)]
        self.rows.append(written)
        new = [name for name in written if name not in self.columns]
        if new or not self.path.exists():
            self.columns += new
            self._write()
            return
        with self.path.open("ab") as file:
            file.write(self._line(written).encode())
            file.flush()
            os.fsync(file.fileno())

    def sort(self, order: Sequence[tuple[str, ...]]) -> None:
        """Sort the rows in the order of these cells, so that equal sweeps give equal files."""
        place = {name: number for number, name in enumerate(order)}
        self.rows.sort(key=lambda row: place.get(self._name(row), len(place)))
        if self.rows:
            self._write()

    def _read(self) -> None:
        try:
            whole, newline, rest = self.path.read_bytes().rpartition(b"\n")
            lines = list(csv.reader(io.StringIO((whole + newline).decode("utf-8"), newline="")))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(
                f"{self.path} is damaged ({error}); delete it and call `sweep` again, which keeps finished runs."
            ) from error
        if not lines:
            self.path.unlink()
            return
        self.columns = lines[0]
        if self.columns[: len(self.keys)] != self.keys:
            raise UserError(
                f"{self.path}:1 is of a sweep over {', '.join(self.columns[:2])}, not {', '.join(self.keys)}. "
                "Give the sweep another --name."
            )
        good = [line for line in lines[1:] if len(line) == len(self.columns) and line != self.columns]
        rows = {self._name(row): row for row in (dict(zip(self.columns, line, strict=True)) for line in good)}
        self.rows = list(rows.values())
        lost = len(lines) - 1 - len(self.rows) + bool(rest)
        if lost:
            say(f"{self.path}: {lost} truncated or repeated lines removed")
            self._write()

    def _write(self) -> None:
        with atomic_write(self.path) as file:
            file.write(self._line(dict(zip(self.columns, self.columns))))
            file.writelines(self._line(row) for row in self.rows)

    def _line(self, row: Row) -> str:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerow(row.get(column, "") for column in self.columns)
        return text.getvalue()

    def _name(self, row: Row) -> tuple[str, ...]:
        return tuple(row[key] for key in self.keys)


def shown_rows(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Rows for people: shares in per cent, an interval with its figure, names without underscores.

    Args:
        rows: with numbers read.
        keys: columns that name the cell.
    """
    from common.reports.statistics import with_interval

    shown = []
    for row in rows:
        cells: dict[str, Any] = {}
        for name, value in row.items():
            limits = row.get(f"{name}_low"), row.get(f"{name}_high")
            if name.removesuffix("_low").removesuffix("_high") != name and name.rpartition("_")[0] in row:
                continue
            is_share = isinstance(value, float) and name not in keys and not name.endswith(_NO_SHARES)
            title = name if name in keys else name.replace("_", " ")
            cells[title] = with_interval(value, *limits, scale=100) if is_share else value
        shown.append(cells)
    return shown


_NO_SHARES = ("loss", "error", "seconds", "kwh")


def as_text(value: Any) -> str:
    """A value as text in results.csv: None is empty, floats keep all their digits."""
    if value is None:
        return ""
    if hasattr(value, "item"):
        value = value.item()
    return repr(value) if isinstance(value, float) else str(value).replace("\n", " ")
