"""Plots: what they show at which place; plots of many lines do not collapse, and their legend can be read."""

import warnings

import numpy as np
import pytest

from common.errors import UserError
from common.reports.html import curves
from common.reports.plots import MOST_BESIDE, Point, plot_confusion, plot_lines, read_curves

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


def test_two_lines_with_long_names_have_their_legend_below():
    plot = plot_lines(dict.fromkeys(["a" * 90, "b" * 90], POINTS), "epoch", "loss")
    assert plot.axes[0].get_legend() is None and len(plot.legends) == 1


def test_one_line_needs_no_legend():
    plot = plot_lines({"ours": POINTS}, "epoch", "loss")
    assert plot.axes[0].get_legend() is None and not plot.legends
    assert plot.get_figwidth() < plot_lines({"a": POINTS, "b": POINTS}, "epoch", "loss").get_figwidth()


def test_lines_have_their_values_bands_ticks_and_dots():
    plot = plot_lines({"a": POINTS}, "subset", "share", at=[1, 2, 5], log_x=True, dots={"a": [(1.0, 1.9), (1.0, 2.1)]})
    (axes,) = plot.axes
    (line,) = axes.lines
    assert (line.get_xdata().tolist(), line.get_ydata().tolist(), line.get_marker()) == ([1, 2], [2, 3], "o")
    assert (
        axes.get_xscale() == "log"
        and axes.get_xticks().tolist() == [1, 2, 5]
        and len(axes.xaxis.get_minorticklocs()) == 0
    )
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "5"]
    dots, band = sorted(axes.collections, key=lambda part: "Path" not in type(part).__name__)
    assert dots.get_offsets().tolist() == [[1, 1.9], [1, 2.1]]
    assert band.get_paths()[0].vertices[:, 0].max() == 1  # the second point has no limits
    assert sorted(set(band.get_paths()[0].vertices[:, 1].tolist())) == [1.5, 2.5]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("subset", "share")
    plain = plot_lines({"a": [(0.0, 1.0, None, None), (2.0, 1.0, None, None)]}, "epoch", "loss", markers=False).axes[0]
    assert plain.get_xscale() == "linear" and not plain.collections and plain.lines[0].get_marker() == ""
    assert all(tick == round(tick) for tick in plain.get_xticks())  # no half epochs


def test_a_confusion_is_in_per_cent_of_the_true_class_in_rows():
    (axes,) = plot_confusion([[3, 1, 0], [0, 4, 0], [0, 0, 0]], ["a", "b_c", "never"]).axes
    np.testing.assert_allclose(axes.images[0].get_array(), [[75, 25, 0], [0, 100, 0], [0, 0, 0]])
    assert axes.images[0].get_clim() == (0, 100)
    shown = {text.get_position(): (text.get_text(), text.get_color()) for text in axes.texts}
    assert shown[0, 0] == ("75", "white") and shown[1, 0] == ("25", "#1d2430")  # at (predicted, true)
    assert {text.get_fontsize() for text in axes.texts} == {9}
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b c", "never"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert axes.figure.get_size_inches() == pytest.approx([6.0, 5.4])
    assert not any(line.get_visible() for line in [*axes.get_xgridlines(), *axes.get_ygridlines()])


def test_columns_of_a_log_are_read_where_they_have_values_and_damage_is_named(tmp_path):
    log = tmp_path / "metrics.csv"
    assert read_curves(log) == {}
    log.write_text("epoch,loss,val\n0,2.5,\n1,1.5,0.25\n")
    found = read_curves(log)
    assert found["loss"] == [(0, 2.5, None, None), (1, 1.5, None, None)] and found["val"] == [(1, 0.25, None, None)]
    log.write_text("epoch,loss\n0,2\n1,x\n")
    with pytest.raises(UserError, match=r"metrics\.csv:3 is damaged: loss is 'x'"):
        read_curves(log)
    log.write_bytes(b"epoch,loss\n0,\xff\n")
    with pytest.raises(UserError, match="is damaged"):
        read_curves(log)


def test_curves_have_a_picture_for_each_column_that_a_log_has(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("epoch,loss\n0,2\n1,1\n")
    logs = {"a": tmp_path / "a.csv", "b": tmp_path / "b.csv", "absent": tmp_path / "c.csv"}
    (found,) = curves(logs, {"loss": "training loss", "acc": "accuracy"}, "of each seed")
    assert found.count("<figure") == 1 and "Training loss of each seed." in found
    (none,) = curves({"absent": tmp_path / "c.csv"}, {"loss": "training loss"}, "of each seed")
    assert "No logs were found." in none
