"""Systems beside each other: paired differences with 95 % intervals, and a word on what they tell.

A task measures each run once; everything else is shared:

    small = System("small", [Measured("small_seed0", 0, {"test": clips}, "30 recordings", {"accuracy": draws}, parts)])
    print_comparison([compare([small, large])])

Draws (1 + resamples,) hold a figure, 0..1, of all recordings, then of resampled ones. All runs on one test set are
measured with the same resamples, so that differences of draws are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.output import print_json, print_table, print_text
from common.reports.html import print_results
from common.reports.statistics import Difference, Interval, difference_over_seeds, percentile_limits, with_interval

Draws = NDArray[np.float64]
MOST_PARTS = 20
"""Rows of a table of classes: those with the largest differences."""


@dataclass(frozen=True)
class Measured:
    """Figures of one run on its test sets.

    run: folder or name. test_sets: clips by name of the set. counted: how many of what were resampled, "30 recordings".
    figures: by name, the first decides. parts: kind, such as "accuracy of each class", to the draws of each.
    """

    run: str
    seed: int | None
    test_sets: Mapping[str, Sequence[str]]
    counted: str
    figures: Mapping[str, Draws]
    parts: Mapping[str, Mapping[str, Draws]] = field(default_factory=dict)
    made_up: bool = False


@dataclass(frozen=True)
class System:
    """Runs of one configuration, which differ in their seed."""

    name: str
    runs: Sequence[Measured]


class Compared(NamedTuple):
    """A figure of a system, its mean over runs, and the difference to the first system.

    own, difference: intervals over recordings. over_seeds: interval of the difference, None without two runs of each.
    word: what can be said.
    """

    own: Interval
    difference: Interval | None = None
    over_seeds: Difference | None = None
    word: str = ""


@dataclass(frozen=True)
class Comparison:
    """Each figure, and each part of each kind, of every system in their order; the first one is compared with."""

    systems: Sequence[System]
    figures: Mapping[str, Sequence[Compared]]
    parts: Mapping[str, Mapping[str, Sequence[Compared]]]
    title: str = ""


def compare(systems: Sequence[System], title: str = "") -> Comparison:
    """Compare each system with the first.

    Raises:
        UserError: if there is one system only, or test sets differ.
    """
    if len(systems) < 2:
        raise UserError("A comparison needs two systems or more: folders of runs, sweeps or scores.")
    first = systems[0].runs[0]
    runs = [run for system in systems for run in system.runs]
    for run in runs:
        _refuse_other_clips(first, run)
    shared = [name for name in first.figures if all(name in run.figures for run in runs)]
    figures = {name: _row(systems, [[run.figures[name] for run in one.runs] for one in systems]) for name in shared}
    parts: dict[str, dict[str, Sequence[Compared]]] = {}
    for kind, of_kind in first.parts.items():
        for part in of_kind:
            if all(part in run.parts.get(kind, {}) for run in runs):
                every = [[run.parts[kind][part] for run in one.runs] for one in systems]
                parts.setdefault(kind, {})[part] = _row(systems, every)
    return Comparison(systems, figures, parts, title)


def _row(systems: Sequence[System], measured: Sequence[Sequence[Draws]]) -> list[Compared]:
    """One figure of every system; `measured` has the draws of each run."""
    means = [np.mean(np.stack(list(runs)), axis=0) for runs in measured]
    values = [[float(draws[0]) for draws in runs] for runs in measured]
    row = [Compared(_over_recordings(means[0]))]
    for system, mean, own in zip(systems[1:], means[1:], values[1:]):
        difference = _over_recordings(mean - means[0])
        seeds = difference_over_seeds(_seeds(systems[0]), values[0], _seeds(system), own)
        word = say_difference(difference, seeds, system.runs[0].counted, min(len(own), len(values[0])))
        row.append(Compared(_over_recordings(mean), difference, seeds, word))
    return row


def say_difference(difference: Interval, over_seeds: Difference | None, counted: str, seeds: int) -> str:
    """What a difference tells: "better", "worse", or why neither can be said."""
    if not np.isfinite(difference.value):
        return "not measured"
    limits = [(difference.low, difference.high, f"on {counted}")]
    if over_seeds is not None:
        limits.insert(0, (over_seeds.low, over_seeds.high, f"with {seeds} seeds"))
    for low, high, where in limits:
        if not (low > 0 or high < 0):
            return f"not distinguishable {where}"
    return "better" if difference.value > 0 else "worse"


def print_comparison(comparisons: Sequence[Comparison], as_json: bool = False) -> None:
    """Print comparisons: of each figure and class the systems, differences and words; JSON holds 0..1."""
    if as_json:
        print_json([as_plain(one) for one in comparisons] if len(comparisons) > 1 else as_plain(comparisons[0]))
        return
    for comparison in comparisons:
        _print_one(comparison)
    runs = [len(system.runs) for system in comparisons[0].systems]
    kind = comparisons[0].systems[0].runs[0].counted.lstrip("0123456789,+ ")
    print_text(f"Intervals are 95 %, by bootstrap over {kind} drawn alike for all systems.")
    if max(runs) > 1 and min(runs) > 1:
        print_text(
            "Over seeds: Student's t of the differences; it tells methods apart, not only these trained networks."
        )
        print_text("Better or worse is said where 0 is in neither interval, over recordings or over seeds.")
    else:
        print_text("They tell these trained networks apart, not the methods: for those, train several seeds of each.")
    if comparisons[0].parts:
        print_text("Without any difference, about one class in twenty would still be called better or worse.")


def as_plain(comparison: Comparison) -> dict[str, Any]:
    """For `--json`, figures 0..1."""
    first = comparison.systems[0].runs[0]
    return {
        **({"title": comparison.title} if comparison.title else {}),
        "made_up": first.made_up,
        "clips": {name: len(clips) for name, clips in first.test_sets.items()},
        "counted": first.counted,
        "systems": [
            {
                "name": system.name,
                "runs": [run.run for run in system.runs],
                "seeds": [run.seed for run in system.runs],
                "figures": {name: _plain(row[number]) for name, row in comparison.figures.items()},
                "parts": {
                    kind: {name: _plain(row[number]) for name, row in parts.items()}
                    for kind, parts in comparison.parts.items()
                },
            }
            for number, system in enumerate(comparison.systems)
        ],
    }


def _plain(one: Compared) -> dict[str, Any]:
    found: dict[str, Any] = {"value": one.own.value, "interval": [one.own.low, one.own.high]}
    if one.difference is not None:
        found["difference"] = {"value": one.difference.value, "interval": [one.difference.low, one.difference.high]}
        found["over_seeds"] = None
        if (over := one.over_seeds) is not None:
            found["over_seeds"] = {
                "value": over.value, "interval": [over.low, over.high], "p_value": over.p_value, "pairs": over.pairs
            }  # fmt: skip
        found["word"] = one.word
    return found


def _print_one(comparison: Comparison) -> None:
    first, labels = comparison.systems[0], _labels(comparison.systems)
    main, *others = comparison.figures
    rows = []
    for system, label, one in zip(comparison.systems, labels, comparison.figures[main]):
        name = system.name if label == system.name else f"{label}: {system.name}"
        value = {main: with_interval(*one.own, scale=100)}
        rows.append({"system": name, "runs": len(system.runs), **value, **_difference_cells(one)})
    start = f"{comparison.title}: " if comparison.title else ""
    print_results(rows, f"{start}{main} in per cent, {first.runs[0].counted}", first.runs[0].made_up)
    for label, one in list(zip(labels, comparison.figures[main]))[1:]:
        print_text(f"  {_sentence(label, labels[0], one)}")
    if others:
        _print_rows({name: comparison.figures[name] for name in others}, "figure", labels, "Further figures")
    for kind, parts in comparison.parts.items():
        ordered = sorted(parts, key=lambda name: -max(_size(one) for one in parts[name][1:]))
        shown = {name: parts[name] for name in parts if name in ordered[:MOST_PARTS]}
        left = f" ({len(parts) - len(shown)} with smaller differences in --json)" if len(shown) < len(parts) else ""
        _print_rows(shown, kind.rpartition(" ")[2], labels, f"{kind[:1].upper()}{kind[1:]}{left}")


def _print_rows(rows: Mapping[str, Sequence[Compared]], kind: str, labels: Sequence[str], title: str) -> None:
    """One row per name: the figures of two systems and their difference, or the differences of several."""
    table = []
    for name, (own, *others) in rows.items():
        row: dict[str, Any] = {kind: name.replace("_", " "), labels[0]: with_interval(own.own.value, scale=100)}
        for label, one in zip(labels[1:], others):
            assert one.difference is not None
            if len(others) == 1:
                says = one.word if one.word in _CLEAR else ""
                row |= {label: with_interval(one.own.value, scale=100), "difference": signed(one.difference)}
                row["says"] = says
            else:
                row[label] = signed(Interval(one.difference.value, np.nan, np.nan)) + "*" * (one.word in _CLEAR)
        table.append(row)
    many = f", differences to {labels[0]} (* better or worse)" if len(labels) > 2 else ""
    print_table(table, title=f"{title}, per cent{many}")


_CLEAR = ("better", "worse")
_LONGEST_LABEL = 12


def _labels(systems: Sequence[System]) -> list[str]:
    """Names for columns and sentences: letters where names are long."""
    names = [system.name for system in systems]
    if (max(map(len, names)) <= _LONGEST_LABEL and len(set(names)) == len(names)) or len(names) > 26:
        return names
    return [chr(ord("A") + number) for number in range(len(names))]


def signed(interval: Interval) -> str:
    """A difference in per cent: +2.1 [0.4, 3.9]."""
    text = with_interval(*interval, scale=100)
    return text if text.startswith(("-", "–")) else f"+{text}"


def _difference_cells(one: Compared) -> dict[str, str]:
    if one.difference is None:
        return {}
    cells = {"difference": signed(one.difference)}
    if one.over_seeds is not None:
        cells["over seeds"] = f"[{100 * one.over_seeds.low:.1f}, {100 * one.over_seeds.high:.1f}]"
    return cells


def _sentence(name: str, first: str, one: Compared) -> str:
    assert one.difference is not None
    if one.word not in _CLEAR:
        return f"{name} and {first}: {one.word}."
    shown = one.difference
    if one.over_seeds is not None:
        shown = Interval(*one.over_seeds[:3])
    return f"{name} is {one.word} than {first}: {signed(shown)}."


def _over_recordings(draws: Draws) -> Interval:
    if len(draws) < 2 or not np.isfinite(draws[0]):
        return Interval(float(draws[0]), np.nan, np.nan)
    return Interval(float(draws[0]), *map(float, percentile_limits(draws[1:])))


def _seeds(system: System) -> list[int]:
    return [number if run.seed is None else run.seed for number, run in enumerate(system.runs)]


def _size(one: Compared) -> float:
    assert one.difference is not None
    return abs(one.difference.value) if np.isfinite(one.difference.value) else -1.0


def _refuse_other_clips(first: Measured, other: Measured) -> None:
    shared = [name for name in first.test_sets if name in other.test_sets]
    for name in shared:
        clips, own = first.test_sets[name], other.test_sets[name]
        if tuple(clips) != tuple(own):
            differing = sorted(set(clips) ^ set(own))
            what = f"{differing[0]} is in one of them only" if differing else "their order differs"
            raise UserError(
                f"{first.run} ({len(clips):,} entries) and {other.run} ({len(own):,}) have different test sets: "
                f"{what}. Compare runs that were tested on the same clips."
            )
    if not shared:
        raise UserError(
            f"{first.run} and {other.run} have different test sets: {', '.join(first.test_sets)} and "
            f"{', '.join(other.test_sets)}. Compare runs that were tested on the same clips."
        )
