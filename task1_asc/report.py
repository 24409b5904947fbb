"""The report of a run or a sweep: figures per subset, class and device beside the published ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from common.data.files import read_json
from common.reports import html
from common.reports.plots import Point, plot_confusion, plot_lines
from common.reports.statistics import Interval, over_runs
from common.runs.energy import read_energy
from common.runs.stages import Run, open_run
from common.runs.stages import read_finished as finished_runs
from common.settings import dump_settings
from task1_asc.data.tau2022 import CLASSES, DEVICE_GROUPS, DEVICES, SUBSETS
from task1_asc.evaluate import read_published
from task1_asc.metrics import rank_score
from task1_asc.settings import Task1Settings
from task1_asc.submission.package_2024 import measure_networks

Scored = dict[int, list[tuple[Run[Task1Settings], dict[str, Any]]]]
"""Subset to finished runs with their scores, by seed."""
CURVES = {
    "train_loss": "training loss", "val_loss": "validation loss", "val_macro_accuracy": "validation accuracy",
}  # fmt: skip


def write_task1_report(paths: Sequence[Path], out: Path | None = None, precision: str = "float32") -> Path:
    """Write report.html into a run's or sweep's folder, and print the table of results.

    Unfinished runs are left out and named. Returns the file, by default report.html in the first of `paths`.

    Raises:
        UserError: if no run is finished.
    """
    scored, unfinished = read_finished(paths)
    made_up = any(scores["made_up"] for runs in scored.values() for _, scores in runs)
    rows = result_rows(scored, precision)
    title = "Acoustic scenes, development-test split"
    html.print_results(rows, f"{title}, macro accuracy in %, {precision}", made_up)
    count = sum(len(runs) for runs in scored.values())
    subtitle = f"DCASE Task 1, {count} run{'s' if count > 1 else ''}, scored in {precision}"
    first_seeds = {f"{subset} %": runs[0][0].folder / "train" / "metrics.csv" for subset, runs in scored.items()}
    sections = [
        html.Section("Results", results_part(rows, scored, precision, made_up, unfinished)),
        html.Section("Classes and devices", parts_part(scored, precision)),
        html.Section("Confusion", confusion_part(scored, precision)),
        html.Section("Learning curves", html.curves(first_seeds, CURVES, "of the first seed of each subset")),
        html.Section("Energy and complexity", [html.table(cost_rows(scored), caption="Each run's training.")]),
        *exported_part(scored),
        html.settings_section(dump_settings(next(iter(scored.values()))[0][0].settings)),
    ]
    path = out or paths[0] / "report.html"
    return html.write_report(path, title, sections, subtitle, made_up)


def read_finished(paths: Sequence[Path]) -> tuple[Scored, list[Path]]:
    """Finished runs by subset, and folders of the others."""
    finished, unfinished = finished_runs(paths, lambda folder: open_run(folder, Task1Settings))
    scored: Scored = {}
    for run, scores in sorted(finished, key=lambda item: item[0].settings.subset):
        scored.setdefault(run.settings.subset, []).append((run, scores))
    return scored, unfinished


def result_rows(scored: Scored, precision: str) -> list[dict[str, Any]]:
    """One row per subset: macro accuracy with its interval, the published one, device groups, log loss."""
    published = read_published()["macro_accuracy"]
    rows: list[dict[str, Any]] = []
    for subset, runs in scored.items():
        scores = [item[precision] for _, item in runs]
        row = {
            "subset": f"{subset} %",
            "runs": len(runs),
            "macro accuracy": html.with_interval(*macro_interval(scores), scale=100),
            "published": f"{published[subset]:.1f}",
        }
        for name in DEVICE_GROUPS:
            row[name] = html.with_interval(_mean(scores, "groups", name), scale=100)
        row["log loss"] = round(float(np.mean([item["log_loss"]["value"] for item in scores])), 3)
        rows.append(row)
    if set(scored) == set(SUBSETS):
        means = {subset: macro_interval([item[precision] for _, item in runs]).value for subset, runs in scored.items()}
        score = f"{100 * rank_score(means):.1f}"
        rows.append(
            {"subset": "rank score", "macro accuracy": score, "published": f"{np.mean(list(published.values())):.1f}"}
        )
    return rows


def macro_interval(scores: Sequence[Mapping[str, Any]]) -> Interval:
    """Over seeds where there are several runs, else over resampled recordings of the one."""
    return over_runs([Interval(**item["macro_accuracy"]) for item in scores])


def results_part(
    rows: list[dict[str, Any]], scored: Scored, precision: str, made_up: bool, unfinished: list[Path]
) -> list[Markup]:
    """The table, and accuracy over the size of the subset."""
    seeds = max(len(runs) for runs in scored.values())
    how = "over seeds (Student's t)" if seeds > 1 else "over recordings (bootstrap)"
    note = f"Per cent. Intervals are 95 % {how}. Published: {read_published()['system']}, on the real data."
    if made_up:
        note += " Figures on made-up data cannot be compared with them."
    parts = [html.paragraph(note), html.table(rows), *html.left_out(unfinished)]
    points: list[Point] = []
    for subset, runs in scored.items():
        interval = macro_interval([item[precision] for _, item in runs])
        low, high = (100 * interval.low, 100 * interval.high) if np.isfinite(interval.low) else (None, None)
        points.append((float(subset), 100 * interval.value, low, high))
    published: list[Point] = [(float(s), value, None, None) for s, value in read_published()["macro_accuracy"].items()]
    series = {"ours": points, "published": published}
    plot = plot_lines(series, "training subset in %", "macro accuracy in %", at=SUBSETS, log_x=True)
    parts.append(html.figure(plot, "Accuracy on the development-test split over the size of the training subset."))
    return parts


def parts_part(scored: Scored, precision: str) -> list[Markup]:
    """Accuracy within each class and on each device, beside the published one."""
    tables = []
    for group, names, title in (("class_wise", CLASSES, "class"), ("device_wise", DEVICES, "device")):
        rows = []
        for number, name in enumerate(names):
            row: dict[str, Any] = {title: name.replace("_", " ")}
            for subset, runs in scored.items():
                value = _mean([item[precision] for _, item in runs], group, name)
                row[f"{subset} %"] = html.with_interval(value, scale=100)
                row[f"{subset} % publ."] = f"{read_published()[group][subset][number]:.1f}"
            rows.append(row)
        tables.append(html.table(rows, caption=f"Accuracy per {title} in %, mean over runs."))
    return tables


def confusion_part(scored: Scored, precision: str) -> list[Markup]:
    """The confusion of the smallest and the largest subset, all runs together."""
    pictures = []
    for subset in dict.fromkeys([min(scored), max(scored)]):
        counts = sum(np.array(item[precision]["confusion"]) for _, item in scored[subset])
        caption = f"Subset {subset} %: per cent of the clips of a class (row) that are taken for a class (column)."
        pictures.append(html.figure(plot_confusion(counts, CLASSES), caption))
    return [html.side_by_side(*pictures)] if len(pictures) > 1 else pictures


def exported_part(scored: Scored) -> list[html.Section]:
    """Tables of `export` in the runs: precisions, latency, accuracy before and after."""
    parts = []
    for runs in scored.values():
        for run, _ in runs:
            path = run.folder / "export" / "table.json"
            if path.is_file():
                rows = read_json(path, "write it again with `export`", kind=list)
                parts.append(html.table(rows, caption=run.folder.name))
    return [html.Section("Precisions and latency", parts)] if parts else []


def cost_rows(scored: Scored) -> list[dict[str, Any]]:
    """Energy, time, parameters and MACs of each run."""
    rows = []
    for subset, runs in scored.items():
        for run, _ in runs:
            energy = read_energy(run.folder / "train")
            (measured,) = measure_networks([run], run.settings.precision)
            rows.append(
                {
                    "subset": f"{subset} %",
                    "seed": run.settings.seed,
                    **html.cost(energy),
                    "parameters": measured.parameters,
                    "kB": measured.bytes / 1000,
                    "in": measured.precision,
                    "million MACs": measured.challenge_macs / 1e6,
                    "processor's energy": energy.get("components", {}).get("cpu", {}).get("how", ""),
                }
            )
    return rows


def _mean(scores: Sequence[Mapping[str, Any]], group: str, name: str) -> float | None:
    values = [item[group][name]["accuracy"] for item in scores]
    return None if None in values else float(np.mean(values))
