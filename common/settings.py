"""Settings: pydantic classes are the schema, a YAML file fills them, the command line lays values on top."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """One group of settings. Frozen after loading; unknown names are refused; the string under a field is its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
