"""Messages and tables on a terminal."""

import re
import sys

import pytest

from common.output import Progress, name_task, part_of, print_error, print_table, say, spell_time


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


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (725, "12 min"), (7500, "2 h 5 min")])
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
