"""The commands of Task 4 that prepare and judge data; called in this process, where everything is imported already."""

import json
import shutil

import numpy as np
import pytest

from common.cli import run
from common.data.audio import write_wav
from task4_sed.__main__ import VERBS
from tests.support.finished_runs import write_task4_run


def call(*words):
    return run("python -m task4_sed", VERBS, list(map(str, words)))


@pytest.fixture
def own(tmp_path):
    """A table of own recordings beside its audio, of which one is missing."""
    for name in ("a", "b", "c"):
        write_wav(tmp_path / "sounds" / f"{name}.wav", np.zeros(16_000, np.float32), 16_000)
    rows = [f"{name}.wav\t0.0\t0.5\tbird\n" for name in ("a", "b", "c", "lost")]
    table = tmp_path / "sounds" / "events.tsv"
    table.write_text("filename\tonset\toffset\tevent_label\n" + "".join(rows))
    return table


def test_the_data_of_the_challenge_or_own_data_are_checked(tiny_task4, own, tmp_path, capsys):
    assert call("data", "check", "--root", tiny_task4, "--json") == 0
    assert {row["set"] for row in json.loads(capsys.readouterr().out)["rows"]} >= {"maestro_train", "weak", "unlabeled"}
    assert call("data", "check", "--table", own) == 1  # audio beside the table
    assert "(first lost)" in capsys.readouterr().err
    shutil.move(own, tmp_path / "elsewhere.tsv")
    assert call("data", "check", "--table", tmp_path / "elsewhere.tsv", "--audio", own.parent) == 1
    assert "(first lost)" in capsys.readouterr().err
    (own.parent / "c.wav").unlink()
    assert call("data", "check", "--table", tmp_path / "elsewhere.tsv", "--audio", own.parent) == 1
    told = capsys.readouterr().err
    assert "2 of the 4 recordings" in told and "has 2 recordings; a split needs at least three" in told


@pytest.mark.parametrize("both", [True, False])
def test_a_check_needs_a_tree_or_a_table(both, tiny_task4, own, capsys):
    assert call("data", "check", *(["--root", tiny_task4, "--table", own] if both else [])) == 2
    assert "Give --root for the data of the challenge, or --table and --audio" in capsys.readouterr().err


def test_pack_leaves_out_optional_sets_that_are_absent_and_refuses_named_and_needed_ones(tiny_task4, tmp_path, capsys):
    root = tmp_path / "tree"
    shutil.copytree(tiny_task4, root, ignore=shutil.ignore_patterns("packed"))
    assert call("data", "pack", "--root", root) == 0
    shown = capsys.readouterr().err
    assert "external_strong" in shown and "weak" in shown
    assert {"weak_16000_int16", "unlabeled_16000_int16"} <= {path.name for path in (root / "packed").iterdir()}
    assert call("data", "pack", "--root", root, "--sets", "external_strong") == 2
    shutil.rmtree(root / "audio" / "train" / "weak")
    assert call("data", "pack", "--root", root) == 2
    assert "weak" in capsys.readouterr().err


def test_a_missing_clip_is_packed_around_only_when_allowed(tiny_task4, tmp_path, capsys):
    root = tmp_path / "tree"
    shutil.copytree(tiny_task4, root, ignore=shutil.ignore_patterns("packed"))
    clip = sorted((root / "audio" / "train" / "weak").glob("*.wav"))[0]
    clip.unlink()
    words = ["data", "pack", "--root", root, "--sets", "weak"]
    assert call(*words) == 2
    assert clip.stem in capsys.readouterr().err
    assert call(*words, "--allow_missing") == 0


@pytest.mark.parametrize("option", ["--plots", "--cross_check"])
def test_plots_and_the_cross_check_are_of_one_system(option, tmp_path, capsys):
    for name in ("a", "b", "events.tsv", "durations.tsv"):
        (tmp_path / name).touch()
    tables = ["--ground_truth", tmp_path / "events.tsv", "--durations", tmp_path / "durations.tsv"]
    assert call("psds", tmp_path / "a", tmp_path / "b", *tables, option) == 2
    assert "--plots and --cross_check take one system" in capsys.readouterr().err


def test_evaluate_names_the_set_of_each_table_of_classes(tmp_path, capsys):
    assert call("evaluate", write_task4_run(tmp_path / "sed")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"DESED validation", "DESED public evaluation", "MAESTRO Real validation"} <= set(lines)
