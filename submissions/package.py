"""Writing a package: a system's folder, complete or not at all, and the zip to submit."""

import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.data.files import atomic_path, atomic_write, write_json
from common.errors import CheckFailed, UserError
from common.output import say
from submissions.checks import Result, run_checks
from submissions.reading import DECLARATION, Package, open_package
from submissions.report import summary
from submissions.rules import Rules
from submissions.template import placeholder_report

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
        raise UserError(
            f"{place} exists. Zip it with `python -m submissions pack {out / team_name(label)}`, remove it, "
            "or give the next number to --label."
        )
    return place


@contextmanager
def new_system(label: str, rules: Rules, out: Path = OUT) -> Iterator[Path]:
    """Yield a folder to fill; it is renamed to `place_of_system` when the block ends without an error."""
    final = place_of_system(label, rules, out)
    unfinished = out / f".{label}.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        final.parent.mkdir(parents=True, exist_ok=True)
        unfinished.rename(final)
    except PermissionError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}. Give another folder.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def finish_package(label: str, out: Path = OUT) -> Path:
    """Check and zip the package of a team; returns the zip.

    Raises:
        CheckFailed: if the package breaks a rule; its folder stays.
    """
    try:
        return pack(out / team_name(label))
    except CheckFailed:
        say(f"The package is in {out / team_name(label)}.")
        raise


def add_placeholder_report(label: str, rules: Rules, out: Path = OUT) -> Path:
    """Write the placeholder of the technical report beside the systems, unless a report exists; returns its path."""
    path = out / team_name(label) / f"task{rules.task}" / f"{team_name(label)}.technical_report.pdf"
    if not path.exists():
        with atomic_write(path, "wb") as file:
            file.write(placeholder_report(team_name(label)))
    return path


def declare_made_up(
    label: str,
    files: list[str],
    out: Path = OUT,
    durations: dict[str, float] | None = None,
    queries: list[str] | None = None,
) -> Path:
    """List the files of a made-up evaluation set at the top of the package.

    Raises:
        UserError: if another system of the team belongs to another evaluation set.
    """
    extras = {"durations": durations, "queries": queries}
    declaration = {"made_up": True, "files": files, **{name: content for name, content in extras.items() if content}}
    path = out / team_name(label) / DECLARATION
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != declaration:
        raise UserError(f"{path} lists another evaluation set. Put systems of different sets in different packages.")
    write_json(path, declaration)
    return path


def make_zip(package: Path, zip_path: Path | None = None) -> Path:
    """Zip a package's folder (default: beside it), completely or not at all; equal content gives an equal zip."""
    target = zip_path or package.with_name(package.name + ".zip")
    with atomic_path(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in package.rglob("*") if path.is_file()):
            member = zipfile.ZipInfo(path.relative_to(package).as_posix())
            member.compress_type, member.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            with path.open("rb") as source, archive.open(member, "w", force_zip64=True) as file:
                shutil.copyfileobj(source, file, 2**20)
    return target


def check_package(
    path: Path, rules: Rules | None = None, evaluation_set: Path | None = None, run_code: bool = False
) -> tuple[Package, list[Result]]:
    """Check a package against every rule of its task and year."""
    with open_package(path, rules, evaluation_set, run_code) as package:
        return package, run_checks(package)


def pack(path: Path, rules: Rules | None = None, evaluation_set: Path | None = None) -> Path:
    """Check a package's folder, log the findings, and zip it.

    Raises:
        UserError: if `path` is not a complete package.
        CheckFailed: if a rule does not hold; no zip is written.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a folder. Give a package's folder, such as {OUT}/<team>.")
    if not (list(path.glob("task*")) or (path / "setup.py").is_file()):
        raise UserError(f"{path} is not a complete package: it has no folder task<number>. Give {OUT}/<team>.")
    package, results = check_package(path, rules, evaluation_set)
    broken = [result.name for result in results if not result.holds]
    if broken:
        raise CheckFailed(f"{path} breaks {', '.join(broken)}: no zip made. See `python -m submissions check {path}`.")
    zip_path = make_zip(path)
    for finding in (finding for result in results for finding in result.findings):
        say(f"{finding.kind}: {finding.place} {finding.sentence}")
    say(summary(package, results))
    return zip_path
