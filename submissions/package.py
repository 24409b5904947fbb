"""Writing a package: a system's folder, complete or not at all, and the zip to submit."""

import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.data.files import atomic_path, read_json, write_json
from common.errors import CheckFailed, UserError
from common.output import escape, say
from submissions.checks import Result, run_checks
from submissions.files import is_of_macos, list_folder
from submissions.participant import placeholder_report
from submissions.reading import DECLARATION, EvaluationFiles, Package, open_package
from submissions.report import summary
from submissions.rules import Rules

OUT = Path("submissions/out")


def team_name(label: str) -> str:
    """Lastname_INST_task1_2 to Lastname_INST_task1: one folder and one zip hold all systems of a team."""
    return label.rpartition("_")[0]


def check_label(label: str, rules: Rules) -> None:
    """Raise UserError, with the right form, if the rules do not allow a label."""
    if not re.fullmatch(rules.label, label):
        raise UserError(f"--label {label} is not a label; it must be {rules.label_in_words}.")


def place_of_system(label: str, rules: Rules, out: Path = OUT) -> Path:
    """Folder of a new system: <out>/<team>/task<number>/<label>.

    Raises:
        UserError: if the rules do not allow the label, or its folder exists.
    """
    check_label(label, rules)
    place = out / team_name(label) / f"task{rules.task}" / label
    if place.exists():
        raise already_packaged(place, out / team_name(label))
    return place


def already_packaged(system: Path, package: Path, options: str = "") -> UserError:
    """The mistake of packaging a system again, as after an interruption: what is there, and how to go on."""
    evaluation_set, zip_path = _evaluation_set(package), _zip(package)
    if evaluation_set.exists():
        options += f" --evaluation_set {evaluation_set}"
    whole = f", and so does {zip_path}" if zip_path.exists() else ""
    return UserError(
        f"{system} exists{whole}. Check and zip it with `python -m submissions pack {package}{options}`, remove it, or "
        "give the next number to --label."
    )


def _evaluation_set(package: Path) -> Path:
    """Where `finish_package` writes the list of an evaluation set that is not public."""
    return package.with_name(f"{package.name}.evaluation_set.json")


def _zip(package: Path) -> Path:
    return package.with_name(f"{package.name}.zip")


@contextmanager
def new_system(label: str, rules: Rules, out: Path = OUT, made_up: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """Yield a folder to fill; it is renamed to `place_of_system` when the block ends without an error.

    A made-up evaluation set (files, and durations or queries) is declared at the top of the package.

    Raises:
        UserError: if the label is wrong, the system exists, another system of the team belongs to another evaluation
            set, or `out` cannot be written.
    """
    final = place_of_system(label, rules, out)
    package, unfinished = out / team_name(label), out / f".{label}.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if made_up is not None:
            _declare(package / DECLARATION, {"made_up": True, **made_up})
        report = package / f"task{rules.task}" / f"{package.name}.technical_report.pdf"
        report.parent.mkdir(parents=True, exist_ok=True)
        if not report.exists():
            report.write_bytes(placeholder_report(package.name))
        unfinished.rename(final)
    except PermissionError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}. Give another folder.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _declare(path: Path, declaration: dict[str, Any]) -> None:
    if path.exists() and read_json(path, f"remove {path.parent} and package again") != declaration:
        raise UserError(f"{path} lists another evaluation set. Put systems of different sets in different packages.")
    write_json(path, declaration)


def finish_package(package: Path, evaluation: EvaluationFiles | None = None, run_code: bool = False) -> Path:
    """Check and zip a team's package; returns the zip.

    An evaluation set that is not public is also written beside the package, for `--evaluation_set`.

    Raises:
        CheckFailed: if the package breaks a rule; its folder stays.
    """
    if evaluation is not None:
        path = _evaluation_set(package)
        write_json(path, evaluation.model_dump())
        say(f"To check or pack it again, give --evaluation_set {path}.")
    try:
        return pack(package, None, evaluation, run_code)
    except CheckFailed:
        say(f"The package is in {package}.")
        raise


def make_zip(package: Path, zip_path: Path | None = None) -> Path:
    """Zip a package's folder (default: beside it), completely or not at all; equal content gives an equal zip.

    Files of macOS are left out.

    Raises:
        UserError: if a link is broken, or leaves the package.
    """
    target = zip_path or _zip(package)
    files = {name: path for name, path in list_folder(package).items() if not is_of_macos(name)}
    with atomic_path(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in files.items():
            member = zipfile.ZipInfo(name)
            member.compress_type, member.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            with path.open("rb") as source, archive.open(member, "w", force_zip64=True) as file:
                shutil.copyfileobj(source, file, 2**20)
    return target


def check_package(
    path: Path,
    rules: Rules | None = None,
    evaluation_set: Path | EvaluationFiles | None = None,
    run_code: bool = False,
) -> tuple[Package, list[Result]]:
    """Check a package against every rule of its task and year."""
    with open_package(path, rules, evaluation_set, run_code) as package:
        return package, run_checks(package)


def pack(
    path: Path,
    rules: Rules | None = None,
    evaluation_set: Path | EvaluationFiles | None = None,
    run_code: bool = False,
) -> Path:
    """Check a package's folder, log the findings, and zip it.

    Raises:
        UserError: if `path` is not a complete package.
        CheckFailed: if a rule does not hold or was not checked; no zip is written.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a folder. Give a package's folder, such as {OUT}/<team>.")
    if not (list(path.glob("task*")) or (path / "setup.py").is_file()):
        raise UserError(f"{path} is not a complete package: it has no folder task<number>. Give {OUT}/<team>.")
    package, results = check_package(path, rules, evaluation_set, run_code)
    broken = [result.name for result in results if result.state == "broken"]
    unchecked = [
        f"{result.name} ({(result.skipped + result.needs)[0]})" for result in results if result.state == "not checked"
    ]
    if broken or unchecked:
        why = f"breaks {', '.join(broken)}" if broken else f"has rules that were not checked: {'; '.join(unchecked)}"
        raise CheckFailed(f"{path} {why}. No zip made. See `python -m submissions check {path}`.")
    zip_path = make_zip(path)
    for finding in (finding for result in results for finding in result.findings):
        say(escape(f"{finding.kind}: {finding.place} {finding.sentence}"))
    say(summary(package, results))
    return zip_path
