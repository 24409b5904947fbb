"""What the doctor finds on a machine."""

import json
import sys
from types import SimpleNamespace

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


def test_a_release_candidate_counts_within_its_bounds(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda package: "2.12.0rc1")
    assert check_package(Requirement("torch", ">=2.11")).state == "ok"


@pytest.mark.parametrize(("found", "state"), [((3, 10, 9), "wrong"), ((3, 11, 0), "ok")])
def test_python_from_3_11_on_is_right(monkeypatch, found, state):
    monkeypatch.setattr(sys, "version_info", (*found, "final", 0))
    finding = doctor.check_python()
    assert (finding.state, finding.found) == (state, ".".join(map(str, found)))
    assert finding.advice == ("" if state == "ok" else "create .venv with Python 3.11 or newer")


@pytest.mark.parametrize(("gibibytes", "state"), [(5, "ok"), (4.9, "note")])
def test_less_than_5_gib_of_free_disk_are_told(monkeypatch, tmp_path, gibibytes, state):
    free = SimpleNamespace(free=gibibytes * 2**30)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: free)
    finding = doctor.check_disk(tmp_path)
    assert (finding.state, finding.found) == (state, f"{gibibytes:.1f} GiB free")
    assert finding.advice == ("" if state == "ok" else "5.0 GiB or more are recommended")


def test_this_machine_has_what_the_tests_need(tmp_path, capsys):
    findings = doctor.examine(tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        "Looking for the packages of requirements.txt",
        "Importing sed_scores_eval beside the installed NumPy and pandas",
        "Importing psds_eval beside the installed NumPy and pandas",
        "Importing torch and torchaudio, and looking for GPUs",
        "Looking at audio formats, free disk and git",
    ]
    assert [finding.part for finding in findings if finding.state in ("missing", "wrong")] == []
    assert {"python", "torch", "torch build", "GPU", "audio formats", "disk"} <= {finding.part for finding in findings}
