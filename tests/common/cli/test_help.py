"""Every verb's help fits 80 columns and has an example; hints name the whole setting; completion knows the verbs."""

import importlib
from collections.abc import Mapping

import pytest

from common.cli import run
from common.cli.arguments import ConfigVerb

PACKAGES = ("common", "task1_asc", "task4_sed", "retrieval", "submissions")


def verbs_of(prefix: str, verbs: Mapping) -> dict[str, object]:
    found = {}
    for name, verb in verbs.items():
        inner = verbs_of(f"{prefix} {name}", verb) if isinstance(verb, Mapping) else {f"{prefix} {name}": verb}
        found |= inner
    return found


VERBS = {package: importlib.import_module(f"{package}.__main__").VERBS for package in PACKAGES}
EVERY = {name: verb for package, verbs in VERBS.items() for name, verb in verbs_of(package, verbs).items()}


def call(capsys, words: str) -> tuple[int, str, str]:
    package, *rest = words.split()
    code = run(f"python -m {package}", VERBS[package], rest)
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("words", EVERY)
def test_the_help_of_a_verb_fits_and_has_an_example(words, capsys):
    code, out, err = call(capsys, f"{words} --help")
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if len(line) > 80] == []
    assert f"Example: python -m {words} " in out.replace("\n    ", " ")
    if isinstance(EVERY[words], ConfigVerb):
        assert "lists them with their values" in " ".join(out.split()) or "--name" in out


@pytest.mark.parametrize("package", PACKAGES)
def test_the_overview_of_a_package_fits(package, capsys):
    code, out, _ = call(capsys, f"{package} --help")
    assert code == 0
    assert [line for line in out.splitlines() if len(line) > 80] == []
    assert "--wide" in out


def test_the_help_of_every_setting_fits(capsys):
    for words in ("task1_asc train task1_asc/configs/small.yaml", "task4_sed train task4_sed/configs/small.yaml"):
        code, out, _ = call(capsys, f"{words} --help")
        assert code == 0 and "--optim.lr" in out
        assert [line for line in out.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("train task1_asc/configs/small.yaml --lr 0.1", "No option --lr. Did you mean --optim.lr"),
        ("sweep task1_asc/configs/small.yaml --over lr=0.1,0.2", "lr is not a setting. Did you mean optim.lr"),
    ],
)
def test_a_setting_without_its_group_is_told_with_it(words, hint, capsys):
    code, _, err = call(capsys, f"task1_asc {words}")
    assert code == 2 and hint in err and err.count("\n") == 1


def test_completion_is_a_script_that_knows_verbs_and_flags(capsys):
    code, out, _ = call(capsys, "task1_asc --tyro-print-completion bash")
    assert code == 0 and "complete -F _tyro_task1_asc task1_asc" in out
    for word in ("search_width", "download", "--delete_archives", "--fast_check"):
        assert word in out


def test_wide_is_taken_anywhere_and_asks_for_whole_tables(capsys, monkeypatch):
    from common import output

    assert run("program", {"look": lambda: print(output._wide)}, ["look", "--wide"]) == 0
    assert run("program", {"look": lambda: print(output._wide)}, ["look"]) == 0
    assert capsys.readouterr().out == "True\nFalse\n"
    output.show_everything(False)
