"""Running the code of an inference package: in a copy, with no environment, for a limited time, shut in if possible."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread

from pydantic import BaseModel, ValidationError

PROGRAM = Path(__file__).with_name("trial_program.py")
MAX_OUTPUT = 2**20
"""Bytes of output and of the result that are kept or read."""


class Trial(BaseModel, strict=True):
    """Result of `trial_program.py`."""

    has_model: bool
    inputs: int
    logits: list[int]
    bytes: list[int]
    predicted: list[list[float]]
    classes: list[str]


def try_module(
    files: Mapping[str, Path],
    package: str,
    module: str,
    devices: Sequence[str],
    classes: Sequence[str],
    stated: Mapping[str, int],
    timeout_s: float,
) -> tuple[str, str]:
    """Let a module of a package, given by its files, predict its dummy clip for every device.

    Returns:
        What is wrong, or an empty text; and what kept the code from doing harm.
    """
    with tempfile.TemporaryDirectory(prefix="trial_") as scratch:
        copy = Path(scratch).resolve() / "package"
        for name, path in files.items():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy / name)
        walls, protection = shut_in(copy)
        result = copy / "result_of_the_trial.json"
        command = [*walls, sys.executable, "-I", "-B", str(PROGRAM), package, module, json.dumps(list(devices))]
        code, output = run_group([*command, str(result)], copy, timeout_s)
        if code is None:
            return f"did not end within {timeout_s:g} s", protection
        with suppress(OSError, ValidationError):
            if not result.is_symlink() and result.is_file() and result.stat().st_size <= MAX_OUTPUT:
                trial = Trial.model_validate_json(result.read_bytes())
                return _judge(trial, devices, classes, stated), protection
        last_line = (output.decode("utf-8", "replace").strip() or "no output").splitlines()[-1]
        return f"ended with exit code {code}, without a result: {last_line[-500:]}", protection


def shut_in(folder: Path) -> tuple[list[str], str]:
    """Start of a command that runs inside bubblewrap, if it works here, and the protection in words."""
    always = "copy of the package, empty environment, time limit"
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        return [], f"{always}; bubblewrap (bwrap) is not installed, so nothing else held the code back"
    place = str(folder)
    walls = [bwrap, "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
             "--bind", place, place, "--chdir", place]  # fmt: skip
    probe = subprocess.run([*walls, sys.executable, "-I", "-c", ""], capture_output=True, env={}, check=False)
    if probe.returncode:
        why = probe.stderr.decode("utf-8", "replace").strip()
        return [], f"{always}; bubblewrap does not work here ({why}), so nothing else held the code back"
    return walls, f"{always}; bubblewrap: no network, no writing outside the copy"


def run_group(command: Sequence[str], folder: Path, timeout_s: float) -> tuple[int | None, bytes]:
    """Run a command in an empty environment, and kill its process group at the end.

    Returns:
        Exit code, None at the time limit; and the last `MAX_OUTPUT` bytes of its output.
    """
    kept = bytearray()

    def keep_output() -> None:
        assert process.stdout is not None
        while chunk := os.read(process.stdout.fileno(), 2**16):
            kept.extend(chunk)
            del kept[:-MAX_OUTPUT]

    process = subprocess.Popen(
        command, cwd=folder, env={}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    reader = Thread(target=keep_output, daemon=True)
    reader.start()
    code: int | None = None
    try:
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(timeout_s)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join(timeout=5)  # a process that left the group may hold the pipe open
    return code, bytes(kept)


def _judge(trial: Trial, devices: Sequence[str], classes: Sequence[str], stated: Mapping[str, int]) -> str:
    """What is wrong with a result, or an empty text."""
    if not trial.has_model:
        return "load_model() gives an object without .model, which evaluate_submission.py saves"
    if trial.inputs != len(devices):
        return f"load_inputs gave {trial.inputs} tensors for {len(devices)} files"
    for device, count, size in zip(devices, trial.logits, trial.bytes):
        if count != len(classes):
            return f"the model for device {device} gives {count} logits, expected {len(classes)}"
        if size and device in stated and size != stated[device]:
            return f"the network for device {device} has {size:,} bytes, complexity.json says {stated[device]:,}"
    if sorted(trial.classes) != sorted(classes):
        return f"predict gives the classes {trial.classes}"
    if len(trial.predicted) != len(devices):
        return f"predict gave {len(trial.predicted)} results for {len(devices)} files"
    if any(len(row) != len(classes) or not all(map(math.isfinite, row)) for row in trial.predicted):
        return f"predict gives logits that are not {len(classes)} finite numbers"
    return ""
