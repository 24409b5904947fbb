"""The winner's trainings compute what the official code computes: a part of its fixtures, see tests/check_training."""

import pytest

from tests.check_training.__main__ import compare
from tests.support.places import GOLDEN

FIXTURES = sorted((GOLDEN / "training" / "task4").glob("*.json"))


@pytest.mark.parametrize("path", FIXTURES, ids=[path.stem for path in FIXTURES])
def test_a_fixture_of_the_official_code_is_met(path):
    outcome = compare(path)
    assert outcome.passed, outcome.words
