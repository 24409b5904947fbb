"""From the words of a call to a verb's arguments: tyro reads typed functions, settings lie over their YAML file."""

import contextlib
import functools
import inspect
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro
from pydantic import BaseModel
from tyro.conf import Positional as Positional  # for the verbs: `run: Positional[Path]` is an argument without a name

from common.errors import UserError, nearest
from common.runs.folder import SETTINGS_FILE
from common.settings import Settings, load_settings
from common.settings.mistakes import setting_fields
from common.settings.renamed import find_new_name
from common.settings.yaml_file import parse_value, read_yaml

Item = TypeVar("Item")
Repeated = Annotated[tuple[Item, ...], tyro.conf.UseAppendAction]
"""Type of an option that may be given several times, one value each: `over: Repeated[str] = ()`."""

_TYRO = (tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalMetavarFromFieldName)

_PLAIN_WORDS = {
    r"invalid literal for int\(\) with base 10: ('.*?')": r"\1 is no whole number",
    r"could not convert string to float: ('.*?')": r"\1 is no number",
    r"Unrecognized options:": "Not expected:",
    r"Error parsing (--\w+)": r"\1",
}


@dataclass(frozen=True)
class ConfigVerb:
    """A verb that takes CONFIG.yaml, any of its settings as options, and the flags of `function`."""

    settings_class: type[Settings]
    function: Callable[..., int | None]
    config_for: Mapping[str, Path] = field(default_factory=dict)


def config_verb(
    settings_class: type[Settings],
    function: Callable[..., int | None],
    config_for: Mapping[str, str | Path] | None = None,
) -> ConfigVerb:
    """Make a verb `CONFIG.yaml [--any.setting value] [flags of the function]`.

    Args:
        settings_class: schema of the YAML file.
        function: called as function(settings, flag=...); all flags are keyword-only. With a flag `resume`, the call may
            name a run folder, `--resume RUN`, in place of CONFIG.yaml; the settings are then those of the run.
        config_for: flags that may stand alone, with the YAML file that they then use:
            {"fast_check": "task1_asc/configs/small.yaml"}.
    """
    flags = list(inspect.signature(function).parameters)[1:]
    clash = set(flags) & set(settings_class.model_fields)
    assert not clash, f"{clash} are both settings of {settings_class.__name__} and flags of {function.__name__}"
    return ConfigVerb(settings_class, function, {name: Path(path) for name, path in (config_for or {}).items()})


def call_function(function: Callable[..., int | None], prog: str, words: Sequence[str]) -> int | None:
    """Call a typed function with the words of a command line; its mistakes raise UserError, `--help` SystemExit."""
    options = [f"--{name}" for name in inspect.signature(function).parameters]
    return _parse(function, prog, words, options)()


def call_with_config(verb: ConfigVerb, prog: str, words: Sequence[str]) -> int | None:
    """Read CONFIG.yaml with the settings named in the call on top, then call the verb's function."""
    verb = replace(verb, settings_class=_class_of_call(verb.settings_class, words))
    call = _split(verb, words)
    if call.help:
        _show_help(verb, prog, call)
    flags = _parse(_flags_only(verb.function), prog, call.others, [*_flags(verb), *_options(verb.settings_class)])
    path = _settings_path(verb, prog, call, flags.keywords)
    settings = load_settings(verb.settings_class, path, call.overrides)
    return verb.function(settings, **flags.keywords)


def _class_of_call(settings_class: type[Settings], words: Sequence[str]) -> type[Settings]:
    """The schema of the file that the call names; what is wrong with the file is told later, when it is read."""
    for before, word in zip(("", *words), words, strict=False):
        path = Path(word) / SETTINGS_FILE if before == "--resume" else Path(word.removeprefix("--resume="))
        if word.startswith("--resume="):
            path /= SETTINGS_FILE
        if path.suffix == ".yaml" and path.is_file():
            with contextlib.suppress(UserError):
                data = read_yaml(path).data
                return settings_class.for_data(data) if isinstance(data, dict) else settings_class
    return settings_class


