"""Settings that every run has: the name of its folder, and the seed."""

import re
from pathlib import Path
from typing import Any

from pydantic import Field

from common.settings.load import Settings


class RunSettings(Settings):
    """Base class of the settings of a recipe; a task gives `runs` a default."""

    name: str = Field(pattern=r"^[^/\\]+$")
    """Name of the run's folder; {seed}, or any other setting in braces, stands for its value."""
    runs: Path
    """Folder of the runs."""
    seed: int = Field(0, ge=0)
    """Seed of initial weights, order of clips and augmentation."""

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.runs / re.sub(r"\{([\w.]+)\}", lambda found: self._part(found[1], found[0]), self.name)

    def value_in_name(self, field: str) -> Any:
        """What `{field}` in the name stands for; None leaves it as it is. Dots lead into groups: `{data.fold}`."""
        value: Any = self
        for key in field.split("."):
            value = getattr(value, key, None) if key in getattr(type(value), "model_fields", {}) else None
        return None if isinstance(value, Settings) else value

    def _part(self, field: str, otherwise: str) -> str:
        value = self.value_in_name(field)
        return otherwise if value is None else str(value).replace("/", "-")
