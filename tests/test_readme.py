"""The commands of the READMEs: all are understood, and those that need made-up data only are run."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import wraps
from importlib import import_module

import pytest
import yaml

from common.cli import run
from common.cli.arguments import ConfigVerb
from submissions.participant import TEMPLATES_FOLDER
from tests.support.places import ROOT
from tests.support.readme import read_commands, split

READMES = ("", "task1_asc", "task4_sed", "retrieval", "common/audioset", "submissions")
COMMANDS = {command: None for folder in READMES for command in read_commands(ROOT / folder / "README.md")}
PLAN = yaml.safe_load((ROOT / "tests" / "support" / "readme_commands.yaml").read_text(encoding="utf-8"))


def planned(walk):
    """Each command of a walk, and the one that is run for it."""
    for entry in walk["commands"]:
        command, instead = next(iter(entry.items())) if isinstance(entry, dict) else (entry, "+")
        instead = instead.replace("{quick}", walk.get("quick", ""))
        yield command, f"{command} {instead[1:]}" if instead.startswith("+") else instead


RUN = [words for walk in PLAN["walks"].values() for _, words in planned(walk)]


def test_every_command_is_run_or_has_a_reason_not_to_be():
    known = {command for walk in PLAN["walks"].values() for command, _ in planned(walk)}
    known.update(command for commands in PLAN["not_run"].values() for command in commands)
    assert sorted(set(COMMANDS) - known) == []
    assert sorted(known - set(COMMANDS)) == []


@pytest.mark.parametrize("folder", READMES)
def test_a_readme_has_at_most_200_lines(folder):
    assert len((ROOT / folder / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_the_imports_of_the_python_lines_work():
    lines = [line.strip() for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()]
    imports = [line for line in lines if line.startswith("from ") and " import " in line]
    assert {line.rsplit(" ", 1)[1] for line in imports} == {"load_embedder", "tag_file", "create_audio_model", "psds"}
    for line in imports:
        exec(line, {})


@pytest.mark.parametrize("command", {**COMMANDS, **dict.fromkeys(RUN)})
def test_a_command_is_understood(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    if command.startswith("make "):
        assert f"\n{command.split()[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
        return
    package, words = split(command)
    small = {"task4_sed": "two_iterations_small"}.get(package, "small")
    config = f"{package}/configs/{small}.yaml"
    words = [word.replace("CONFIG.yaml", config) for word in words]
    if "--resume" in words:
        shutil.copy(config, tmp_path / "settings.yaml")
        words[words.index("--resume") + 1] = str(tmp_path)
    assert run(f"python -m {package}", parsed_only(verbs_of(package)), words) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "task1_asc" else pytest.mark.slow) for name in PLAN["walks"]]
)
def test_commands_work_one_after_the_other(name, request, tmp_path, monkeypatch, capsys):
    walk = PLAN["walks"][name]
    for package in ("common", "task1_asc", "task4_sed", "retrieval"):
        (tmp_path / package).symlink_to(ROOT / package)
    shutil.copy(TEMPLATES_FOLDER / "demo" / f"{walk['meta']}.yaml", tmp_path / "META.yaml")
    if name == "task1_asc":
        made_up = request.getfixturevalue("tiny_task1")
        shutil.copytree(made_up, tmp_path / "data" / "made_up" / name, copy_function=os.link)
    monkeypatch.chdir(tmp_path)
    for command in (*walk.get("before", ()), *(words for _, words in planned(walk))):
        package, words = split(command)
        code = run(f"python -m {package}", verbs_of(package), words)
        assert code == 0, f"{command}\n{capsys.readouterr().err[-2000:]}"


def verbs_of(package: str) -> Mapping:
    return import_module(f"{package}.__main__").VERBS


def parsed_only(verbs):
    """The same verbs, which check their arguments and settings and do nothing."""

    def silent(function):
        @wraps(function)
        def nothing(*arguments, **options):
            return 0

        return nothing

    return {
        name: parsed_only(verb) if isinstance(verb, dict)
        else replace(verb, function=silent(verb.function)) if isinstance(verb, ConfigVerb)
        else silent(verb)
        for name, verb in verbs.items()
    }  # fmt: skip
