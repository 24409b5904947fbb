"""The verbs `train` and `sweep` of a recipe, with the same flags in every task. No torch until a verb runs.

def load_recipe() -> "Recipe[ToySettings]":
    from toy.recipe import RECIPE

    return RECIPE


VERBS = {
    "train": train_verb(ToySettings, load_recipe, show, "Train a toy network and test it.", SMALL),
    "sweep": sweep_verb(ToySettings, load_recipe),
}
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from common.cli.arguments import ConfigVerb, Repeated, config_verb
from common.output import say
from common.settings import RunSettings

if TYPE_CHECKING:
    from common.runs.processes import Executor
    from common.runs.recipe import Recipe
    from common.runs.stages import Run

S = TypeVar("S", bound=RunSettings)


def train_verb(
    settings_class: type[S],
    load_recipe: "Callable[[], Recipe[S]]",
    show: "Callable[[Run[S]], None]",
    summary: str,
    small: str | Path | None = None,
) -> ConfigVerb:
    """The verb `train`.

    Args:
        settings_class: schema of CONFIG.yaml.
        load_recipe: imports the recipe.
        show: prints the figures of a finished run.
        summary: first line of the help.
        small: YAML file that `--fast_check` uses when no other is given.
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

        Args:
            resume: run folder to resume; its settings.yaml replaces CONFIG.yaml.
            redo: stage to run again, with those that depend on it; may be repeated.
            fast_check: two steps of everything in a temporary folder.
            jobs: stages to run at the same time on this machine; each has one GPU where there are any.
            on: this machine, or SLURM with a job for each stage.
            slurm_partition: partition; by default the cluster's.
            slurm_minutes: time limit of a stage; one that reaches it is queued again and resumes.
            slurm_gpus: GPUs of each stage.
            slurm_cpus: cores of each stage.
        """
        recipe = load_recipe()
        if fast_check:
            recipe.check(settings)
            return
        executor = make_executor(jobs, on, slurm_partition, slurm_minutes, slurm_gpus, slurm_cpus)
        finished = recipe.run(settings, resume, redo, executor)
        show(finished)
        say(f"The run is in {finished.folder}.")

    train.__doc__ = (train.__doc__ or "").replace("SUMMARY.", summary)
    return config_verb(settings_class, train, {} if small is None else {"fast_check": small})


def sweep_verb(settings_class: type[S], load_recipe: "Callable[[], Recipe[S]]") -> ConfigVerb:
    """The verb `sweep`; see `train_verb`."""

    def sweep(
        settings: Any,
        *,
        over: Repeated[str] = (),
        jobs: int = 1,
        on: Literal["here", "slurm"] = "here",
        slurm_partition: str | None = None,
        slurm_minutes: int = 1440,
        slurm_gpus: int = 0,
        slurm_cpus: int = 2,
    ) -> None:
        """Train every combination of values of some settings; finished ones are skipped.

        Args:
            over: a setting and its values, such as seed=0,1,2; may be repeated.
            jobs: runs to train at the same time on this machine; each has one GPU where there are any.
            on: this machine, or SLURM with a job for each run.
            slurm_partition: partition; by default the cluster's.
            slurm_minutes: time limit of a run; one that reaches it is queued again and resumes.
            slurm_gpus: GPUs of each run.
            slurm_cpus: cores of each run.
        """
        from common.reports.html import print_results
        from common.runs.sweep import parse_over

        recipe, values = load_recipe(), parse_over(over)
        executor = make_executor(jobs, on, slurm_partition, slurm_minutes, slurm_gpus, slurm_cpus)
        folder, rows = recipe.sweep(settings, values, executor)
        print_results(rows, f"Sweep {folder}", recipe.is_made_up(settings))
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
    if jobs == 1 and on == "here":
        return None
    from common.runs.processes import Executor
    from common.runs.tasks import SlurmSettings

    return Executor(jobs, on, SlurmSettings(partition=partition, minutes=minutes, gpus=gpus, cpus=cpus))
