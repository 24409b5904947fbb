"""Messages and tables on a terminal."""

import io
import json
import re
import sys

import numpy as np
import pytest

from common import output
from common.output import (
    Progress,
    name_task,
    part_of,
    print_error,
    print_json,
    print_table,
    print_text,
    say,
    shorten,
    shorten_path,
    spell_time,
)


def test_control_characters_of_names_are_shown_escaped(capsys):
    print_error("clip\x1b[2J.wav, \udcff.wav\nnext line")
    print_table([{"file": "clip\x1b[2J\n.wav"}])
    told = capsys.readouterr()
    assert told.err == "clip\\x1b[2J.wav, \\udcff.wav\nnext line\n"
    assert "clip\\x1b[2J\\n.wav" in told.out


ROWS = [
    {"name": "mn10.as", "a score": 0.123456, "where": "/a/very/long/path/of/something/deep/inside/runs/file.yaml"},
    {"name": "[red]", "a score": None, "where": "x"},
]


def be_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)


def test_a_terminal_gets_short_paths_and_as_many_columns_as_fit(monkeypatch, capsys):
    be_a_terminal(monkeypatch)
    print_table([{**row, "interval": "42.4 [41.2, 43.6]", "last": 1} for row in ROWS], "A title")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 60 and lines[0] == "A title"
    assert "…/deep/inside/runs/file.yaml" in "\n".join(lines) and "[red]" in "\n".join(lines)
    assert lines[-2:] == ["(interval, last: with --wide)", ""]


def test_wide_keeps_everything(monkeypatch, capsys):
    be_a_terminal(monkeypatch)
    monkeypatch.setattr("common.output._wide", True)
    print_table([{**row, "interval": "42.4 [41.2, 43.6]", "last": 1} for row in ROWS])
    out = capsys.readouterr().out
    assert ROWS[0]["where"] in out and "42.4 [41.2, 43.6]" in out and "--wide" not in out


def test_a_pipe_gets_cells_between_tabs(capsys):
    print_table(ROWS, "A title")
    assert capsys.readouterr().out == (
        f"A title\nname\ta score\twhere\nmn10.as\t0.1235\t{ROWS[0]['where']}\n[red]\t\tx\n"
    )


class Clock:
    """A clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 0.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


def test_progress_tells_the_time_left_from_the_second_unit_on(monkeypatch):
    clock = Clock(monkeypatch)
    progress = Progress("Training", 20, "epochs", done=10, quiet=True)
    progress.advance(0)
    assert progress.time_left() == ""
    clock.now = 1000.0  # the first unit waited for a model
    progress.advance()
    assert progress.time_left() == ""
    clock.now = 1030.0
    progress.advance()
    assert progress.time_left() == ", about 4 min left"  # 30 s for each of eight
    progress.advance(8)
    assert progress.time_left() == ""


def test_progress_within_a_whole_also_tells_the_time_left_of_it(monkeypatch):
    clock = Clock(monkeypatch)
    progress = Progress("Training", 4, "epochs", quiet=True)
    progress.advance()
    clock.now = 60.0
    progress.advance()
    with part_of("sweep", lambda left: 10 * left), part_of("run", lambda left: left + 60):
        assert progress.time_left() == ", about 2 min left (run: 3 min, sweep: 30 min)"
    with part_of("run", lambda left: left):
        assert progress.time_left() == ", about 2 min left"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (725, "12 min"),
        (3540, "59 min"),
        (3600, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_times_are_short(seconds, text):
    assert spell_time(seconds) == text


def test_messages_of_a_task_beside_others_carry_its_name(capsys):
    name_task("subset=5 seed=0")
    try:
        say("train: starts\nTraining: 1 of 3 epochs")
    finally:
        name_task("")
    say("done")
    assert capsys.readouterr().err.splitlines() == [
        "[subset=5 seed=0] train: starts", "[subset=5 seed=0] Training: 1 of 3 epochs", "done",
    ]  # fmt: skip


class Terminal(io.StringIO):
    """A terminal that keeps what is written."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_on_stderr_and_results_stay_alone_on_stdout(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("Packing", 10, done=2) as progress:
        progress.advance(3, "a[b]\n.wav")
    shown = sys.stderr.getvalue()
    assert "5/10" in shown and "Packing a[b]\\n.wav" in shown and "clips" in shown
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("Packing", 10, quiet=True) as progress:
        progress.advance()
    assert sys.stderr.getvalue() == ""


