"""The command line of every package: verbs are typed functions, settings come from a YAML file.

The end of a package's `__main__.py`:

    def evaluate(run: Positional[Path], *, json: bool = False) -> None:
        '''Score a run on the test split; its section Args holds the help of `run` and `json`.'''
        from toy.evaluate import score  # torch is imported here, never at the top of this file


    VERBS = {
        "data": {"check": check_data, "pack": pack_data},  # `data check`, `data pack`
        "show": config_verb(ToySettings, show),  # `show CONFIG.yaml --optim.lr 0.01`; called as show(settings)
        "evaluate": evaluate,
    }

    if __name__ == "__main__":
        sys.exit(run("python -m toy", VERBS))

A verb returns None or an exit code. It raises `UserError` for invalid arguments, settings or data (exit code 2) and
`CheckFailed` for a failed check (1). Results go to stdout (`print_json`, `print_table`), messages to stderr (`say`).
"""

import errno
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, Union

from common.cli.arguments import ConfigVerb, call_function, call_with_config
from common.errors import CheckFailed, UserError, nearest
from common.output import print_error

Verb = Union[Callable[..., int | None], ConfigVerb, Mapping[str, Any]]  # noqa: UP007
"""A typed function, a verb with a configuration, or a group of further verbs."""


class Terminated(SystemExit):
    """Raised by SIGTERM."""


def run(prog: str, verbs: Mapping[str, Verb], words: Sequence[str] | None = None) -> int:
    """Run the verb that the command line names.

    Args:
        prog: start of the command, such as "python -m task1_asc".
        verbs: verbs by name; a mapping among them is a group of verbs.
        words: the command line; by default the one of this process.

    Returns:
        Exit code: 0 success, 1 a check failed, 2 invalid arguments, settings or data, 130 Ctrl-C, 143 SIGTERM.
    """
    words = list(sys.argv[1:] if words is None else words)
    previous = _on_terminate(_raise_terminated)
    try:
        code = _dispatch(prog, verbs, words) or 0
        sys.stdout.flush()
        return code
    except (UserError, CheckFailed) as error:
        print_error(_sentence(error))
        return 1 if isinstance(error, CheckFailed) else 2
    except SystemExit as stop:
        return _exit_code(stop)
    except KeyboardInterrupt:
        print_error("Stopped by Ctrl-C.")
        return 130
    except BrokenPipeError:
        if not _reader_has_gone():
            raise
        return 0
    except OSError as error:
        if (sentence := _system_refusal(error)) is None:
            raise
        print_error(sentence)
        return 2
    finally:
        _on_terminate(previous)


def _sentence(error: Exception) -> str:
    """The message of an error, without the traceback that torch adds to errors of a loader's worker."""
    text = str(error)
    if not re.match(r"Caught \w+ in DataLoader worker", text):
        return text
    return re.split(r"^[\w.]*(?:Error|Failed): ", text, flags=re.MULTILINE)[-1].strip()


def _dispatch(prog: str, verbs: Mapping[str, Verb], words: list[str]) -> int | None:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview(prog, verbs), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    name, *rest = words
    if name not in verbs:
        near = nearest(name, verbs)
        hint = f"Near it: {', '.join(near)}." if near else f"There are: {', '.join(verbs)}."
        raise UserError(f"{prog} has no verb {name}. {hint}")
    verb = verbs[name]
    if isinstance(verb, Mapping):
        return _dispatch(f"{prog} {name}", verb, rest)
    if isinstance(verb, ConfigVerb):
        return call_with_config(verb, f"{prog} {name}", rest)
    return call_function(verb, f"{prog} {name}", rest)


def _overview(prog: str, verbs: Mapping[str, Verb]) -> str:
    width = max(len(name) for name in verbs)
    lines = [f"  {name:<{width}}  {_first_line(verb)}" for name, verb in verbs.items()]
    return "\n".join([f"usage: {prog} VERB ...", "", *lines, "", f"{prog} VERB --help shows its arguments."])


def _first_line(verb: Verb) -> str:
    if isinstance(verb, Mapping):
        return " | ".join(verb)
    function = verb.function if isinstance(verb, ConfigVerb) else verb
    return (function.__doc__ or "").strip().split("\n")[0]


def _on_terminate(handler: Any) -> Any:
    """Set the handler of SIGTERM and return the previous one; None outside the main thread."""
    try:
        return signal.signal(signal.SIGTERM, handler if handler is not None else signal.SIG_DFL)
    except ValueError:
        return None


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated(143)


def _exit_code(stop: SystemExit) -> int:
    if isinstance(stop, Terminated):
        print_error("Stopped by SIGTERM.")
        return 143
    if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into SystemExit
        print_error("Stopped by Ctrl-C.")
        return 130
    if isinstance(stop.code, str):
        print_error(stop.code)
        return 1
    return stop.code or 0


def _reader_has_gone() -> bool:
    """Whether stdout is a closed pipe; stdout then goes to the null device, so that Python exits without a message."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _system_refusal(error: OSError) -> str | None:
    where = f" {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"No space left to write{where or ' a file'}; free some and repeat the command."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"No permission to access{where or ' a file'}; choose another place or change its permissions."
    if error.errno == errno.EROFS:
        return f"{where.strip() or 'A file'} cannot be written: its file system is read-only."
    return None
