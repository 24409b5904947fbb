"""What the report of moments draws of a query: its windows, its curve, its spectrogram."""

import numpy as np
import pytest

from retrieval.moments.annotations import Query
from retrieval.moments.report import FOUND, RATE, _clock, _row, _windows, plot_query, spectrogram

QUERY = Query(qid="1", query="a bell", vid="a.wav", duration=20.0, windows=np.array([[2.0, 4.0], [10.0, 14.0]]))
WINDOWS = np.array([[10.0, 13.0, 0.9], [0.0, 2.0, 0.5], [5.0, 6.0, 0.4], [7.0, 8.0, 0.3]])


def test_true_windows_come_first_then_the_best_found_ones():
    assert _windows(QUERY, WINDOWS) == [
        ("true", 2, 4), ("true", 10, 14), ("found", 10, 13), ("found", 0, 2), ("found", 5, 6)
    ]  # fmt: skip


def test_times_are_minutes_and_seconds():
    assert [_clock(seconds) for seconds in (0, 9.9, 60, 61.5, 605)] == ["0:00", "0:09", "1:00", "1:01", "10:05"]


@pytest.mark.parametrize(("first", "overlap"), [([10, 13], 3 / 4), ([5, 6], 0), ([0, 4], 2 / 4), ([3, 12], 2 / 11)])
def test_the_overlap_is_of_the_first_window_with_the_true_one_that_it_fits_best(first, overlap):
    found = np.array([[*first, 0.9], [2, 4, 0.8]])
    row = _row(QUERY, found, 0.25, 1.0)
    assert row["overlap of the first"] == pytest.approx(overlap)
    assert (row["true windows"], row["AP"], row["hit at 0.7"], row["recording"]) == (2, 0.25, True, "a.wav")


def boxes(axes, label_colour: str) -> list[tuple[float, float, float]]:
    """Left, right and opacity of the windows of a colour."""
    from matplotlib.colors import to_hex

    found = [patch for patch in axes.patches if to_hex(patch.get_facecolor()) == label_colour]
    return [
        (*patch.get_extents().transformed(axes.transData.inverted()).intervalx, patch.get_alpha()) for patch in found
    ]


def test_windows_stand_at_their_seconds_and_the_curve_within_its_strip():
    curve = np.array([3.0, 5.0, 4.0])
    (axes,) = plot_query(QUERY, WINDOWS, curve, None).axes
    np.testing.assert_allclose([box[:2] for box in boxes(axes, "#2a8a57")], QUERY.windows)
    found = boxes(axes, "#c77700")
    np.testing.assert_allclose([box[:2] for box in found], WINDOWS[:FOUND, :2], atol=1e-9)
    assert [box[2] for box in found] == pytest.approx([1, 0.7, 0.4])
    (line,) = axes.lines
    np.testing.assert_allclose(line.get_xdata(), [0.5, 1.5, 2.5])  # in the middle of its second
    np.testing.assert_allclose(line.get_ydata(), [0.15, 0.85, 0.5])
    assert axes.get_xlim() == (0, 20) and axes.get_ylim() == (0, 1) and not axes.images
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["curve", "true", "found"]
    flat = plot_query(QUERY, WINDOWS, np.ones(3), np.zeros(20 * RATE)).axes[0]
    np.testing.assert_allclose(flat.lines[0].get_ydata(), 0.15)
    assert flat.images[0].get_extent() == [0, 20, 0, 1]


def test_a_window_beyond_the_end_of_the_recording_is_drawn_whole():
    long = QUERY._replace(duration=12.0)
    assert plot_query(long, WINDOWS, np.ones(3), None).axes[0].get_xlim() == (0, 14)


@pytest.mark.parametrize("seconds", [1, 60])
def test_a_tone_lights_the_band_of_its_frequency_for_its_time(seconds):
    time = np.arange(seconds * RATE) / RATE
    tone = 0.1 * np.sin(2 * np.pi * 2000 * time) * (time < seconds / 2)
    level = spectrogram(tone + 1e-4 * np.random.default_rng(0).normal(size=len(time)))
    assert level.shape[0] == 64 and 100 < level.shape[1] <= 1200
    half = level.shape[1] // 2
    assert (level[:, : half - 3].argmax(axis=0) == 16).mean() > 0.9  # of bands of 125 Hz
    assert level[:, : half - 3].max() - level[:, half + 3 :].max() > 20
