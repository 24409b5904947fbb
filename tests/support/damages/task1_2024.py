"""Damages of a package of Task 1 of 2024, one for each kind of mistake, and helpers that make them."""

import shutil
from pathlib import Path

import pandas as pd

from tests.support.damage import drop, edit_line, put
from tests.support.packages import edit_declaration, edit_meta

LABEL = "Lastname_INST_task1_1"


def output(package: Path, split: int = 25) -> Path:
    return package / "task1" / LABEL / f"{LABEL}.output.split_{split}.csv"


def meta(package: Path) -> Path:
    return package / "task1" / LABEL / f"{LABEL}.meta.yaml"


def edit_table(package: Path, change, split: int = 25) -> None:
    table = pd.read_csv(output(package, split), sep="\t", dtype=str)
    table = change(table)
    table.to_csv(output(package, split), sep="\t", index=False)


def set_cell(row: int, column: str, value: str):
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[row, column] = value
        return table

    return change


def swap_labels(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[4, "scene_label"] = "bus" if table.loc[4, "scene_label"] != "bus" else "tram"
    return table


def scale_row(table: pd.DataFrame) -> pd.DataFrame:
    columns = table.columns[2:]
    table.loc[3, columns] = (table.loc[3, columns].astype(float) * 0.5).astype(str)
    return table


def same_rows(table: pd.DataFrame) -> pd.DataFrame:
    table.iloc[:, 1:] = table.iloc[0, 1:].to_numpy()
    return table


def rename_system(package: Path, label: str) -> None:
    (package / "task1" / LABEL).rename(package / "task1" / label)


def add_systems(package: Path) -> None:
    for number in (2, 3, 4, 5):
        shutil.copytree(package / "task1" / LABEL, package / "task1" / f"Lastname_INST_task1_{number}")


RESULTS = ("results", "development_dataset")
# what is done to the package, the rule that must find it, what its place and sentence must name
DAMAGES = {
    "an output file is missing": (lambda p: output(p, 50).unlink(), "files", f"{LABEL}.output.split_50.csv is missing"),
    "the meta file is missing": (lambda p: meta(p).unlink(), "files", ".meta.yaml is missing"),
    "an output file is empty": (lambda p: output(p).write_text(""), "files", "split_25.csv is empty"),
    "a file too many": (lambda p: (p / "task1" / "notes.txt").write_text("x"), "no_other_files", "task1/notes.txt"),
    "a file too many in the system": (
        lambda p: (p / "task1" / LABEL / "model.pt").write_text("x"),
        "no_other_files",
        f"{LABEL}/model.pt",
    ),
    "a wrong label": (lambda p: rename_system(p, "Lastname_task1_1"), "label", "Lastname_task1_1 is not a label"),
    "a label number of 7": (lambda p: rename_system(p, "Lastname_INST_task1_7"), "label", "Lastname_INST_task1_7"),
    "five systems": (add_systems, "systems", "5 systems, at most 4"),
    "another label in the meta file": (
        lambda p: edit_meta(p, put("submission", "label", value="Lastname_INST_task1_2")),
        "meta_label",
        ".meta.yaml:2 submission.label is Lastname_INST_task1_2",
    ),
    "a long abbreviation": (
        lambda p: edit_meta(p, put("submission", "abbreviation", value="abbreviation")),
        "meta_form",
        ".meta.yaml:4 submission.abbreviation must be text of at most 10 characters",
    ),
    "no corresponding author": (
        lambda p: edit_meta(p, put("submission", "authors", 0, "corresponding", value=False)),
        "authors",
        ".meta.yaml:5 0 authors",
    ),
    "two corresponding authors": (
        lambda p: edit_meta(p, put("submission", "authors", 1, "corresponding", value=True)),
        "authors",
        ".meta.yaml:14 2 authors",
    ),
    "an author without e-mail": (
        lambda p: edit_meta(p, put("submission", "authors", 1, "email", value="mia at example")),
        "meta_form",
        ".meta.yaml:16 submission.authors[1].email must be an e-mail address",
    ),
    "a misspelled key": (
        lambda p: meta(p).write_text(meta(p).read_text().replace("abbreviation: small", "abreviation: small")),
        "meta_form",
        ".meta.yaml:4 submission.abreviation is not a key of this file. Did you mean abbreviation?",
    ),
    "a figure of the 200 missing": (
        lambda p: edit_meta(p, drop(*RESULTS, "split_10", "device_wise", "s4")),
        "meta_form",
        "split_10.device_wise.s4 is missing",
    ),
    "a whole split missing": (
        lambda p: edit_meta(p, drop(*RESULTS, "split_100")),
        "meta_form",
        "results.development_dataset.split_100 is missing",
    ),
    "an accuracy above 100": (
        lambda p: edit_meta(p, put(*RESULTS, "split_5", "class_wise", "bus", "accuracy", value=142.0)),
        "meta_form",
        "split_5.class_wise.bus.accuracy must be a number from 0 to 100, found 142",
    ),
    "an accuracy that is text": (
        lambda p: edit_meta(p, put(*RESULTS, "split_5", "overall", "accuracy", value="about 40")),
        "meta_form",
        "split_5.overall.accuracy must be a number from 0 to 100, found 'about 40'",
    ),
    "an infinite log loss": (
        lambda p: edit_meta(p, put(*RESULTS, "split_5", "overall", "logloss", value=float("inf"))),
        "meta_form",
        "split_5.overall.logloss must be a number, 0 or more or null, found inf",
    ),
    "an overall accuracy that is not the mean": (
        lambda p: edit_meta(p, put(*RESULTS, "split_50", "overall", "accuracy", value=55.5)),
        "figures_consistent",
        "split_50 overall accuracy is 55.5, but the mean of its classes is",
    ),
    "figures of two splits alike": (
        lambda p: edit_meta(
            p, lambda data: put(*RESULTS, "split_50", value=data["results"]["development_dataset"]["split_5"])(data)
        ),
        "figures_plausible",
        "split_50 has the same figures as split_5",
    ),
    "a key doubled": (
        lambda p: edit_line(meta(p), 3, lambda row: f"{row}\n{row}"),
        "meta_readable",
        ".meta.yaml:4 submission.name is given twice",
    ),
    "broken YAML": (lambda p: edit_line(meta(p), 3, lambda row: "  name: [x"), "meta_readable", ".meta.yaml:4 "),
    "something left to fill in": (
        lambda p: edit_meta(p, put("submission", "name", value="FILL IN (name)")),
        "meta_filled_in",
        ".meta.yaml:3 submission.name still says",
    ),
    "too many bytes": (
        lambda p: edit_meta(p, put("system", "complexity", "total_model_size", value=130_000)),
        "limits",
        "total_model_size is 130,000: 2,000 over the limit of 128,000",
    ),
    "too many bytes, with a unit": (
        lambda p: edit_meta(p, put("system", "complexity", "total_model_size", value="244.6 kB")),
        "limits",
        "total_model_size is 244,600",
    ),
    "too many MACs": (
        lambda p: edit_meta(p, put("system", "complexity", "macs", value=31_000_000)),
        "limits",
        "macs is 31,000,000: 1,000,000 over",
    ),
    "MACs in millions": (
        lambda p: edit_meta(p, put("system", "complexity", "macs", value=29.4)),
        "complexity_plausible",
        "macs is 29.4, fewer than parameters",
    ),
    "a size in kilobytes": (
        lambda p: edit_meta(p, put("system", "complexity", "total_model_size", value=122)),
        "complexity_plausible",
        "total_model_size is 122 bytes for 61,148 parameters",
    ),
    "a header in another order": (
        lambda p: edit_line(output(p), 1, lambda row: row.replace("airport\tbus", "bus\tairport")),
        "table_form",
        "split_25.csv:1 column 3 is 'bus', expected 'airport'",
    ),
    "commas instead of tabs": (
        lambda p: output(p).write_text(output(p).read_text().replace("\t", ",")),
        "table_form",
        "split_25.csv:1 column 1 is",
    ),
    "a class column missing": (
        lambda p: edit_table(p, lambda table: table.drop(columns="tram")),
        "table_form",
        "split_25.csv:1 11 columns, the last ['tram'] are missing",
    ),
    "a row cut off": (
        lambda p: edit_line(output(p), 7, lambda row: row.rsplit("\t", 3)[0]),
        "table_form",
        "split_25.csv:7 9 fields, the header has 12",
    ),
    "a row with a field too many": (
        lambda p: edit_line(output(p), 6, lambda row: row + "\t0"),
        "table_form",
        "split_25.csv:6 13 fields, the header has 12",
    ),
    "a blank line": (lambda p: edit_line(output(p), 5, lambda row: row + "\n"), "table_form", "split_25.csv:6 "),
    "a file missing in one output": (
        lambda p: edit_table(p, lambda table: table.drop(index=2)),
        "evaluation_files",
        "split_25.csv 1 of 12 files are missing, the first is 2.wav",
    ),
    "files that differ between outputs": (
        lambda p: edit_table(p, set_cell(2, "filename", "77.wav")),
        "same_files",
        "split_25.csv:4 '77.wav' is not in",
    ),
    "a file that is not in the set": (
        lambda p: edit_table(p, set_cell(2, "filename", "77.wav")),
        "evaluation_files",
        "split_25.csv:4 '77.wav' is not a file of made_up_evaluation_set.json",
    ),
    "a file twice": (
        lambda p: edit_table(p, lambda table: pd.concat([table, table.iloc[[3]]])),
        "evaluation_files",
        "split_25.csv:14 '3.wav' is listed twice",
    ),
    "an unknown label": (
        lambda p: edit_table(p, set_cell(5, "scene_label", "beach")),
        "labels_known",
        "split_25.csv:7 'beach' is not a class",
    ),
    "a label that is not the most probable": (
        lambda p: edit_table(p, swap_labels),
        "argmax",
        "split_25.csv:6 scene_label is",
    ),
    "a probability above 1": (
        lambda p: edit_table(p, set_cell(1, "park", "1.5")),
        "probabilities",
        "split_25.csv:3 park is 1.5, not from 0 to 1",
    ),
    "a negative probability": (
        lambda p: edit_table(p, set_cell(1, "park", "-0.1")),
        "probabilities",
        "split_25.csv:3 park is -0.1",
    ),
    "probabilities that sum to a half": (
        lambda p: edit_table(p, scale_row),
        "sum",
        "split_25.csv:5 probabilities sum to 0.5, expected 1",
    ),
    "a NaN": (
        lambda p: edit_table(p, set_cell(0, "tram", "nan")),
        "numbers",
        "split_25.csv:2 tram is nan, not a finite",
    ),
    "text for a probability": (
        lambda p: edit_table(p, set_cell(9, "tram", "high")),
        "numbers",
        "split_25.csv:11 tram is high, not a finite number",
    ),
    "an empty cell": (lambda p: edit_table(p, set_cell(9, "bus", "")), "numbers", "split_25.csv:11 bus"),
    "one output copied to another": (
        lambda p: shutil.copy(output(p, 5), output(p, 10)),
        "tables_differ",
        "split_10.csv holds the same scores as",
    ),
    "every row alike": (
        lambda p: edit_table(p, same_rows),
        "not_collapsed",
        "split_25.csv every row has the same answer",
    ),
    "an output that is not UTF-8": (
        lambda p: output(p).write_bytes(output(p).read_bytes().replace(b"3.wav", b"\xff.wav", 1)),
        "table_form",
        "split_25.csv:5 is not UTF-8",
    ),
    "a report that is no PDF": (
        lambda p: (p / "task1" / "Lastname_INST_task1.technical_report.pdf").write_text("my report"),
        "technical_report",
        "technical_report.pdf is not a PDF",
    ),
    "a file twice in the declared set": (
        lambda p: edit_declaration(p, lambda data: data["files"].append("0.wav")),
        "evaluation_list",
        "made_up_evaluation_set.json lists 0.wav twice",
    ),
    "no declaration of the made-up set": (
        lambda p: (p / "made_up_evaluation_set.json").unlink(),
        "evaluation_files",
        "135,718 of 135,730 files are missing, the first is 12.wav",
    ),
}
