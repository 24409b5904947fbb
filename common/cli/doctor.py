"""Whether this machine has what the kit needs: packages, GPU, audio formats, disk; and how to get what is missing."""

import importlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from common.files import human_size

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements.txt"
NEEDED_FORMATS = ("WAV", "FLAC", "OGG", "MP3")
ROOM_BYTES = 5 * 1024**3
"""Free disk below which the largest made-up data and a few runs may not fit."""

State = Literal["ok", "missing", "wrong", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `missing` and `wrong` need mending, a `note` does not."""

    part: str
    state: State
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Requirement:
    """A line of requirements.txt; `group` is empty, or the optional part that it belongs to."""

    package: str
    bounds: str
    group: str = ""


def examine(folder: Path = Path()) -> list[Finding]:
    """Look at everything; `folder` is where data and runs will lie."""
    return [
        python_version(),
        *[check_package(requirement) for requirement in read_requirements()],
        *metric_packages(),
        *torch_build(),
        audio_formats(),
        free_disk(folder),
        git(),
    ]


def read_requirements(path: Path = REQUIREMENTS) -> list[Requirement]:
    """Packages of requirements.txt, and those in its comments `# optional GROUP: PACKAGE>=...`."""
    pattern = re.compile(
        r"^(?:# optional (?P<group>\w+): )?(?P<package>[\w.-]+)(?P<bounds>[<>=!~][^#\s]*)?\s*(?:#.*)?$"
    )
    found = [pattern.match(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Requirement(line["package"], line["bounds"] or "", line["group"] or "") for line in found if line]


def check_package(requirement: Requirement) -> Finding:
    """Whether a package is installed within its bounds."""
    from packaging.specifiers import SpecifierSet

    name = f"{requirement.package} ({requirement.group})" if requirement.group else requirement.package
    install = f"{Path(sys.executable)} -m pip install '{requirement.package}{requirement.bounds}'"
    try:
        found = version(requirement.package)
    except PackageNotFoundError:
        return Finding(name, "note" if requirement.group else "missing", "not installed", install)
    if not SpecifierSet(requirement.bounds).contains(found, prereleases=True):
        return Finding(name, "wrong", f"{found}, not {requirement.bounds}", install)
    return Finding(name, "ok", found)


def metric_packages() -> list[Finding]:
    """Whether the metrics' packages can be imported beside the installed NumPy and pandas."""
    return [_imports("sed_scores_eval"), _imports("psds_eval")]


def torch_build() -> list[Finding]:
    """PyTorch's build, the GPUs that it sees, and whether torchaudio fits it."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return [Finding("torch", "wrong", f"cannot be imported: {error}", "install it anew")]
    cuda = torch.version.cuda
    build = f"{torch.__version__}, built for {f'CUDA {cuda}' if cuda else 'the CPU'}, {torch.get_num_threads()} threads"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    gpus = Finding("GPU", "ok", ", ".join(names)) if names else Finding("GPU", "note", "none; training runs on the CPU")
    return [Finding("torch build", "ok", build), gpus, _imports("torchaudio")]


def audio_formats() -> Finding:
    """Whether libsndfile decodes what the data sets come in."""
    try:
        import soundfile
    except (ImportError, OSError) as error:
        return Finding("audio formats", "wrong", f"soundfile cannot be imported: {error}", "install soundfile anew")
    absent = [name for name in NEEDED_FORMATS if name not in soundfile.available_formats()]
    if absent:
        advice = "install soundfile from a wheel, which brings its own libsndfile"
        return Finding(
            "audio formats", "wrong", f"{soundfile.__libsndfile_version__} lacks {', '.join(absent)}", advice
        )
    return Finding("audio formats", "ok", f"{', '.join(NEEDED_FORMATS)} ({soundfile.__libsndfile_version__})")


def free_disk(folder: Path) -> Finding:
    """Room for data and runs."""
    free = shutil.disk_usage(folder.resolve()).free
    if free < ROOM_BYTES:
        return Finding("disk", "note", f"{human_size(free)} free", f"{human_size(ROOM_BYTES)} or more are good to have")
    return Finding("disk", "ok", f"{human_size(free)} free")


def git() -> Finding:
    """Git, which tells the code version of a run."""
    try:
        found = subprocess.run(["git", "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return Finding("git", "note", "none", "runs are marked with a digest of the sources instead of a commit")
    return Finding("git", "ok", found.strip().removeprefix("git version "))


def python_version() -> Finding:
    """The interpreter, 3.11 or newer."""
    found = ".".join(str(part) for part in sys.version_info[:3])
    state: State = "ok" if sys.version_info >= (3, 11) else "wrong"
    return Finding("python", state, found, "" if state == "ok" else "make .venv with Python 3.11 or newer")


def _imports(module: str) -> Finding:
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a package does when it meets versions that it does not know
        advice = f"{Path(sys.executable)} -m pip install -r requirements.txt"
        return Finding(f"import {module}", "wrong", f"{type(error).__name__}: {error}", advice)
    return Finding(f"import {module}", "ok", "")
