"""Fixtures that every test module may use."""

from pathlib import Path

import pytest

from tests.support.places import SHARED


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with reference fixtures and audio packs; the test is skipped where it is absent."""
    if not (SHARED / "reference").is_dir():
        pytest.skip(f"no reference folder at {SHARED} (set DCASE_KIT_SHARED to it)")
    return SHARED


@pytest.fixture(scope="session")
def tiny_task1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of made-up Task 1 data: 300 training clips (100 in the smallest subset), 100 test, 100 evaluation clips."""
    from common.synthetic.synthesize import synthesize

    root = tmp_path_factory.mktemp("tiny_task1")
    synthesize("task1_asc", root, clips=100)
    return root


@pytest.fixture(scope="session")
def tiny_task4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a made-up tree of Task 4, some 120 clips; tests that change it take a copy."""
    from common.synthetic.synthesize import synthesize

    root = tmp_path_factory.mktemp("tiny_task4")
    synthesize("task4_sed", root, clips=40)
    return root


@pytest.fixture(scope="session")
def tiny_strong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a made-up AudioSet strong, 30 training and 10 evaluation clips; tests that change it take a copy."""
    from common.synthetic.synthesize import synthesize

    root = tmp_path_factory.mktemp("tiny_strong")
    synthesize("audioset_strong", root, clips=40)
    return root


@pytest.fixture(scope="session")
def tiny_audioset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a miniature AudioSet, some 60 clips of 16 classes; tests that change it take a copy."""
    from common.synthetic.synthesize import synthesize

    root = tmp_path_factory.mktemp("tiny_audioset")
    synthesize("audioset", root, clips=60)
    return root
