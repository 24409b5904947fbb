"""Settings: pydantic classes are the schema, a YAML file fills them, the command line overrides it.

All mistakes are reported together, one per line, each with file and line, dotted name and the nearest known name.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

from common.errors import UserError
from common.settings.mistakes import describe_mistakes
from common.settings.schema import AnySettings, Settings, setting_fields
from common.settings.yaml_file import Place, dotted, read_yaml, to_yaml

_AFTER_THE_FILE = 10**9  # sorts mistakes of the command line after all lines of the file


_MOST_SHOWN = 20


class SettingsError(UserError):
    """Mistakes in settings, one per line; `places` name settings inside other settings."""

    places: Sequence[tuple[Place, str]] = ()


def load_settings(cls: type[AnySettings], path: Path, overrides: Mapping[str, Any] | None = None) -> AnySettings:
    """Read a YAML file into `cls`, with `overrides` on top.

    Args:
        cls: the settings class of the file.
        path: the YAML file.
        overrides: values that replace the file's, such as {"optim.lr": 0.01}.

    Raises:
        SettingsError: one line for each mistake in the file and the overrides.
        UserError: the file is missing or is not YAML.
    """
    file = read_yaml(path)
    if file.data is None:
        raise SettingsError(
            f"{path}:1: the file is empty; it needs settings such as {', '.join(list(cls.model_fields)[:3])}."
        )
    if not isinstance(file.data, dict):
        found = "a list" if isinstance(file.data, list) else "a single value"
        raise SettingsError(f"{path}:1: settings are needed, lines of the form `name: value`, not {found}.")
    known = [(line, f"{path}:{line}: {sentence}") for line, sentence in file.mistakes]
    cls = cast(type[AnySettings], cls.for_data(file.data))
    lines = {tuple(map(str, place)): line for place, line in file.lines.items()}
    data = _with_text_keys(file.data)
    try:
        return _validate(cls, data, lambda place: _source(lines, path, place), overrides or {}, known)
    except SettingsError as error:
        mistakes = [line for line in str(error).splitlines() if line.startswith(f"{path}:")]
        if path.name != "settings.yaml" or not mistakes:  # the file of a run, which nobody wrote by hand
            raise
        more = f" and {len(mistakes) - 1} more" if len(mistakes) > 1 else ""
        first = mistakes[0].partition(": ")[2].rstrip(".")
        raise SettingsError(
            f"{path.parent} is a run of another task or of another version of the kit, with other settings ({first}"
            f"{more}); train it again under another name."
        ) from error


def parse_settings(cls: type[AnySettings], data: Mapping[str, Any], origin: str = "settings") -> AnySettings:
    """Settings from a plain mapping, such as a row of a sweep; `origin` starts the line of each mistake."""
    places: list[Place] = []

    def source(place: Place) -> tuple[int, str]:
        places.append(place)
        return 0, f"{origin}: "

    try:
        return _validate(cls, dict(data), source, {}, [])
    except SettingsError as error:
        error.places = [((*origin.split("."), *place), line) for place, line in zip(places, str(error).splitlines())]
        raise


def dump_settings(settings: Settings) -> str:
    """YAML text that `load_settings` reads back as equal settings."""
    return to_yaml(plain_settings(settings))


def plain_settings(settings: Settings) -> dict[str, Any]:
    """Settings as dicts, lists, numbers and texts, as in YAML or JSON."""
    return settings.model_dump(mode="json")


def changed_settings(old: Settings | Mapping[str, Any], new: Settings | Mapping[str, Any]) -> list[str]:
    """Differences such as ["optim.lr: 0.005 -> 0.001"]."""
    before, after = _flat(old), _flat(new)
    names = [*before, *(name for name in after if name not in before)]
    return [
        f"{name}: {_text(before, name)} -> {_text(after, name)}"
        for name in names
        if name not in before or name not in after or before[name] != after[name]
    ]


def _validate(
    cls: type[AnySettings],
    data: dict[str, Any],
    source: Callable[[Place], tuple[int, str]],
    overrides: Mapping[str, Any],
    mistakes: list[tuple[int, str]],
) -> AnySettings:
    """Put `overrides` into `data` and validate it.

    source: returns (order, prefix) of the mistake at a place. mistakes: (order, line) known already.
    """
    mistakes = list(mistakes)
    from_call: set[Place] = set()
    for name, value in overrides.items():
        try:
            from_call.add(_lay_over(cls, data, tuple(name.split(".")), value))
        except LookupError as error:
            mistakes.append((_AFTER_THE_FILE, str(error.args[0])))
    settings, found = None, []
    try:
        # Strict JSON: 5 is a number for a float and "a/b" a path, but "5" is no number and true is no 1.
        settings = cls.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        found = describe_mistakes(cls, data, error)
    except SettingsError as error:  # of settings inside these
        found = list(error.places)
    for place, sentence in found:
        called = any(place[: len(option)] == option for option in from_call)
        order, prefix = (_AFTER_THE_FILE, "--") if called else source(place)
        mistakes.append((order, prefix + sentence))
    if mistakes or settings is None:
        lines = [line for _, line in sorted(mistakes, key=itemgetter(0))]
        more = [f"There are {len(lines) - _MOST_SHOWN:,} more mistakes."] if len(lines) > _MOST_SHOWN else []
        raise SettingsError("\n".join([*lines[:_MOST_SHOWN], *more]))
    return settings


def _with_text_keys(data: Any) -> Any:
    """Names such as `1:` and `true:` as text, as in JSON."""
    if isinstance(data, list):
        return [_with_text_keys(value) for value in data]
    return {str(key): _with_text_keys(value) for key, value in data.items()} if isinstance(data, dict) else data


def _source(lines: Mapping[tuple[str, ...], int], path: Path, place: Place) -> tuple[int, str]:
    words = tuple(map(str, place))
    while words and words not in lines:
        words = words[:-1]
    line = lines.get(words, 1)
    return line, f"{path}:{line}: "


def _lay_over(cls: type[BaseModel] | None, data: Any, place: Place, value: Any) -> Place:
    """Put `value` at `place` in `data`, starting a group that the file leaves out from its defaults.

    Returns:
        The first place on the way that was not in `data` before, or `place`.
    """
    first_new: Place | None = None
    here: Place = ()
    for position, key in enumerate(place):
        if isinstance(data, list):
            if not (str(key).isdigit() and int(key) < len(data)):
                known = f"{dotted(here)} is a list of {len(data)} values, counted from 0."
                raise LookupError(f"--{dotted(place)}: {known}")
            key = int(key)
        here = (*here, key)
        if first_new is None and isinstance(data, dict) and key not in data:
            first_new = here
        if position == len(place) - 1:
            data[key] = value
        elif isinstance(data, dict) and not isinstance(data.get(key), dict | list):
            data[key] = {} if key in data else _default_group(cls, str(key))
        cls = _class_of(cls, str(key))
        data = data[key]
    return first_new or here


def _default_group(cls: type[BaseModel] | None, name: str) -> Any:
    """The default of a group or list, plain; an empty group where there is none."""
    field = cls.model_fields.get(name) if cls else None
    default = field.get_default(call_default_factory=True, validated_data={}) if field else None
    return to_jsonable_python(default) if isinstance(default, BaseModel | dict | list | tuple) else {}


def _class_of(cls: type[BaseModel] | None, name: str) -> type[BaseModel] | None:
    if cls is None or name not in cls.model_fields:
        return None
    classes = list(setting_fields(cls.model_fields[name].annotation))
    return classes[0] if len(classes) == 1 else None


def _flat(settings: Settings | Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    plain = plain_settings(settings) if isinstance(settings, Settings) else settings
    values: dict[str, Any] = {}
    for name, value in plain.items():
        if isinstance(value, Mapping) and value:
            values |= _flat(value, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = value
    return values


def _text(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name], ensure_ascii=False).strip('"') if name in values else "(none)"
