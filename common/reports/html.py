"""One self-contained report.html: sections of text, tables, figures and sounds; no network, no script.

sections = [
    Section("Results", [paragraph("Macro accuracy, %."), table(rows, caption="Mean over seeds."), figure(plot)]),
    Section("Sounds", [audio(waveform, 32_000, "The worst clip.")]),
]
write_report(folder / "report.html", "Task 1", sections, made_up=True)
"""

import base64
import html
import io
import math
import wave
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from common.files import atomic_write
from common.output import print_table

MADE_UP = "Made-up data"
_STYLE = Path(__file__).with_name("report.css")


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it: pieces of HTML from the functions of this module."""

    title: str
    parts: Sequence[str]


def write_report(
    path: Path, title: str, sections: Iterable[Section], subtitle: str = "", made_up: bool = False
) -> Path:
    """Write the page, whole or not at all.

    Args:
        path: of the file.
        title: heading of the page.
        sections: in order; the page starts with links to them.
        subtitle: one line below the heading.
        made_up: whether the figures come from made-up data; a banner says so.

    Returns:
        path.
    """
    with atomic_write(path) as file:
        file.write(page(title, list(sections), subtitle, made_up))
    return path


def page(title: str, sections: Sequence[Section], subtitle: str = "", made_up: bool = False) -> str:
    """The page as text."""
    links = "".join(f'<a href="#{_anchor(number)}">{_text(s.title)}</a>' for number, s in enumerate(sections))
    warning = (
        f"<strong>{MADE_UP}.</strong> The figures below show that the kit works. They say nothing about real audio."
    )
    banner = f'<p class="banner" role="note">{warning}</p>' if made_up else ""
    body = "".join(
        f'<section id="{_anchor(number)}"><h2>{_text(section.title)}</h2>{"".join(section.parts)}</section>'
        for number, section in enumerate(sections)
    )
    heading = f"{title} ({MADE_UP.lower()})" if made_up else title
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_text(heading)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_STYLE.read_text(encoding='utf-8')}</style></head><body><header><h1>{_text(heading)}</h1>"
        f'<p class="subtitle">{_text(subtitle)}</p>{banner}<nav aria-label="Sections">{links}</nav></header>'
        f"<main>{body}</main><footer>Written {now}.</footer></body></html>\n"
    )


def paragraph(text: str) -> str:
    """Plain text as a paragraph."""
    return f"<p>{_text(text)}</p>"


def preformatted(text: str) -> str:
    """Text as it stands, such as settings."""
    return f'<pre tabindex="0">{_text(text)}</pre>'


def table(rows: Sequence[Mapping[str, Any]], caption: str = "", columns: Sequence[str] | None = None) -> str:
    """Rows as a table: numbers to the right, None as an empty cell. Wide tables scroll by themselves."""
    columns = list(columns or dict.fromkeys(key for row in rows for key in row))
    numeric = {column: _is_numeric([row.get(column) for row in rows]) for column in columns}
    head = "".join(f'<th scope="col"{_number_class(numeric[column])}>{_text(column)}</th>' for column in columns)
    body = "".join(
        "<tr>"
        + "".join(f"<td{_number_class(numeric[column])}>{_text(shown(row.get(column)))}</td>" for column in columns)
        + "</tr>"
        for row in rows
    )
    title = f"<caption>{_text(caption)}</caption>" if caption else ""
    inside = f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" tabindex="0">{inside}</div>'


def figure(plot: Any, caption: str = "", alternative: str = "", as_pixels: bool = False) -> str:
    """A matplotlib figure as a picture in the page.

    Args:
        plot: matplotlib Figure, such as common/reports/plots.py makes.
        caption: text below it.
        alternative: what is to be seen, for those who do not see it; the caption when not given.
        as_pixels: PNG instead of SVG, for spectrograms and the like.
    """
    import matplotlib as mpl

    content = io.BytesIO()
    kind, options = ("png", {"dpi": 160}) if as_pixels else ("svg", {"metadata": {"Date": None}})
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "report"}):
        plot.savefig(content, format=kind, **options)
    width = round(plot.get_figwidth() * 120)
    mime = "image/png" if as_pixels else "image/svg+xml"
    data = base64.b64encode(content.getvalue()).decode()
    words = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    picture = f'<img alt="{_text(alternative or caption)}" src="data:{mime};base64,{data}">'
    return f'<figure style="--width: {width}px">{picture}{words}</figure>'


def audio(waveform: ArrayLike, sample_rate: int, caption: str = "") -> str:
    """A player for a waveform (samples,), -1..1, stored as 16-bit wav."""
    samples = np.asarray(waveform, dtype=np.float64).reshape(-1)
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    data = base64.b64encode(content.getvalue()).decode()
    words = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    return f'<figure><audio controls preload="none" src="data:audio/wav;base64,{data}"></audio>{words}</figure>'


def side_by_side(*parts: str) -> str:
    """Pieces beside each other where there is room, below each other on a phone."""
    return f'<div class="pair">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def with_interval(value: float | None, low: float | None = None, high: float | None = None, scale: float = 1.0) -> str:
    """42.4 [41.2, 43.6]; only the value where there are no limits, a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return f"{scale * value:.1f}"
    return f"{scale * value:.1f} [{scale * low:.1f}, {scale * high:.1f}]"


def print_results(rows: Sequence[Mapping[str, Any]], title: str, made_up: bool = False) -> None:
    """Results on the terminal; a table of made-up data says so in its heading."""
    print_table(rows, title=f"{title} ({MADE_UP.upper()})" if made_up else title)


def shown(value: Any) -> str:
    """A cell for people: four digits, thousands separated, None as nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int | np.integer) else str(value)


def _is_numeric(values: Sequence[Any]) -> bool:
    kept = [value for value in values if value is not None]
    numbers = [isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in kept]
    starts = [isinstance(value, str) and (value[:1].isdigit() or value in ("", "–")) for value in kept]
    return bool(kept) and all(number or start for number, start in zip(numbers, starts))


def _number_class(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _anchor(number: int) -> str:
    return f"section-{number + 1}"


def _text(text: str) -> str:
    return html.escape(str(text), quote=True)
