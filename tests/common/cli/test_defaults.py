"""Every verb of the kit: its options, and what each is where a call leaves it out."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.places import ROOT

OPTIONS = ROOT / "tests" / "golden" / "verb_options.yaml"


@cache
def verbs() -> dict[str, Callable[..., Any]]:
    """Functions of all verbs, by the words that call them."""
    found: dict[str, Callable[..., Any]] = {}

    def collect(prefix: str, group: Mapping[str, Any]) -> None:
        for name, verb in group.items():
            if isinstance(verb, Mapping):
                collect(f"{prefix} {name}", verb)
            elif inspect.isfunction(verb):
                found[f"{prefix} {name}"] = verb

    for package in ("common", "task1_asc", "task4_sed", "retrieval", "submissions"):
        collect(package, importlib.import_module(f"{package}.__main__").VERBS)
    return found


def options_of(verb: Callable[..., Any]) -> dict[str, Any]:
    """Name and default of each option, as YAML holds them."""
    options = {}
    for name, one in inspect.signature(verb).parameters.items():
        value = "needed" if one.default is inspect.Parameter.empty else one.default
        options[name] = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    return options


@pytest.mark.parametrize(("name", "options"), yaml.safe_load(OPTIONS.read_text()).items())
def test_an_option_that_a_call_leaves_out_keeps_its_meaning(name, options):
    """Scripts of users leave options out; another default would do something else without a word."""
    found = options_of(verbs()[name])
    assert {option: found[option] for option in options} == options
