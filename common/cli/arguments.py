"""From the command line to the arguments of a verb: tyro sorts the words, pydantic checks the values."""

import contextlib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro
from pydantic import BaseModel, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic takes typing's from Python 3.12 on
from tyro.conf import Positional as Positional  # exported: `run: Positional[Path]` is an argument without a name
from tyro.constructors import PrimitiveConstructorSpec

from common.cli.help import show_help
from common.errors import UserError, nearest
from common.runs.folder import SETTINGS_FILE
from common.settings import Settings, load_settings, plain_settings
from common.settings.mistakes import describe_mistakes, find_new_name
from common.settings.schema import iterate_settings
from common.settings.yaml_file import parse_value, read_yaml

Item = TypeVar("Item")
Repeated = Annotated[tuple[Item, ...], tyro.conf.UseAppendAction]
"""Type of an option that may be given several times, one value each: `over: Repeated[str] = ()`."""

Precision = Literal["float32", "bf16", "auto"]
"""Type of `--precision` of verbs that run networks."""

_CONFIG = "CONFIG.yaml"
_HELP = {"-h", "--help"}


@dataclass(frozen=True)
class ConfigVerb:
    """A verb that takes CONFIG.yaml, any of its settings as options, and the flags of `function`."""

    settings_class: type[Settings]
    function: Callable[..., int | None]
    config_for: Mapping[str, Path] = field(default_factory=dict)
    config_of: Callable[[Path], tuple[Path, dict[str, Any]]] | None = None


def config_verb(
    settings_class: type[Settings],
    function: Callable[..., int | None],
    config_for: Mapping[str, str | Path] | None = None,
    config_of: Callable[[Path], tuple[Path, dict[str, Any]]] | None = None,
) -> ConfigVerb:
    """Make a verb `CONFIG.yaml [--any.setting value] [flags of the function]`.

    Args:
        settings_class: schema of the YAML file.
        function: called as function(settings, flag=...); all flags are keyword-only. If it has a flag `resume`,
            `--resume RUN` may replace CONFIG.yaml and takes the settings of the run.
        config_for: default YAML file of a flag: {"fast_check": "task1_asc/configs/small.yaml"}.
        config_of: YAML file and settings for a folder or table of data in place of CONFIG.yaml; None takes none.
    """
    flags = list(inspect.signature(function).parameters)[1:]
    clash = set(flags) & set(settings_class.model_fields)
    assert not clash, f"{clash} are both settings of {settings_class.__name__} and flags of {function.__name__}"
    paths = {name: Path(path) for name, path in (config_for or {}).items()}
    return ConfigVerb(settings_class, function, paths, config_of)


def call_function(function: Callable[..., int | None], prog: str, words: Sequence[str]) -> int | None:
    """Call a typed function with a command line. Mistakes raise UserError, `--help` raises SystemExit."""
    if not _HELP.isdisjoint(words):
        show_help(function, prog)
    hints = _hints(function)
    options = [name for name, hint in hints.items() if not _is_positional(hint)]
    given = _sort_words(hints, words, options, prog)
    _refuse_missing(function, hints, given, prog)
    return function(**_check_values(hints, given))


def call_with_config(verb: ConfigVerb, prog: str, words: Sequence[str]) -> int | None:
    """Load CONFIG.yaml with the overrides of a command line and call the function of the verb."""
    cls = _class_of_call(verb.settings_class, words)
    flags = dict(list(_hints(verb.function).items())[1:])
    settings = dict(iterate_settings(cls))
    call = [word for word in words if word not in _HELP]
    named = _named_settings(call, flags, settings)
    given = _sort_words({_CONFIG: Positional[Path], **flags, **named}, call, [*flags, *settings], prog)
    config = Path(given[_CONFIG][0]) if _CONFIG in given else None
    overrides = {name: _setting_value(settings.get(name), given[name]) for name in named}
    if verb.config_of is not None and config is not None and config.suffix not in (".yaml", ".yml"):
        config, own = verb.config_of(config)
        overrides = own | overrides
    if len(call) < len(words):
        _show_help(verb.function, cls, config, overrides, prog)
    arguments = _check_values(flags, {name: given[name] for name in flags if name in given})
    path = _settings_path(verb, prog, config, arguments)
    _refuse_missing(verb.function, flags, given, prog)
    return verb.function(load_settings(cls, path, overrides), **arguments)


def _refuse_missing(function: Callable[..., Any], hints: Mapping[str, Any], given: Collection[str], prog: str) -> None:
    """Refuse a call without an argument that has no default."""
    parameters = inspect.signature(function).parameters
    missing = [name for name in hints if parameters[name].default is inspect.Parameter.empty and name not in given]
    if missing:
        shown = [name.upper() if _is_positional(hints[name]) else f"--{name}" for name in missing]
        raise UserError(f"Missing: {', '.join(shown)}. See {prog} --help.")


