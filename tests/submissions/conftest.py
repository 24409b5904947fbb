"""A copy of the valid package of a file's fixture `valid`, to be damaged."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def package(valid, tmp_path) -> Path:
    return shutil.copytree(valid, tmp_path / valid.name)
