"""Commands of README files."""

import re
import shlex
from pathlib import Path


def read_commands(path: Path) -> list[str]:
    """The lines that start a program in the fenced and indented blocks of a README, without comments and [options]."""
    commands, fenced, begun = [], False, ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            text = begun + line.strip()
            begun = text[:-1] if text.endswith("\\") else ""
            if not begun and re.match(r"(python -m|make) ", text):
                commands.append(re.sub(r"\s+#\s.*|\s+\[.*?\]", "", text))
    return commands


def split(command: str) -> tuple[str, list[str]]:
    """The package of `python -m PACKAGE WORDS`, and the words."""
    _, _, package, *words = shlex.split(command)
    return package, words
