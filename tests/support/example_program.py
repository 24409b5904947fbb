"""A small program on the kit's command line, for the tests that start it as a process."""

import os
import signal
import sys
import time
from pathlib import Path

from common.cli import Positional, Repeated, config_verb, print_json, print_table, run, say
from common.errors import CheckFailed, UserError
from common.runs.run import Run
from common.runs.stages import Stage, run_stages
from common.settings import Field, Settings
from tests.support.places import ROOT

CONFIG = str(ROOT / "tests" / "support" / "example.yaml")
COMMAND = [sys.executable, "-m", "tests.support.example_program"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


class Optim(Settings):
    """AdamW with warm-up."""

    lr: float = Field(5e-3, gt=0)
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = 1.0


class Example(Settings):
    """Settings of the example."""

    name: str = "example"
    subset: int = Field(100, ge=1, le=100)
    """Percent of the training list."""
    shuffle: bool = True
    places: list[str] = []
    optim: Optim = Optim()
    steps: int = Field(5, ge=1)


def train(
    settings: Example,
    *,
    resume: Path | None = None,
    redo: Repeated[str] = (),
    root: Path = Path("runs"),
    fast_check: bool = False,
) -> None:
    """Train the example.

    Args:
        resume: run folder to go on with.
        redo: stage to do again.
        root: folder of the runs.
        fast_check: two steps.
    """
    run_stages(Run(resume or root / settings.name, settings), STAGES, redo)


def count_slowly(run: Run, settings: Example) -> None:
    """Count to settings.steps in the file `count`, which survives a kill; the run can stop itself at a step."""
    path = run.folder / "count" / "count.txt"
    done = int(path.read_text()) if path.exists() else 0
    for step in range(done + 1, settings.steps + 1):
        path.write_text(str(step))
        say(f"step {step}")
        if os.environ.get("STOP_AT") == str(step):
            os.kill(os.getpid(), int(os.environ["STOP_SIGNAL"]))
            signal.pause()
        time.sleep(float(os.environ.get("STEP_SECONDS", "0")))


def double(run: Run, settings: Example) -> None:
    """Twice what was counted."""
    (count,) = run.files("count/count.txt")
    (run.folder / "double" / "double.txt").write_text(str(2 * int(count.read_text()) * settings.optim.lr))
    run.notes["energy_kwh"] = 0.25


STAGES = [Stage("count", count_slowly, uses=("steps",)), Stage("double", double, uses=("steps", "optim.lr"))]


def show(settings: Example) -> None:
    """Print the settings."""
    print_json(settings.model_dump(mode="json"))


def grid(settings: Example, *, over: Repeated[str] = (), jobs: int = 1) -> None:
    """Print what a sweep would do."""
    print_json({"over": over, "jobs": jobs, "subset": settings.subset})


def evaluate(run: Positional[Path], *, json: bool = False, top: int = 3) -> int:
    """Score a run.

    Args:
        run: run folder.
        json: print JSON.
        top: how many.
    """
    rows = [{"run": run, "top": top}]
    print_json(rows) if json else print_table(rows)
    return 0


def fail(how: Positional[str]) -> None:
    """Fail in some way."""
    errors = {
        "user": UserError("The folder is empty; give another."),
        "check": CheckFailed("One rule does not hold."),
        "space": OSError(28, "No space left on device", "/some/file"),
        "hdf5": RuntimeError(
            "Can't decrement id ref count (file write failed: time = Sat Nov 28 10:41:32 2026\n"
            ", filename = '/some/file', file descriptor = 3, errno = 28, error message = 'No space left on device')"
        ),
        "permission": PermissionError(13, "Permission denied", "/some/file"),
        "read_only": OSError(30, "Read-only file system", "/some/file"),
        "bug": KeyError("tau22"),
        "own": RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        "ctrl_c": KeyboardInterrupt(),
        "other_pipe": BrokenPipeError(32, "Broken pipe"),
    }
    raise errors[how]


def wait() -> None:
    """Wait for a signal."""
    say("waiting")
    time.sleep(30)


def talk() -> None:
    """Print much."""
    for number in range(200_000):
        print(number)


def loaded() -> None:
    """Print which heavy packages are loaded."""
    print_json([name for name in ("torch", "lightning", "pandas", "matplotlib", "scipy") if name in sys.modules])


VERBS = {
    "train": config_verb(Example, train, {"fast_check": Path(CONFIG)}),
    "show": config_verb(Example, show),
    "grid": config_verb(Example, grid),
    "evaluate": evaluate,
    "fail": fail,
    "wait": wait,
    "talk": talk,
    "data": {"loaded": loaded, "wait": wait},
}

if __name__ == "__main__":
    sys.exit(run("python -m tests.support.example_program", VERBS))
