"""Made-up data and one run that the tests of this folder share."""

import pytest

from common.synthetic.synthesize import synthesize


@pytest.fixture(scope="session")
def made_up(tmp_path_factory):
    """Root of made-up sets with 184, 204 and 36 clips; tests that change them take a copy."""
    root = tmp_path_factory.mktemp("broad_sounds")
    synthesize("broad_sounds", root, clips=184)
    return root
