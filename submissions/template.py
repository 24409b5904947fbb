"""Templates for the participant: META.yaml, and a placeholder for the technical report."""

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
    text = f"{PLACEHOLDER_MARK.decode()}: put the report of {team} in place of this file."
    text = text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
    content = f"BT /F1 12 Tf 50 780 Td ({text}) Tj ET".encode("latin-1", "replace")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 5 0 R"
        b" /Resources << /Font << /F1 4 0 R >> >> >>",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
    ]
    document, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(document))
        document += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    tail = b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
    return document + tail % (size, table, size, len(document))
