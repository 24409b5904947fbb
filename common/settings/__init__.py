"""Settings: pydantic classes are the schema, a YAML file fills them, command-line options override it."""

from pydantic import Field

from common.settings.load import (
    AnySettings,
    Settings,
    SettingsError,
    changed_settings,
    dump_settings,
    load_settings,
    parse_settings,
    plain_settings,
)

__all__ = [
    "AnySettings",
    "Field",
    "Settings",
    "SettingsError",
    "changed_settings",
    "dump_settings",
    "load_settings",
    "parse_settings",
    "plain_settings",
]
