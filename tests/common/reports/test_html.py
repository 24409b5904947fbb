"""Reports: one page without network, and what is on it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError

from common.reports.html import (
    Section,
    audio,
    cost,
    figure,
    interval_note,
    left_out,
    name_seeds,
    page,
    paragraph,
    preformatted,
    print_results,
    shown,
    side_by_side,
    table,
    write_report,
)
from common.reports.plots import axes, plot_confusion, plot_lines
from common.reports.statistics import with_interval

ROWS = [{"subset": "5 %", "accuracy": 0.41234, "clips": 29680, "note": "<b>"}, {"subset": "10 %", "accuracy": None}]


class Reader(HTMLParser):
    """Collects tags and checks that they close in order."""

    EMPTY = {"meta", "link", "img", "br", "!doctype"}

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.sources = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def whole() -> str:
    points = [(5.0, 40.0, 38.0, 42.0), (10.0, 45.0, 44.0, 46.0)]
    lines = plot_lines({"ours": points, "theirs": points}, "x", "y", at=[5, 10], log_x=True)
    tone = np.sin(2 * np.pi * 440 * np.arange(800) / 8000)
    sections = [
        Section("Results & more", [paragraph("a < b"), table(ROWS, "Table"), preformatted("x: 1")]),
        Section("Plots", [figure(lines, "Lines")]),
        Section("Pair", [side_by_side(figure(plot_confusion([[3, 1], [0, 4]], ["a", "b_c"]), "C"), audio(tone, 8000))]),
    ]
    return page("A title", sections, "below it", made_up=True)


def test_the_page_is_well_formed_and_needs_no_network(whole):
    reader = read(whole)
    assert all(source.startswith(("data:", "#")) for source in reader.sources)
    assert "script" not in reader.tags
    assert not re.search(r"url\(|@import", whole.split("<style>")[1].split("</style>")[0])


def test_made_up_data_is_said_in_heading_title_and_banner(whole):
    assert "<h1>A title (made-up data)</h1>" in whole
    assert "<title>A title (made-up data)</title>" in whole
    assert 'class="banner"' in whole and "They say nothing about real audio" in whole
    assert "made-up" not in page("A title", []).lower().split("<body>")[1]


def test_text_is_never_taken_for_markup(whole):
    assert "a &lt; b" in whole and "<td>&lt;b&gt;</td>" in whole and "Results &amp; more" in whole


def test_every_picture_has_a_description(whole):
    assert all('alt=""' not in tag for tag in re.findall(r"<img[^>]*>", whole))


def test_every_link_of_the_page_has_its_section(whole):
    for target in re.findall(r'href="#([^"]+)"', whole):
        assert f'id="{target}"' in whole


def test_numbers_stand_to_the_right_and_missing_ones_are_empty():
    text = table(ROWS)
    assert '<td class="number">0.4123</td>' in text and '<td class="number">29,680</td>' in text
    assert text.count('<td class="number"></td>') == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (float("nan"), ""), (0.123456, "0.1235"), (29680, "29,680"), (True, "yes"), (np.float32(2.5), "2.5")],
)
def test_cells_are_for_people(value, text):
    assert shown(value) == text


def test_intervals_are_written_in_brackets():
    assert with_interval(0.4242, 0.41, 0.44, scale=100) == "42.4 [41.0, 44.0]"
    assert with_interval(0.4242, float("nan"), float("nan"), scale=100) == "42.4"
    assert with_interval(None) == "–"


def test_the_same_plot_gives_the_same_bytes():
    first, second = (figure(plot_confusion([[1, 2], [3, 4]], ["a", "b"]), "x") for _ in range(2))
    assert first == second


def test_pixels_are_png():
    with axes() as (plot, grid):
        grid.imshow(np.zeros((4, 4)))
    assert "data:image/png;base64,iVBOR" in figure(plot, "x", as_pixels=True)
    assert "data:image/svg+xml;base64," in figure(plot, "x")
    assert plot.get_size_inches().tolist() == [5.4, 3.5]


def test_loud_audio_is_clipped_not_wrapped():
    import base64
    import io
    import wave

    data = audio(np.array([0.0, 2.0, -2.0]), 8000).split("base64,")[1].split('"')[0]
    with wave.open(io.BytesIO(base64.b64decode(data))) as file:
        samples = np.frombuffer(file.readframes(3), dtype="<i2")
    assert samples.tolist() == [0, 32767, -32768]


def test_a_report_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(UndefinedError):
        write_report(tmp_path / "report.html", "x", [None])
    assert list(tmp_path.iterdir()) == []
    assert write_report(tmp_path / "report.html", "x", []).read_text().startswith("<!doctype html>")


def test_a_table_of_made_up_data_says_so(capsys):
    print_results(ROWS, "Task 1", made_up=True)
    assert "Task 1 (MADE-UP DATA)" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        ([1], "Intervals are 95 % over clips (bootstrap)."),
        ([1, 4], "Intervals are 95 % over clips (bootstrap); of several runs the mean."),
        ([1, 5], "Intervals are 95 %: over seeds (Student's t) from 5 runs on, else over clips (bootstrap)."),
    ],
)
def test_the_kind_of_the_intervals_is_told(runs, sentence):
    assert interval_note(runs, "clips") == sentence


def test_seeds_costs_and_unfinished_runs_are_named():
    assert (name_seeds([7]), name_seeds([7, 8])) == ("seed 7", "2 seeds")
    assert cost({"energy_kwh": 0.0123456, "seconds": 5.0}) == {"energy in Wh": "12.3", "seconds": 5.0}
    assert cost({}) == {"energy in Wh": "not measured", "seconds": None}
    assert left_out([]) == [] and "Not finished and left out: a, b." in left_out([Path("x/a"), Path("x/b")])[0]


def test_a_column_is_numeric_if_all_of_its_values_are():
    rows = [{"a": "1.5 [1, 2]", "b": 1, "c": True, "d": "x", "e": None, "f": "–"},
            {"a": "–", "b": None, "c": False, "d": "1", "e": None, "f": ""}]  # fmt: skip
    text = table(rows)
    assert [name for name in "abcdef" if f'<th scope="col" class="number">{name}</th>' in text] == ["a", "b", "f"]
    assert table(rows, columns=["b"]).count("<th ") == 1


def test_a_player_jumps_to_seconds_and_keeps_rate_and_length(tmp_path):
    import base64
    import io

    import soundfile

    for mp3 in (False, True):
        text = audio(np.zeros(16000), 8000, "a clip", jumps=[("true 0:01", 1)], mp3=mp3)
        content = base64.b64decode(text.split("base64,")[1].split('"')[0])
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            assert (file.samplerate, file.channels) == (8000, 1) and abs(file.frames - 16000) < 3000 * mp3 + 1
            assert file.format == ("MP3" if mp3 else "WAV")
        assert "true 0:01" in text and "1.0" in text and "a clip" in text
