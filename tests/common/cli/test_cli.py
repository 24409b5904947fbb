"""The command line: verbs, options, settings on top of a file, exit codes."""

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from common import output
from common.cli import print_json, print_table, run, say
from common.errors import UserError
from tests.support.example_program import COMMAND, CONFIG, ENVIRONMENT, VERBS
from tests.support.places import ROOT


def call(capsys, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a call within this process."""
    code = run("program", VERBS, list(words))
    output = capsys.readouterr()
    return code, output.out, output.err


def shown(capsys, *words: str) -> dict:
    """The settings that a call of `show` ends up with."""
    code, out, err = call(capsys, "show", CONFIG, *words)
    assert code == 0, err
    return json.loads(out)


def test_a_result_goes_to_stdout_and_the_exit_code_is_0(capsys):
    assert call(capsys, "evaluate", "runs/a", "--json", "--top", "5") == (
        0,
        '[\n  {\n    "run": "runs/a",\n    "top": 5\n  }\n]\n',
        "",
    )


def test_values_of_the_file_hold_unless_the_call_names_others(capsys):
    settings = shown(capsys, "--optim.clip_norm", "null", "--optim.betas", "0.5", "0.6", "--shuffle", "false")
    assert settings["subset"] == 25
    assert settings["shuffle"] is False
    assert settings["optim"] == {"lr": 0.001, "betas": [0.5, 0.6], "clip_norm": None}


@pytest.mark.parametrize(
    "words",
    [
        ["--optim.lr", "1e-2"],
        ["--optim.lr=0.01"],
        ["--optim.lr", "10.0e-3"],
    ],
)
def test_a_number_may_be_written_in_each_usual_way(capsys, words):
    assert shown(capsys, *words)["optim"]["lr"] == 0.01


def test_a_switch_takes_a_value_or_none(capsys):
    assert shown(capsys, "--shuffle", "false")["shuffle"] is False
    code, out, _ = call(capsys, "show", "--shuffle", CONFIG, "--optim.clip-norm=2")
    assert code == 0
    assert json.loads(out)["shuffle"] is True
    assert json.loads(out)["optim"]["clip_norm"] == 2


@pytest.mark.parametrize(
    "words", [["--places", "7", "b c"], ["--places", '["7", b c]'], ["--places=['7', 'b c']"]], ids=str
)
def test_a_list_may_be_written_as_words_or_as_in_yaml(capsys, words):
    assert shown(capsys, *words)["places"] == ["7", "b c"]


def test_text_stays_text_even_when_it_looks_like_a_number(capsys):
    assert shown(capsys, "--name", "2024")["name"] == "2024"


def test_the_configuration_may_come_after_the_options(capsys):
    code, out, _ = call(capsys, "show", "--subset", "5", CONFIG)
    assert code == 0
    assert json.loads(out)["subset"] == 5


def test_an_option_may_be_repeated(capsys):
    code, out, _ = call(capsys, "grid", CONFIG, "--over", "subset=5,10", "--over", "seed=0,1", "--jobs", "2")
    assert code == 0
    assert json.loads(out) == {"over": ["subset=5,10", "seed=0,1"], "jobs": 2, "subset": 25}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "program has no verb trian. Near it: train."),
        (["zzz"], "program has no verb zzz. There are: train, show, grid, evaluate, fail, wait, talk, data."),
        (["data", "laoded"], "program data has no verb laoded. Near it: loaded."),
        (["show", CONFIG, "--subst", "5"], "No option --subst. Near it: --subset, --steps, --shuffle."),
        (["evaluate", "a", "--jsn"], "No option --jsn. Near it: --json."),
        (["evaluate", "a", "b"], "Unexpected argument: b. See program evaluate --help."),
        (["evaluate", "a", "--top", "x"], '--top is "x"; it must be a whole number.'),
        (["evaluate"], "Missing: RUN. See program evaluate --help."),
        (["evaluate", "a", "--top"], "--top needs a value."),
        (["evaluate", "a", "--json=true"], "--json takes no value."),
        (["evaluate", "a", "--workers", "2"], "--workers is now called --top."),
        (["show", CONFIG, "--optim.lr"], "--optim.lr needs a value."),
        (["show", CONFIG, "--places", "--subset", "5"], "--places needs a value."),
        (["show", CONFIG, "--workers", "5"], "--workers is now called --steps."),
        (["show", CONFIG, "--optim.workers", "5"], "--optim.workers is now called optim.lr."),
        (["show", CONFIG, "--optim.lr", "-1"], "--optim.lr is -1; it must be greater than 0."),
        (
            ["show", CONFIG, "--optim.weigth", "1"],
            "--optim.weigth is not a setting. optim can have: lr, betas, clip_norm.",
        ),
        (["show", CONFIG, "--optm.lr", "1"], "--optm is not a setting. Did you mean optim?"),
        (["show"], "The settings are missing. Call program show CONFIG.yaml."),
        (["train"], "The settings are missing. Call program train CONFIG.yaml or --resume RUN."),
    ],
    ids=lambda value: " ".join(Path(word).name for word in value) if isinstance(value, list) else "",
)
def test_a_mistake_in_the_call_is_one_sentence_and_exit_code_2(capsys, monkeypatch, words, sentence):
    new_names = {"workers": "steps" if words[0] == "show" else "top", "optim.workers": "optim.lr"}
    monkeypatch.setattr("common.settings.mistakes.RENAMED", new_names)
    assert call(capsys, *words) == (2, "", sentence + "\n")


def test_several_mistakes_in_settings_are_told_at_once(capsys):
    code, out, err = call(capsys, "show", CONFIG, "--subset", "200", "--optim.lr", "high")
    assert (code, out) == (2, "")
    assert err == '--subset is 200; it must be 100 or less.\n--optim.lr is "high"; it must be a number.\n'


def test_a_missing_configuration_gets_its_neighbours(capsys):
    code, _, err = call(capsys, "show", CONFIG.replace("example", "exmaple"))
    assert code == 2
    assert "exmaple.yaml does not exist. Near it: example.yaml" in err


def test_help_shows_the_values_of_the_file_with_those_of_the_call_on_top(capsys):
    code, out, err = call(capsys, "train", CONFIG, "--subset", "10", "--help")
    assert (code, err) == (0, "")
    assert "--optim.lr FLOAT" in out and "(default: 0.001)" in out
    assert "Percent of the training list. (default: 10)" in out
    assert "--clip_norm" not in out and "--optim.clip_norm" in out
    assert "stage to do again" in out
    assert "no_shuffle" not in out


def test_help_without_a_file_shows_the_verb(capsys):
    code, out, _ = call(capsys, "train", "--help")
    assert code == 0
    assert "CONFIG.yaml" in out and "run folder to go on with" in out


def test_help_of_the_program_lists_its_verbs(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert "evaluate  Score a run." in out
    assert "data      loaded | wait" in out


def test_a_call_without_a_verb_is_a_mistake(capsys):
    code, out, err = call(capsys)
    assert (code, out) == (2, "")
    assert err.startswith("usage: program VERB")


@pytest.mark.parametrize(
    ("how", "code", "sentence"),
    [
        ("user", 2, "The folder is empty; give another.\n"),
        ("check", 1, "One rule does not hold.\n"),
        ("space", 2, "No space left to write /some/file; free some and repeat the command.\n"),
        ("hdf5", 2, "No space left to write /some/file; free some and repeat the command.\n"),
        ("permission", 2, "No permission to access /some/file; choose another place or change its permissions.\n"),
        ("read_only", 2, "/some/file cannot be written: its file system is read-only.\n"),
        ("ctrl_c", 130, "Stopped by Ctrl-C.\n"),
    ],
)
def test_a_failure_has_its_exit_code_and_one_sentence(capsys, how, code, sentence):
    assert call(capsys, "fail", how) == (code, "", sentence)


@pytest.mark.parametrize(("how", "error"), [("bug", KeyError), ("own", RuntimeError), ("other_pipe", BrokenPipeError)])
def test_our_own_mistakes_keep_their_traceback(how, error):
    with pytest.raises(error):
        run("program", VERBS, ["fail", how])


def test_a_flag_may_stand_for_a_configuration(capsys, tmp_path):
    code, _, err = call(capsys, "train", "--fast_check", "--root", str(tmp_path))
    assert code == 0, err
    assert (tmp_path / "demo" / "double" / "stage.json").exists()


def test_a_run_is_resumed_with_its_own_settings(capsys, tmp_path):
    assert call(capsys, "train", CONFIG, "--name", "a", "--subset", "5", "--root", str(tmp_path))[0] == 0
    code, _, err = call(capsys, "train", "--resume", str(tmp_path / "a"), "--redo", "double")
    assert code == 0
    assert "count: kept" in err and "double: starts again" in err
    assert "subset: 5" in (tmp_path / "a" / "settings.yaml").read_text()


def test_resuming_what_is_no_run_is_refused(capsys, tmp_path):
    call(capsys, "train", CONFIG, "--name", "baseline", "--root", str(tmp_path))
    code, _, err = call(capsys, "train", "--resume", str(tmp_path / "basline"))
    assert (code, err) == (2, f"The run folder {tmp_path / 'basline'} does not exist. {tmp_path} has: baseline.\n")
    code, _, err = call(capsys, "train", "--resume", str(tmp_path))
    assert (code, err) == (2, f"{tmp_path} is not a run folder: it has no settings.yaml.\n")
    code, _, err = call(capsys, "train", CONFIG, "--resume", str(tmp_path / "baseline"))
    assert code == 2
    assert "not both" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_command_with_its_code_and_one_sentence(number, code):
    # Programs that a shell started in the background ignore SIGINT, and so do those that they start.
    with subprocess.Popen(
        [*COMMAND, "data", "wait"], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        assert process.stderr.readline() == "waiting\n"
        process.send_signal(number)
        assert process.wait(timeout=20) == code
        assert process.stderr.read().startswith("Stopped by ")


def test_a_reader_that_goes_away_is_no_error():
    with subprocess.Popen(
        [*COMMAND, "talk"], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.wait(timeout=20) == 0
        assert process.stderr.read() == ""


def test_the_command_line_loads_no_heavy_package():
    done = subprocess.run([*COMMAND, "data", "loaded"], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


CALLS = [
    "common pretrain common/audioset/configs/small.yaml",
    "submissions",
    "task1_asc train task1_asc/configs/small.yaml",
    "task4_sed train task4_sed/configs/two_iterations_small.yaml",
    "retrieval train retrieval/configs/small.yaml",
]


@pytest.mark.parametrize("words", [f"{call} {last}" for call in CALLS for last in ("--help", "--no.such_setting 1")])
def test_help_and_refusals_are_quick_and_load_no_torch(words):
    script = f"""
import runpy, sys, time
sys.argv = {words.split()}
try:
    runpy.run_module(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    assert stop.code == (0 if "--help" in sys.argv else 2), stop.code
heavy = [name for name in ("torch", "lightning", "torchaudio", "pandas", "scipy") if name in sys.modules]
print(time.process_time(), *heavy)
"""
    seconds = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        *_, last = done.stdout.splitlines()
        used, *heavy = last.split()
        assert heavy == []
        seconds.append(float(used))
        if seconds[-1] < 0.5:
            return
    assert min(seconds) < 1  # 0.3 to 0.5 s of an idle core


def test_json_holds_what_numpy_gives_and_no_nan(capsys):
    import numpy as np

    print_json({"a": np.float32(0.5), "b": np.arange(2), "c": float("nan"), "d": (Path("x"), np.nan), 1: {True}})
    assert json.loads(capsys.readouterr().out) == {"a": 0.5, "b": [0, 1], "c": None, "d": ["x", None], "1": [True]}


def test_a_further_process_tells_nothing_but_errors(capsys, monkeypatch):
    monkeypatch.setattr(output, "_quiet", False)
    output.silence_rank()
    say("starts")
    print_json({"x": 1})
    print_table([{"x": 1}])
    assert capsys.readouterr() == ("", "")
    assert call(capsys, "fail", "user") == (2, "", "The folder is empty; give another.\n")


def test_a_table_off_a_terminal_is_not_cut(capsys):
    print_table([{"name": "x" * 300, "score": 0.123456, "count": 61148}, {"name": "[red]", "score": None, "count": 2}])
    out = capsys.readouterr().out
    assert "x" * 300 in out
    assert "0.1235" in out and "61,148" in out and "[red]" in out


class _NoClip:
    """A data set whose clips cannot be read."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        try:
            return [][index]
        except IndexError as error:
            raise UserError(f"clip {index} is empty: 0 bytes.") from error


def _load_with_a_worker() -> None:
    from torch.utils.data import DataLoader

    list(DataLoader(_NoClip(), num_workers=1))


def test_a_mistake_that_a_loaders_process_finds_is_told_in_one_sentence(capsys):
    assert run("program", {"load": _load_with_a_worker}, ["load"]) == 2
    assert capsys.readouterr().err == "clip 0 is empty: 0 bytes.\n"
