"""The report of a run or a sweep: figures of each model and stage, where the right clip was ranked, hardest queries."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.data.audio import read_audio
from common.errors import UserError
from common.output import say
from common.reports.html import (
    Section,
    audio,
    figure,
    paragraph,
    preformatted,
    print_results,
    side_by_side,
    table,
    with_interval,
    write_report,
)
from common.reports.plots import plot_lines, read_curve
from common.reports.statistics import mean_interval
from common.runs.folder import SETTINGS_FILE, run_folders
from common.settings import dump_settings, load_settings
from common.settings.yaml_file import read_yaml
from retrieval.clips import Manifest
from retrieval.imitation.settings import ImitationSettings
from retrieval.settings import RetrievalSettings

HARDEST = 15
HEARD = 3
RATE = 16_000


@dataclass(frozen=True)
class Finished:
    """A run with its figures (test/evaluation.json)."""

    folder: Path
    settings: RetrievalSettings | ImitationSettings
    content: dict[str, Any]


def write_retrieval_report(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Write report.html into a run's or sweep's folder, and print the table of results.

    Args:
        paths: runs or sweeps of text-to-audio retrieval, or of vocal imitation; runs that are not finished are left
            out, and said so.
        out: file to write; None takes report.html in the first of `paths`.

    Returns:
        The file.

    Raises:
        UserError: if no run is finished, or runs of both kinds are mixed.
    """
    runs, unfinished = read_finished(paths)
    made_up = any(run.content.get("made_up", False) for run in runs)
    by_text = isinstance(runs[0].settings, RetrievalSettings)
    title = "Audio retrieval by text" if by_text else "Query by vocal imitation"
    rows = {direction: result_rows(runs, direction) for direction in ("", "audio to text ")}
    print_results(rows[""], f"{title}, per cent", made_up)
    how = "over seeds (Student's t)" if len(runs) > 1 else "over clips (bootstrap)"
    results = [paragraph(f"Per cent. Intervals are 95 % {how}."), table(rows[""])]
    if rows["audio to text "]:
        results.append(table(rows["audio to text "], caption="The other direction: a clip finds its captions."))
    results += [paragraph(note) for note in runs[0].content["clips"].get("notes", [])]
    if unfinished:
        results.append(paragraph(f"Not finished and left out: {', '.join(folder.name for folder in unfinished)}."))
    sections = [Section("Results", results)]
    if by_text:
        sections += [
            Section("Ranks", ranks_part(runs)),
            Section("Hardest queries", hardest_part(runs[0])),
        ]
    sections += [
        Section("Learning curves", curves_part(runs[0], "MRR")),
        Section("Energy", [table(cost_rows(runs), caption="Each training.")]),
        Section("Settings", [paragraph("Of the first run."), preformatted(dump_settings(runs[0].settings))]),
    ]
    subtitle = f"{len(runs)} run{'s' if len(runs) > 1 else ''}; {runs[0].content['tie_rule']}"
    return write_report(out or paths[0] / "report.html", title, sections, subtitle, made_up)


def read_finished(paths: Sequence[Path]) -> tuple[list[Finished], list[Path]]:
    """Finished runs, and folders of those that are not finished."""
    finished: list[Finished] = []
    unfinished = []
    for folder in run_folders(paths):
        path = folder / SETTINGS_FILE
        if not path.is_file():
            raise UserError(f"{folder} is no run: it has no {SETTINGS_FILE}.")
        figures = folder / "test" / "evaluation.json"
        if not (folder / "test" / "stage.json").is_file():
            say(f"{folder} is not finished: left out")
            unfinished.append(folder)
            continue
        kind = ImitationSettings if read_yaml(path).data.get("kind") == "imitation" else RetrievalSettings
        finished.append(Finished(folder, load_settings(kind, path), json.loads(figures.read_text(encoding="utf-8"))))
    if not finished:
        raise UserError(f"No run in {', '.join(map(str, paths))} is finished. Go on with `train --resume RUN`.")
    if len({type(run.settings) for run in finished}) > 1:
        raise UserError("Runs of retrieval by text and of vocal imitation cannot stand in one report.")
    return finished, unfinished


