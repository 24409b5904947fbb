"""Damages of a package of Task 1."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from tests.support.damage import Damage, cell, in_meta, meta, named, prepend, put, report, rewrite


def second_system(package: Path, label: str) -> None:
    system = meta(package).parent
    shutil.copytree(system, system.with_name(label))


def scaled(own: int, other: int, factor: float):
    """A damage of Task 1: the table of one split is the table of another, times a factor."""

    def damage(package: Path) -> None:
        table = pd.read_csv(named(package, f"*split_{other}.csv"), sep="\t")
        table.iloc[:, 2:] *= factor
        table.to_csv(named(package, f"*split_{own}.csv"), sep="\t", index=False)

    return damage


def half_of_the_rows(package: Path) -> None:
    first, other = (pd.read_csv(named(package, f"*split_{split}.csv"), sep="\t") for split in (5, 10))
    other.iloc[:6] = first.iloc[:6]
    other.to_csv(named(package, "*split_10.csv"), sep="\t", index=False)


def scores_moved_by_a_file(package: Path) -> None:
    table = pd.read_csv(named(package, "*split_5.csv"), sep="\t")
    table["filename"] = np.roll(table["filename"], 1)
    table.to_csv(named(package, "*split_10.csv"), sep="\t", index=False)


SPLIT = "*split_25.csv"
COMPLEXITY, RESULTS = ("system", "complexity"), ("results", "development_dataset")
TASK1: dict[str, Damage] = {
    "a byte order mark": (
        prepend(SPLIT, b"\xef\xbb\xbf"),
        "table_form",
        "split_25.csv:1 starts with a byte order mark",
    ),
    "a header and no rows": (
        rewrite(SPLIT, lambda table: table.iloc[:0]),
        "table_form",
        "split_25.csv has no rows",
    ),
    "a second copy of the first row": (
        rewrite(SPLIT, lambda table: pd.concat([table.iloc[[0]], table])),
        "evaluation_files",
        "split_25.csv:3 '0.wav' is listed twice",
    ),
    "the same file with and without its folder": (
        rewrite(SPLIT, cell(1, 0, "audio/0.wav")),
        "evaluation_files",
        "split_25.csv:3 '0.wav' is listed twice",
    ),
    "a decimal comma": (rewrite(SPLIT, cell(4, 3, "0,25")), "numbers", "split_25.csv:6 bus is 0,25"),
    "True for a probability": (rewrite(SPLIT, cell(4, 3, "True")), "numbers", "split_25.csv:6 bus is True"),
    "an infinite probability": (rewrite(SPLIT, cell(0, 2, "inf")), "numbers", "split_25.csv:2 airport is inf"),
    "per cent in place of probabilities": (
        rewrite(SPLIT, lambda table: table.assign(tram=table["tram"].astype(float) * 100)),
        "sum",
        "split_25.csv:",
    ),
    "a label in capitals": (rewrite(SPLIT, cell(2, 1, "Tram")), "labels_known", "split_25.csv:4 'Tram' is not a class"),
    "a label that is empty": (rewrite(SPLIT, cell(2, 1, "")), "labels_known", "split_25.csv:4 '' is not a class"),
    "a table that is another one, nearly": (
        scaled(10, 5, 0.9999),
        "tables_differ",
        "split_10.csv holds the same scores",
    ),
    "half of the rows of another table": (half_of_the_rows, "tables_differ", "for 6 of 12 files"),
    "the scores of another table for other files": (scores_moved_by_a_file, "tables_differ", "for other files"),
    "a table in a subfolder": (
        lambda p: shutil.move(named(p, SPLIT), (named(p, SPLIT).parent / "x").mkdir() or named(p, SPLIT).parent / "x"),
        "files",
        "split_25.csv is missing",
    ),
    "a report of a page that is cut off": (report(b"%PDF-1.4\n1 0 obj"), "technical_report", "cut off"),
    "a report without a page": (report(b"%PDF-1.4\n%%EOF\n"), "technical_report", "a PDF without a page"),
    "labels of two teams": (
        lambda p: second_system(p, "Other_INST_task1_2"),
        "label",
        "task1 labels of one team differ before the number: Lastname_INST_task1, Other_INST_task1",
    ),
    "an author twice": (
        in_meta(lambda data: data["submission"]["authors"].append(data["submission"]["authors"][1])),
        "authors",
        "Otherfirstname Otherlastname is listed twice",
    ),
    "an accuracy that is missing": (
        in_meta(put(*RESULTS, "split_5", "device_wise", "s6", "accuracy", value=None)),
        "meta_form",
        "split_5.device_wise.s6.accuracy must be a number from 0 to 100, found nothing",
    ),
    "accuracies as fractions": (
        in_meta(
            lambda data: [
                figures.update(accuracy=figures["accuracy"] / 100)
                for figures in data["results"]["development_dataset"]["split_25"]["class_wise"].values()
            ]
        ),
        "figures_plausible",
        "every accuracy of split_25 is",
    ),
    "an overall accuracy outside its devices": (
        in_meta(
            lambda data: [
                figures.update(accuracy=1.0)
                for figures in data["results"]["development_dataset"]["split_25"]["device_wise"].values()
            ]
        ),
        "figures_consistent",
        "outside its devices' 1 to 1",
    ),
    "a log loss outside its classes": (
        in_meta(put(*RESULTS, "split_25", "overall", "logloss", value=4.2)),
        "figures_consistent",
        "split_25 overall log loss is 4.2, outside its classes'",
    ),
    "an infinite count": (
        in_meta(put(*COMPLEXITY, "macs", value=float("inf"))),
        "meta_form",
        "system.complexity.macs must be a number, 1 or more or text, found inf",
    ),
    "no meta file but a list": (
        lambda p: meta(p).write_text("- a\n- b\n"),
        "meta_form",
        ".meta.yaml:1 the file must hold",
    ),
    "an empty meta file": (lambda p: meta(p).write_text("# nothing\n"), "meta_readable", ".meta.yaml:1 holds nothing"),
}
