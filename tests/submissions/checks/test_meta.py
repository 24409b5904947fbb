"""Numbers of a meta file, with or without units, and whether they fit each other."""

import math
from types import SimpleNamespace

import pytest

from submissions.checks.meta import UNITS, complexity_is_plausible, number, one_author_is_corresponding
from submissions.reading import Unreadable


def system(**values):
    """A system whose meta file has these values, by the last part of their address."""
    return SimpleNamespace(
        meta=SimpleNamespace(get=lambda *address: values.get(address[-1])),
        meta_place=lambda *address: ".".join(map(str, address)),
    )


@pytest.mark.parametrize(
    ("value", "meant"),
    [(5, 5.0), (0.5, 0.5), ("122.3 kB", 122_300.0), ("29.4 MMACs", 29.4e6), ("1KiB", 1024.0), (" 2 Mi ", 2 * 2**20),
     ("3 G", 3e9), ("3 GiB", 3 * 2**30), ("7 K", 7e3), ("61148 parameters", 61148.0), (1e301, math.inf)],
)  # fmt: skip
def test_numbers_may_have_units(value, meant):
    assert number(system(macs=value), "system", "complexity", "macs") == meant


@pytest.mark.parametrize("value", [None, True, "many", "1.2.3", ".", "5 TB", [5]])
def test_what_is_no_number_is_told(value):
    with pytest.raises(Unreadable, match=r"system\.complexity\.macs is no number"):
        number(system(macs=value), "system", "complexity", "macs")


def test_units_are_decimal_and_binary():
    assert UNITS == {"": 1, "k": 1e3, "K": 1e3, "Ki": 2**10, "M": 1e6, "Mi": 2**20, "G": 1e9, "Gi": 2**30}


@pytest.mark.parametrize(
    ("parameters", "macs", "size", "told"),
    [
        (61_148, 29_419_156, 122_296, []),
        (99, 1000, 10**9, ["total_parameters is 99: give the count, not thousands or millions"]),
        (100, 100, 100, []),
        (61_148, 29, 122_296, ["macs is 29, fewer than parameters: give the count, not millions"]),
        (61_148, 61_148, 122.3, ["size is 122.3 bytes for 61,148 parameters, 0.016 bits each: give bytes"]),
        (1000, 1000, 8000, []),
        (1000, 1000, 8001, ["size is 8,001 bytes for 1,000 parameters, 64 bits each: give bytes"]),
        (1000, 1000, 123, ["size is 123 bytes for 1,000 parameters, 0.98 bits each: give bytes"]),
    ],
)
def test_parameters_size_and_macs_fit_each_other(parameters, macs, size, told):
    given = system(total_parameters=parameters, macs=macs, size=size)
    assert [finding.sentence for finding in complexity_is_plausible(given, model_size="size")] == told
    without = [finding.sentence for finding in complexity_is_plausible(given)]
    assert without == [sentence for sentence in told if "bytes" not in sentence]


def author(first, last, corresponding=False):
    return {"firstname": first, "lastname": last, "corresponding": corresponding}


@pytest.mark.parametrize(
    ("authors", "told"),
    [
        ([author("A", "B", True), author("A", "C")], []),
        ([author("A", "B", True), author("A", "B")], ["A B is listed twice"]),
        ([author("A", "B")], ["0 authors are corresponding: true, it must be one"]),
        ([author("A", "B", True), author("C", "D", True)], ["2 authors are corresponding: true, it must be one"]),
        ([author(None, None, True), author(None, None), "?"], []),
        ([author(None, "B", True), author(None, "B")], ["B is listed twice"]),
    ],
)
def test_one_author_is_corresponding_and_none_is_listed_twice(authors, told):
    assert [finding.sentence for finding in one_author_is_corresponding(system(authors=authors))] == told
