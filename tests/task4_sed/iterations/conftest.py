"""Settings of a quick run of the winner's recipe."""

import pytest

from common.settings import load_settings
from task4_sed.iterations.settings import TwoIterations
from task4_sed.systems import AnySystem
from tests.support.quick_iterations import QUICK, SMALL


@pytest.fixture
def quick(tiny_task4, tmp_path):
    """Makes settings of a quick run; overrides win."""

    def make(**overrides) -> TwoIterations:
        places = {"data.root": str(tiny_task4), "runs": str(tmp_path), "name": "quick"}
        overrides = {name.replace("__", "."): value for name, value in overrides.items()}
        return load_settings(AnySystem, SMALL, {**QUICK, **places, **overrides})

    return make
