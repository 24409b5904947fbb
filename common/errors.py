"""Errors of the user, reported in one sentence; all others keep their traceback."""

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """Invalid arguments, settings or data: what, where, and what to do next. The command exits with 2."""


class CheckFailed(Exception):
    """A check failed. The command exits with 1."""


def nearest(name: str, names: Iterable[str], count: int = 3, cutoff: float = 0.5) -> list[str]:
    """Up to `count` of `names` similar to `name`, best first; `cutoff` 1 accepts only equal names."""
    return difflib.get_close_matches(name, list(names), n=count, cutoff=cutoff)


def unknown(kind: str, name: str, names: Iterable[str]) -> UserError:
    """The error for an unknown name, with similar known ones."""
    names = list(names)
    near = nearest(name, names)
    hint = f"Near it: {', '.join(near)}." if near else f"There are: {', '.join(sorted(names)[:20])}."
    return UserError(f"No {kind} named {name}. {hint}")


def import_part(name: str, advice: str) -> Any:
    """Import an optional part.

    Raises:
        UserError: with `advice` if it is not installed; with its own error if it is installed but broken.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise UserError(advice) from error
        cause = (str(error).strip() or "no message").splitlines()[0].rstrip(".")
        raise UserError(f"{name} is installed but cannot be imported ({type(error).__name__}: {cause}).") from error
