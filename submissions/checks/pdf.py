"""Whether a PDF has something to read, without a PDF library."""

import re
import zlib
from collections.abc import Iterator

MAX_STREAM, MAX_UNPACKED = 4 * 2**20, 256 * 2**20
PAGE = re.compile(rb"/Type\s*/Page\b")
SHOWN = re.compile(rb"\bT[jJ]\b|\bDo\b|\bID\b|['\"]\s")
"""Operators that show text or an image."""


def pdf_mistake(content: bytes) -> str | None:
    """What is wrong with a PDF; None for one with a page that shows text or an image."""
    if not content.startswith(b"%PDF-"):
        return "is not a PDF"
    if b"%%EOF" not in content[-2048:]:
        return "is a PDF that is cut off"
    if b"/Encrypt" in content:
        return None  # its streams cannot be read
    has_page, shows, unpacked = bool(PAGE.search(content)), False, 0
    for part in _streams(content):
        has_page, shows = has_page or bool(PAGE.search(part)), shows or bool(SHOWN.search(part))
        unpacked += len(part)
        if (has_page and shows) or unpacked > MAX_UNPACKED:
            return None
    return "is a PDF whose pages show neither text nor images" if has_page else "is a PDF without a page"


def _streams(content: bytes) -> Iterator[bytes]:
    """The start of each stream, unpacked where it is packed with deflate."""
    for match in re.finditer(rb"stream\r?\n(.*?)endstream", content, re.DOTALL):
        try:
            yield zlib.decompressobj().decompress(match[1], MAX_STREAM)
        except zlib.error:
            yield match[1]
