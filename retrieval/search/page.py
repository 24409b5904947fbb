"""Hits as one self-contained page with a player for each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from common.data.audio import AudioError, read_audio
from common.reports.html import Section, audio, paragraph, table, write_report
from retrieval.search.answer import Answer, shown
from retrieval.search.index import Index

LONGEST = 30.0
"""Seconds of a hit on the page."""
SAMPLE_RATE = 32_000


def write_page(path: Path, index: Index, answers: Sequence[Answer]) -> Path:
    """Write the hits of each query with players; files that are gone are named."""
    sections = []
    for found in answers:
        rows = [shown(hit) for hit in found.hits]
        players = [_player(index, hit) for hit in found.hits]
        parts = [*(paragraph(note) for note in found.notes), *([table(rows)] if rows else []), *players]
        sections.append(Section(found.query, parts or [paragraph("The index holds no other file.")]))
    return write_report(path, "Search", sections, subtitle=f"Sounds of {index.sounds}")


def _player(index: Index, hit: dict[str, Any]) -> Markup:
    start = hit.get("onset", 0.0)
    seconds = hit["offset"] - start if "onset" in hit else None
    try:
        waveform = read_audio(
            index.sounds / hit["file"], SAMPLE_RATE, start=start, duration=min(LONGEST, seconds or LONGEST)
        )
    except AudioError as error:
        return paragraph(f"{hit['rank']}. {error}")
    place = f", {shown(hit)['time']}" if "onset" in hit else ""
    longer = len(waveform) >= LONGEST * SAMPLE_RATE if seconds is None else seconds > LONGEST
    cut = f" (the first {LONGEST:g} s)" if longer else ""
    return audio(waveform, SAMPLE_RATE, f"{hit['rank']}. {hit['file']}{place}{cut}", mp3=True)
