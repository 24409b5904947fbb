"""Running the code of an inference package: what it may not do, and that its result decides."""

import os
import shutil
import time
from pathlib import Path

import pytest

from submissions import trial
from submissions.files import list_folder
from submissions.package import check_package
from tests.support.packages import INFERENCE_NAME, module, replace, write_inference

CLASSES = ["a", "b"]
PROGRAM = """
class Tensor(list):
    def numel(self):
        return len(self)
class Model:
    model = 1
def load_model(model_file_path=None):
    {body}
    return Model()
def load_inputs(file_paths, device_ids, model):
    return [Tensor([0])] * len(file_paths)
def get_model_for_device(model, device_id):
    return lambda clip: Tensor([0, 1])
def predict(file_paths, device_ids, model_file_path=None, use_cuda=False):
    return [[0, 1]] * len(file_paths), ["a", "b"]
"""


@pytest.fixture
def attempt(tmp_path):
    """Let the body of load_model run; returns what is wrong."""

    def run(body: str, timeout_s: float = 30) -> str:
        (tmp_path / "p" / "pack").mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / "pack" / "pack_1.py").write_text(PROGRAM.format(body=body))
        return trial.try_module(list_folder(tmp_path / "p"), "pack", "pack_1", ["x"], CLASSES, {}, timeout_s)[0]

    return run


def test_a_working_module_passes(attempt):
    assert attempt("pass") == ""


@pytest.mark.parametrize(
    "body", ["import os; os._exit(0)", "raise SystemExit(0)", "import os; os.kill(os.getpid(), 9)"]
)
def test_an_ended_process_without_a_result_has_not_passed(attempt, body):
    assert "without a result" in attempt(body)


@pytest.mark.parametrize("content", ["", "{}", "[" * 100_000, '{"has_model": 1}', "passed"])
def test_a_result_of_another_kind_has_not_passed(attempt, content):
    body = f"import os, sys; open(sys.argv[4], 'w').write({content!r}); os._exit(0)"
    assert "without a result" in attempt(body)


def test_a_result_that_is_a_link_is_not_read(attempt, tmp_path):
    (tmp_path / "secret").write_text("{}")
    assert "without a result" in attempt(f"import os, sys; os.symlink('{tmp_path}/secret', sys.argv[4]); os._exit(0)")


def test_the_last_line_of_an_error_is_told(attempt):
    assert attempt("raise RuntimeError('no weights')").endswith("without a result: RuntimeError: no weights")


def test_the_time_limit_holds_for_children_too(attempt, tmp_path):
    marker = tmp_path / "alive"
    child = f"import time; time.sleep(4); open({str(marker)!r}, 'w')"
    body = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    start = time.monotonic()
    assert attempt(body, timeout_s=2) == "did not end within 2 s"
    assert time.monotonic() - start < 30
    time.sleep(5)
    assert not marker.exists()


def test_a_flood_of_output_is_cut(tmp_path):
    loud = "import sys\nfor _ in range(300): sys.stdout.write('x' * 2**16)\nprint('end')"
    code, output = trial.run_group(["/usr/bin/env", os.sys.executable, "-c", loud], tmp_path, 60)
    assert code == 0 and len(output) == trial.MAX_OUTPUT and output.endswith(b"end\n")


def test_the_environment_is_empty(attempt, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_USER", "1")
    assert attempt("import os; assert set(os.environ) <= {'LC_CTYPE', 'PWD'}, sorted(os.environ)") == ""


def test_the_package_is_not_changed(attempt, tmp_path):
    assert attempt("open('pack/pack_1.py', 'w').write('changed'); open('new', 'w')") == ""
    assert (tmp_path / "p" / "pack" / "pack_1.py").read_text().startswith("\nclass Tensor")
    assert not (tmp_path / "p" / "new").exists()


def test_the_protection_is_told(tmp_path):
    package = write_inference(tmp_path)
    runs = next(result for result in check_package(package, run_code=True)[1] if result.name == "runs")
    (note,) = runs.findings
    assert note.kind == "note" and "copy of the package, empty environment, time limit; bubblewrap" in note.sentence


def test_predict_from_another_module_is_tried_by_running(tmp_path):
    package = write_inference(tmp_path)
    inner = package / INFERENCE_NAME / "inner.py"
    shutil.copy(module(package), inner)
    module(package).write_text("from .inner import *\n")
    results = {result.name: result for result in check_package(package)[1]}
    for rule in ("interface", "official_script"):
        assert results[rule].state == "not checked" and "give --run_code" in results[rule].needs[0]
    results = {result.name: result for result in check_package(package, run_code=True)[1]}
    assert all(results[rule].holds for rule in ("interface", "official_script", "runs"))
    replace(inner, ", **official_script", "")
    results = {result.name: result for result in check_package(package, run_code=True)[1]}
    assert "use_cuda" in results["runs"].findings[0].sentence


def test_bubblewrap_that_does_not_work_is_told(tmp_path, monkeypatch):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho no namespaces >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(trial.shutil, "which", lambda name: str(fake))
    assert trial.shut_in(tmp_path) == (
        [],
        "copy of the package, empty environment, time limit; bubblewrap does not work here (no namespaces), so nothing "
        "else held the code back",
    )


@pytest.mark.skipif(not trial.shut_in(Path.cwd())[0], reason="bubblewrap is not installed, or does not work here")
def test_bubblewrap_keeps_the_code_from_the_network_and_from_files_outside(attempt, tmp_path):
    assert "Read-only" in attempt(f"open('{tmp_path}/outside', 'w')")
    assert "unreachable" in attempt("import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)")
