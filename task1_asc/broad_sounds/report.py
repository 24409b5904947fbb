"""The report of broad sounds: figures of each system and protocol, classes, confusion, the clips most surely wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from common.data.audio import read_audio
from common.data.files import read_tsv
from common.errors import UserError
from common.output import print_text
from common.reports import html
from common.reports.plots import plot_confusion
from common.reports.statistics import Interval, over_runs, with_interval
from common.runs.run import open_run
from common.runs.systems import Trained, cost_rows, read_systems
from common.settings import dump_settings
from task1_asc.broad_sounds.data import read_sounds
from task1_asc.broad_sounds.metrics import NAMES, spell_missed
from task1_asc.broad_sounds.settings import SoundSettings
from task1_asc.broad_sounds.submission import TESTED, TESTED_FIGURES, SoundRun
from task1_asc.broad_sounds.taxonomy import CLASSES, CODES

SHOWN = ("hF", "hP", "hR", "hierarchical_accuracy", "accuracy", "top_accuracy")
PUBLISHED = "The baseline on BSD10k, five folds: hF 78.76 ± 0.79 with audio and text, 76.11 ± 0.45 with audio only."
WRONG = 12
HEARD_SECONDS = 10
RATE = 16_000
CURVES = {
    "train_loss": "training loss", "val_accuracy": "validation accuracy", "val_hF": "validation hF",
}  # fmt: skip


def write_sound_report(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Write report.html into a run's or sweep's folder, and print the table of results.

    Unfinished runs are left out and named. Returns the file, by default report.html in the first of `paths`.

    Raises:
        UserError: if no run is finished.
    """
    systems, unfinished = read_systems(paths, lambda folder: open_run(folder, SoundSettings))
    made_up = any(content["made_up"] for system in systems for content in system.evaluations)
    rows = [row for system in systems for row in result_rows(system)]
    title = "Broad sounds"
    html.print_results(narrow(rows), f"{title}, per cent", made_up)
    first = systems[0].runs[0]
    logs = {
        log.parent.parent.name: log
        for log in sorted(first.folder.glob(f"fold{first.settings.data.folds[0]}_*/member0/metrics.csv"))
    }
    kind = html.interval_note([len(system.runs) for system in systems], "clips")
    how = html.paragraph(f"Per cent, means over folds. {kind} The spread is the standard deviation over folds.")
    protocols = {content["protocol"] for system in systems for content in system.evaluations}
    notes = [] if made_up else [html.paragraph(PUBLISHED)]
    if protocols >= {"published", "uploader"}:
        notes.append(html.paragraph("Published folds have clips of an uploader on both sides; the difference between "
                                    "the protocols is what that is worth."))  # fmt: skip
    results = [how, *notes, html.table(rows), *missed_classes(systems), *html.left_out(unfinished)]
    every = [run for system in systems for run in system.runs]
    sections = [
        html.Section("Results", results),
        html.Section("Stages", [html.table([row for system in systems for row in stage_rows(system)])]),
        html.Section("Classes", [html.table(class_rows(systems), caption="hF; of the first run of each system.")]),
        html.Section("Confusion", confusion_part(systems)),
        html.Section("Most surely wrong", wrong_part(first)),
        html.Section("Learning curves", html.curves(logs, CURVES, f"of {first.folder.name}")),
        html.Section("Energy", [html.table(cost_rows(every))]),
        html.settings_section(dump_settings(first.settings)),
    ]
    subtitle = f"{len(every)} run{'s' if len(every) > 1 else ''}"
    return html.write_report(out or paths[0] / "report.html", title, sections, subtitle, made_up)


def print_run(run: SoundRun) -> None:
    """Print the figures of a finished run."""
    system = Trained(run.folder.name, "", [run], [run.read_evaluation()])
    html.print_results(narrow(result_rows(system)), "Per cent, means over folds", system.evaluations[0]["made_up"])
    html.print_results(class_rows([system]), "hF of each class in per cent")
    for text in missed_texts([system]):
        print_text(text)


def result_rows(system: Trained) -> list[dict[str, Any]]:
    """A row of a system for each data set that it is tested on."""
    rows = []
    for kind in system.evaluations[0]["sets"]:
        own = [content["sets"][kind]["figures"] for content in system.evaluations]
        row = {"system": system.name, "set": kind, "protocol": system.evaluations[0]["protocol"], "runs": len(own)}
        for name in SHOWN:
            figures = [Interval(one[name]["value"], one[name]["low"], one[name]["high"]) for one in own]
            row[name.replace("_", " ")] = with_interval(*over_runs(figures), scale=100)
            if name == "hF":
                row["spread"] = f"{100 * np.mean([one[name]['spread'] for one in own]):.1f}"
        rows.append(row)
    return rows


