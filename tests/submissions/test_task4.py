"""Checking and damaging Task 4 packages."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from submissions.package import check_package, make_zip
from tests.support.damage import assert_found, broken, drop, edit_line, put
from tests.support.packages import edit_meta, write_task4

LABEL = "Lastname_INST_task4_1"


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> Path:
    return write_task4(tmp_path_factory.mktemp("valid"))


def system(package: Path) -> Path:
    return package / "task4" / LABEL


def run_folder(package: Path, run: int = 2, kind: str = "") -> Path:
    return system(package) / f"{LABEL}_run{run}{kind}.output"


def edit_scores(package: Path, change, run: int = 2, clip: str = "clip_1") -> None:
    path = run_folder(package, run) / f"{clip}.tsv"
    table = pd.read_csv(path, sep="\t")
    change(table)
    table.to_csv(path, sep="\t", index=False)


def cell(row: int, column: str, value: float):
    def change(table: pd.DataFrame) -> None:
        table.loc[row, column] = value

    return change


def copy_run(package: Path) -> None:
    shutil.rmtree(run_folder(package, 2, "_unprocessed"))
    shutil.copytree(run_folder(package, 1, "_unprocessed"), run_folder(package, 2, "_unprocessed"))


def constant_run(package: Path) -> None:
    for path in run_folder(package, 3).glob("*.tsv"):
        table = pd.read_csv(path, sep="\t")
        table.iloc[:, 2:] = 0.5
        table.to_csv(path, sep="\t", index=False)


def shorten_clip(package: Path) -> None:
    path = run_folder(package) / "clip_1.tsv"
    path.write_text("\n".join(path.read_text().splitlines()[:11]) + "\n")


def rename_column(package: Path, name: str, other: str) -> None:
    path = run_folder(package) / "clip_1.tsv"
    edit_line(path, 1, lambda row: row.replace(name, other))


ENERGY = ("system", "energy")
DAMAGES = {
    "a run is missing": (lambda p: shutil.rmtree(run_folder(p, 3)), "files", f"{LABEL}_run3.output/*.tsv is missing"),
    "unprocessed scores are missing": (
        lambda p: shutil.rmtree(run_folder(p, 1, "_unprocessed")),
        "files",
        f"{LABEL}_run1_unprocessed.output/*.tsv is missing",
    ),
    "a clip is missing in a run": (
        lambda p: (run_folder(p) / "clip_1.tsv").unlink(),
        "same_clips",
        f"{LABEL}_run2.output 1 of 3 clips are missing, the first is clip_1.tsv",
    ),
    "a clip that is not in the set": (
        lambda p: shutil.copy(run_folder(p) / "clip_1.tsv", run_folder(p) / "clip_9.tsv"),
        "same_clips",
        "_run2.output/clip_9.tsv is no clip of the evaluation set",
    ),
    "a file that is no table among the scores": (
        lambda p: (run_folder(p) / "notes.txt").write_text("x"),
        "no_other_files",
        "_run2.output/notes.txt",
    ),
    "a class renamed": (
        lambda p: rename_column(p, "Cat", "Kitten"),
        "score_columns",
        "clip_1.tsv:1 column 5 is 'Kitten', expected 'Cat'",
    ),
    "onset and offset swapped": (
        lambda p: rename_column(p, "onset\toffset", "offset\tonset"),
        "score_columns",
        "clip_1.tsv:1 column 1 is 'offset', expected 'onset'",
    ),
    "a class column missing": (
        lambda p: edit_scores(p, lambda table: table.drop(columns="birds_singing", inplace=True)),
        "score_columns",
        "clip_1.tsv:1 28 columns, the last ['birds_singing'] are missing",
    ),
    "a row cut off": (
        lambda p: edit_line(run_folder(p) / "clip_1.tsv", 5, lambda row: row.rsplit("\t", 2)[0]),
        "score_columns",
        "clip_1.tsv:5 27 fields, the header has 29",
    ),
    "an empty table": (
        lambda p: (run_folder(p) / "clip_1.tsv").write_text(""),
        "files",
        "_run2.output/clip_1.tsv is empty",
    ),
    "a NaN": (
        lambda p: edit_scores(p, cell(3, "Dog", float("nan"))),
        "score_numbers",
        "_run2.output/clip_1.tsv:5 Dog is nan",
    ),
    "minus infinity": (
        lambda p: edit_scores(p, cell(3, "Dog", float("-inf"))),
        "score_numbers",
        "clip_1.tsv:5 Dog is -inf",
    ),
    "a score above 1": (
        lambda p: edit_scores(p, cell(3, "Dog", 1.5)),
        "score_numbers",
        "clip_1.tsv:5 Dog is 1.5, not from 0 to 1",
    ),
    "text for a score": (
        lambda p: edit_line(run_folder(p) / "clip_1.tsv", 4, lambda row: row.rsplit("\t", 1)[0] + "\thigh"),
        "score_numbers",
        "clip_1.tsv:4 birds_singing is nan",
    ),
    "a gap between frames": (
        lambda p: edit_scores(p, cell(5, "onset", 2.6)),
        "frames",
        "_run2.output/clip_1.tsv:7 the frame starts at 2.6 s, the previous one ends at 2.5 s",
    ),
    "a frame without length": (
        lambda p: edit_scores(p, cell(5, "offset", 2.5)),
        "frames",
        "clip_1.tsv:7 the frame from 2.5 to 2.5 s has no length",
    ),
    "a table that starts late": (
        lambda p: edit_scores(p, cell(0, "onset", 0.2)),
        "frames",
        "clip_1.tsv:2 the first frame starts at 0.2 s, not 0",
    ),
    "a table that ends early": (shorten_clip, "durations", "clip_1.tsv ends at 5 s, but the clip lasts 10 s"),
    "a table that ends late": (
        lambda p: edit_scores(p, cell(19, "offset", 12.0)),
        "durations",
        "clip_1.tsv ends at 12 s, after the clip's 10 s",
    ),
    "a run copied": (copy_run, "runs_independent", "_run2_unprocessed.output 3 of 3 tables are the same as in"),
    "a collapsed run": (constant_run, "scores_vary", "_run3.output every table holds one score throughout"),
    "no energy of the training": (
        lambda p: edit_meta(p, drop(*ENERGY, "training_kwh")),
        "meta_form",
        "system.energy.training_kwh is missing",
    ),
    "no energy was measured": (
        lambda p: edit_meta(p, put(*ENERGY, "devtest_kwh", value=0)),
        "meta_form",
        "system.energy.devtest_kwh must be a number, 1e-12 or more, found 0",
    ),
    "energy that differs from its csv": (
        lambda p: edit_meta(p, put(*ENERGY, "training_kwh", value=1.0)),
        "energy",
        "system.energy.training_kwh is 1 kWh, but Lastname_INST_task4_1.codecarbon.training.csv sums to 1.5 kWh",
    ),
    "a wrong ratio of energy": (
        lambda p: edit_meta(p, put(*ENERGY, "training_ratio", value=2.0)),
        "energy_ratios",
        "system.energy.training_ratio is 2, but training_kwh / reference_training_kwh is 3",
    ),
    "a CodeCarbon csv missing": (
        lambda p: (system(p) / f"{LABEL}.codecarbon.devtest.csv").unlink(),
        "files",
        "codecarbon.devtest.csv is missing",
    ),
    "a CodeCarbon csv of another kind": (
        lambda p: (system(p) / f"{LABEL}.codecarbon.devtest.csv").write_text("a,b\n1,2\n"),
        "energy",
        "codecarbon.devtest.csv:1 has no run_id column",
    ),
    "a PSDS in per cent": (
        lambda p: edit_meta(p, put("results", "development_dataset", "PSDS1", value=48.0)),
        "meta_form",
        "results.development_dataset.PSDS1 must be a number from 0 to 1, found 48",
    ),
    "an mpAUC missing": (
        lambda p: edit_meta(p, drop("results", "development_dataset", "mpAUC")),
        "meta_form",
        "results.development_dataset.mpAUC is missing",
    ),
    "MACs in billions": (
        lambda p: edit_meta(p, put("system", "complexity", "macs", value=1.036)),
        "complexity_plausible",
        "macs is 1.036",
    ),
    "a label of another task": (
        lambda p: system(p).rename(p / "task4" / "Lastname_INST_task1_1"),
        "label",
        "Lastname_INST_task1_1 is not a label",
    ),
}


def test_a_valid_package_breaks_no_rule(valid):
    assert broken(valid) == {}
    assert all(result.holds for result in check_package(make_zip(valid))[1])


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_found_and_its_place_is_named(package, name):
    assert_found(package, DAMAGES[name])


def test_there_are_at_least_20_damages():
    assert len(DAMAGES) >= 20


def test_post_processing_that_changes_nothing_is_a_warning(package):
    shutil.rmtree(run_folder(package, 1))
    shutil.copytree(run_folder(package, 1, "_unprocessed"), run_folder(package, 1))
    results = {result.name: result for result in check_package(package)[1]}
    assert [finding.kind for finding in results["postprocessed"].findings] == ["warning"]


def test_without_the_official_list_runs_are_compared_with_each_other(package):
    (package / "made_up_evaluation_set.json").unlink()
    assert broken(package) == {}
    shorten_clip(package)
    assert "but at 10 s in" in broken(package)["durations"][0].sentence


def test_a_list_of_the_evaluation_set_can_be_given(package, tmp_path):
    (package / "made_up_evaluation_set.json").unlink()
    (tmp_path / "durations.tsv").write_text("filename\tduration\nclip_0.wav\t10.0\nclip_1.wav\t9.0\nclip_5.wav\t10.0\n")
    found = broken(package, evaluation_set=tmp_path / "durations.tsv")
    assert "the first is clip_5.tsv" in found["same_clips"][0].sentence


def test_irregular_frames_are_allowed(package):
    for path in run_folder(package).glob("*.tsv"):
        table = pd.read_csv(path, sep="\t").iloc[:3]
        table["onset"], table["offset"] = [0, 0.13, 7.7], [0.13, 7.7, 10]
        table.to_csv(path, sep="\t", index=False)
    assert broken(package) == {}