def test_elsewhere_a_line_comes_every_15_seconds_and_at_the_end_with_a_note(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with Progress("Packing", 40) as progress:
        for second in range(40):
            clock.now = float(second)
            progress.advance(note="done" if second == 39 else "")
    lines = [line.partition(" clips")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["Packing: 17 of 40", "Packing: 33 of 40", "Packing: 40 of 40"]
    with Progress("Reading", None, "files") as progress:
        clock.now += 16
        progress.advance(5)
    assert capsys.readouterr().err == "Reading: 5 files\n"
    with Progress("Packing", 1, quiet=True) as progress:
        clock.now += 16
        progress.advance(note="done")
    assert capsys.readouterr().err == ""


def test_json_holds_arrays_as_lists_and_no_number_as_null(capsys):
    print_json({"a": np.array([[1.5, np.nan]]), "b": np.float32(0.5), "c": [float("inf")]})
    assert json.loads(capsys.readouterr().out) == {"a": [[1.5, None]], "b": 0.5, "c": [None]}


def test_text_is_broken_at_spaces_on_a_terminal_only(monkeypatch, capsys):
    sentence = "An interval over recordings tells these networks apart, not the methods behind them."
    print_text(sentence)
    assert capsys.readouterr().out == f"{sentence}\n"
    be_a_terminal(monkeypatch)
    print_text(sentence)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and " ".join(lines) == sentence and len(lines[0]) <= 60


def test_ranks_behind_the_first_print_nothing_but_errors(monkeypatch, capsys):
    monkeypatch.setattr(output, "_quiet", True)
    print_table([{"a": 1}])
    print_json({})
    print_text("a")
    say("a")
    print_error("an error")
    assert capsys.readouterr() == ("", "an error\n")


def test_long_texts_lose_their_middle_and_say_how_much():
    text = "a" * 1000 + "b" * 1500 + "c" * 200
    assert shorten(text, 2700) == text
    assert shorten(text, 2000) == "a" * 1000 + " ... (1,500 more characters) ... " + "c" * 200


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("runs/task1_asc/baseline/run.yaml", "runs/task1_asc/baseline/run.yaml"),  # 32 characters
        ("a/runs/task1_asc/baseline/r.yaml", "a/runs/task1_asc/baseline/r.yaml"),
        ("ab/runs/task1_asc/baseline/r.yaml", "…/runs/task1_asc/baseline/r.yaml"),
        ("ab/runs/task1_asc/baseline/ru.yaml", "…/task1_asc/baseline/ru.yaml"),
        ("a sentence / with spaces that is longer than a path", "a sentence / with spaces that is longer than a path"),
        ("no_folder_but_a_name_of_more_than_32", "no_folder_but_a_name_of_more_than_32"),
    ],
)
def test_long_paths_keep_as_many_of_their_last_parts_as_fit(text, shown):
    assert shorten_path(text) == shown and (len(shown) <= 32 or "/" not in text or " " in text)


@pytest.mark.parametrize(("width", "shown"), [(11, ["first", "n", "last"]), (10, ["first", "n"])])
def test_a_column_that_fits_to_the_last_place_is_shown(monkeypatch, capsys, width, shown):
    be_a_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", str(width + 4))
    print_table([{"first": "alpha", "n": 5, "last": "omega"}])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert lines[0].split() == shown


def test_on_a_terminal_only_the_first_of_several_figures_keeps_its_interval(monkeypatch, capsys):
    be_a_terminal(monkeypatch)
    print_table([{"name": "a", "F1": "42.4 [41.2, 43.6]", "mAP": "12.3 [11.2, 13.4]", "R@1": "5.6 [4.5, 6.7]", "n": 7}])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert lines[2].split() == ["a", "42.4", "[41.2,", "43.6]", "12.3", "5.6", "7"]


def test_long_texts_are_folded_and_numbers_stand_to_the_right(monkeypatch, capsys):
    be_a_terminal(monkeypatch)
    print_table([{"name": "a", "note": "a sentence of more than thirty-two characters", "n": 5},
                 {"name": "b", "note": "short", "n": 12345}])  # fmt: skip
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 60
    assert any(line.endswith("     5") for line in lines) and any(line.endswith("12,345") for line in lines)
    assert "characters" in "\n".join(lines)
