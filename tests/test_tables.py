"""What the commands of the demo print fits a terminal of 80 columns, and is not padded in a pipe."""

import importlib
import re
import sys

import pytest

from common.cli import run
from common.reports.html import print_results
from task1_asc.report import read_finished, result_rows
from tests.support.finished_runs import (
    write_moments_run,
    write_retrieval_run,
    write_sounds_run,
    write_task1_run,
    write_task1_sweep,
    write_task4_run,
)
from tests.support.golden_sed import write_golden

COMMANDS = {
    "task1_asc evaluate": "task1_asc evaluate ROOT/s25_0",
    "task1_asc compare": "task1_asc compare ROOT/sweep",
    "task1_asc compare of two": "task1_asc compare ROOT/s5_0 ROOT/s25_0",
    "task4_sed evaluate": "task4_sed evaluate ROOT/sed",
    "task4_sed psds": "task4_sed psds ROOT/scores --ground_truth ROOT/ground_truth.tsv "
    "--durations ROOT/durations.tsv --draws 20",
    "retrieval evaluate": "retrieval evaluate ROOT/text",
    "sounds evaluate": "task1_asc sounds evaluate ROOT/sounds",
    "moments evaluate": "retrieval moments evaluate ROOT/moments",
    "common models": "common models",
    "common models of one": "common models mn04.as",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a_folder_with_quite_a_long_name")
    write_task1_sweep(folder / "sweep", (5, 25), (0, 1))
    other = write_task1_run(folder / "other", 25, 0) / "settings.yaml"
    other.write_text(other.read_text().replace("  lr: 0.01", "  lr: 0.02"))
    write_task4_run(folder / "sed")
    write_retrieval_run(folder / "text")
    write_sounds_run(folder / "sounds")
    write_moments_run(folder / "moments")
    write_golden("ties", folder)
    return folder


def call(words: str, root) -> int:
    package, *rest = words.replace("ROOT", str(root)).split()
    return run(f"python -m {package}", importlib.import_module(f"{package}.__main__").VERBS, rest)


@pytest.mark.parametrize("name", COMMANDS)
def test_tables_fit_a_terminal_and_are_whole_with_wide(name, root, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert call(COMMANDS[name], root) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert call(f"{COMMANDS[name]} --wide", root) == 0
    assert "--wide)" not in capsys.readouterr().out


def test_the_table_of_a_report_fits_and_never_pools_configurations(root, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    rows = result_rows(read_finished([root / "sweep", root / "other"])[0], "float32")
    print_results(rows, "Acoustic scenes", made_up=True)
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines())) <= 80
    named = [(row["system"], row["subset"], row["runs"]) for row in rows]
    assert named == [("sweep", "5 %", "2 seeds"), ("sweep", "25 %", "2 seeds"), ("other", "25 %", "seed 0")]


@pytest.mark.parametrize("name", COMMANDS)
def test_tables_in_a_pipe_are_not_padded(name, root, capsys):
    assert call(COMMANDS[name], root) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith(" ") or "   " in line.strip()] == []


def test_figures_of_people_are_per_cent_with_one_form_of_interval(root, capsys):
    assert call(COMMANDS["task4_sed evaluate"], root) == 0
    out = capsys.readouterr().out
    assert "45.7 [41.2, 50.1]" in out and "collar F1 at 0.5" in out and "segment F1, best threshold" in out
    assert call(COMMANDS["task1_asc evaluate"], root) == 0
    assert re.search(r"\d\d\.\d \[\d\d\.\d, \d\d\.\d\]", capsys.readouterr().out)
