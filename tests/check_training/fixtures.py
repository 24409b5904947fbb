"""Fixtures of training steps, the functions that check them, and the difference between two results."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

PREFIX = "expected_"


@dataclass(frozen=True)
class Fixture:
    """One NAME.json with its NAME.npz."""

    path: Path
    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Fixture":
        """Read NAME.json; ValueError for a file of another form."""
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or "kind" not in content or "tolerance" not in content:
            raise ValueError(f"{path} is no fixture: it needs kind and tolerance.")
        return cls(path, content)

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.stem

    @property
    def kind(self) -> str:
        """What is computed."""
        return self.content["kind"]

    @property
    def source(self) -> str:
        """Official code that made it."""
        return self.content.get("source", "")

    @property
    def settings(self) -> dict[str, Any]:
        """Numbers and names that the computation depends on."""
        return self.content.get("settings", {})

    def tolerance(self, value: str) -> float:
        """Largest relative difference of a value; `tolerances` names those that differ from the fixture's own."""
        return self.content.get("tolerances", {}).get(value.partition("/")[0], self.content["tolerance"])

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Inputs and results of NAME.npz."""
        if not self.content.get("file"):
            return {}
        with np.load(self.path.with_name(self.content["file"])) as file:
            return dict(file.items())

    def array(self, name: str) -> np.ndarray:
        """An input."""
        return self.arrays[name]

    def tensor(self, name: str, dtype: torch.dtype | None = torch.float64) -> Tensor:
        """An input as tensor; floats become `dtype`, None keeps what the file has."""
        values = torch.from_numpy(self.arrays[name])
        return values.to(dtype) if dtype is not None and values.is_floating_point() else values

    @cached_property
    def expected(self) -> dict[str, Any]:
        """Numbers (nested names joined by "/") and arrays (without `expected_`) that must come out."""
        arrays = {key.removeprefix(PREFIX): value for key, value in self.arrays.items() if key.startswith(PREFIX)}
        return {**flat(self.content.get("expected", {})), **arrays}


Check = Callable[[Fixture], Mapping[str, Any]]
"""Computes every expected value with the functions that trainings call; names as in `Fixture.expected`, or nested."""

CHECKS: list[tuple[str, str, Check]] = []


def check(kind: str, source: str) -> Callable[[Check], Check]:
    """Register a function for fixtures of a kind whose source names a repository, such as "CPJKU/cpjku_dcase24"."""

    def register(function: Check) -> Check:
        CHECKS.append((kind, source, function))
        return function

    return register


def find_check(fixture: Fixture) -> Check:
    """The function that computes a fixture's values.

    Raises:
        LookupError: for a kind that is not known.
    """
    for kind, source, function in CHECKS:
        if kind == fixture.kind and source in fixture.source:
            return function
    raise LookupError(f"kind {fixture.kind} of {fixture.source.partition(':')[0] or 'no source'} is not known")


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts, and lists of dicts, as one dict with names joined by "/"."""
    if isinstance(values, Mapping):
        items = {str(key): value for key, value in values.items()}
    elif isinstance(values, list) and any(isinstance(value, Mapping) for value in values):
        items = {str(number): value for number, value in enumerate(values)}
    else:
        return {prefix.removesuffix("/"): values}
    found: dict[str, Any] = {}
    for key, value in items.items():
        found |= flat(value, f"{prefix}{key}/")
    return found


def difference(got: Any, want: Any) -> float:
    """Largest relative difference: |got - want| / |want| of a number, of an array over its largest |want|.

    Texts, booleans and whole numbers must be equal (1 if not). A wanted 0 counts the absolute difference; another shape
    is infinitely far away.
    """
    if isinstance(want, str | bool) or want is None or (isinstance(want, list) and None in want):
        return float(got != want)
    if (
        isinstance(want, list) and len({len(part) for part in want if isinstance(part, list)}) > 1
    ):  # rows of other lengths
        return max(map(difference, got, want)) if len(got) == len(want) else float("inf")
    if isinstance(got, Tensor):
        got = got.detach().cpu().numpy()
    wanted, found = np.asarray(want), np.asarray(got)
    if wanted.shape != found.shape:
        return float("inf")
    if not wanted.size:
        return 0.0
    if wanted.dtype.kind in "USObui":
        return float(not np.array_equal(wanted, found))
    if not (np.isfinite(wanted).all() and np.isfinite(found).all()):
        return 0.0 if np.array_equal(wanted, found, equal_nan=True) else float("inf")
    largest = float(np.abs(wanted).max())
    return float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max()) / (largest or 1.0)
