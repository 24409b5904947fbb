"""A meta.yaml with the line of every value, so that a mistake can be named as file:line."""

import re
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.settings.yaml_file import Place, YamlFile, read_yaml


class MetaFile:
    """Content of a meta.yaml and its mistakes, (line, sentence). Of a file that is no YAML, `data` is None."""

    def __init__(self, path: Path):
        try:
            file = read_yaml(path)
        except UserError as error:
            sentence = str(error).removeprefix(str(path)).lstrip(": ")
            line = re.match(r"(\d+): (.*)", sentence, re.DOTALL)
            file = YamlFile(mistakes=[(int(line[1]), line[2]) if line else (1, sentence)])
        self.data: Any = file.data
        self.lines = file.lines
        self.mistakes = file.mistakes or ([(1, "holds nothing")] if file.data is None else [])

    def line(self, place: Place) -> int:
        """Line of the value, or of the nearest enclosing group when the value is missing."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def get(self, *place: str | int) -> Any:
        """The value at `place`, or None where there is none."""
        value = self.data
        for key in place:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return None
        return value