def narrow(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The columns of `result_rows` for a terminal."""
    shown = ("system", "set", "hF", "hP", "hR")
    systems = {row["system"] for row in rows}
    return [{name: row[name] for name in shown if name != "system" or len(systems) > 1} for row in rows]


def missed_texts(systems: Sequence[Trained]) -> list[str]:
    """Classes that were never predicted, and the official reading where it differs."""
    texts = []
    for system in systems:
        content = system.evaluations[0]
        own = content["sets"][content["set"]]
        if own["never_predicted"]:
            official = ", ".join(f"{name} {100 * own['official'][name]:.1f}" for name in NAMES)
            named = spell_missed(own["never_predicted"], system.runs[0].folder / TESTED_FIGURES)
            texts.append(
                f"{system.name} never predicts in some fold: {named}. They count as 0 here; the official code leaves "
                f"them out: {official}."
            )
    return texts


def missed_classes(systems: Sequence[Trained]) -> list[Markup]:
    """`missed_texts` as paragraphs."""
    return [html.paragraph(text) for text in missed_texts(systems)]


def stage_rows(system: Trained) -> list[dict[str, Any]]:
    """hF after each training."""
    content = system.evaluations[0]
    phases = [one["sets"][content["set"]]["phases"] for one in system.evaluations]
    row = {"system": system.name}
    for phase in phases[0]:
        row[f"hF after {phase}"] = with_interval(*over_runs([Interval(**one[phase]) for one in phases]), scale=100)
    return [row]


def class_rows(systems: Sequence[Trained]) -> list[dict[str, Any]]:
    """hF of each class with its interval, in the order of the taxonomy."""
    rows = []
    for code, name in CLASSES.items():
        row = {"class": code, "name": name}
        for system in systems:
            content = system.evaluations[0]
            own = content["sets"][content["set"]]["class_wise"].get(code)
            limits = (own["hF"], own["low"], own["high"]) if own else (None,)
            row["hF" if len(systems) == 1 else system.name] = with_interval(*limits, scale=100)
        rows.append(row)
    return rows


def confusion_part(systems: Sequence[Trained]) -> list[Markup]:
    """Confusion of each system, all folds and runs together."""
    pictures = []
    for system in systems[:2]:
        main = system.evaluations[0]["set"]
        counts = sum(np.array(content["sets"][main]["confusion"]) for content in system.evaluations)
        caption = f"{system.name}: per cent of the clips of a class (row) that are taken for a class (column)."
        pictures.append(html.figure(plot_confusion(counts, CODES), caption))
    return pictures


def wrong_part(run: SoundRun) -> list[Markup]:
    """The clips that are wrong with the highest probability, with text and player."""
    table = read_tsv(run.folder / TESTED, ["sound_id", "class", *CODES], separator=",")
    values = table[list(CODES)].astype(float).to_numpy()
    table["predicted"], table["probability"] = np.array(CODES)[values.argmax(axis=1)], values.max(axis=1)
    wrong = table[table["class"] != table["predicted"]].sort_values("probability", ascending=False, kind="stable")
    try:
        sounds = read_sounds(run.settings.data.curated)
        texts, paths = dict(zip(sounds.ids, sounds.texts())), dict(zip(sounds.ids, sounds.paths()))
    except UserError as error:
        texts, paths = {}, {}
        wrong_data = [html.paragraph(f"The data are not here any more: {error}")]
    else:
        wrong_data = []
    parts = [
        html.paragraph(f"{len(wrong):,} of {len(table):,} test clips of {run.folder.name} are wrong."),
        *wrong_data,
    ]
    for row in wrong.head(WRONG).to_dict("records"):
        name, text = row["sound_id"], texts.get(row["sound_id"], "")[:300]
        said = f"{name}: {row['predicted']} with {row['probability']:.3f}, labelled {row['class']}. “{text}”"
        try:
            parts.append(html.audio(read_audio(paths[name], RATE, duration=HEARD_SECONDS), RATE, said))
        except (UserError, KeyError):
            parts.append(html.paragraph(f"{said} (no audio)"))
    return parts
