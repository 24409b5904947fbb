"""Mistakes of a caller, told in one sentence; everything else keeps its traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in a call, a setting or the data: what, where, and what to do next. The command exits with 2."""


class CheckFailed(Exception):
    """A check ran and did not hold. The command exits with 1."""


def nearest(name: str, names: Iterable[str], count: int = 3, cutoff: float = 0.5) -> list[str]:
    """Up to `count` of `names` that look like `name`, best first; `cutoff` 1 asks for equal ones."""
    return difflib.get_close_matches(name, list(names), n=count, cutoff=cutoff)


def unknown(kind: str, name: str, names: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the names that would have worked."""
    names = list(names)
    near = nearest(name, names)
    hint = f"Near it: {', '.join(near)}." if near else f"There are: {', '.join(sorted(names)[:20])}."
    return UserError(f"No {kind} named {name}. {hint}")