@dataclass
class _Call:
    config: Path | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    help: bool = False


def _split(verb: ConfigVerb, words: Sequence[str]) -> _Call:
    """Tell the configuration file, the settings, and the flags of the function apart."""
    call = _Call()
    settings = _options(verb.settings_class)
    flags = _flags(verb)
    left = list(words)
    while left:
        word = left.pop(0)
        option, equals, value = word.partition("=")
        option = option.replace("-", "_").replace("__", "--", 1) if word.startswith("--") else option
        if word in ("-h", "--help"):
            call.help = True
        elif not word.startswith("--"):
            if call.config is None:
                call.config = Path(word)
            else:
                call.others.append(word)
        elif option in flags:
            call.others.append(word)
            if not equals and not flags[option] and left:
                call.others.append(left.pop(0))
        elif option in settings or "." in option:
            values = [value] if equals else _take_values(settings.get(option), left)
            call.overrides[option[2:]] = _setting_value(option, settings.get(option), values)
        else:
            raise _unknown_option(option, [*flags, *settings])
    return call


def _take_values(annotation: Any, left: list[str]) -> list[str]:
    """Take an option's values from the words that are left: several for a list, at most one for anything else."""
    values: list[str] = []
    while left and not left[0].startswith("--") and (not values or _holds(annotation, list, tuple, dict)):
        values.append(left.pop(0))
    return values


def _setting_value(option: str, annotation: Any, values: list[str]) -> Any:
    if not values:
        if _holds(annotation, bool):
            return True
        raise UserError(f"{option} needs a value.")
    text_only = _holds(annotation, str, Path) and not _holds(annotation, int, float, bool)
    if _holds(annotation, list, tuple, dict):
        read = [parse_value(value) for value in values]
        if len(read) == 1 and isinstance(read[0], list | dict | None):
            return read[0]
        return list(values) if text_only else read
    text = "null" if values[0] == "None" else values[0]  # the help writes None
    return text if text_only and text != "null" else parse_value(text)


def _settings_path(verb: ConfigVerb, prog: str, call: _Call, flags: Mapping[str, Any]) -> Path:
    resume = flags.get("resume")
    if resume is not None:
        if call.config is not None:
            raise UserError(f"Give {call.config} or --resume {resume}, not both: a run has its own {SETTINGS_FILE}.")
        return _settings_of_run(Path(resume))
    if call.config is not None:
        return call.config
    for flag, path in verb.config_for.items():
        if flags.get(flag):
            return path
    or_resume = " or --resume RUN" if "resume" in flags else ""
    raise UserError(f"Which settings? Call {prog} CONFIG.yaml{or_resume}.")


def _settings_of_run(folder: Path) -> Path:
    path = folder / SETTINGS_FILE
    if path.is_file():
        return path
    if folder.is_dir():
        raise UserError(f"{folder} is not a run folder: it has no {SETTINGS_FILE}.")
    runs = [run.parent.name for run in folder.parent.glob(f"*/{SETTINGS_FILE}")] if folder.parent.is_dir() else []
    near = nearest(folder.name, runs) or sorted(runs)[:10]
    hint = f" {folder.parent} has: {', '.join(near)}." if near else ""
    raise UserError(f"There is no run folder {folder}.{hint}")


def _parse(
    function: Callable[..., Any], prog: str, words: Sequence[str], options: Sequence[str]
) -> "functools.partial[int | None]":
    """Let tyro read the words; gives the function with its arguments, not yet called."""

    @functools.wraps(function)
    def with_arguments(*args: Any, **kwargs: Any) -> "functools.partial[int | None]":
        return functools.partial(function, *args, **kwargs)

    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            return tyro.cli(with_arguments, prog=prog, args=list(words), use_underscores=True, config=_TYRO)
    except SystemExit as stop:
        if not stop.code:  # the help was asked for
            raise
    for word in words:
        option = word.partition("=")[0].replace("-", "_").replace("__", "--", 1)
        if word.startswith("--") and option not in options:
            raise _unknown_option(option, options)
    raise UserError(f"{_as_sentence(complaint.getvalue(), prog)} See {prog} --help.")


