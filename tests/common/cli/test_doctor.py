"""What the doctor finds on a machine."""

import json
import sys

import pytest

from common.__main__ import VERBS
from common.cli import doctor, run
from common.cli.doctor import Finding, Requirement, check_package, read_requirements


def test_bounds_and_optional_parts_are_read_from_the_requirements(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text(
        "# heading\ntorch==2.11.0  # a reason\nnumpy>=2,<2.4\n\nmypy\n# optional text: transformers>=4.50  # why\n"
    )
    assert read_requirements(path) == [
        Requirement("torch", "==2.11.0"),
        Requirement("numpy", ">=2,<2.4"),
        Requirement("mypy", ""),
        Requirement("transformers", ">=4.50", "text"),
    ]


def test_every_line_of_our_requirements_is_understood():
    lines = [line for line in doctor.REQUIREMENTS.read_text(encoding="utf-8").splitlines() if line.strip()]
    packages = [line for line in lines if not line.startswith("#") or line.startswith("# optional ")]
    assert len(read_requirements()) == len(packages)


@pytest.mark.parametrize(
    ("requirement", "state", "found"),
    [
        (Requirement("pytest", ">=8"), "ok", pytest.__version__),
        (Requirement("pytest", "<1"), "wrong", f"{pytest.__version__}, not <1"),
        (Requirement("no-such-package", ">=1"), "missing", "not installed"),
        (Requirement("no-such-package", ">=1", "text"), "note", "not installed"),
    ],
)
def test_a_package_is_there_within_its_bounds_or_named(requirement, state, found):
    finding = check_package(requirement)
    assert (finding.state, finding.found) == (state, found)
    if state != "ok":
        assert finding.advice == f"{sys.executable} -m pip install '{requirement.package}{requirement.bounds}'"


def test_a_module_that_breaks_when_imported_is_named_with_its_error(tmp_path, monkeypatch):
    (tmp_path / "breaks_at_import.py").write_text("import numpy\nnumpy.no_such_function()")
    monkeypatch.syspath_prepend(tmp_path)
    finding = doctor.check_import("breaks_at_import")
    assert finding.state == "wrong"
    assert finding.found.startswith("AttributeError: module 'numpy' has no attribute")


def test_libsndfile_without_mp3_is_told(monkeypatch):
    monkeypatch.setattr("soundfile.available_formats", lambda: {"WAV": "", "FLAC": "", "OGG": ""})
    finding = doctor.check_audio_formats()
    assert finding.state == "wrong"
    assert finding.found.endswith("lacks MP3")


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("note", 0), ("missing", 1), ("wrong", 1)])
def test_the_doctor_fails_only_when_something_needed_is_amiss(capsys, monkeypatch, state, code):
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("psds_eval", state, "x")])
    assert run("program", VERBS, ["doctor", "--json"]) == code
    output = capsys.readouterr()
    assert json.loads(output.out) == [{"part": "psds_eval", "state": state, "found": "x", "advice": ""}]
    assert output.err == ("To repair: psds_eval.\n" if code else "")


def test_this_machine_has_what_the_tests_need(tmp_path):
    findings = doctor.examine(tmp_path)
    assert [finding.part for finding in findings if finding.state in ("missing", "wrong")] == []
    assert {"python", "torch", "torch build", "GPU", "audio formats", "disk"} <= {finding.part for finding in findings}
