"""The folder of a run: one process at a time fills it, with a known version of the code."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import IO, Any

from common.data.files import human_size, read_json
from common.errors import UserError
from common.output import say

SETTINGS_FILE = "settings.yaml"
"""Name of the settings in a run folder."""

ROOT = Path(__file__).resolve().parents[2]

NEEDED_BYTES = 32 * 1024**2
"""Least free space to start a run."""


def prepare_folder(folder: Path) -> None:
    """Make `folder`, and check that it can be written.

    Raises:
        UserError: it cannot be made or written, or its disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as probe:
            probe.write(bytes(65536))
            probe.flush()
            os.fsync(probe.fileno())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}. Choose another place.") from None
    if free < NEEDED_BYTES:
        raise UserError(f"{folder}: only {human_size(free)} are free on its disk; free some, or choose another place.")


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock `folder` against other runs. The system releases the lock when the process ends, even by kill -9.

    Raises:
        UserError: another process holds the lock.
    """
    with (folder / ".lock").open("a+", encoding="utf-8") as file:
        try:
            # Not flock: worker processes inherit it, and would hold it after a kill of this process.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise UserError(f"{folder} is in use by {_holder(file)}; wait for it, or stop it.") from None
            say(f"{folder}: this file system has no locks ({error.strerror}); do not start two runs in it.")
        file.seek(0)
        file.truncate()
        json.dump({"process": os.getpid(), "host": socket.gethostname(), "since": _now()}, file)
        file.flush()
        yield


def refuse_no_run(folder: Path) -> None:
    """Refuse a folder without settings.yaml."""
    refuse_sweep(folder)
    if not (folder / SETTINGS_FILE).is_file():
        raise UserError(f"{folder} is no run: it has no {SETTINGS_FILE}. `train` makes runs, by default below runs/.")


def refuse_sweep(folder: Path) -> None:
    """Refuse the folder of a sweep, where one of its runs is needed."""
    if (folder / "sweep.json").is_file():
        first = os.path.normpath(run_folders([folder])[0])
        raise UserError(f"{folder} is a sweep; name one of its runs, such as {first}.")


def refuse_absent(paths: Sequence[Path], advice: str = "give folders of runs, sweeps or scores") -> None:
    """Refuse paths that do not exist."""
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist; {advice}.")


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Folders of runs: the given ones, and the runs of given sweeps.

    Raises:
        UserError: if there is no such folder, or no run in them.
    """
    folders = []
    for path in map(Path, paths):
        if (path / "sweep.json").is_file():
            folders += [run for run in read_sweep(path)["runs"].values() if (run / SETTINGS_FILE).is_file()]
        elif path.is_dir():
            folders.append(path)
        else:
            raise UserError(f"{path} is not the folder of a run or a sweep.")
    if not folders:
        raise UserError(f"{', '.join(map(str, paths))} has no runs yet.")
    return folders


def read_sweep(folder: Path) -> dict[str, Any]:
    """The content of sweep.json, with the folder of each run: over, settings, runs.

    Raises:
        UserError: if it is missing or damaged.
    """
    path = folder / "sweep.json"
    remedy = "delete it and call `sweep` again, which keeps finished runs"
    content = read_json(path, remedy, {"over": list, "settings": dict, "runs": dict})
    wrong = [name for name, run in content["runs"].items() if not isinstance(run, str)]
    if wrong:
        raise UserError(f"{path} is damaged: the run {wrong[0]} has no folder; {remedy}.")
    # Relative to the sweep; to the working directory in sweeps of earlier versions.
    runs = {name: (folder / run, Path(run)) for name, run in content["runs"].items()}
    return {**content, "runs": {name: own if own.is_dir() else earlier for name, (own, earlier) in runs.items()}}


def is_main_process() -> bool:
    """Whether this process is rank 0, or the only one."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def make_once(path: Path, make: Callable[[Path], object]) -> Path:
    """A file or folder that rank 0 makes when it is absent, whole or not at all; the other ranks wait for it.

    `make` fills the place that it is given. Where two processes make the same, the first one counts.
    """
    while not path.exists():
        if not is_main_process():
            time.sleep(0.5)
            continue
        prepare_folder(path.parent)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
            make(Path(temporary) / path.name)
            if not path.exists():
                (Path(temporary) / path.name).rename(path)
    return path


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables of this block, and of processes that are started in it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@cache
def code_version() -> dict[str, str | bool]:
    """The code that makes a result: {"commit": ..., "changed": ...}, or {"digest": ...} of the sources without git."""
    # Is this file tracked? A copy of the kit may lie inside another repository.
    if _git("ls-files", "--error-unmatch", "common/runs/folder.py") is None:
        return {"digest": _digest(ROOT)}
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    if commit is None or changed is None:
        return {"digest": _digest(ROOT)}
    return {"commit": commit, "changed": bool(changed)}


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _digest(root: Path) -> str:
    """SHA-256 over the names and contents of all packages' Python files and tables."""
    digest = hashlib.sha256()
    for package in sorted(path.parent for path in root.glob("*/__init__.py")):
        for path in sorted([*package.rglob("*.py"), *package.rglob("*.yaml")]):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _holder(file: IO[str]) -> str:
    try:
        file.seek(0)
        holder = json.load(file)
        return f"process {holder['process']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