def result_rows(runs: Sequence[Finished], direction: str = "") -> list[dict[str, Any]]:
    """One row per stage and model: the mean over runs with its interval, or the one run's figure with its own."""
    rows = []
    for model in runs[0].content["figures"]:
        row: dict[str, Any] = {"model": model}
        for name in runs[0].content["figures"][model]:
            if name.startswith("audio to text ") != bool(direction):
                continue
            found = [run.content["figures"][model][name] for run in runs if model in run.content["figures"]]
            if len(found) > 1:
                interval = mean_interval([one["value"] for one in found])
                cell = with_interval(interval.value, interval.low, interval.high, scale=100)
            else:
                cell = with_interval(found[0]["value"], *found[0]["interval"], scale=100)
            row[name.removeprefix(direction)] = cell
        if len(row) > 1:
            rows.append(row)
    return rows


def ranks_part(runs: Sequence[Finished]) -> list[str]:
    """Share of the queries whose own clip is among the first k, of the last model."""
    series = {}
    for run in runs:
        ranks = pd.read_csv(run.folder / "test" / "queries.csv")["rank"].to_numpy()
        clips = run.content["clips"]["scored"]
        series[run.folder.name] = [
            (float(k), 100 * float(np.mean(ranks <= k)), None, None) for k in range(1, clips + 1)
        ]
    clips = runs[0].content["clips"]["scored"]
    series["by chance"] = [(float(k), 100 * k / clips, None, None) for k in range(1, clips + 1)]
    plot = plot_lines(series, "first k of the ranking", "queries with their clip in it, %", log_x=True, markers=False)
    last = list(runs[0].content["figures"])[-1]
    return [figure(plot, f"Recall of {last} over the length of the ranking.")]


def hardest_part(run: Finished) -> list[str]:
    """The queries whose clip was ranked last, and what was found in its place."""
    queries = pd.read_csv(run.folder / "test" / "queries.csv")
    hardest = queries.sort_values("rank", ascending=False, kind="stable").head(HARDEST)
    rows = hardest[["caption", "file_name", "rank", "found_first"]].to_dict("records")
    parts = [table(rows, caption="Of the first run.")]
    assert isinstance(run.settings, RetrievalSettings)
    manifest = Manifest.read([run.settings.data.evaluation], run.settings.data.allow_missing).clips
    paths = dict(zip(manifest["file_name"], manifest["path"]))
    for row in rows[:HEARD]:
        heard = []
        for name, role in ((row["file_name"], "its clip"), (row["found_first"], "found first")):
            try:
                waveform = read_audio(Path(paths[name]), RATE, duration=run.settings.data.max_duration)
            except (UserError, KeyError):
                heard.append(paragraph(f"{name} ({role}) is not here any more."))
            else:
                heard.append(audio(waveform, RATE, f"{name}, {role}"))
        parts += [paragraph(f"“{row['caption']}” (rank {row['rank']})"), side_by_side(*heard)]
    return parts


def curves_part(run: Finished, figure_name: str) -> list[str]:
    """Loss and the validation figure over epochs, of every training of a run."""
    logs = sorted(run.folder.glob("*/metrics.csv"))
    pictures = []
    for column, label in (("loss", "training loss"), (figure_name, f"validation {figure_name}")):
        series = {log.parent.name: read_curve(log, column) for log in logs}
        plot = plot_lines({name: curve for name, curve in series.items() if curve}, "epoch", label, markers=False)
        pictures.append(figure(plot, f"{label.capitalize()} of {run.folder.name}."))
    return [side_by_side(*pictures)] if logs else [paragraph("No logs were found.")]


def cost_rows(runs: Sequence[Finished]) -> list[dict[str, Any]]:
    """Energy and time of each training."""
    rows = []
    for run in runs:
        for path in sorted(run.folder.glob("*/energy.json")):
            energy = json.loads(path.read_text(encoding="utf-8"))
            kwh = energy.get("energy_kwh")
            shown = "not measured" if kwh is None else f"{1000 * kwh:.3g}"
            rows.append({"run": run.folder.name, "stage": path.parent.name, "energy in Wh": shown,
                         "seconds": energy.get("seconds")})  # fmt: skip
    return rows
