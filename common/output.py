"""Results on stdout, as a table or as JSON; what happens meanwhile on stderr."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_quiet = False


def leave_words_to_the_first() -> None:
    """From now on let this process, one of several that train together, tell nothing but errors."""
    global _quiet
    _quiet = True


def say(text: str) -> None:
    """One line about what happens, on stderr."""
    if not _quiet:
        tell_error(text)


def tell_error(text: str) -> None:
    """What went wrong, on stderr, whichever process it is."""
    print(text, file=sys.stderr, flush=True)


def print_json(data: object) -> None:
    """Results for programs. Paths become texts, NumPy numbers and arrays numbers and lists, NaN null."""
    if _quiet:
        return
    print(json.dumps(_plain(data), indent=2, ensure_ascii=False, allow_nan=False), flush=True)


def print_table(rows: Sequence[Mapping[str, Any]], title: str = "", columns: Sequence[str] | None = None) -> None:
    """Results for people: one line per row, one column per key; numbers to the right, None as an empty cell.

    Off a terminal nothing is cut off, however long the lines get.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if _quiet:
        return
    columns = list(columns or dict.fromkeys(key for row in rows for key in row))
    table = Table(title=title or None, title_justify="left")
    for column in columns:
        values = [row.get(column) for row in rows]
        numeric = any(_is_number(value) for value in values) and all(_is_number(v) or v is None for v in values)
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*[Text(_cell(row.get(column))) for column in columns])
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(80, console.measure(table, options=console.options.update(width=10_000)).maximum))
    console.print(table)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple | set | frozenset):
        return [_plain(value) for value in data]
    if isinstance(data, float):
        return float(data) if math.isfinite(data) else None
    if data is None or isinstance(data, str | bool | int):
        return data
    if isinstance(data, Path):
        return str(data)
    if hasattr(data, "tolist"):  # NumPy and torch
        return _plain(data.tolist())
    raise TypeError(f"{type(data).__name__} has no form in JSON")
