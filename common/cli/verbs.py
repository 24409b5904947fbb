"""The command line of every package: verbs are typed functions, settings come from a YAML file.

The end of a package's `__main__.py`:

    def evaluate(run: Positional[Path], *, json: bool = False) -> None:
        '''Score a run on the test split; its section Args holds the help of `run` and `json`.'''
        from toy.evaluate import score  # torch is imported here, never at the top of this file


    VERBS = {
        "data": {"check": check_data, "pack": pack_data},  # `data check`, `data pack`
        "show": config_verb(ToySettings, show),  # `show CONFIG.yaml --optim.lr 0.01`; called as show(settings)
        "evaluate": evaluate,
        "train": train_verb(ToySettings, load_recipe, show_figures, "Train a toy network and test it.", SMALL),
        "sweep": sweep_verb(ToySettings, load_recipe),
    }

    if __name__ == "__main__":
        sys.exit(run("python -m toy", VERBS))

`train` and `sweep` of a recipe have the same flags in every task; load_recipe() imports it, and torch with it.

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
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

from common.cli.arguments import ConfigVerb, Repeated, call_function, call_with_config, config_verb
from common.cli.help import fit, print_completion
from common.errors import CheckFailed, UserError, nearest
from common.output import print_error, say, show_everything
from common.settings import RunSettings

if TYPE_CHECKING:
    from common.runs.processes import Executor
    from common.runs.recipe import Recipe
    from common.runs.run import Run

S = TypeVar("S", bound=RunSettings)
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
    show_everything("--wide" in words)
    words = [word for word in words if word != "--wide"]
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
    except (OSError, RuntimeError) as error:
        if (sentence := _system_refusal(_of_the_system(error))) is None:
            raise
        print_error(sentence)
        return 2
    finally:
        _on_terminate(previous)


def train_verb(
    settings_class: type[S],
    load_recipe: "Callable[[], Recipe[S]]",
    show: "Callable[[Run[S]], None]",
    summary: str,
    small: str | Path | None = None,
    config_of: Callable[[Path], tuple[Path, dict[str, Any]]] | None = None,
    check: Callable[[S], object] | None = None,
) -> ConfigVerb:
    """The verb `train`.

    Args:
        settings_class: schema of CONFIG.yaml.
        load_recipe: imports the recipe.
        show: prints the figures of a finished run.
        summary: first line of the help.
        small: YAML file that `--fast_check` uses when no other is given.
        config_of: YAML file and settings for data that are given in its place; see `config_verb`.
        check: refuses unreadable data before the recipe and torch are imported.
    """

    def train(
        settings: Any,
        *,
        resume: Path | None = None,
        redo: Repeated[str] = (),
        fast_check: bool = False,
        jobs: int = 1,
        on: Literal["here", "slurm"] = "here",
        slurm_partition: str | None = None,
        slurm_minutes: int = 1440,
        slurm_gpus: int = 0,
        slurm_cpus: int = 2,
    ) -> None:
        """SUMMARY.

        Example: CONFIG --seed 1

        Args:
            resume: run folder to resume; its settings.yaml replaces CONFIG.yaml.
            redo: stage to run again, with all stages that depend on it; may be repeated.
            fast_check: two steps of everything in a temporary folder.
            jobs: stages to run at the same time on this machine; each has one GPU where there are any.
            on: this machine, or SLURM with a job for each stage.
            slurm_partition: partition; by default the cluster's.
            slurm_minutes: time limit of a stage; one that reaches it is queued again and resumes.
            slurm_gpus: GPUs of each stage.
            slurm_cpus: cores of each stage.
        """
        if check is not None:
            check(settings)
        recipe = load_recipe()
        if fast_check:
            recipe.check(settings)
            return
        executor = make_executor(jobs, on, slurm_partition, slurm_minutes, slurm_gpus, slurm_cpus)
        finished = recipe.run(settings, resume, redo, executor)
        show(finished)
        say(f"The run is in {finished.folder}.")

    train.__doc__ = (
        (train.__doc__ or "").replace(": CONFIG", f": {small or 'CONFIG.yaml'}").replace("SUMMARY.", summary)
    )
    return config_verb(settings_class, train, {} if small is None else {"fast_check": small}, config_of)


def sweep_verb(settings_class: type[S], load_recipe: "Callable[[], Recipe[S]]") -> ConfigVerb:
    """The verb `sweep`; see `train_verb`."""

    def sweep(
        settings: Any,
        *,
        over: Repeated[str] = (),
        trials: int = 0,
        jobs: int = 1,
        on: Literal["here", "slurm"] = "here",
        slurm_partition: str | None = None,
        slurm_minutes: int = 1440,
        slurm_gpus: int = 0,
        slurm_cpus: int = 2,
    ) -> None:
        """Train every combination of values of some settings; finished ones are skipped.

        Example: CONFIG.yaml --over seed=0,1,2 --jobs 2

        Args:
            over: a setting and its values, such as seed=0,1,2; with --trials a range, such as optim.lr=log:1e-4:1e-2
                or optim.weight_decay=range:0:0.1; may be repeated.
            trials: number of trainings of a search with optuna, which chooses on the validation and does not test.
            jobs: runs to train at the same time on this machine; each has one GPU where there are any.
            on: this machine, or SLURM with a job for each run.
            slurm_partition: partition; by default the cluster's.
            slurm_minutes: time limit of a run; one that reaches it is queued again and resumes.
            slurm_gpus: GPUs of each run.
            slurm_cpus: cores of each run.
        """
        from common.reports.html import print_results
        from common.runs.results_table import shown_rows
        from common.runs.sweep import parse_over
        from common.runs.tuning import parse_ranges

        ranges = parse_ranges(over)
        if bool(ranges) != (trials > 0) or 0 < len(ranges) < len(over):
            raise UserError("A search takes ranges and a number: --over optim.lr=log:1e-4:1e-2 --trials 20.")
        recipe = load_recipe()
        executor = make_executor(jobs, on, slurm_partition, slurm_minutes, slurm_gpus, slurm_cpus)
        if ranges:
            folder, rows = recipe.search(settings, ranges, trials, executor)
            print_results(shown_rows(rows, ["trial", *ranges]), f"Search {folder}, best first, per cent")
            best = " ".join(f"--{name} {rows[0][name]}" for name in ranges)
            say(f"Train and test the best under another name: {best} --name NAME.")
            return
        values = parse_over(over)
        folder, rows = recipe.sweep(settings, values, executor)
        title = f"Sweep {folder}, shares in per cent"
        print_results(shown_rows(rows, list(values)), title, recipe.is_made_up(settings))
        say(f"The table is {folder / 'results.csv'}; see `report {folder}`.")

    return config_verb(settings_class, sweep)


def make_executor(
    jobs: int,
    on: Literal["here", "slurm"] = "here",
    partition: str | None = None,
    minutes: int = 1440,
    gpus: int = 0,
    cpus: int = 2,
) -> "Executor | None":
    """The executor that a call asks for; None for one job at a time in this process."""
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}; ask for at least 1.")
    if jobs == 1 and on == "here":
        return None
    from common.runs.processes import Executor
    from common.runs.tasks import SlurmSettings

    return Executor(jobs, on, SlurmSettings(partition=partition, minutes=minutes, gpus=gpus, cpus=cpus))


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
    if name.replace("_", "-") == "--tyro-print-completion" and rest:
        print_completion(prog, verbs, rest[0])
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
    lines = [fit(f"  {name:<{width}}  {_first_line(verb)}", width + 4) for name, verb in verbs.items()]
    last = [f"{prog} VERB --help shows its arguments and an example.", "--wide shows all columns of its tables."]
    return "\n".join([f"usage: {prog} VERB ...", "", *lines, "", *last])


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


def _of_the_system(error: OSError | RuntimeError) -> OSError:
    """The error of the system that HDF5 wraps in one of its own while it closes a file; without a number if none."""
    found = re.search(r"filename = '(.*?)'.* errno = (\d+)", str(error), re.DOTALL)
    if isinstance(error, OSError) or found is None:
        return error if isinstance(error, OSError) else OSError()
    return OSError(int(found[2]), "", found[1])


def _system_refusal(error: OSError) -> str | None:
    place = error.filename2 or error.filename  # of a renamed file the new name
    where = f" {place}" if place else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"No space left to write{where or ' a file'}; free some and repeat the command."
    if error.errno == errno.EFBIG:
        return f"{where.strip() or 'A file'} is larger than `ulimit -f` allows; raise it and repeat the command."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"No permission to access{where or ' a file'}; choose another place or change its permissions."
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY):
        return f"{where.strip()}: {error.strerror}; a folder and a file are mixed up, choose another place."
    if error.errno == errno.EROFS:
        return f"{where.strip() or 'A file'} cannot be written: its file system is read-only."
    return None
