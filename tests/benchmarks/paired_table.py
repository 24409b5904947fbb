"""Table of a trial: means, paired differences, what can be detected."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from common.reports.statistics import bootstrap_mean, mean_interval, paired_difference
from tests.benchmarks.cells import Cells

Figures = Mapping[str, Any]
"""Metric to value; `<metric> by group` to [values, groups] of queries, for intervals over groups."""


class PairedCells(Cells):
    """Figures of arms and seeds."""

    def compute(self, arm: str, seed: int, work: Callable[[], Figures]) -> None:
        """The cell of an arm and a seed by `work`, if it is not there."""
        self(f"{arm}, seed {seed}", lambda: dict(work()))

    def has(self, arms: Sequence[str], seed: int) -> bool:
        """Whether all arms of a seed are there."""
        return all(f"{arm}, seed {seed}" in self.found for arm in arms)

    def column(self, arm: str, seeds: Sequence[int], metric: str) -> dict[int, Any]:
        """Seed to figure."""
        return {seed: self.found[f"{arm}, seed {seed}"][metric] for seed in seeds}

    def print_table(self, title: str, arms: Sequence[str], seeds: Sequence[int], metric: str, control: str) -> None:
        """Each arm's mean over seeds, and its difference from the control with 95 % intervals.

        Over seeds: Student's t of paired differences. Over groups (clips, recordings): bootstrap of the differences of
        queries, where the cells hold them. An effect of half the interval over seeds would be detected.
        """
        print(f"\n{title}, {metric}, {len(seeds)} seeds; differences from: {control}")
        print(f"  {'':34s} {'mean':>6s}  difference [over seeds] [over groups] detected")
        for arm in arms:
            values = self.column(arm, seeds, metric)
            line = f"  {arm:34s} {mean_interval(list(values.values())).value:6.3f}"
            if arm != control and len(seeds) > 1:
                found = paired_difference(self.column(control, seeds, metric), values)
                line += f"  {found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
                line += self._over_groups(arm, seeds, metric, control)
                line += f" {(found.high - found.low) / 2:.3f}"
            print(line)

    def _over_groups(self, arm: str, seeds: Sequence[int], metric: str, control: str) -> str:
        name = f"{metric} by group"
        if any(name not in self.found[f"{which}, seed {seeds[0]}"] for which in (arm, control)):
            return ""
        after, before = (self.column(which, seeds, name) for which in (arm, control))
        values = np.concatenate([np.subtract(after[seed][0], before[seed][0]) for seed in seeds])
        groups = np.concatenate([after[seed][1] for seed in seeds])
        found = bootstrap_mean(values, groups, np.random.default_rng(0))
        return f" [{found.low:+.3f}, {found.high:+.3f}]"
