"""The version of the code."""

from common.runs.folder import code_version


def test_the_code_version_without_git_is_a_digest_of_the_sources(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code_version.cache_clear()
    try:
        version = code_version()
    finally:
        code_version.cache_clear()
    assert len(version["digest"]) == 64
