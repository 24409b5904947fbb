"""Search for good values of settings with optuna: `sweep --over optim.lr=log:1e-4:1e-2 --trials 20`.

The objective is a figure of the validation: the stages of a trial are run without the test. trials.json holds the
values of each trial before it starts, results.csv the figure of each that is finished; a call after an interruption
finishes what was started, and the sampler learns from all of it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.data.files import read_json, write_json
from common.errors import CheckFailed, UserError
from common.output import say
from common.runs.folder import lock_folder, prepare_folder
from common.runs.results_table import ResultsTable
from common.runs.run import Run
from common.runs.stages import Stage, run_stages
from common.runs.sweep import make_cells, refuse_several_devices
from common.runs.tasks import Task, run_task
from common.settings import RunSettings, plain_settings
from common.settings.yaml_file import parse_value

if TYPE_CHECKING:
    from common.runs.processes import Executor

_RANGE = re.compile(r"(log|range):([^:,]+):([^:,]+)$")
OBJECTIVE = "validation"


@dataclass(frozen=True)
class Range:
    """Values from `low` to `high`, drawn evenly or evenly in their logarithm; whole numbers between whole numbers."""

    log: bool
    low: float
    high: float

    def distribution(self) -> Any:
        """For optuna."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)


def parse_ranges(options: Sequence[str]) -> dict[str, Range]:
    """The options of --over that are ranges: ["optim.lr=log:1e-4:1e-2"] to {"optim.lr": Range(True, 1e-4, 1e-2)}.

    Raises:
        UserError: if a range has no numbers or no room.
    """
    found = {}
    for option in options:
        name, _, text = option.partition("=")
        if match := _RANGE.match(text):
            low, high = parse_value(match[2]), parse_value(match[3])
            numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
            if not numbers or not low < high or (match[1] == "log" and low <= 0):
                raise UserError(f"--over {option} needs two numbers, the lower first, such as {name}=log:1e-4:1e-2.")
            found[name] = Range(match[1] == "log", low, high)
    return found


@dataclass(frozen=True)
class Search:
    """What trials have in common.

    settings: of every trial, apart from the ranges. stages: of a run; the test is left out. figure: of a trained run,
    higher is better.
    """

    settings: RunSettings
    ranges: Mapping[str, Range]
    stages: Callable[[Any], list[Stage]]
    figure: Callable[[Run[Any]], float]

    def description(self) -> dict[str, Any]:
        """Equal for trials that belong together."""
        spans = {name: [each.log, each.low, each.high] for name, each in self.ranges.items()}
        return {"settings": plain_settings(self.settings), "ranges": spans}

    def task(self, values: Mapping[str, Any]) -> Task:
        """The training of one trial."""
        (cell,) = make_cells(self.settings, {name: [value] for name, value in values.items()})
        refuse_several_devices(cell.settings, "a sweep trains each trial on one device")
        return Task(cell.title, self.train, cell.settings)

    def train(self, settings: RunSettings) -> float:
        """The figure of one trial."""
        run = Run(settings.folder, settings)
        run_stages(run, [stage for stage in self.stages(settings) if stage.name != "test"])
        return self.figure(run)


def tune(search: Search, trials: int, folder: Path, executor: "Executor | None" = None) -> list[dict[str, Any]]:
    """Train trials until `trials` of them are finished.

    Args:
        search: settings, ranges, figure.
        trials: number, with those of earlier calls.
        folder: of trials.json and results.csv.
        executor: runs as many trials at a time as it has jobs; None runs one after another in this process.

    Returns:
        Rows of results.csv, the best first.

    Raises:
        UserError: if optuna is missing, or the folder holds trials of other settings.
        CheckFailed: if a trial failed.
    """
    at_once = 1 if executor is None else executor.jobs
    for end in ("low", "high"):  # refuses names and values that are not allowed, before anything is written
        search.task({name: getattr(span, end) for name, span in search.ranges.items()})
    prepare_folder(folder)
    with lock_folder(folder):
        values, table = _read_trials(folder, search), ResultsTable(folder / "results.csv", ["trial"])
        while len(table.rows) < trials:
            done = {int(row["trial"]): float(row[OBJECTIVE]) for row in table.rows}
            numbers = [number for number in range(len(values)) if number not in done][:at_once]
            new = min(at_once, trials - len(done)) - len(numbers)
            numbers += range(len(values), len(values) + new)
            values += _draw(search, values, done, new)
            # Before they start, so that a stopped trial is resumed.
            write_json(folder / "trials.json", {"of": search.description(), "trials": values})
            tasks = {task.name: (number, task) for number in numbers for task in [search.task(values[number])]}
            jobs = [task for _, task in tasks.values()]
            if executor is None:
                say(f"{len(done) + 1} of {trials}: {jobs[0].name} starts")
            for outcome in map(run_task, jobs) if executor is None else executor.run(jobs, folder / "slurm"):
                if outcome.error:
                    raise CheckFailed(f"The trial {outcome.name} failed; call again to go on: {outcome.error}")
                number = tasks[outcome.name][0]
                table.append({"trial": number, **values[number], OBJECTIVE: outcome.value})
                say(f"{len(table.rows)} of {trials}: {outcome.name}, {OBJECTIVE} {100 * outcome.value:.1f} %")
    rows = [{name: parse_value(text) for name, text in row.items()} for row in table.rows]
    return sorted(rows, key=lambda row: -row[OBJECTIVE])


def _draw(
    search: Search, values: Sequence[Mapping[str, Any]], done: Mapping[int, float], count: int
) -> list[dict[str, Any]]:
    """Values of new trials: what optuna's TPE draws after the finished ones, the same in each call."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UserError("--trials needs the package optuna; install it with `pip install 'optuna>=4'`.") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = {name: each.distribution() for name, each in search.ranges.items()}
    sampler = optuna.samplers.TPESampler(seed=10_000 * search.settings.seed + len(values))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for number, score in done.items():
        earlier = optuna.trial.create_trial(params=dict(values[number]), distributions=distributions, value=score)
        study.add_trial(earlier)
    asked = [study.ask(distributions).params for _ in range(count)]
    return [{name: _short(value, search.ranges[name]) for name, value in params.items()} for params in asked]


def _short(value: Any, span: Range) -> Any:
    """Four digits are enough, and stand in the name of the run."""
    return min(max(float(f"{value:.4g}"), span.low), span.high) if isinstance(value, float) else value


def _read_trials(folder: Path, search: Search) -> list[dict[str, Any]]:
    path = folder / "trials.json"
    if not path.exists():
        if (folder / "results.csv").exists():
            raise UserError(f"{folder} holds a sweep. Give this search another --name.")
        return []
    content = read_json(path, "delete the folder to search anew", {"of": dict, "trials": list})
    if content["of"] != search.description():
        raise UserError(f"{folder} holds trials of other settings or ranges. Give this search another --name.")
    return content["trials"]
