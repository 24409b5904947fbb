"""Releases of required packages that are malicious, or do not load beside the others."""

import pytest
from packaging.specifiers import SpecifierSet

from common.cli.doctor import read_requirements


@pytest.mark.parametrize(
    ("package", "release"),
    [
        ("lightning", "2.6.2"),  # GHSA-w37p-236h-pfx3: steals credentials
        ("lightning", "2.6.3"),
        ("torch", "2.15.0"),  # its wheel is built for CUDA 13.2; torchaudio's, for 13.0, refuses to load beside it
        ("setuptools", "82.0.0"),  # without pkg_resources, which dcase_util imports
    ],
)
def test_the_bounds_exclude_a_bad_release(package, release):
    (bounds,) = [each.bounds for each in read_requirements() if each.package == package]
    assert not SpecifierSet(bounds).contains(release)
