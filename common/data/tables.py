"""Reading tables of text; every error gives file and line."""

import csv
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from common.errors import UserError, nearest


def read_tsv(path: Path, columns: Iterable[str], key: str | None = None, separator: str = "\t") -> pd.DataFrame:
    """Read a table with a header line, every cell as text.

    Args:
        path: UTF-8; further columns are kept.
        columns: required, without empty cells.
        key: column without doubled values.
        separator: of columns; with any other than a tab, cells may be quoted.

    Returns:
        The table; the row on line n of the file has the index n - 2.

    Raises:
        UserError: if the file is missing or no text, lacks a column, has an empty row or cell, or a doubled key.
    """
    path = Path(path)
    columns = list(columns)
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    try:
        table = pd.read_csv(
            path, sep=separator, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig",
            quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL,
        ).fillna("")  # fmt: skip
    except pd.errors.EmptyDataError as error:
        raise UserError(f"{path} is empty; it needs the header {' '.join(columns)}.") from error
    except pd.errors.ParserError as error:
        found = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        place, what = (f":{found[2]}", f"{found[3]} cells, expected {found[1]}") if found else ("", str(error))
        raise UserError(f"{path}{place} has {what}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a table of text ({error.reason} at byte {error.start}).") from error
    for column in columns:
        if column not in table.columns:
            raise UserError(
                f"{path}:1 has no column {column}; it has {' '.join(map(str, table.columns))} (between {separator!r})."
            )
    blank = table.apply(lambda column: column.str.strip() == "")
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


def refuse_unknown(path: Path, table: pd.DataFrame, column: str, kind: str, names: Iterable[str]) -> None:
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
