"""The report of runs: figures with intervals, per class, PSD-ROC, and the best and worst clips to look at and hear."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from common.output import print_table
from common.reports import html
from common.reports.plots import Point, plot_lines, read_curves
from common.reports.statistics import Interval, over_runs, with_interval
from common.runs.run import Run, read_record
from common.runs.systems import Trained, read_systems
from common.settings import dump_settings
from common.settings.yaml_file import read_yaml
from task4_sed.evaluate import FIGURES, read_finisher
from task4_sed.metrics.command import FIGURE_NAMES
from task4_sed.reports.clips import clip_parts, psd_roc
from task4_sed.settings import SystemSettings
from task4_sed.systems import load_recipe

TITLES = {**FIGURE_NAMES, "rank_score": "rank score"}
SET_TITLES = {
    "validation": "DESED validation",
    "public_evaluation": "DESED public evaluation",
    "maestro_validation": "MAESTRO Real validation",
}


@cache
def read_published(system: str) -> dict[str, Any]:
    """Figures of a published system, see published.yaml; none for own data."""
    return read_yaml(Path(__file__).parent / "published.yaml").data.get(system, {})


def published_note(settings: SystemSettings) -> str:
    """Sentence that names the published system; empty for own data."""
    published = read_published(settings.system)
    return f"Published: {published['system']}, on the real data." if published else ""


def set_title(settings: SystemSettings, name: str) -> str:
    """Title of a test set; of own data their name."""
    return f"{settings.own_data} test" if name == "own_test" else SET_TITLES[name]


def write_task4_report(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Write report.html into a run's or sweep's folder, and print the table of results.

    Runs that differ in their seed alone are one system. Unfinished runs are left out and named. Returns the file, by
    default report.html in the first of `paths`.

    Raises:
        UserError: if no run is finished.
    """
    systems, unfinished = read_systems(paths, load_recipe().open)
    runs = [run for system in systems for run in system.runs]
    evaluations = [found for system in systems for found in system.evaluations]
    made_up = any(found["made_up"] for found in evaluations)
    tables = figure_tables(systems)
    for title, rows in tables.items():
        html.print_results(rows, f"Sound events, post-processed, per cent: {title}", made_up)
    versions = ", ".join(f"{name} {number}" for name, number in evaluations[0]["versions"].items())
    first = runs[0]
    kind = html.interval_note([len(system.runs) for system in systems], "recordings")
    note = (
        f"{first.settings.network.capitalize()}, post-processed. Per cent. {kind} "
        f"{published_note(first.settings)} {versions}."
    )
    shown = [html.table(rows, caption=title) for title, rows in tables.items()]
    raw = [html.table(rows, caption=f"{title}, before post-processing")
           for title, rows in figure_tables(systems, "raw").items()]  # fmt: skip
    finisher = read_finisher(first)
    classes = [html.table(part, caption=title) for title, part in class_rows(first).items()]
    of_first = html.paragraph(f"Of the run {first.folder.name} (seed {first.settings.seed}), per cent.")
    sections = [
        html.Section("Results", [html.paragraph(note), *html.left_out(unfinished), *shown, *raw]),
        html.Section("Classes", [of_first, *classes]),
        html.Section("PSD-ROC", [of_first, *psd_roc(first, finisher)]),
        html.Section("Clips", [of_first, *clip_parts(first, finisher)]),
        html.Section("Learning curves", _curves_part(runs)),
        html.Section("Energy", [html.table([_cost_row(run) for run in runs], caption="Each run's training and test.")]),
        html.settings_section(dump_settings(first.settings)),
    ]
    if stages := stage_rows(first):
        sections.insert(1, html.Section("Stages", [of_first, html.table(stages)]))
    subtitle = f"DCASE Task 4, {len(runs)} run{'s' if len(runs) > 1 else ''}"
    return html.write_report(out or paths[0] / "report.html", "Sound event detection", sections, subtitle, made_up)


def print_run(run: Run, title: str) -> None:
    """Print the figures of a finished run, a table for each test set."""
    for of_set, rows in figure_tables([Trained("", "", [run])]).items():
        print_table([{name: row[name] for name in row if name != "runs"} for row in rows], title=f"{title}: {of_set}")


