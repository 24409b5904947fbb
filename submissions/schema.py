"""A meta.yaml with the line of every value, and its form, written as a small YAML of the same shape.

A mapping lists its keys: `name` is required, `name?` may be absent or empty, `*` stands for any other key, which may be
empty, too. A list of one form means one or more of it. A leaf is `text`, `text ..10` (at most ten characters), `email`,
`boolean`, `integer 1..`, `number 0..100` (ends included), `any`, `null`; alternatives are joined by " or ".
"""

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from common.errors import UserError, nearest
from common.settings.yaml_file import Place, YamlFile, read_yaml

Kind = Literal["error", "warning"]
Mistake = tuple[Place, str, Kind]
TO_FILL_IN = "FILL IN"
"""Text of a template that a participant must replace."""


class MetaFile:
    """Content of a meta.yaml and its mistakes, (line, sentence). Of a file that is no YAML, `data` is None."""

    def __init__(self, path: Path):
        try:
            file = read_yaml(path)
        except UserError as error:
            sentence = str(error).removeprefix(str(path)).lstrip(": ")
            line = re.match(r"(\d+): (.*)", sentence, re.DOTALL)
            file = YamlFile(mistakes=[(int(line[1]), line[2]) if line else (1, sentence)])
        self.data: Any = file.data
        self.lines = file.lines
        self.mistakes = file.mistakes or ([(1, "holds nothing")] if file.data is None else [])

    def line(self, place: Place) -> int:
        """Line of the value, or of the nearest enclosing group when the value is missing."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def get(self, *place: str | int) -> Any:
        """The value at `place`, or None where there is none."""
        value = self.data
        for key in place:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return None
        return value


def mistakes(value: Any, form: Any, place: Place = ()) -> Iterator[Mistake]:
    """Every difference between `value` and `form`, with its place. Keys that are none of the form's are warnings."""
    if isinstance(form, dict):
        yield from _mapping_mistakes(value, form, place)
    elif isinstance(form, list):
        if not isinstance(value, list) or not value:
            yield place, f"{dotted(place)} must be a list with at least one entry, found {_shown(value)}", "error"
            return
        for index, item in enumerate(value):
            yield from mistakes(item, form[0], (*place, index))
    elif not any(_fits(value, leaf) for leaf in form.split(" or ")):
        found = "nothing" if value is None else _shown(value)
        yield place, f"{dotted(place)} must be {_in_words(form)}, found {found}", "error"


def is_within(place: Place, names: Iterable[str]) -> bool:
    """Whether a place is one of these dotted names, or below one."""
    return any(re.match(rf"{re.escape(name)}([.\[]|$)", dotted(place)) for name in names)


def dotted(place: Place) -> str:
    """("authors", 0, "email") to "authors[0].email"."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)
    return text.lstrip(".") or "the file"


def _mapping_mistakes(value: Any, form: dict, place: Place) -> Iterator[Mistake]:
    if not isinstance(value, dict):
        yield place, f"{dotted(place)} must hold {', '.join(map(_plain, form))}, found {_shown(value)}", "error"
        return
    names = {_plain(key): key for key in form if key != "*"}
    for name, key in names.items():
        if name not in value:
            if not key.endswith("?"):
                yield (*place, name), f"{dotted((*place, name))} is missing", "error"
        elif not (key.endswith("?") and value[name] is None):
            yield from mistakes(value[name], form[key], (*place, name))
    for name in [name for name in value if name not in names]:
        near = nearest(str(name), [other for other in names if other not in value], count=1)
        if near and "*" not in form:
            yield (
                (*place, name),
                f"{dotted((*place, name))} is not a key of this file. Did you mean {near[0]}?",
                "error",
            )
        elif "*" not in form:
            yield (*place, name), f"{dotted((*place, name))} is not a key of the template", "warning"
        elif value[name] is not None:
            yield from mistakes(value[name], form["*"], (*place, name))


def _fits(value: Any, leaf: str) -> bool:
    kind, _, limits = leaf.strip().partition(" ")
    low, high = _limits(limits)
    if kind in ("any", "null"):
        return (value is None) == (kind == "null")
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("text", "email"):
        if not isinstance(value, str) or not value.strip():
            return False
        return len(value) <= high and (kind == "text" or re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", value) is not None)
    if kind not in ("number", "integer"):
        raise ValueError(f"{leaf} is not a form; see submissions/schema.py")
    if isinstance(value, bool) or not isinstance(value, int if kind == "integer" else int | float):
        return False
    return low <= value <= high and abs(value) < math.inf


def _limits(text: str) -> tuple[float, float]:
    low, _, high = text.strip().partition("..")
    return float(low) if low else -math.inf, float(high) if high else math.inf


def _in_words(form: str) -> str:
    leaves = []
    for leaf in form.split(" or "):
        kind, _, limits = leaf.strip().partition(" ")
        low, high = _limits(limits)
        words = {
            "text": "text",
            "email": "an e-mail address",
            "boolean": "true or false",
            "integer": "a whole number",
            "number": "a number",
            "any": "filled in",
            "null": "null",
        }[kind]
        if kind == "text" and high < math.inf:
            words += f" of at most {high:g} characters"
        elif low > -math.inf and high < math.inf:
            words += f" from {low:g} to {high:g}"
        elif low > -math.inf:
            words += f", {low:g} or more"
        leaves.append(words)
    return " or ".join(leaves)


def _plain(key: str) -> str:
    return key.removesuffix("?")


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
