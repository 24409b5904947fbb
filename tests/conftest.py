"""Fixtures that every test module may use."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("DCASE_KIT_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with reference fixtures and audio packs; the test is skipped where it is absent."""
    if not (SHARED / "reference").is_dir():
        pytest.skip(f"no reference folder at {SHARED} (set DCASE_KIT_SHARED to it)")
    return SHARED
