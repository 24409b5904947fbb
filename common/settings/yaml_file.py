"""YAML files with the line of every value.

YAML 1.2's plain scalars, not PyYAML's 1.1: `1e-3` is a number, `no` and `on` are text, `010` is ten, `1:30` is text.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError, nearest

Place = tuple[str | int, ...]
"""Path of a value: keys and list positions from the top, such as ("optim", "betas", 0)."""

_DIGITS = "[0-9]+(_[0-9]+)*"
_SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (rf"[-+]?{_DIGITS}", "-+0123456789"),
    "float": (
        rf"[-+]?({_DIGITS}\.({_DIGITS})?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?{_DIGITS}[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
}


# Files beyond these are accidents or attacks; eight lines of aliases can stand for a hundred million values.
_MOST_VALUES = 100_000
_MOST_DEEP = 50
_OPENED = re.compile(r"(?:[\[{]\s*)" + f"{{{_MOST_DEEP + 1}}}")
_NESTED = f"lists and groups are nested more than {_MOST_DEEP} deep"
_MOST_DIGITS = 18  # of a whole number in 64 bits


class _TooLarge(yaml.YAMLError):
    """More values or levels than a file of settings has: a sentence, and the line."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}


class _Dumper(yaml.SafeDumper):
    """Quotes text that either version of YAML would read as another type."""


for _tag, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


@dataclass
class YamlFile:
    """Content of a YAML file.

    data: dicts, lists, texts, numbers, booleans and None.
    lines: line number (from 1) of each place.
    mistakes: (line, sentence) for duplicate keys and the like.
    """

    data: Any = None
    lines: dict[Place, int] = field(default_factory=dict)
    mistakes: list[tuple[int, str]] = field(default_factory=list)


def read_yaml(path: Path) -> YamlFile:
    """Read a YAML file with line numbers.

    Raises:
        UserError: the file is missing, is not text, or is not YAML; with the line.
    """
    text = _read_text(Path(path))
    try:
        return _parse(text)
    except _TooLarge as error:
        sentence, line = error.args
        raise UserError(f"{path}:{line}: {sentence}.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UserError(f"{path}:{line}: this is not YAML: {error.problem}{_tab_hint(text, line)}.") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"{path}:{line}: this is not YAML: it holds the control character {error.character:#04x}."
        ) from None


def _parse(text: str) -> YamlFile:
    if opened := _OPENED.search(text):  # quicker than the parser, which looks far ahead at each bracket
        raise _TooLarge(_NESTED, text.count("\n", 0, opened.start()) + 1)
    file, loader = YamlFile(), _Loader(text)
    try:
        node = loader.get_single_node()
    except RecursionError:
        raise _TooLarge(_NESTED, loader.get_mark().line + 1) from None
    finally:
        loader.dispose()
    if node is not None:
        file.data = _construct(node, (), file, parents=())
    return file


def parse_value(text: str) -> Any:
    """Read a value as in a YAML file: "1e-3" is a number, "[1, 2]" a list, "null" None."""
    try:
        file = _parse(text)
    except yaml.YAMLError:
        return text
    return text if file.mistakes else file.data


def to_yaml(data: object) -> str:
    """YAML text that `read_yaml` reads back as equal `data`."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def dotted(place: Place) -> str:
    """("optim", "betas", 0) to "optim.betas.0"."""
    return ".".join(str(key) for key in place)


def _read_text(path: Path) -> str:
    if path.is_dir():
        raise UserError(f"{path} is a folder; a YAML file is needed. {_files_in(path, '')}")
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. {_files_in(path.parent, path.name)}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: this is not text in UTF-8.") from None


def _files_in(folder: Path, name: str) -> str:
    if not folder.is_dir():
        return f"Its folder {folder} does not exist either."
    names = sorted(file.name for file in folder.iterdir() if file.suffix in (".yaml", ".yml"))
    if not names:
        return f"{folder} has no YAML files."
    near = nearest(name, names)
    return f"Near it: {', '.join(near)}." if near else f"{folder} has: {', '.join(names[:10])}."


def _tab_hint(text: str, line: int) -> str:
    rows = text.splitlines()
    starts_with_tab = line <= len(rows) and rows[line - 1].lstrip(" ").startswith("\t")
    return " (indent with spaces, not tabs)" if starts_with_tab else ""


def _construct(node: yaml.Node, place: Place, file: YamlFile, parents: tuple[int, ...]) -> Any:
    line = node.start_mark.line + 1
    file.lines.setdefault(place, line)
    if id(node) in parents:
        file.mistakes.append((line, f"{dotted(place)} refers to itself."))
        return None
    if len(parents) > _MOST_DEEP:
        raise _TooLarge(_NESTED, line)
    if len(file.lines) > _MOST_VALUES:
        raise _TooLarge(f"aliases make more than {_MOST_VALUES:,} values of it", line)
    parents = (*parents, id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*place, index), file, parents) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _construct_mapping(node, place, file, parents)
    assert isinstance(node, yaml.ScalarNode)
    return _construct_scalar(node, place, file)


def _construct_mapping(node: yaml.MappingNode, place: Place, file: YamlFile, parents: tuple[int, ...]) -> dict:
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            file.mistakes.append((line, "a name must be one word, not a list or a group."))
            continue
        key = _construct_scalar(key_node, place, file)
        here = (*place, key)
        if key in mapping:
            file.mistakes.append((line, f"{dotted(here)} is given twice, first in line {file.lines[here]}."))
            continue
        file.lines[here] = line
        mapping[key] = _construct(value_node, here, file, parents)
    return mapping


def _construct_scalar(node: yaml.ScalarNode, place: Place, file: YamlFile) -> Any:
    tag, text = node.tag.removeprefix("tag:yaml.org,2002:"), node.value
    if tag == "str":
        return text
    if tag not in _SCALARS or not re.fullmatch(_SCALARS[tag][0], text):
        file.mistakes.append(
            (node.start_mark.line + 1, f"{dotted(place)} has the tag {node.tag}, which is not supported.")
        )
        return text
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() == "true"
    if tag == "int" and sum(map(str.isdigit, text)) > _MOST_DIGITS:
        sentence = f"{dotted(place)} has {len(text)} digits; a whole number has at most {_MOST_DIGITS}."
        file.mistakes.append((node.start_mark.line + 1, sentence))
        return 0
    return int(text) if tag == "int" else float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
