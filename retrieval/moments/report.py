"""The report of audio moment retrieval: figures, recall by length, best and worst queries to look at and hear."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from common.data.audio import read_audio
from common.errors import UserError
from common.reports import html
from common.reports.plots import axes
from common.runs.systems import cost_rows, read_systems
from common.settings import dump_settings
from retrieval.moments.annotations import Query, read_predictions, read_queries
from retrieval.moments.features import find_audio
from retrieval.moments.metrics import Array, average_precision, hits_at_1, intersection_over_union
from retrieval.moments.recipe import RECIPE, MomentRun
from retrieval.report import system_rows

SHOWN = 4
"""Best and worst queries, each."""
FOUND = 3
"""Found windows that are drawn and can be heard."""
RATE = 16_000


def write_moment_report(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Write report.html into a run's or sweep's folder, and print the table of results.

    Unfinished runs are left out and named. Returns the file, by default report.html in the first of `paths`.

    Raises:
        UserError: if no run is finished.
    """
    systems, unfinished = read_systems(paths, RECIPE.open)
    runs = [found for system in systems for found in zip(system.runs, system.evaluations, strict=True)]
    made_up = any(content["made_up"] for _, content in runs)
    rows = system_rows(systems)
    title = "Audio moment retrieval"
    html.print_results(rows, f"{title}, per cent", made_up)
    whole = [{name: value for name, value in row.items() if "R1@0.7 " not in name} for row in rows]
    lengths = [{name: row[name] for name in row if name in ("system", "model") or "R1@0.7 " in name} for row in rows]
    how = html.interval_note([len(system.runs) for system in systems], "recordings")
    first, _ = runs[0]
    logs = {log.parent.name: log for log in sorted(first.folder.glob("*/metrics.csv"))}
    labels = {"loss": "training loss", "R1@0.7": "validation R1@0.7", "mAP": "validation mAP"}
    results = [html.paragraph(f"Per cent. {how}"), html.table(whole), *html.left_out(unfinished)]
    by_length = html.table(lengths, caption="Queries with such windows; only these can be hit.")
    sections = [
        html.Section("Results", results),
        html.Section("By length of the true window", [by_length]),
        *query_sections(first),
        html.Section("Learning curves", html.curves(logs, labels, f"of {first.folder.name}")),
        html.Section("Energy", [html.table(cost_rows([run for run, _ in runs]), caption="Each training.")]),
        html.settings_section(dump_settings(first.settings)),
    ]
    subtitle = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    return html.write_report(out or paths[0] / "report.html", title, sections, subtitle, made_up)


def query_sections(run: MomentRun) -> list[html.Section]:
    """The queries of highest and of lowest average precision of a run."""
    source = run.settings.data.evaluation
    queries = read_queries(source.root / source.annotations)
    found = read_predictions(run.folder / "test" / "predictions.jsonl")
    truth = {query.qid: query.windows for query in queries}
    precision, hits = average_precision(found, truth).mean(axis=1), hits_at_1(found, truth, [0.7])[:, 0]
    order = np.argsort(-precision, kind="stable").tolist()
    with np.load(run.folder / "test" / "curves.npz", allow_pickle=False) as curves:
        parts = [
            [query_part(queries[row], found[queries[row].qid], curves[queries[row].qid], source.root) for row in rows]
            for rows in (order[:SHOWN], order[SHOWN:][: -SHOWN - 1 : -1])
        ]
    rows = [_row(queries[row], found[queries[row].qid], precision[row], hits[row]) for row in order]
    table = html.table([*rows[:SHOWN], *rows[-SHOWN:]], caption=f"The best and the worst of {len(rows)} queries.")
    best, worst = (html.Section(f"{name} queries", part) for name, part in zip(("Best", "Worst"), parts, strict=True))
    return [html.Section("Queries", [html.paragraph(f"Of {run.folder.name}."), table]), best, worst]


def _row(query: Query, found: Array, precision: float, hit: float) -> dict[str, Any]:
    overlap = intersection_over_union(found[:1, :2], query.windows).max(initial=0.0)
    return {
        "query": query.query,
        "recording": query.vid,
        "true windows": len(query.windows),
        "AP": float(precision),
        "overlap of the first": float(overlap),
        "hit at 0.7": bool(hit),
    }


def query_part(query: Query, found: Array, curve: NDArray, root: Path) -> Markup:
    """Curve, true and found windows over the spectrogram, and a player with a button for each hit."""
    try:
        path = find_audio(root, [query.vid])[query.vid]
        waveform = read_audio(path, RATE)
    except UserError:
        plot = html.figure(plot_query(query, found, curve, None), f"“{query.query}”, {query.vid}; no audio.")
        return html.side_by_side(plot)
    picture = plot_query(query, found, curve, waveform)
    jumps = [(f"{role} {_clock(start)}–{_clock(end)}", start) for role, start, end in _windows(query, found)]
    player = html.audio(waveform, RATE, query.vid, jumps, mp3=True)
    return html.side_by_side(html.figure(picture, f"“{query.query}”", as_pixels=True), player)


def _windows(query: Query, found: Array) -> list[tuple[str, float, float]]:
    true = [("true", float(start), float(end)) for start, end in query.windows]
    return [*true, *(("found", float(window[0]), float(window[1])) for window in found[:FOUND])]


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def plot_query(query: Query, found: Array, curve: NDArray, waveform: NDArray | None) -> Any:
    """The curve over the spectrogram; true windows above, found ones below, the first one strongest."""
    with axes(9.0, 3.6) as (plot, grid):
        end = max(query.duration, query.windows.max(initial=0.0))
        if waveform is not None:
            grid.imshow(spectrogram(waveform), origin="lower", aspect="auto", cmap="Greys", extent=(0, end, 0, 1))
        spread = max(float(np.ptp(curve)), 1e-9)
        grid.plot(np.arange(len(curve)) + 0.5, 0.15 + 0.7 * (curve - curve.min()) / spread, label="curve")
        for number, (start, stop) in enumerate(query.windows):
            grid.axvspan(start, stop, 0.88, 0.98, color="#2a8a57", label="true" if number == 0 else None)
        for number, window in enumerate(found[:FOUND]):
            alpha = 1 - 0.3 * number
            grid.axvspan(*window[:2], 0.02, 0.12, color="#c77700", alpha=alpha, label="found" if number == 0 else None)
        grid.set_xlim(0, end)
        grid.set_ylim(0, 1)
        grid.set_yticks([])
        grid.set_xlabel("seconds")
        grid.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return plot


def spectrogram(waveform: NDArray, columns: int = 600, bands: int = 64) -> NDArray:
    """Levels in dB (bands, columns), bands evenly from 0 Hz to half the rate."""
    from scipy.signal import spectrogram as transform

    step = max(128, len(waveform) // columns)
    power = transform(waveform, RATE, nperseg=512, noverlap=512 - min(512, step))[2]
    power = power[:-1].reshape(bands, -1, power.shape[1]).mean(axis=1)
    factor = max(1, power.shape[1] // columns)
    power = power[:, : power.shape[1] // factor * factor].reshape(bands, -1, factor).mean(axis=2)
    level = 10 * np.log10(power + 1e-10)
    return level.clip(np.percentile(level, 5), np.percentile(level, 99.5))