def _unknown_option(option: str, options: Sequence[str]) -> UserError:
    if new := find_new_name(option.removeprefix("--"), [known.removeprefix("--") for known in options]):
        return UserError(f"{option} is now called --{new}.")
    near = nearest(option, options)
    hint = f"Near it: {', '.join(near)}." if near else "See --help."
    return UserError(f"No option {option}. {hint}")


def _as_sentence(box: str, prog: str) -> str:
    """What tyro tells in a frame of several lines, as one sentence."""
    lines = [re.sub(r"[╭╮╰╯│─]+|-{3,}|^[|+]|[|+]$", " ", line).strip() for line in box.splitlines()]
    title, *rest = [line for line in lines if line] or ["Not understood"]
    text = " ".join(rest).partition("For full helptext")[0].partition("Argument helptext")[0]
    text = text.replace(f"Missing from {prog}:", "Missing:").replace("(required)", "").replace(f"{prog} --help", "")
    for theirs, plainly in _PLAIN_WORDS.items():
        text = re.sub(theirs, plainly, text)
    return " ".join(text.split()).rstrip(". ") + "." if text else f"{title}."


def _flags(verb: ConfigVerb) -> dict[str, bool]:
    """Options of the verb's function, and whether they stand without a value."""
    hints = get_type_hints(verb.function)
    names = list(inspect.signature(verb.function).parameters)[1:]
    return {f"--{name}": hints.get(name) is bool for name in names}


def _flags_only(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as tyro shall see it: without its settings."""

    @functools.wraps(function)
    def flags_only(**kwargs: Any) -> None: ...

    signature = inspect.signature(function)
    flags_only.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    return flags_only


def _options(settings_class: type[Settings], prefix: str = "--") -> dict[str, Any]:
    """Option of each setting, with its type: {"--optim.lr": float}."""
    return dict(_iterate_options(settings_class, prefix))


def _iterate_options(settings_class: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, info in settings_class.model_fields.items():
        yield prefix + name, info.annotation
        if not _holds(info.annotation, list, tuple, dict):
            for group in setting_fields(info.annotation):
                yield from _iterate_options(group, f"{prefix}{name}.")


def _holds(annotation: Any, *kinds: type) -> bool:
    """Whether an annotation such as `tuple[float, float] | None` holds one of `kinds`."""
    if annotation in kinds or get_origin(annotation) in kinds:
        return True
    return any(_holds(part, *kinds) for part in get_args(annotation))


def _show_help(verb: ConfigVerb, prog: str, call: _Call) -> None:
    """Print the flags and all settings, with the values of CONFIG.yaml as defaults; ends with SystemExit."""
    function, cls = verb.function, verb.settings_class
    signature = inspect.signature(function)
    default: Settings | None = None
    if call.config is not None:
        default = load_settings(cls, call.config, call.overrides)
    elif not any(info.is_required() for info in cls.model_fields.values()):
        default = cls()
    if default is None:
        _parse(_flags_only(function), f"{prog} CONFIG.yaml", ["--help"], [])
    first, *others = signature.parameters.values()

    # Not functools.wraps: tyro would look behind it, at the original types.
    def with_settings(**kwargs: Any) -> None: ...

    group: Any = Annotated[cls, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands]
    settings = first.replace(kind=first.KEYWORD_ONLY, default=default, annotation=group)
    with_settings.__signature__ = signature.replace(parameters=[*others, settings])  # type: ignore[attr-defined]
    with_settings.__annotations__ = get_type_hints(function, include_extras=True) | {first.name: group}
    with_settings.__doc__ = function.__doc__
    shown_as = f"{prog} {call.config or 'CONFIG.yaml'}"
    tyro.cli(with_settings, prog=shown_as, args=["--help"], use_underscores=True, config=_TYRO)
