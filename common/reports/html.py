"""One self-contained report.html: sections of text, tables, figures and sounds; no network, no script file.

sections = [
    Section("Results", [paragraph("Macro accuracy, %."), table(rows, caption="Mean over seeds."), figure(plot)]),
    Section("Sounds", [audio(waveform, 32_000, "The worst clip.")]),
]
write_report(folder / "report.html", "Task 1", sections, made_up=True)

The markup is in page.html.j2, the look in report.css.
"""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import ArrayLike

from common.data.files import write_text
from common.output import print_table
from common.reports.plots import plot_lines, read_curves
from common.reports.statistics import SEEDS_FOR_T

MADE_UP = "Made-up data"


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it, from the functions of this module."""

    title: str
    parts: Sequence[Markup]


def write_report(
    path: Path, title: str, sections: Iterable[Section], subtitle: str = "", made_up: bool = False
) -> Path:
    """Write the page, whole or not at all; a banner marks figures of made-up data. Returns `path`."""
    write_text(path, page(title, list(sections), subtitle, made_up))
    return path


def page(title: str, sections: Sequence[Section], subtitle: str = "", made_up: bool = False) -> str:
    """The page as text."""
    return _block(
        "page",
        title=f"{title} ({MADE_UP.lower()})" if made_up else title,
        subtitle=subtitle,
        made_up=MADE_UP if made_up else "",
        sections=sections,
        style=Markup(Path(__file__).with_name("report.css").read_text(encoding="utf-8")),
        time=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def paragraph(text: str) -> Markup:
    """Plain text as a paragraph."""
    return _block("paragraph", text=text)


def preformatted(text: str) -> Markup:
    """Text with its line breaks, such as settings."""
    return _block("preformatted", text=text)


def table(rows: Sequence[Mapping[str, Any]], caption: str = "", columns: Sequence[str] | None = None) -> Markup:
    """Rows as a table: numbers to the right, None as an empty cell. Wide tables scroll by themselves."""
    names = list(columns or dict.fromkeys(key for row in rows for key in row))
    places = [Markup(' class="number"' if _is_numeric([row.get(name) for row in rows]) else "") for name in names]
    cells = [[shown(row.get(name)) for name in names] for row in rows]
    return _block("table", columns=list(zip(names, places)), rows=cells, caption=caption)


def figure(plot: Any, caption: str = "", alternative: str = "", as_pixels: bool = False) -> Markup:
    """A matplotlib Figure as a picture in the page.

    `alternative` describes it for those who cannot see it, by default the caption. `as_pixels` takes PNG instead of
    SVG, for spectrograms and the like.
    """
    import matplotlib as mpl

    content = io.BytesIO()
    kind, options = ("png", {"dpi": 160}) if as_pixels else ("svg", {"metadata": {"Date": None}})
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "report"}):
        plot.savefig(content, format=kind, **options)
    source = _data_url("image/png" if as_pixels else "image/svg+xml", content)
    width = round(plot.get_figwidth() * 120)
    return _block("figure", source=source, width=width, caption=caption, alternative=alternative or caption)


def curves(logs: Mapping[str, Path], labels: Mapping[str, str], ending: str) -> list[Markup]:
    """Learning curves beside each other, from the metrics.csv of each training by name.

    `labels` maps columns to names of their axes; columns that no log has are left out. `ending` is of the captions.
    """
    pictures = []
    every = {name: read_curves(log) for name, log in logs.items()}
    for column, label in labels.items():
        series = {name: found[column] for name, found in every.items() if column in found}
        if series:
            plot = plot_lines(series, "epoch", label, markers=False)
            pictures.append(figure(plot, f"{label[:1].upper()}{label[1:]} {ending}."))
    return [side_by_side(*pictures)] if pictures else [paragraph("No logs were found.")]


def audio(
    waveform: ArrayLike, sample_rate: int, caption: str = "", jumps: Sequence[tuple[str, float]] = (), mp3: bool = False
) -> Markup:
    """A player for a waveform (samples,), -1..1, stored as 16-bit wav, or as mp3 for minutes of audio.

    `jumps` are labels and seconds of buttons that play from there.
    """
    content, waveform = io.BytesIO(), np.clip(waveform, -1, 1)
    if mp3:
        soundfile.write(content, waveform, sample_rate, "MPEG_LAYER_III", format="MP3")
    else:
        soundfile.write(content, waveform, sample_rate, "PCM_16", format="WAV")
    source = _data_url("audio/mpeg" if mp3 else "audio/wav", content)
    return _block("audio", source=source, caption=caption, jumps=[(label, float(start)) for label, start in jumps])


def side_by_side(*parts: Markup) -> Markup:
    """Blocks beside each other, or below each other on a narrow screen."""
    return _block("side_by_side", parts=parts)


def cost(energy: Mapping[str, Any]) -> dict[str, Any]:
    """Cells of a table for the content of an energy.json; empty for a training that was not measured."""
    kwh = energy.get("energy_kwh")
    return {"energy in Wh": "not measured" if kwh is None else f"{1000 * kwh:.3g}", "seconds": energy.get("seconds")}


def interval_note(runs: Sequence[int], resampled: str) -> str:
    """Sentence on the kind of the intervals of systems with these numbers of runs."""
    if max(runs) >= SEEDS_FOR_T:
        from_five = f"over seeds (Student's t) from {SEEDS_FOR_T} runs on"
        return f"Intervals are 95 %: {from_five}, else over {resampled} (bootstrap)."
    several = "; of several runs the mean" if max(runs) > 1 else ""
    return f"Intervals are 95 % over {resampled} (bootstrap){several}."


def name_seeds(seeds: Sequence[int]) -> str:
    """How many seeds a figure is the mean of; a single one is named."""
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"


def left_out(unfinished: Sequence[Path]) -> list[Markup]:
    """A sentence with the names of unfinished runs; none without any."""
    names = ", ".join(folder.name for folder in unfinished)
    return [paragraph(f"Not finished and left out: {names}.")] if unfinished else []


def settings_section(settings: str) -> Section:
    """The last section: settings of the first run."""
    return Section("Settings", [paragraph("Of the first run."), preformatted(settings)])


def print_results(rows: Sequence[Mapping[str, Any]], title: str, made_up: bool = False) -> None:
    """Results on the terminal; the title marks made-up data."""
    print_table(rows, title=f"{title} ({MADE_UP.upper()})" if made_up else title)


def shown(value: Any) -> str:
    """Text of a cell: four digits, thousands separated, None as nothing."""
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


def _data_url(mime: str, content: io.BytesIO) -> str:
    return f"data:{mime};base64,{base64.b64encode(content.getvalue()).decode()}"


@cache
def _blocks() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.loader = FileSystemLoader(Path(__file__).parent)
    return environment.get_template("page.html.j2").module


def _block(name: str, **values: Any) -> Markup:
    return getattr(_blocks(), name)(**values).strip()
