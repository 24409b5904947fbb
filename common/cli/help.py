"""Help of verbs within the width of the terminal, each with its example; and tab completion."""

import contextlib
import inspect
import io
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NoReturn, Union, get_type_hints

import tyro

TYRO = (tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalMetavarFromFieldName)
_BOX = "│╭╰─"


def show_help(function: Callable[..., Any], prog: str, shown_as: str = "", note: str = "") -> NoReturn:
    """Print tyro's help of a function; "Example: ARGUMENTS" in its docstring becomes a whole command.

    Args:
        function: with types and a docstring.
        prog: the command, such as "python -m task1_asc evaluate".
        shown_as: the command in the line of usage; by default `prog`.
        note: last paragraphs, one on a line.
    """
    content = io.BytesIO()
    text = io.TextIOWrapper(content, sys.stdout.encoding or "utf-8")  # tyro draws its boxes in UTF-8 only
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        tyro.cli(function, prog=shown_as or prog, args=["--help"], use_underscores=True, config=TYRO)
    text.flush()
    for line in [
        *content.getvalue().decode(text.encoding).rstrip().splitlines(),
        *(["", *note.splitlines()] if note else []),
    ]:
        if line.startswith("Example: "):
            line = f"Example: {prog} {line.removeprefix('Example: ')}"
        print(line if line[:1] in _BOX else fit(line, 4 * line.startswith(("Example: ", "usage: "))))
    raise SystemExit(0)


def fit(text: str, indent: int = 4) -> str:
    """A line of text broken at spaces, within the terminal's width."""
    width = shutil.get_terminal_size().columns
    return textwrap.fill(
        text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )  # fmt: skip


def print_completion(prog: str, verbs: Mapping[str, Any], shell: str) -> None:
    """Print tyro's script that completes verbs and flags of the last word of `prog` in bash, zsh, tcsh or fish."""
    tyro.cli(
        _choice(verbs), prog=prog.split()[-1], args=["--tyro-print-completion", shell], use_underscores=True,
        config=(*TYRO, tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
    )  # fmt: skip


def _choice(verbs: Mapping[str, Any]) -> Any:
    """A type of which each verb is a subcommand."""
    options = [
        Annotated[Any, tyro.conf.subcommand(name, constructor=_constructor(verb), prefix_name=False)]
        for name, verb in verbs.items()
    ]
    return Union[tuple(options)] if len(options) > 1 else options[0]  # noqa: UP007


def _constructor(verb: Any) -> Callable[..., Any]:
    """A function with the arguments of a verb, or with a choice of the verbs in a group."""

    def shown(**arguments: Any) -> None: ...

    if isinstance(verb, Mapping):
        hint: Any = Annotated[_choice(verb), tyro.conf.arg(name="")]
        parameters = [inspect.Parameter("verb", inspect.Parameter.KEYWORD_ONLY, annotation=hint)]
    elif hasattr(verb, "settings_class"):
        hints = get_type_hints(verb.function, include_extras=True)
        _, *flags = inspect.signature(verb.function).parameters.values()
        file = inspect.Parameter(
            "config", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=tyro.conf.Positional[str]
        )
        parameters = [file, *(flag.replace(annotation=hints[flag.name]) for flag in flags)]
    else:
        return verb
    shown.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    shown.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return shown
