"""Plots of many lines: nothing collapses, and their legend can be read."""

import warnings

import pytest

from common.reports.plots import MOST_BESIDE, Point, plot_lines

POINTS: list[Point] = [(1.0, 2.0, 1.5, 2.5), (2.0, 3.0, None, None)]


@pytest.mark.parametrize(
    ("count", "characters"),
    [(2, 8), (MOST_BESIDE[0], MOST_BESIDE[1]), (13, 8), (50, 24), (100, 24), (4, 90)],
)
def test_a_plot_keeps_its_size_beside_or_above_a_legend_that_fits(count, characters):
    names = [f"lr={number}".ljust(characters, "x") for number in range(count)]
    plot = plot_lines(dict.fromkeys(names, POINTS), "epoch", "loss", markers=False)
    with warnings.catch_warnings(action="error"):
        plot.draw_without_rendering()
    (axes,) = plot.axes
    dots = plot.dpi
    box, whole = axes.get_window_extent(), plot.bbox
    assert box.height > 2.4 * dots and box.width > 2.0 * dots
    (legend,) = [axes.get_legend()] if axes.get_legend() else plot.legends
    assert [text.get_text() for text in legend.get_texts()] == names
    place = legend.get_window_extent()
    assert not place.overlaps(box) and place.height < whole.height
    assert place.x0 >= -1 and place.x1 <= whole.width + 1 and place.y0 >= -1 and place.y1 <= whole.height + 1
    looks = [(line.get_color(), line.get_linestyle()) for line in axes.lines]
    assert len(set(looks)) == min(count, 40)
    assert {style for _, style in looks[:10]} == {"-"}


def test_one_line_needs_no_legend():
    plot = plot_lines({"ours": POINTS}, "epoch", "loss")
    assert plot.axes[0].get_legend() is None and not plot.legends
    assert plot.get_figwidth() < plot_lines({"a": POINTS, "b": POINTS}, "epoch", "loss").get_figwidth()
