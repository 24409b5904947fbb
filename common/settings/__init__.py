"""Settings: pydantic classes are the schema, a YAML file fills them, command-line options override it."""

from pydantic import Field

from common.settings.load import (
    SettingsError,
    changed_settings,
    dump_settings,
    load_settings,
    parse_settings,
    plain_settings,
)
from common.settings.schema import AnySettings, MachineSettings, RunSettings, Settings, TrainerSettings

__all__ = [
    "AnySettings",
    "Field",
    "MachineSettings",
    "RunSettings",
    "Settings",
    "SettingsError",
    "TrainerSettings",
    "changed_settings",
    "dump_settings",
    "load_settings",
    "parse_settings",
    "plain_settings",
]
