"""Packages that held every rule and should not, and those that ended with a traceback."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.cli import run
from submissions.__main__ import VERBS
from submissions.package import check_package
from submissions.report import lines
from tests.support.damage import broken
from tests.support.packages import (
    INFERENCE_NAME,
    edit_meta,
    predictions,
    write_inference,
    write_retrieval,
    write_task1,
    write_task4,
)
from tests.support.places import SHARED

HOSTILE = SHARED / "cases" / "hostile"


def table(package: Path, split: int) -> Path:
    return next(package.rglob(f"*split_{split}.csv"))


def one_hot(path: Path) -> None:
    scores = pd.read_csv(path, sep="\t")
    values = scores.iloc[:, 2:].to_numpy()
    answers = values == values.max(axis=1, keepdims=True)
    scores[scores.columns[2:]] = pd.DataFrame(answers, columns=scores.columns[2:])
    scores.to_csv(path, sep="\t", index=False)
    assert "True" in path.read_text()


def test_probabilities_written_true_and_false_in_2024(tmp_path):
    package = write_task1(tmp_path)
    one_hot(table(package, 25))
    found = broken(package)["numbers"]
    assert any("split_25.csv:2 airport is" in f"{finding.place} {finding.sentence}" for finding in found)


def test_probabilities_written_true_and_false_in_2025(tmp_path):
    package = write_inference(tmp_path)
    one_hot(predictions(package) / "output.csv")
    assert "numbers" in broken(package)


def test_similarities_written_true_and_false(tmp_path):
    package = write_retrieval(tmp_path, "task6_2025")
    path = next(package.rglob("*.output.csv"))
    scores = pd.read_csv(path)
    scores[scores.columns[1:]] = scores.iloc[:, 1:] > 0
    scores.to_csv(path, index=False)
    assert "numbers" in broken(package)


def test_scores_written_true_and_false(tmp_path):
    package = write_task4(tmp_path)
    path = next(package.rglob("*_run1.output/clip_0.tsv"))
    scores = pd.read_csv(path, sep="\t")
    scores[scores.columns[2:]] = scores.iloc[:, 2:] > 0.5
    scores.to_csv(path, sep="\t", index=False)
    assert "score_numbers" in broken(package)


def test_a_table_that_is_another_one_in_another_order(tmp_path):
    package = write_task1(tmp_path)
    header, *rows = table(package, 5).read_text().splitlines()
    table(package, 10).write_text("\n".join([header, *reversed(rows)]) + "\n")
    assert broken(package)["tables_differ"][0].sentence.startswith("holds the same scores as")


@pytest.mark.parametrize(("factor", "clips"), [(0.999999, 4), (1, 2)])
def test_a_run_that_is_another_one_nearly_or_by_half(tmp_path, factor, clips):
    package = write_task4(tmp_path, clips=4)
    for path in sorted(package.rglob("*_run1.output/*.tsv"))[:clips]:
        scores = pd.read_csv(path, sep="\t")
        scores.iloc[:, 2:] *= factor
        scores.to_csv(Path(str(path).replace("_run1.", "_run2.")), sep="\t", index=False)
    (finding,) = broken(package)["runs_independent"]
    assert finding.place.endswith("_run2.output") and finding.sentence.startswith(f"{clips} of 4 tables are the same")


def test_independent_runs_that_are_silent_in_most_clips_are_no_copies(tmp_path):
    package = write_task4(tmp_path, clips=4)
    for path in package.rglob("*_run?.output/*.tsv"):
        if path.name != "clip_0.tsv":
            scores = pd.read_csv(path, sep="\t")
            scores.iloc[:, 2:] = 0.0
            scores.to_csv(path, sep="\t", index=False)
    assert broken(package) == {}


def test_independent_tables_that_are_certain_of_the_same_labels_are_no_copies(tmp_path):
    package = write_task1(tmp_path)
    for split in (5, 10):
        scores = pd.read_csv(table(package, split), sep="\t")
        certain = np.eye(10)[np.arange(12) % 10]
        if split == 10:
            certain[11] = np.eye(10)[7]
        scores[scores.columns[2:]] = certain
        scores["scene_label"] = scores.columns[2:][certain.argmax(axis=1)]
        scores.to_csv(table(package, split), sep="\t", index=False)
    assert broken(package) == {}


def test_a_run_in_a_subfolder(tmp_path):
    package = write_task4(tmp_path)
    folder = next(package.rglob("*_run2.output"))
    (folder / "sub").mkdir()
    for path in folder.glob("*.tsv"):
        path.write_text("garbage")
        path.rename(folder / "sub" / path.name)
    found = broken(package)
    assert {"files", "no_other_files", "same_clips"} <= set(found)


def test_two_packages_of_2025(tmp_path):
    package = write_inference(tmp_path)
    shutil.copytree(package / INFERENCE_NAME, package / "Other_INST_task1")
    (package / "Other_INST_task1" / f"{INFERENCE_NAME}_1.py").rename(
        package / "Other_INST_task1" / "Other_INST_task1_1.py"
    )
    assert "has 2 packages" in broken(package)["package_name"][0].sentence


def test_rules_that_were_not_looked_at_have_no_tick(tmp_path):
    package = write_task1(tmp_path)
    for path in package.rglob("*.output.*.csv"):
        path.unlink()
    results = {result.name: result for result in check_package(package)[1]}
    assert results["files"].state == "broken"
    tables = [
        "table_form",
        "evaluation_files",
        "same_files",
        "numbers",
        "labels_known",
        "probabilities",
        "sum",
        "argmax",
        "tables_differ",
        "not_collapsed",
    ]
    assert {results[rule].state for rule in tables} == {"not checked"}
    shown = "\n".join(lines(*check_package(package)))
    assert "- table_form            not checked: Lastname_INST_task1_1 has no output table" in shown


def test_pack_needs_a_tick_for_every_rule(tmp_path, capsys):
    package = write_retrieval(tmp_path, "task8_2024")
    listed = tmp_path / "list.json"
    (package / "made_up_evaluation_set.json").rename(listed)
    assert run("python -m submissions", VERBS, ["check", str(package)]) == 0
    assert run("python -m submissions", VERBS, ["pack", str(package)]) == 1
    told = capsys.readouterr().err
    assert "rules that were not checked: evaluation_list (" in told and "give --evaluation_set" in told
    assert not package.with_suffix(".zip").exists()
    assert run("python -m submissions", VERBS, ["pack", str(package), "--evaluation_set", str(listed)]) == 0
    assert package.with_suffix(".zip").exists()


def test_a_count_of_400_digits(tmp_path):
    package = write_task1(tmp_path)
    edit_meta(package, lambda data: data["system"]["complexity"].update(total_parameters=int("9" * 400)))
    assert set(broken(package)) & {"meta_readable", "meta_form", "complexity_plausible"}


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"files": "abc"}', '{"files": [1]}', "[" * 100_000, "\udcff",
                                     '{"files": ["a"], "durations": {"a": true}}'])  # fmt: skip
def test_a_declaration_that_is_none(tmp_path, capsys, content):
    package = write_task1(tmp_path)
    (package / "made_up_evaluation_set.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert run("python -m submissions", VERBS, ["check", str(package)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("made_up_evaluation_set.json is not the list of an evaluation set") and len(told) < 400


@pytest.mark.skipif(not HOSTILE.is_dir(), reason="../shared/cases is not there")
@pytest.mark.parametrize("name", ["int_", "int5000", "float_", "nul", "deep", "taggedkey", "bomb"])
def test_a_hostile_meta_file(tmp_path, capsys, name):
    package = write_task1(tmp_path)
    meta = next(package.rglob("*.meta.yaml"))
    meta.write_bytes((HOSTILE / f"{name}.yaml").read_bytes())
    assert run("python -m submissions", VERBS, ["check", str(package)]) == 1
    assert "✗ meta_" in capsys.readouterr().out
