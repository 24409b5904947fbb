"""Commands of README files."""

import re
import shlex
from pathlib import Path


def read_commands(path: Path) -> list[str]:
    """The commands in blocks of a README, without comments and [options], and those that fill a cell of a table."""
    commands, fenced, begun = [], False, ""
    for line in path.read_text(encoding="utf-8").splitlines():
        commands += re.findall(r"\| `((?:python -m|make) [^`]+)` \|", line)
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
