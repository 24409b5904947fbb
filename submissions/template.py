"""Templates for the participant: META.yaml, and a placeholder for the technical report."""

from io import BytesIO
from pathlib import Path

from common.data.files import atomic_write
from common.errors import UserError, unknown

TEMPLATES_FOLDER = Path(__file__).parent / "templates"
TO_FILL_IN = "FILL IN"
"""Text of a template that a participant must replace."""
PLACEHOLDER_MARK = b"TECHNICAL REPORT MISSING"
"""Bytes that identify a placeholder."""


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
    with atomic_write(path) as file:
        file.write((TEMPLATES_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def placeholder_report(team: str) -> bytes:
    """A one-page PDF: the technical report is missing."""
    from matplotlib.figure import Figure

    mark = PLACEHOLDER_MARK.decode()
    page = Figure(figsize=(8.27, 11.69))
    page.text(0.1, 0.9, f"{mark}: put the report of {team} in place of this file.", parse_math=False)
    document = BytesIO()
    page.savefig(document, format="pdf", metadata={"Title": mark, "CreationDate": None})  # the title is not compressed
    return document.getvalue()
