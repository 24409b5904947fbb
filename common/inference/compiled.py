"""Loops that numba compiles once on a machine, for about ten seconds, and keeps where the user can write."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit
from numba.core import event

from common.output import say

F = TypeVar("F", bound=Callable[..., Any])


class _Announcement(event.Listener):  # type: ignore[misc, unused-ignore]
    """Says once that something is compiled; what the cache holds is not."""

    said = False

    def on_start(self, event: Any) -> None:
        if not self.said:
            self.said = True
            say("Compiling the loops of the metrics, once on this machine: about 10 s")

    def on_end(self, event: Any) -> None:
        pass


_announcement = _Announcement()
event.register("numba:compile", _announcement)


def compiled(function: F) -> F:
    """Compile a function of numbers and NumPy arrays; it releases the interpreter lock.

    numba keeps the result in __pycache__ beside the source, or else in the user's cache folder.
    """
    try:
        return njit(function, cache=True, nogil=True)
    except RuntimeError:  # neither place can be written: compiled again in each process
        return njit(function, nogil=True)
