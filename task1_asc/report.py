"""The report of runs and sweeps: figures per system, class and device beside the published ones."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from common.data.files import read_json
from common.reports import html
from common.reports.plots import Point, plot_confusion, plot_lines
from common.reports.statistics import Interval, over_runs, with_interval
from common.runs.energy import read_energy
from common.runs.run import Run, open_run
from common.runs.systems import Trained, configuration, read_systems
from common.settings import dump_settings
from task1_asc.data.tau2022 import CLASSES, DEVICE_GROUPS, DEVICES, SUBSETS
from task1_asc.metrics import rank_score, read_published
from task1_asc.settings import Task1Settings

CURVES = {
    "train_loss": "training loss", "val_loss": "validation loss", "val_macro_accuracy": "validation accuracy",
}  # fmt: skip


def write_task1_report(paths: Sequence[Path], out: Path | None = None, precision: str = "float32") -> Path:
    """Write report.html into a run's or sweep's folder, and print the table of results.

    Runs that differ in their seed alone are one row. Unfinished runs are left out and named. Returns the file, by
    default report.html in the first of `paths`.

    Raises:
        UserError: if no run is finished.
    """
    systems, unfinished = read_finished(paths)
    made_up = any(scores["made_up"] for system in systems for scores in system.evaluations)
    rows = result_rows(systems, precision)
    title = "Acoustic scenes, development-test split"
    html.print_results(rows, f"{title}, per cent, {precision}", made_up)
    runs = [run for system in systems for run in system.runs]
    subtitle = f"DCASE Task 1, {len(runs)} run{'s' if len(runs) > 1 else ''}, scored in {precision}"
    first_seeds = {system.name: system.runs[0].folder / "train" / "metrics.csv" for system in systems}
    sections = [
        html.Section("Results", results_part(rows, systems, precision, made_up, unfinished)),
        html.Section("Classes and devices", parts_part(systems, precision)),
        html.Section("Confusion", confusion_part(systems, precision)),
        html.Section("Learning curves", html.curves(first_seeds, CURVES, "of the first seed of each system")),
        html.Section("Energy and complexity", [html.table(cost_rows(runs), caption="Each run's training.")]),
        *exported_part(runs),
        html.settings_section(dump_settings(runs[0].settings)),
    ]
    path = out or paths[0] / "report.html"
    return html.write_report(path, title, sections, subtitle, made_up)


def read_finished(paths: Sequence[Path]) -> tuple[list[Trained], list[Path]]:
    """Finished runs by configuration, each family sorted by subset; and folders of the others."""
    systems, unfinished = read_systems(paths, lambda folder: open_run(folder, Task1Settings))
    return [system for members in families(systems).values() for system in members], unfinished


def families(systems: Sequence[Trained]) -> dict[str, list[Trained]]:
    """Systems that differ in the subset alone, by name and sorted by subset: together they have a rank score."""
    found: dict[str, list[Trained]] = {}
    for system in systems:
        found.setdefault(configuration(system.runs[0].settings.model_copy(update={"subset": 100})), []).append(system)
    named: dict[str, list[Trained]] = {}
    for members in found.values():
        name = re.sub(r"(^| |, )subset=\d+", "", members[0].name).strip(" ,") or members[0].name
        named[name if name not in named else f"{name} ({len(named)})"] = sorted(members, key=subset_of)
    return named


def subset_of(system: Trained) -> int:
    """Per cent of the training clips."""
    return system.runs[0].settings.subset


def result_rows(systems: Sequence[Trained], precision: str) -> list[dict[str, Any]]:
    """One row per system: macro accuracy with its interval, the published one, device groups, log loss."""
    published = read_published()["macro_accuracy"]
    rows: list[dict[str, Any]] = []
    named = families(systems)
    for family, members in named.items():
        name = {"system": family} if len(named) > 1 else {}
        for system in members:
            subset, scores = subset_of(system), [item[precision] for item in system.evaluations]
            row: dict[str, Any] = {
                **name,
                "subset": f"{subset} %",
                "runs": html.name_seeds([run.settings.seed for run in system.runs]),
                "macro accuracy": with_interval(*macro_interval(scores), scale=100),
                "published": f"{published[subset]:.1f}",
            }
            row |= {group: with_interval(_mean(scores, "groups", group), scale=100) for group in DEVICE_GROUPS}
            row["log loss"] = round(float(np.mean([item["log_loss"]["value"] for item in scores])), 3)
            rows.append(row)
        if [subset_of(system) for system in members] == list(SUBSETS):
            means = [macro_interval([item[precision] for item in system.evaluations]).value for system in members]
            score = f"{100 * rank_score(dict(zip(SUBSETS, means))):.1f}"
            row = {**name, "subset": "rank score", "macro accuracy": score}
            rows.append({**row, "published": f"{np.mean(list(published.values())):.1f}"})
    return rows


def macro_interval(scores: Sequence[Mapping[str, Any]]) -> Interval:
    """Over seeds from five runs on, else over resampled recordings."""
    return over_runs([Interval(**item["macro_accuracy"]) for item in scores])


def results_part(
    rows: list[dict[str, Any]], systems: Sequence[Trained], precision: str, made_up: bool, unfinished: list[Path]
) -> list[Markup]:
    """The table, and accuracy over the size of the subset: a line per family, a dot per run."""
    kind = html.interval_note([len(system.runs) for system in systems], "recordings")
    note = f"Per cent. {kind} Published: {read_published()['system']}, on the real data."
    if made_up:
        note += " Figures on made-up data cannot be compared with them."
    lines: dict[str, list[Point]] = {}
    dots: dict[str, list[tuple[float, float]]] = {}
    named = families(systems)
    for family, members in named.items():
        name = family if len(named) > 1 else "ours"
        for system in members:
            value, *limits = macro_interval([item[precision] for item in system.evaluations])
            low, high = (100 * limit if np.isfinite(limit) else None for limit in limits)
            lines.setdefault(name, []).append((float(subset_of(system)), 100 * value, low, high))
            runs = [100 * item[precision]["macro_accuracy"]["value"] for item in system.evaluations]
            dots.setdefault(name, []).extend((float(subset_of(system)), run) for run in runs)
    if not made_up:
        published = read_published()["macro_accuracy"]
        lines["published"] = [(float(subset), value, None, None) for subset, value in published.items()]
    plot = plot_lines(lines, "training subset in %", "macro accuracy in %", at=SUBSETS, log_x=True, dots=dots)
    caption = "Accuracy on the development-test split over the size of the training subset; each dot is a run."
    return [html.paragraph(note), html.table(rows), *html.left_out(unfinished), html.figure(plot, caption)]


def parts_part(systems: Sequence[Trained], precision: str) -> list[Markup]:
    """Accuracy within each class and on each device, beside the published one."""
    tables, columns = [], column_names(systems)
    for group, names, title in (("class_wise", CLASSES, "class"), ("device_wise", DEVICES, "device")):
        rows = []
        for number, name in enumerate(names):
            row: dict[str, Any] = {title: name.replace("_", " ")}
            for column, system in zip(columns, systems, strict=True):
                value = _mean([item[precision] for item in system.evaluations], group, name)
                row[column] = with_interval(value, scale=100)
            for subset in dict.fromkeys(map(subset_of, systems)):
                row[f"{subset} % publ."] = f"{read_published()[group][subset][number]:.1f}"
            rows.append(row)
        tables.append(html.table(rows, caption=f"Accuracy per {title} in %, mean over runs."))
    return tables


def column_names(systems: Sequence[Trained]) -> list[str]:
    """The subset where systems differ in nothing else, or their names."""
    one_family = len(families(systems)) == 1
    return [f"{subset_of(system)} %" if one_family else system.name for system in systems]


def confusion_part(systems: Sequence[Trained], precision: str) -> list[Markup]:
    """The confusion of the first and the last system, all runs together."""
    pictures, columns = [], column_names(systems)
    for number in (0,) if len(systems) == 1 else (0, -1):
        system = systems[number]
        counts = sum(np.array(item[precision]["confusion"]) for item in system.evaluations)
        seeds = html.name_seeds([run.settings.seed for run in system.runs])
        caption = (
            f"{columns[number]}, {seeds}: per cent of the clips of a class (row) that are taken for a class (column)."
        )
        pictures.append(html.figure(plot_confusion(counts, CLASSES), caption))
    return [html.side_by_side(*pictures)] if len(pictures) > 1 else pictures


def exported_part(runs: Sequence[Run[Task1Settings]]) -> list[html.Section]:
    """Tables of `export` in the runs: precisions, latency, accuracy before and after."""
    parts = []
    for run in runs:
        path = run.folder / "export" / "table.json"
        if path.is_file():
            rows = read_json(path, "write it again with `export`", kind=list)
            parts.append(html.table(rows, caption=run.folder.name))
    return [html.Section("Precisions and latency", parts)] if parts else []


def cost_rows(runs: Sequence[Run[Task1Settings]]) -> list[dict[str, Any]]:
    """Energy, time, parameters and MACs of each run."""
    from task1_asc.networks.limits import measure_networks

    rows = []
    figures: dict[Path, Any] = {}
    # Equal networks are measured once; measuring each took most of the time of a large sweep's report.
    for precision in {run.settings.precision for run in runs}:
        own = [run for run in runs if run.settings.precision == precision]
        figures |= {run.folder: one for run, one in zip(own, measure_networks(own, precision), strict=True)}
    for run in runs:
        energy, measured = read_energy(run.folder / "train"), figures[run.folder]
        rows.append(
            {
                "run": run.folder.name,
                **html.cost(energy),
                "parameters": measured.parameters,
                "kB": measured.bytes / 1000,
                "in": run.settings.precision,
                "million MACs": measured.challenge_macs / 1e6,
                "processor's energy": energy.get("components", {}).get("cpu", {}).get("how", ""),
            }
        )
    return rows


def _mean(scores: Sequence[Mapping[str, Any]], group: str, name: str) -> float | None:
    values = [item[group][name]["accuracy"] for item in scores]
    return None if None in values else float(np.mean(values))