def figure_tables(systems: Sequence[Trained], kind: str = "postprocessed") -> dict[str, list[dict[str, Any]]]:
    """Of each test set the rows of all systems that were tested on it, by title with the number of clips."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for system in systems:
        seeds = html.name_seeds([run.settings.seed for run in system.runs])
        for row in figure_rows(system.runs, kind):
            name, clips, figure = row.pop("set"), row.pop("clips"), row.pop("figure")
            own = {"system": system.name} if len(systems) > 1 else {}
            tables.setdefault(f"{name}, {clips}", []).append({"figure": figure, **own, "runs": seeds, **row})
    order = list(TITLES.values())
    return {title: sorted(rows, key=lambda row: order.index(row["figure"])) for title, rows in tables.items()}


def figure_rows(runs: Sequence[Run], kind: str = "postprocessed") -> list[dict[str, Any]]:
    """One row per test set and figure: value with interval in per cent, the published one, and how many clips."""
    published = read_published(runs[0].settings.system)
    every = [run.read_evaluation()["networks"][run.settings.network][kind] for run in runs]
    rows = []
    for name in every[0]:
        clips = every[0][name]["clips"]
        whole = f"{clips['scored']} of {clips['expected']} clips" + ("" if clips["comparable"] else ", not comparable")
        for key in (*FIGURES, "rank_score"):
            figures = [found[name][key] for found in every if key in found.get(name, {})]
            if not figures:
                continue
            intervals = [Interval(one["value"], *(one["interval"] or (np.nan, np.nan))) for one in figures]
            found = over_runs(intervals, highest=2.0 if key == "rank_score" else 1.0)
            row = {
                "set": set_title(runs[0].settings, name),
                "figure": TITLES[key],
                "value": with_interval(*found, scale=100),
            }
            known = published.get("public_evaluation" if name == "public_evaluation" else "figures", {})
            if key in known:
                row["published"] = f"{100 * known[key]:.1f}"
            rows.append({**row, "clips": whole})
    return rows


def stage_rows(run: Run) -> list[dict[str, Any]]:
    """A row with PSDS1 and mpAUC (per cent) for each training and ensemble of a recipe that has many; else none."""
    networks = run.read_evaluation()["networks"]
    if len(networks) <= 2:
        return []
    rows = []
    for name, scores in networks.items():
        row: dict[str, Any] = {"trained": name.replace("_", " ")}
        for kind, words in (("raw", "raw"), ("postprocessed", "post-processed")):
            for set_name, figures in scores[kind].items():
                key = "psds1" if "psds1" in figures else "mpauc"
                title = f"{set_title(run.settings, set_name).removeprefix('DESED ')} {TITLES[key]}, {words}"
                row[title] = _per_cent(figures[key]["value"])
        rows.append(row)
    return rows


def class_rows(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Per set one row per class with its figures in per cent."""
    scores = run.read_evaluation()["networks"][run.settings.network]["postprocessed"]
    tables = {}
    for name, figures in scores.items():
        keys = [key for key in FIGURES if key in figures]
        classes = list(figures[keys[0]]["per_class"])
        tables[set_title(run.settings, name)] = [
            {"class": label, **{TITLES[key]: _per_cent(figures[key]["per_class"].get(label)) for key in keys}}
            for label in classes
        ]
    return tables


def _curves_part(runs: Sequence[Run]) -> list[Markup]:
    """Losses and validation figures over epochs; of recipes with many trainings, those of the first run."""
    losses: dict[str, list[Point]] = {}
    validation: dict[str, list[Point]] = {}
    many = len(runs[0].settings.training_stages) > 1
    for run in runs[:1] if many else runs:
        for stage in run.settings.training_stages:
            whole = run is runs[0] and not many
            note = "" if whole else f", {stage.replace('_', ' ') if many else run.folder.name}"
            for column, points in read_curves(run.folder / stage / "metrics.csv").items():
                kind, _, name = column.partition("_")
                if kind in ("train", "val") and (whole or column in ("train_loss", "val_objective")):
                    (losses if kind == "train" else validation)[name.replace("_", " ") + note] = points
    plots = [plot_lines(losses, "epoch", "loss", markers=False)]
    if validation:
        plots.append(plot_lines(validation, "epoch", "validation"))
    return [html.side_by_side(*(html.figure(plot, alternative="Learning curves") for plot in plots))]


def _cost_row(run: Run) -> dict[str, Any]:
    row: dict[str, Any] = {"run": run.folder.name}
    for title, stages in (("train", run.settings.training_stages), ("test", ["test"])):
        records = [read_record(run.folder, stage) for stage in stages]
        energy = [record["energy_kwh"] for record in records]
        row[f"{title} seconds"] = round(sum(record["seconds"] for record in records), 1)
        row[f"{title} kWh"] = "not measured" if None in energy else sum(energy)
    return row


def _per_cent(value: float | None) -> str | None:
    return None if value is None or not np.isfinite(value) else f"{100 * value:.1f}"
