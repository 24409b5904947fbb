"""A meta.yaml with the line of every value, so that a mistake can be named as file:line."""

import re
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.settings.yaml_file import Place, YamlFile, read_yaml


class BrokenMeta(Exception):
    """The file is not YAML; `line` is where it stops being so."""

    def __init__(self, sentence: str, line: int):
        super().__init__(sentence)
        self.line = line


class MetaFile:
    """What a meta.yaml says and where.

    Raises:
        BrokenMeta: if it is not YAML.
    """

    def __init__(self, path: Path):
        try:
            self.file: YamlFile = read_yaml(path)
        except UserError as error:
            sentence = str(error).removeprefix(str(path)).lstrip(": ")
            line = re.match(r"(\d+): (.*)", sentence, re.DOTALL)
            raise BrokenMeta(line[2] if line else sentence, int(line[1]) if line else 1) from None
        self.data = self.file.data

    def line(self, place: Place) -> int:
        """Line of the value, or of the nearest enclosing group when the value is missing."""
        while place and place not in self.file.lines:
            place = place[:-1]
        return self.file.lines.get(place, 1)

    def get(self, *place: str | int) -> Any:
        """The value at `place`, or None where there is none."""
        value = self.data
        for key in place:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return None
        return value
