"""Checks of <label>.meta.yaml that every task shares."""

import math
import re
from collections.abc import Iterator
from typing import Any

from common.settings.yaml_file import Place
from submissions.checks.registry import Finding, check
from submissions.reading import System, Unreadable
from submissions.schema import TO_FILL_IN, dotted, is_within, mistakes

COMPLEXITY = ("system", "complexity")
UNITS = {"": 1, "k": 1e3, "K": 1e3, "Ki": 2**10, "M": 1e6, "Mi": 2**20, "G": 1e9, "Gi": 2**30}


@check("meta_readable")
def meta_is_yaml(system: System) -> Iterator[Finding]:
    """The meta file is YAML without doubled keys."""
    for line, sentence in system.meta_file.mistakes:
        yield Finding(system.place(system.meta_name, line), sentence)


@check("meta_form")
def meta_has_its_form(system: System) -> Iterator[Finding]:
    """The meta file has every key, of the right kind and range (a warning for keys of other names)."""
    for address, sentence, kind in mistakes(system.meta.data, system.rules.meta):
        if is_within(address, system.rules.unverified):
            yield Finding(system.meta_place(*address), f"{sentence} (the form is not verified)", "warning")
        else:
            yield Finding(system.meta_place(*address), sentence, kind)


@check("meta_label")
def meta_names_its_label(system: System) -> Iterator[Finding]:
    """The meta file names the label of its folder."""
    label = system.meta.get("submission", "label")
    if label != system.label:
        place = system.meta_place("submission", "label")
        yield Finding(place, f"submission.label is {label}, but the folder is {system.label}")


@check("meta_filled_in")
def meta_is_filled_in(system: System) -> Iterator[Finding]:
    """Nothing of the template is left to fill in."""
    for address in system.meta.lines:
        value = system.meta.get(*address)
        if isinstance(value, str) and TO_FILL_IN in value:
            yield Finding(system.meta_place(*address), f"{dotted(address)} still says {value!r}")


@check("authors")
def one_author_is_corresponding(system: System) -> Iterator[Finding]:
    """Exactly one author is the corresponding one, and no author is listed twice."""
    authors = system.meta.get("submission", "authors")
    if not isinstance(authors, list):
        raise Unreadable("submission.authors is no list")
    authors = [author if isinstance(author, dict) else {} for author in authors]
    marked = [index for index, author in enumerate(authors) if author.get("corresponding") is True]
    if len(marked) != 1:
        address: Place = ("submission", "authors", marked[1]) if marked else ("submission", "authors")
        yield Finding(system.meta_place(*address), f"{len(marked)} authors are corresponding: true, it must be one")
    seen = set()
    for index, author in enumerate(authors):
        name = (str(author.get("firstname") or ""), str(author.get("lastname") or ""))
        if name in seen and any(name):
            place = system.meta_place("submission", "authors", index)
            yield Finding(place, f"{name[0]} {name[1]}".strip() + " is listed twice")
        seen.add(name)


@check("limits")
def limits_hold(system: System, *, limits: dict[str, float]) -> Iterator[Finding]:
    """The system stays within the limits of complexity."""
    for name, most in limits.items():
        value = number(system, *COMPLEXITY, name)
        if value > most:
            over = f"{value:,.10g}: {value - most:,.10g} over the limit of {most:,.10g}"
            yield Finding(system.meta_place(*COMPLEXITY, name), f"{name} is {over}")


@check("complexity_plausible")
def complexity_is_plausible(system: System, *, model_size: str = "", macs: str = "macs") -> Iterator[Finding]:
    """Parameters, size and MACs fit each other."""
    parameters = number(system, *COMPLEXITY, "total_parameters")
    operations = number(system, *COMPLEXITY, macs)
    if parameters < 100:
        place = system.meta_place(*COMPLEXITY, "total_parameters")
        yield Finding(place, f"total_parameters is {parameters:g}: give the count, not thousands or millions")
    if operations < parameters:
        place = system.meta_place(*COMPLEXITY, macs)
        yield Finding(place, f"{macs} is {operations:g}, fewer than parameters: give the count, not millions")
    if model_size and parameters >= 100:
        size = number(system, *COMPLEXITY, model_size)
        bits = 8 * size / parameters
        if not 0.99 <= bits <= 64:
            place = system.meta_place(*COMPLEXITY, model_size)
            sentence = f"{model_size} is {size:,.10g} bytes for {parameters:,.10g} parameters, {bits:.2g} bits each"
            yield Finding(place, sentence + ": give bytes")


def number(system: System, *address: str | int) -> float:
    """A number of the meta file, or text with a unit ("122.3 kB", "29.4 MMACs"); Unreadable if it is no number."""
    value: Any = system.meta.get(*address)
    if isinstance(value, str):
        written = re.fullmatch(r"([\d.]+)\s*(k|K|Ki|M|Mi|G|Gi)?(B|MACs?|parameters)?", value.strip())
        if written and written[1].count(".") <= 1 and written[1] != ".":
            return float(written[1]) * UNITS[written[2] or ""]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unreadable(f"{dotted(address)} is no number")
    return float(value) if abs(value) < 1e300 else math.inf
