"""A recipe: a settings class, a list of stages, and a row of figures.

The verbs `train` and `sweep` of a task, with `--resume`, `--redo`, `--fast_check` and `--jobs`, follow from it.

    RECIPE = Recipe(ToySettings, make_stages, result_row, is_made_up)  # last in a task's recipe.py

    run = RECIPE.run(settings)          # runs the stages that are not finished
    run = RECIPE.open(folder)           # the run in a folder
    RECIPE.check(settings)              # two steps of everything
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from common.errors import UserError
from common.runs.run import Run, open_run
from common.runs.stages import Stage, do_two_steps, run_stages
from common.settings import RunSettings

if TYPE_CHECKING:
    from common.runs.processes import Executor
    from common.runs.tuning import Range

S = TypeVar("S", bound=RunSettings)


def _nothing(_: Any) -> None:
    return None


def _unchanged(settings: S) -> S:
    return settings


@dataclass(frozen=True)
class Objective:
    """A figure of the validation, higher is better: the best value of a column in the metrics.csv of a training.

    training: folder of the training with these settings, within the run; "fold*_final/member*" is the mean over all
    that fit. refuse: raises UserError for settings without validation.
    """

    training: Callable[[Any], str]
    column: str
    refuse: Callable[[Any], None] = _nothing

    def of(self, run: Run[Any]) -> float:
        """The figure of a trained run."""
        from common.reports.plots import read_curves

        paths = run.files(f"{self.training(run.settings)}/metrics.csv")
        best = []
        for path in paths:
            points = read_curves(path).get(self.column)
            if not points:
                raise UserError(f"{path} has no {self.column}; a search needs a training with validation.")
            best.append(max(point[1] for point in points))
        return sum(best) / len(best)


@dataclass(frozen=True)
class Recipe(Generic[S]):
    """Everything that is special to the runs of a task. Its functions are pickled by name: define them in modules.

    settings_class: schema of the YAML files.
    stages: the stages of a run with these settings, in their order.
    result_row: figures of a finished run in one flat row of a sweep's table, 0..1.
    is_made_up: whether the data of these settings are made up.
    refuse_early: raises UserError for mistakes that other settings mend, before a folder is made.
    prepare: makes shared files, such as packed stores, before several runs or stages start at the same time.
    for_check: changes the settings of `check`.
    complete: fills in what the data decide, such as the classes of a table, before everything else.
    objective: figure of the validation that `sweep --trials` searches by; None where there is none.
    """

    settings_class: type[S]
    stages: Callable[[S], list[Stage]]
    result_row: Callable[[Run[S]], dict[str, Any]]
    is_made_up: Callable[[S], bool]
    refuse_early: Callable[[Run[S]], None] = _nothing
    prepare: Callable[[S], None] = _nothing
    for_check: Callable[[S], S] = _unchanged
    complete: Callable[[S], S] = _unchanged
    objective: Objective | None = None

    def run(
        self, settings: S, folder: Path | None = None, redo: Collection[str] = (), executor: "Executor | None" = None
    ) -> Run[S]:
        """Run the stages that are not finished.

        Args:
            settings: of the run.
            folder: of the run; None takes the one that the settings name.
            redo: stages to run again.
            executor: runs stages in other processes; None runs one after another in this process.
        """
        settings = self.complete(settings)
        run = Run(folder or settings.folder, settings)
        if executor is not None:
            from common.runs.sweep import refuse_several_devices

            refuse_several_devices(settings, "stages that run at the same time have one device each")
        self.refuse_early(run)
        if executor is not None:
            self.prepare(settings)
        run_stages(run, self.stages(settings), redo, executor)
        return run

    def check(self, settings: S) -> None:
        """Run two steps of each stage in a temporary folder."""
        settings = self.complete(self.for_check(settings))
        do_two_steps(settings, self.stages(settings))

    def open(self, folder: Path) -> Run[S]:
        """The run in a folder.

        Raises:
            UserError: if there is none, or it is one of another task.
        """
        return open_run(folder, self.settings_class)

    def cell(self, settings: S) -> dict[str, Any]:
        """One cell of a sweep: its run, and the row of its figures."""
        return self.result_row(self.run(settings))

    def sweep(
        self, settings: S, over: Mapping[str, Sequence[Any]], executor: "Executor | None" = None
    ) -> tuple[Path, list[dict[str, Any]]]:
        """Run a grid over settings; see `common.runs.sweep.sweep`.

        Returns:
            The folder of results.csv, and its rows.
        """
        from common.runs.sweep import make_cells, sweep, sweep_name

        folder = settings.runs / sweep_name(settings.name)
        if not (folder / "results.csv").exists():
            first = self.complete(make_cells(settings, over)[0].settings)
            self.refuse_early(Run(first.folder, first))
        if executor is not None:
            self.prepare(self.complete(settings))
        return folder, sweep(settings, over, self.cell, folder, executor)

    def search(
        self, settings: S, ranges: "Mapping[str, Range]", trials: int, executor: "Executor | None" = None
    ) -> tuple[Path, list[dict[str, Any]]]:
        """Search ranges of settings by the figure of the validation; see `common.runs.tuning.tune`.

        Returns:
            The folder of results.csv, and its rows, the best first.
        """
        from common.runs.sweep import sweep_name
        from common.runs.tuning import Search, tune

        if self.objective is None:
            raise UserError("This recipe has no figure of a validation to search by; sweep over values instead.")
        settings, folder = self.complete(settings), settings.runs / sweep_name(settings.name)
        self.objective.refuse(settings)
        self.refuse_early(Run(settings.folder, settings))
        if executor is not None:
            self.prepare(settings)
        return folder, tune(Search(settings, ranges, self.stages, self.objective.of), trials, folder, executor)
