"""Plots of the reports, in one style; matplotlib without a screen and without its global state."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from common.errors import UserError

Point = tuple[float, float, float | None, float | None]
"""x, value, and the limits of its interval."""


COLOURS = (
    "#1f5fa8", "#c77700", "#2a8a57", "#a33b4e", "#6b5bb0", "#4db3c4", "#8a6d3b", "#d17fb4", "#7d8695", "#a5a52a",
)  # fmt: skip


STYLES = ("-", "--", ":", "-.")
"""For the lines after as many as there are colours, then again."""
MOST_BESIDE = 12, 40
"""Names, and characters of the longest, for which a legend stands beside the curves; a larger one stands below."""


@contextmanager
def axes(width: float = 5.4, height: float = 3.5, **options: Any) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes in the style of the reports; sizes in inches."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.rcsetup import cycler

    style: Any = {
        "font.size": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#8a93a3",
        "axes.grid": True,
        "grid.color": "#e7eaf0",
        "axes.axisbelow": True,
        "legend.frameon": False,
        "axes.prop_cycle": cycler("linestyle", STYLES) * cycler("color", COLOURS),
    }
    with mpl.rc_context(style):
        plot = Figure(figsize=(width, height), layout="constrained")
        yield plot, plot.subplots(**options)


def literal(text: str) -> str:
    """A name as it is written: no formula between dollars, and no underscore in front, which hides it from legends."""
    return f"{' ' if text.startswith('_') else ''}{text}".replace("$", r"\$")


def plot_lines(
    series: Mapping[str, Sequence[Point]],
    x_label: str,
    y_label: str,
    at: Sequence[float] | None = None,
    log_x: bool = False,
    markers: bool = True,
    dots: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> Any:
    """Lines with intervals, by name, as a matplotlib Figure; `at` gives the ticks of the x axis, `dots` single runs."""
    longest = max(map(len, series), default=0)
    beside = len(series) <= MOST_BESIDE[0] and longest <= MOST_BESIDE[1]
    columns = max(1, 104 // (longest + 8))
    below = 0.0 if beside else 0.17 * -(-len(series) // columns)
    with axes(5.4 if len(series) < 2 else 7.0, 3.5 + below) as (plot, grid):
        for name, points in series.items():
            x, value = [point[0] for point in points], [point[1] for point in points]
            line = grid.plot(x, value, marker="o" if markers else "", label=literal(name))[0]
            if seeds := (dots or {}).get(name):
                grid.scatter(*zip(*seeds), s=14, color=line.get_color(), alpha=0.6)
            limits = [(point[0], point[2], point[3]) for point in points if point[2] is not None]
            if limits:
                grid.fill_between(*zip(*limits), color=line.get_color(), alpha=0.15, linewidth=0)
        if log_x:
            grid.set_xscale("log")
        if at is not None:
            grid.set_xticks(list(at), [f"{tick:g}" for tick in at])
            grid.minorticks_off()
        elif not log_x:
            grid.locator_params(axis="x", integer=True)
        grid.set_xlabel(literal(x_label))
        grid.set_ylabel(literal(y_label))
        if len(series) > 1 and beside:
            grid.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small")
        elif len(series) > 1:
            plot.legend(loc="outside lower left", ncols=columns, fontsize="x-small")
    return plot


def read_curves(path: Path) -> dict[str, list[Point]]:
    """Columns of a training's metrics.csv over its epochs, for `plot_lines`; empty without the file.

    Raises:
        UserError: if it is damaged.
    """
    if not path.exists():
        return {}
    curves: dict[str, list[Point]] = {}
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is damaged ({error}); leave the run out.") from None
    for line, row in enumerate(rows, start=2):
        for column, value in row.items():
            try:
                if value:
                    curves.setdefault(column, []).append((float(row["epoch"]), float(value), None, None))
            except (KeyError, TypeError, ValueError):
                raise UserError(f"{path}:{line} is damaged: {column} is {value!r}; leave the run out.") from None
    return curves


def plot_confusion(counts: ArrayLike, names: Sequence[str]) -> Any:
    """Confusion matrix (true class x predicted class, clips), shown as per cent of each true class."""
    matrix = np.asarray(counts, dtype=np.float64)
    share = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    size = max(6.0, 0.42 * len(names))
    with axes(size, 0.9 * size) as (plot, grid):
        grid.grid(False)
        grid.imshow(share, cmap="Blues", vmin=0, vmax=100)
        labels = [literal(name.replace("_", " ")) for name in names]
        grid.set_xticks(range(len(names)), labels, rotation=45, ha="right", rotation_mode="anchor")
        grid.set_yticks(range(len(names)), labels)
        grid.set_xlabel("predicted")
        grid.set_ylabel("true")
        for row, column in np.ndindex(*share.shape):
            colour = "white" if share[row, column] > 55 else "#1d2430"
            grid.text(column, row, f"{share[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=9)
    return plot
