"""The verb `sweep` of a task: a grid over its settings, here or on SLURM, and its table. No torch until it runs."""

from importlib import import_module
from typing import Any, Literal

from common.cli.arguments import ConfigVerb, Repeated, config_verb
from common.output import say
from common.settings import Settings


def sweep_verb(settings_class: type[Settings], cell: str, made_up: str, prepare: str | None = None) -> ConfigVerb:
    """Make the verb. Functions are named "module:function" and imported when the verb runs.

    Args:
        settings_class: with the fields `name` and `runs`.
        cell: trains and scores the run of some settings and gives its row, see `common.runs.sweep`.
        made_up: says whether the data of some settings are made up.
        prepare: makes what runs share, before several of them start; takes the settings.
    """

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
        """Train every combination of some settings' values; what is done already is skipped.

        Args:
            over: a setting and its values, such as seed=0,1,2; may be given several times.
            jobs: processes on this machine, which share its cores.
            on: this machine, or SLURM.
            slurm_partition: partition; left out, the cluster's default.
            slurm_minutes: time limit of a run; one that reaches it is queued again and goes on.
            slurm_gpus: GPUs for each run.
            slurm_cpus: cores for each run.
        """
        from common.cli.recipe_verbs import make_executor
        from common.reports.html import print_results
        from common.runs.sweep import parse_over, sweep_name
        from common.runs.sweep import sweep as go_over

        values = parse_over(over)
        folder = settings.runs / sweep_name(settings.name)
        executor = make_executor(jobs, on, slurm_partition, slurm_minutes, slurm_gpus, slurm_cpus)
        if prepare is not None:
            _find(prepare)(settings)
        rows = go_over(settings, values, _find(cell), folder, executor)
        print_results(rows, f"Sweep {folder}", _find(made_up)(settings))
        say(f"The table is {folder / 'results.csv'}; see `report {folder}`.")

    return config_verb(settings_class, sweep)


def _find(place: str) -> Any:
    module, _, function = place.partition(":")
    return getattr(import_module(module), function)
