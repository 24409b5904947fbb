"""META.yaml, which the participant fills in: its template, and joined with the results of the runs."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from common.data.files import write_text
from common.errors import UserError, unknown
from submissions.rules import Rules
from submissions.schema import TO_FILL_IN, MetaFile, is_within, mistakes

TEMPLATES_FOLDER = Path(__file__).parent / "templates"
PLACEHOLDER_MARK = b"TECHNICAL REPORT MISSING"
"""Bytes that identify a placeholder of the technical report."""
COMPUTED = {"submission": ["label"], "system": ["complexity", "energy"]}
"""Parts of the meta file that are added from the runs, by group."""


def write_template(name: str, path: Path) -> None:
    """Write the META.yaml of a task and year.

    Raises:
        UserError: if there is no such template, or `path` exists.
    """
    names = sorted(template.stem for template in TEMPLATES_FOLDER.glob("*.yaml"))
    if name not in names:
        raise unknown("template", name, names)
    if path.exists():
        raise UserError(f"{path} exists. Give another name with --out, or remove it.")
    write_text(path, (TEMPLATES_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def read_participant(path: Path, rules: Rules) -> dict[str, Any]:
    """Read META.yaml, made from `python -m submissions template`.

    Raises:
        UserError: one line for each mistake, with file and line.
    """
    if not path.is_file():
        hint = f"Make it with `python -m submissions template {rules.name} --out {path}`."
        raise UserError(f"{path} does not exist. {hint}")
    meta = MetaFile(path)
    form = {
        group: {key: part for key, part in rules.meta[group].items() if key not in computed}
        for group, computed in COMPUTED.items()
    }
    found = list(meta.mistakes)
    if meta.data is not None:
        differences = [(place, sentence) for place, sentence, _ in mistakes(meta.data, form)]
        verified = [(place, told) for place, told in differences if not is_within(place, rules.unverified)]
        found += [(meta.line(place), sentence) for place, sentence in verified]
    rows = path.read_text(encoding="utf-8", errors="replace").splitlines()
    unfilled = [line for line, row in enumerate(rows, start=1) if TO_FILL_IN in row.partition("#")[0]]
    found = [(line, sentence) for line, sentence in found if line not in unfilled]
    found += [(line, f"{rows[line - 1].strip()} is still to be filled in") for line in unfilled]
    if found:
        raise UserError("\n".join(f"{path}:{line}: {sentence}" for line, sentence in sorted(found)))
    return meta.data


def join_meta(participant: Mapping[str, Any], label: str, computed: Mapping[str, Any], results: Mapping) -> dict:
    """The whole meta file; `computed` is added to its group `system`."""
    submission = {"label": label, **participant["submission"]}
    return {"submission": submission, "system": {**participant["system"], **computed}, "results": dict(results)}


def placeholder_report(team: str) -> bytes:
    """A one-page PDF: the technical report is missing."""
    from matplotlib.figure import Figure

    mark = PLACEHOLDER_MARK.decode()
    page = Figure(figsize=(8.27, 11.69))
    page.text(0.1, 0.9, f"{mark}: put the report of {team} in place of this file.", parse_math=False)
    document = BytesIO()
    page.savefig(document, format="pdf", metadata={"Title": mark, "CreationDate": None})  # the title is not compressed
    return document.getvalue()
