"""The version of the code, and who holds a folder."""

import subprocess

import pytest

from common.runs import folder
from common.runs.folder import code_version, prepare_folder
from tests.support.places import ROOT


@pytest.fixture(autouse=True)
def _asked_anew():
    code_version.cache_clear()
    yield
    code_version.cache_clear()


def test_the_code_version_without_git_is_a_digest_of_the_sources(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert len(code_version()["digest"]) == 64


def git(*words):
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


@pytest.mark.skipif(git("ls-files", "README.md") != "README.md", reason="the kit is no git repository here")
def test_the_code_version_is_the_commit_and_whether_files_have_changed(monkeypatch):
    changed = bool(git("status", "--porcelain", "--untracked-files=no"))
    assert code_version() == {"commit": git("rev-parse", "HEAD"), "changed": changed}
    asked = folder._git
    for unanswered in ("rev-parse", "status", "ls-files"):
        monkeypatch.setattr(folder, "_git", lambda *words, no=unanswered: None if no in words else asked(*words))
        code_version.cache_clear()
        assert list(code_version()) == ["digest"]
    monkeypatch.undo()
    assert folder._git("no-such-word") is None


def test_the_holder_of_a_folder_is_named_wherever_its_file_is_read(tmp_path):
    with (tmp_path / "lock").open("w+") as file:
        file.write('{"process": 7, "host": "here", "since": "today"}')
        assert folder._holder(file) == "process 7 on here since today"
        file.truncate(5)
        assert folder._holder(file) == "another process"


def test_a_probe_of_a_folder_leaves_nothing(tmp_path):
    prepare_folder(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
