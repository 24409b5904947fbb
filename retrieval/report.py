"""The report of a run or a sweep: figures of each model and stage, ranks of the right clips, hardest queries."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from common.data.audio import read_audio
from common.errors import UserError
from common.reports import html
from common.reports.plots import Point, plot_lines
from common.reports.statistics import Interval, over_runs, with_interval
from common.runs.run import Run
from common.runs.systems import Trained, cost_rows, read_systems
from common.settings import dump_settings
from retrieval.data.captions import read_manifest
from retrieval.settings import MONITOR, RetrievalSettings
from retrieval.systems import open_run

Finished = tuple[Run[Any], dict[str, Any]]
"""A run and its evaluation.json."""
HARDEST = 15
HEARD = 3
RATE = 16_000


def write_retrieval_report(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Write report.html into a run's or sweep's folder, and print the table of results.

    Unfinished runs are left out and named. Returns the file, by default report.html in the first of `paths`.

    Raises:
        UserError: if no run is finished, or runs of both kinds are mixed.
    """
    systems, unfinished = read_systems(paths, open_run)
    runs = [found for system in systems for found in zip(system.runs, system.evaluations)]
    if len({type(run.settings) for run, _ in runs}) > 1:
        raise UserError("Runs of retrieval by text and of vocal imitation cannot stand in one report.")
    first, found = runs[0]
    made_up = any(content.get("made_up", False) for _, content in runs)
    by_text = isinstance(first.settings, RetrievalSettings)
    title = "Audio retrieval by text" if by_text else "Query by vocal imitation"
    rows = {direction: system_rows(systems, direction) for direction in ("", "audio to text ")}
    html.print_results(rows[""], f"{title}, per cent", made_up)
    kind = html.interval_note([len(system.runs) for system in systems], "clips")
    results = [html.paragraph(f"Per cent. {kind}"), html.table(rows[""])]
    if rows["audio to text "]:
        results.append(html.table(rows["audio to text "], caption="The other direction: a clip finds its captions."))
    results += [*map(html.paragraph, found["clips"].get("notes", [])), *html.left_out(unfinished)]
    sections = [html.Section("Results", results)]
    if by_text:
        sections += [html.Section("Ranks", ranks_part(runs)), html.Section("Hardest queries", hardest_part(first))]
    logs = {log.parent.name: log for log in sorted(first.folder.glob("*/metrics.csv"))}
    labels = {"loss": "training loss", MONITOR: f"validation {MONITOR}", "MRR": "validation MRR"}
    sections += [
        html.Section("Learning curves", html.curves(logs, labels, f"of {first.folder.name}")),
        html.Section("Energy", [html.table(cost_rows([run for run, _ in runs]), caption="Each training.")]),
        html.settings_section(dump_settings(first.settings)),
    ]
    subtitle = f"{len(runs)} run{'s' if len(runs) > 1 else ''}; {found['tie_rule']}"
    return html.write_report(out or paths[0] / "report.html", title, sections, subtitle, made_up)


def system_rows(systems: Sequence[Trained], direction: str = "") -> list[dict[str, Any]]:
    """The rows of each system, behind its name where there are several."""
    rows = []
    for system in systems:
        name = {"system": system.name} if len(systems) > 1 else {}
        seeds = html.name_seeds([run.settings.seed for run in system.runs])
        for row in result_rows(list(zip(system.runs, system.evaluations)), direction):
            rows.append({**name, "model": row.pop("model"), "runs": seeds, **row})
    return rows


def result_rows(runs: Sequence[Finished], direction: str = "") -> list[dict[str, Any]]:
    """One row per stage and model: the mean over runs with its interval, or the one run's figure with its own."""
    every = [content["figures"] for _, content in runs]
    rows = []
    for model, names in every[0].items():
        row = {"model": model}
        for name in names:
            if name.startswith("audio to text ") == bool(direction):
                figures = [found[model][name] for found in every if name in found.get(model, {})]
                interval = over_runs([Interval(one["value"], *one["interval"]) for one in figures])
                row[name.removeprefix(direction)] = with_interval(*interval, scale=100)
        if len(row) > 1:
            rows.append(row)
    return rows


def ranks_part(runs: Sequence[Finished]) -> list[Markup]:
    """Share of the queries with their own clip among the first k, for the last model."""
    clips = runs[0][1]["clips"]["scored"]
    series: dict[str, list[Point]] = {}
    for run, content in runs:
        ranks = np.array([query["rank"] for query in read_queries(run)])
        shares = [(k, 100 * float(np.mean(ranks <= k))) for k in range(1, content["clips"]["scored"] + 1)]
        series[run.folder.name] = [(k, share, None, None) for k, share in shares]
    series["by chance"] = [(k, 100 * k / clips, None, None) for k in range(1, clips + 1)]
    at = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000) if k <= clips]
    labels = "first k of the ranking", "queries with their clip in it, %"
    plot = plot_lines(series, *labels, at=at, log_x=True, markers=False)
    last = list(runs[0][1]["figures"])[-1]
    return [html.figure(plot, f"Recall of {last} over the length of the ranking.")]


def read_queries(run: Run[Any]) -> list[dict[str, Any]]:
    """The rows of the test's table of captions."""
    with (run.folder / "test" / "queries.csv").open(encoding="utf-8", newline="") as file:
        return [{**row, "rank": int(row["rank"])} for row in csv.DictReader(file)]


def hardest_part(run: Run[RetrievalSettings]) -> list[Markup]:
    """Queries with the last ranks of their clip, and the clip that was found in its place."""
    shown = ("caption", "file_name", "rank", "found_first")
    hardest = sorted(read_queries(run), key=lambda query: -query["rank"])[:HARDEST]
    rows: list[dict[str, Any]] = [{name: query[name] for name in shown} for query in hardest]
    parts = [html.table(rows, caption="Of the first run.")]
    data = run.settings.data
    manifest = read_manifest(data.evaluation.dataset, data.evaluation.root, data.evaluation.split)
    paths = dict(zip(manifest["file_name"], manifest["path"]))
    for row in rows[:HEARD]:
        heard = []
        for name, role in ((row["file_name"], "its clip"), (row["found_first"], "found first")):
            try:
                waveform = read_audio(Path(paths[name]), RATE, duration=data.max_duration)
            except (UserError, KeyError):
                heard.append(html.paragraph(f"{name} ({role}) is not here any more."))
            else:
                heard.append(html.audio(waveform, RATE, f"{name}, {role}"))
        parts += [html.paragraph(f"“{row['caption']}” (rank {row['rank']})"), html.side_by_side(*heard)]
    return parts
