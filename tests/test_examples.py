"""The examples in docstrings are right; metrics and losses have some."""

import doctest
from importlib import import_module

import pytest

from tests.support.places import ROOT

PACKAGES = ("common", "task1_asc", "task4_sed", "retrieval", "submissions")
WITH_EXAMPLES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
}
MUST_HAVE_EXAMPLES = {
    "common.audioset.metrics",
    "retrieval.losses",
    "retrieval.metrics",
    "task1_asc.metrics",
    "task4_sed.losses",
    "task4_sed.metrics.f1",
    "task4_sed.metrics.polyphonic",
    "task4_sed.metrics.segments",
}


@pytest.mark.parametrize("name", sorted(WITH_EXAMPLES | MUST_HAVE_EXAMPLES))
def test_examples_of_docstrings_are_right(name):
    result = doctest.testmod(import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
