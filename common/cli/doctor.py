"""Checks of this machine: packages, GPU, audio formats, free disk; with advice on what is missing."""

import importlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from common.data.files import human_size
from common.output import say

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements.txt"
NEEDED_FORMATS = ("WAV", "FLAC", "OGG", "MP3")
ROOM_BYTES = 5 * 1024**3
"""Free disk needed for the largest made-up data and a few runs."""

State = Literal["ok", "missing", "wrong", "note"]


@dataclass(frozen=True)
class Finding:
    """Result of one check; `missing` and `wrong` need a repair, a `note` does not."""

    part: str
    state: State
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Requirement:
    """A line of requirements.txt; `group` names its optional part, or is empty."""

    package: str
    bounds: str
    group: str = ""


def examine(folder: Path = Path()) -> list[Finding]:
    """Run all checks; `folder` is on the disk for data and runs. Says what it is doing."""
    say("Looking for the packages of requirements.txt")
    found = [check_python(), *[check_package(requirement) for requirement in read_requirements()]]
    for module in ("sed_scores_eval", "psds_eval"):
        say(f"Importing {module} beside the installed NumPy and pandas")
        found.append(check_import(module))
    say("Importing torch and torchaudio, and looking for GPUs")
    found += check_torch()
    say("Looking at audio formats, free disk and git")
    return [*found, check_audio_formats(), check_disk(folder), check_git()]


def read_requirements(path: Path = REQUIREMENTS) -> list[Requirement]:
    """Packages of requirements.txt, with those in comments `# optional GROUP: PACKAGE>=...`."""
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


def check_import(module: str) -> Finding:
    """Whether a module can be imported; its package may not fit the versions of others."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a package may raise anything beside versions that it does not know
        advice = f"{Path(sys.executable)} -m pip install -r requirements.txt"
        return Finding(f"import {module}", "wrong", f"{type(error).__name__}: {error}", advice)
    return Finding(f"import {module}", "ok", "")


def check_torch() -> list[Finding]:
    """PyTorch's build, its GPUs, and whether torchaudio fits it."""
    if (finding := check_import("torch")).state == "wrong":
        return [finding]
    import torch

    cuda = torch.version.cuda
    build = f"{torch.__version__}, built for {f'CUDA {cuda}' if cuda else 'the CPU'}, {torch.get_num_threads()} threads"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    gpus = Finding("GPU", "ok", ", ".join(names)) if names else Finding("GPU", "note", "none; training runs on the CPU")
    return [Finding("torch build", "ok", build), gpus, check_import("torchaudio")]


def check_audio_formats() -> Finding:
    """Whether libsndfile decodes the formats of the data sets."""
    if (finding := check_import("soundfile")).state == "wrong":
        return finding
    import soundfile

    found = soundfile.__libsndfile_version__
    if absent := [name for name in NEEDED_FORMATS if name not in soundfile.available_formats()]:
        advice = "install soundfile from a wheel, which brings its own libsndfile"
        return Finding("audio formats", "wrong", f"{found} lacks {', '.join(absent)}", advice)
    return Finding("audio formats", "ok", f"{', '.join(NEEDED_FORMATS)} ({found})")


def check_disk(folder: Path) -> Finding:
    """Free disk for data and runs."""
    free = shutil.disk_usage(folder.resolve()).free
    if free < ROOM_BYTES:
        return Finding("disk", "note", f"{human_size(free)} free", f"{human_size(ROOM_BYTES)} or more are recommended")
    return Finding("disk", "ok", f"{human_size(free)} free")


def check_git() -> Finding:
    """Git, which gives the code version of a run."""
    try:
        found = subprocess.run(["git", "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return Finding("git", "note", "none", "runs record a digest of the sources instead of a commit")
    return Finding("git", "ok", found.strip().removeprefix("git version "))


def check_python() -> Finding:
    """The interpreter, 3.11 or newer."""
    found = ".".join(str(part) for part in sys.version_info[:3])
    state: State = "ok" if sys.version_info >= (3, 11) else "wrong"
    return Finding("python", state, found, "" if state == "ok" else "create .venv with Python 3.11 or newer")
