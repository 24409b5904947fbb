"""Which settings class a YAML file of Task 4 is read into. No torch here."""

from collections.abc import Mapping
from typing import Any

from common.settings import Settings
from task4_sed.baseline.settings import Task4Settings
from task4_sed.iterations.settings import TwoIterations


class AnySystem(Task4Settings):
    """Settings of either system: the two iterations' with `recipe: two_iterations` in the file, else the baseline's."""

    @classmethod
    def for_data(cls, data: Mapping[str, Any]) -> type[Settings]:
        """The settings class of a file's content."""
        return TwoIterations if data.get("recipe") == "two_iterations" else Task4Settings
