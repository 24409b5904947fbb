"""The commands of the READMEs: all are understood, and those that need neither a download nor SLURM are run."""

from dataclasses import replace
from functools import wraps
from importlib import import_module
from pathlib import Path

import pytest

from common.cli import run
from common.cli.arguments import ConfigVerb
from tests.support.places import ROOT
from tests.support.readme import read_commands, split

READMES = ["README.md", "task1_asc/README.md", "task4_sed/README.md", "retrieval/README.md",
           "common/audioset/README.md", "submissions/README.md"]  # fmt: skip
COMMANDS = [(readme, command) for readme in READMES for command in read_commands(ROOT / readme)]


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


@pytest.mark.parametrize(("readme", "command"), COMMANDS)
def test_a_command_is_understood(readme, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    if command.startswith("make "):
        assert f"\n{command.split()[1]}:" in (ROOT / "Makefile").read_text()
        return
    package, words = split(command)
    small = {"task1_asc": "small", "task4_sed": "two_iterations_small", "retrieval": "small"}.get(package)
    words = [word.replace("CONFIG.yaml", f"{package}/configs/{small}.yaml") for word in words]
    if "--resume" in words:
        run_folder = tmp_path / "run"
        run_folder.mkdir()
        config = Path(package, "configs", f"{small}.yaml").read_text(encoding="utf-8")
        (run_folder / "settings.yaml").write_text(config, encoding="utf-8")
        words[words.index("--resume") + 1] = str(run_folder)
    verbs = parsed_only(import_module(f"{package}.__main__").VERBS)
    assert run(f"python -m {package}", verbs, words) == 0, capsys.readouterr().err
