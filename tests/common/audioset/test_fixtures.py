"""The trainings compute what the official code computes; see tests/check_training."""

import pytest

from tests.check_training.__main__ import compare
from tests.support.places import ROOT

FOLDER = ROOT / "tests" / "golden" / "training" / "audioset"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_the_training_computes_what_the_official_code_computes(path):
    outcome = compare(path)
    assert outcome.passed, outcome.words
