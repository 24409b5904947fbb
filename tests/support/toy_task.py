"""The smallest task: settings, a data set, a metric and a list of stages; the kit gives it everything else."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import Positional, Verb, print_table, run, say, sweep_verb, train_verb
from common.data.files import write_json
from common.reports.html import Section, table, write_report
from common.runs.folder import run_folders
from common.runs.recipe import Recipe
from common.runs.run import Run
from common.runs.stages import Stage
from common.settings import Field, RunSettings


class ToySettings(RunSettings):
    """Settings of a line through noisy points."""

    runs: Path = Path("runs/toy")
    """Folder of the runs."""
    points: int = Field(20, ge=2)
    """Training points."""
    noise: float = Field(0.1, ge=0)
    """Deviation of the noise."""
    steps: int = Field(5, ge=1)
    """Steps of gradient descent."""


def read_points(settings: ToySettings, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The data set: x and y = 2 x + noise."""
    random = np.random.default_rng((settings.seed, len(split)))
    x = random.uniform(-1, 1, settings.points)
    return x, 2 * x + settings.noise * random.normal(size=settings.points)


def mean_squared_error(slope: float, x: np.ndarray, y: np.ndarray) -> float:
    """The metric."""
    return float(((slope * x - y) ** 2).mean())


def train(run: Run[ToySettings], settings: ToySettings, fast_check: bool = False) -> None:
    """Fit the slope step by step; the file survives a kill, and the run continues after the last step."""
    (x, y), path = read_points(settings, "train"), run.folder / "train" / "slope.txt"
    slopes = [float(line) for line in path.read_text().split()] if path.exists() else [0.0]
    for step in range(len(slopes), (2 if fast_check else settings.steps) + 1):
        slopes.append(slopes[-1] - 0.5 * float((2 * (slopes[-1] * x - y) * x).mean()))
        path.write_text("\n".join(map(str, slopes)))
        if os.environ.get("KILL_AT") == str(step):
            os.kill(os.getpid(), signal.SIGKILL)


def test(run: Run[ToySettings], settings: ToySettings, fast_check: bool = False) -> None:
    """Score the last slope."""
    slope = float(run.checkpoint("train/slope.txt").read_text().split()[-1])
    error = mean_squared_error(slope, *read_points(settings, "test"))
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    write_json(run.folder / "test" / "evaluation.json", {"error": error, "slope": slope, "gpu": gpu})


def make_stages(settings: ToySettings) -> list[Stage]:
    """Training, then scoring."""
    learned = ("seed", "points", "noise", "steps")
    return [Stage("train", train, uses=learned), Stage("test", test, uses=learned, alone=True)]


def result_row(run: Run[ToySettings]) -> dict[str, Any]:
    """One figure."""
    return {"error": run.read_evaluation()["error"]}


def is_made_up(settings: ToySettings) -> bool:
    """Always."""
    return True


RECIPE = Recipe(ToySettings, make_stages, result_row, is_made_up)


def load_recipe() -> Recipe[ToySettings]:
    """A real task imports it here, since torch comes with it."""
    return RECIPE


def show(run: Run[ToySettings]) -> None:
    """Print the figures of a run."""
    print_table([result_row(run)])


def report(runs: Positional[tuple[Path, ...]]) -> None:
    """Write report.html with a row for each run.

    Args:
        runs: folders of runs or sweeps.
    """
    rows = [{"run": path.name, **result_row(RECIPE.open(path))} for path in run_folders(runs)]
    say(f"Wrote {write_report(runs[0] / 'report.html', 'Toy', [Section('Results', [table(rows)])], '', True)}.")


VERBS: dict[str, Verb] = {
    "train": train_verb(ToySettings, load_recipe, show, "Fit a line and test it."),
    "sweep": sweep_verb(ToySettings, load_recipe),
    "report": report,
}

if __name__ == "__main__":
    sys.exit(run("python -m tests.support.toy_task", VERBS))