def _class_of_call(settings_class: type[Settings], words: Sequence[str]) -> type[Settings]:
    """The schema for the file or run in the command line; mistakes in the file are reported when it is loaded."""
    for word in words:
        path = Path(word.removeprefix("--resume="))
        path = path / SETTINGS_FILE if path.is_dir() else path
        if path.suffix == ".yaml" and path.is_file():
            with contextlib.suppress(UserError):
                data = read_yaml(path).data
                return settings_class.for_data(data) if isinstance(data, dict) else settings_class
    return settings_class


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    hints = get_type_hints(function, include_extras=True)
    return {name: hints[name] for name in inspect.signature(function).parameters}


def _named_settings(words: Sequence[str], flags: Collection[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a command line with the type of their words: bool for none, a list for any number, else str.

    Unknown names with a dot are kept: they may lead into a list or a dict, known only after loading.
    """
    named: dict[str, Any] = {}
    for word, following in pairwise([*words, "--"]):
        name, equals, _ = _split_option(word)
        if not word.startswith("--") or name in flags:
            continue
        if name not in settings and "." not in name:
            raise _unknown_option(name, [*flags, *settings])
        if _holds(settings.get(name), list, tuple, dict):
            named[name] = list[str]
        else:
            is_switch = _holds(settings.get(name), bool) and not isinstance(parse_value(following), bool | None)
            named[name] = bool if is_switch and not equals else str
    return named


def _sort_words(
    hints: Mapping[str, Any], words: Sequence[str], known: Collection[str], prog: str
) -> dict[str, list[str]]:
    """Sort a command line with tyro: the words of each argument in it.

    tyro does not convert them: it prints its errors instead of raising them, and does not read YAML values (`null`,
    `[0.9, 0.99]`).
    """
    for word, following in pairwise([*words, "--"]):
        name, equals, _ = _split_option(word)
        if equals and hints.get(name) is bool:
            raise UserError(f"--{name} takes no value.")
        if not equals and following.startswith("--") and word.startswith("--") and hints.get(name, bool) is not bool:
            raise UserError(f"--{name} needs a value.")
    found, rest = tyro.cli(
        _typed_dict({name: _as_words(hint) for name, hint in hints.items()}),
        prog=prog,
        args=words,
        default=dict.fromkeys(hints, ()),
        return_unknown_args=True,
        use_underscores=True,
    )
    for word in rest:
        if word.startswith("--"):
            raise _unknown_option(_split_option(word)[0], known)
        raise UserError(f"Unexpected argument: {word}. See {prog} --help.")
    return {name: list(texts) for name, texts in found.items() if texts}


def _as_words(hint: Any) -> Any:
    """A type that keeps the words of an argument: none for a flag, any number for a list, else one."""
    marks = getattr(hint, "__metadata__", ())
    if tyro.conf.UseAppendAction in marks:
        return Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    spec = PrimitiveConstructorSpec[list[str]](
        nargs=0 if hint is bool else "*" if _holds(hint, list, tuple) else 1,
        metavar="",
        instance_from_str=lambda texts: ["true"] if hint is bool else list(texts),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [],
    )
    return Annotated[(Any, spec, *marks)]


def _split_option(word: str) -> tuple[str, str, str]:
    """--optim.clip-norm=1 to ("optim.clip_norm", "=", "1")."""
    name, equals, value = word.removeprefix("--").partition("=")
    return name.replace("-", "_"), equals, value


def _unknown_option(name: str, known: Collection[str]) -> UserError:
    if new := find_new_name(name, known):
        return UserError(f"--{name} is now called --{new}.")
    if meant := [f"--{each}" for each in known if each.endswith(f".{name}")]:
        return UserError(f"No option --{name}. Did you mean {' or '.join(meant[:3])}?")
    near = nearest(f"--{name}", [f"--{each}" for each in known])
    hint = f"Near it: {', '.join(near)}." if near else "See --help."
    return UserError(f"No option --{name}. {hint}")


def _check_values(hints: Mapping[str, Any], given: Mapping[str, list[str]]) -> dict[str, Any]:
    """The arguments of a function, converted to their types."""
    words = {
        name: texts if _holds(hints[name], list, tuple) else _choice(hints[name], texts[-1])
        for name, texts in given.items()
    }
    try:
        return TypeAdapter(_typed_dict({name: hints[name] for name in given})).validate_python(words)
    except ValidationError as error:
        mistakes = [(str(place[0]), text) for place, text in describe_mistakes(BaseModel, words, error)]
        lines = [text if _is_positional(hints[name]) else f"--{text}" for name, text in mistakes]
        raise UserError("\n".join(lines)) from None


def _choice(hint: Any, text: str) -> Any:
    """The value of a Literal that is written `text`: pydantic does not accept "2025" for 2025."""
    choices = [value for part in (hint, *get_args(hint)) if get_origin(part) is Literal for value in get_args(part)]
    return next((value for value in choices if str(value) == text), text)


def _typed_dict(fields: Mapping[str, Any]) -> Any:
    return TypedDict("Arguments", dict(fields))  # type: ignore[operator]


def _setting_value(annotation: Any, words: list[str]) -> Any:
    """The value of a setting, read as in YAML; text settings keep the words."""
    text_only = _holds(annotation, str, Path) and not _holds(annotation, int, float, bool)
    values = [parse_value("null" if word == "None" else word) for word in words]  # the help writes None
    if _holds(annotation, list, tuple, dict):
        if len(values) == 1 and isinstance(values[0], list | dict | None):
            return values[0]
        return words if text_only else values
    return words[-1] if text_only and values[-1] is not None else values[-1]


def _settings_path(verb: ConfigVerb, prog: str, config: Path | None, flags: Mapping[str, Any]) -> Path:
    resume = flags.get("resume")
    if resume is not None:
        if config is not None:
            raise UserError(f"Give either {config} or --resume {resume}, not both: a run has its own {SETTINGS_FILE}.")
        return _settings_of_run(Path(resume))
    if config is not None:
        return config
    for flag, path in verb.config_for.items():
        if flags.get(flag):
            return path
    or_data = "" if verb.config_of is None else ", a folder or table of clips,"
    or_resume = " or --resume RUN" if "resume" in inspect.signature(verb.function).parameters else ""
    raise UserError(f"The settings are missing. Call {prog} CONFIG.yaml{or_data}{or_resume}.")


def _settings_of_run(folder: Path) -> Path:
    path = folder / SETTINGS_FILE
    if path.is_file():
        return path
    if folder.is_dir():
        raise UserError(f"{folder} is not a run folder: it has no {SETTINGS_FILE}.")
    runs = [run.parent.name for run in folder.parent.glob(f"*/{SETTINGS_FILE}")] if folder.parent.is_dir() else []
    near = nearest(folder.name, runs) or sorted(runs)[:10]
    hint = f" {folder.parent} has: {', '.join(near)}." if near else ""
    raise UserError(f"The run folder {folder} does not exist.{hint}")


def _holds(annotation: Any, *kinds: type) -> bool:
    """Whether an annotation such as `tuple[float, float] | None` holds one of `kinds`."""
    if annotation in kinds or get_origin(annotation) in kinds:
        return True
    return any(_holds(part, *kinds) for part in get_args(annotation))


def _is_positional(hint: Any) -> bool:
    return Positional in getattr(hint, "__metadata__", ())


def _show_help(
    function: Callable[..., Any], cls: type[Settings], config: Path | None, overrides: Mapping[str, Any], prog: str
) -> None:
    """Print the flags and all settings, with the values of CONFIG.yaml as defaults; ends with SystemExit."""
    default: Settings | None = None
    if config is not None:
        default = load_settings(cls, config, overrides)
    elif not any(info.is_required() for info in cls.model_fields.values()):
        default = cls()
    first, *others = inspect.signature(function).parameters.values()

    # Not functools.wraps: tyro would look behind it, at the original types.
    def shown(**kwargs: Any) -> None: ...

    group: Any = Annotated[cls, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands]
    settings = [] if default is None else [first.replace(kind=first.KEYWORD_ONLY, default=default, annotation=group)]
    shown.__signature__ = inspect.Signature([*others, *settings])  # type: ignore[attr-defined]
    shown.__annotations__ = get_type_hints(function, include_extras=True) | {first.name: group}
    shown.__doc__ = function.__doc__
    note = f"Every setting of {_CONFIG} is an option, too: `{prog} {_CONFIG} --help` lists them with their values."
    if default is not None:
        off = _groups_that_are_off(default)
        lines = [f"  --{group}.NAME  {', '.join(names)}" for group, names in off.items()]
        note = "\n".join(["Groups that are off (null); one of their settings turns them on:", *lines] if off else [])
    show_help(shown, prog, f"{prog} {config or _CONFIG}", note)


def _groups_that_are_off(settings: Settings) -> dict[str, list[str]]:
    """Groups of settings that are null, with the names of their settings."""
    off: dict[str, list[str]] = {}
    plain: Any = plain_settings(settings)
    for name in dict(iterate_settings(type(settings))):
        value, parts = plain, name.split(".")
        for count, part in enumerate(parts[:-1], start=1):
            value = value.get(part) if isinstance(value, dict) else {}
            if value is None:
                off.setdefault(".".join(parts[:count]), []).extend(parts[count:] if count == len(parts) - 1 else [])
                break
    return off
