"""Ground truth and score tables as spreadsheets, Macs and interrupted programs leave them: read right, or refused."""

import json
import unicodedata

import numpy as np
import pandas as pd
import pytest

from common.cli import run
from common.data.files import read_tsv
from common.errors import UserError
from task4_sed.__main__ import VERBS
from task4_sed.data.annotations import read_durations, read_events, read_table
from task4_sed.data.maestro import read_soft_labels
from task4_sed.pretraining.tables import read_strong_table
from task4_sed.scores.store import ScoreStore, ScoreWriter, read_score_tables, read_scores
from task4_sed.scores.tables import from_frames

HEAD = "filename\tonset\toffset\tevent_label\n"
EVENTS = HEAD + "a.wav\t0.5\t3.0\tSpeech\na.wav\t4.0\t4.6\tDog\nb.wav\t1.0\t9.0\tSpeech\n"
SCORES = "onset\toffset\tSpeech\tDog\n0\t1\t.1\t.2\n1\t3\t.9\t.3\n3\t4\t.2\t.1\n4\t10\t.3\t.7\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "scores").mkdir()
    for clip in ("a", "b"):
        (tmp_path / "scores" / f"{clip}.tsv").write_text(SCORES)
    (tmp_path / "durations.tsv").write_text("filename\tduration\na.wav\t10\nb.wav\t10\n")
    (tmp_path / "events.tsv").write_text(EVENTS)
    return tmp_path


def score(capsys, folder) -> tuple[int, dict, str]:
    tables = ("--ground_truth", folder / "events.tsv", "--durations", folder / "durations.tsv")
    words = ["psds", folder / "scores", *tables, "--draws", "0", "--jobs", "1", "--json"]
    code = run("python -m task4_sed", VERBS, [str(word) for word in words])
    output = capsys.readouterr()
    return code, json.loads(output.out or "{}"), output.err


@pytest.mark.parametrize(
    "text",
    [
        EVENTS.replace("\n", "\t\n").replace("event_label\t", "event_label"),
        EVENTS.replace("\n", "\t\n"),
        EVENTS.replace("\n", "\t\t\t\n").replace("event_label\t\t\t", "event_label"),
        EVENTS.replace("\n", "\n\n") + "\n\n",
        "\n\n" + EVENTS.rstrip("\n"),
        EVENTS.replace("\n", "\r\n"),
        EVENTS + "\t\t\t\n \n",
        "\ufeff" + EVENTS.replace("\t", ","),
        EVENTS.replace("filename\tonset", " filename \tonset "),
        HEAD.replace("\t", ",") + '"a.wav",0.5,3.0,"Speech"\n"a.wav",4.0,4.6,"Dog"\nb.wav,1.0,9.0,Speech\n',
    ],
    ids=["tab", "tab_in_head_too", "tabs", "blank", "blank_first", "crlf", "empty_row", "comma", "spaces", "quoted"],
)
def test_ground_truth_of_a_spreadsheet_gives_the_same_score(capsys, folder, text):
    code, expected, _ = score(capsys, folder)
    assert code == 0
    (folder / "events.tsv").write_text(text)
    assert score(capsys, folder)[:2] == (0, expected)


def test_a_cell_beyond_the_last_column_is_refused(tmp_path):
    path = tmp_path / "events.tsv"
    path.write_text(HEAD + "a.wav\t0.5\t3.0\tSpeech\n\na.wav\t4\t5\tDog\tloud\n")
    with pytest.raises(UserError, match=r"events.tsv:4 has 5 cells under 4 columns"):
        read_events(path)
    path.write_text(HEAD + 'a.wav\t0\t1\t"Speech\n' + EVENTS.partition("\n")[2])
    assert read_events(path).events["event_label"][0] == '"Speech'
    path.write_text(EVENTS.replace("\t", ",").replace("Speech", '"Speech', 1))
    with pytest.raises(UserError, match=r"quotation mark|no tab-separated table"):
        read_events(path)
    path.write_text(EVENTS.replace("event_label", "onset"))
    with pytest.raises(UserError, match="no column event_label"):
        read_events(path)
    path.write_text("filename\tonset\tonset\toffset\tevent_label\na\t0\t0\t1\tDog\n")
    with pytest.raises(UserError, match=r"events.tsv:1: the ground truth table has two columns onset"):
        read_events(path)


def test_a_mistake_after_blank_lines_has_its_own_line(capsys, folder):
    lines = [HEAD, "a.wav\t0.5\t3.0\tSpeech\n", "\n", "\n", "a.wav\t4.0\t4.6\tDog\n", "b.wav\t5.0\t4.0\tSpeech\n"]
    (folder / "events.tsv").write_text("".join(lines))
    code, _, err = score(capsys, folder)
    assert code == 2
    assert f"{folder / 'events.tsv'}:6: the event Speech of b ends at 4 s, before its onset at 5 s" in err
    (folder / "durations.tsv").write_text("filename\tduration\t\n\na.wav\t10\t\n\t\nb.wav\t-1\t\n")
    with pytest.raises(UserError, match=r"durations.tsv:5: the duration of b.wav is -1, not seconds > 0"):
        read_durations(folder / "durations.tsv")


def test_the_reported_tables_are_scored_or_refused_with_their_line(capsys, shared):
    found = []
    for name in ("10_trailing_tab_in_rows", "11_blank_lines_shift_line_number"):
        case = shared / "cases" / name
        words = ["psds", case / "scores", "--ground_truth", case / "gt.tsv", "--durations", case / "dur.tsv"]
        found.append(run("python -m task4_sed", VERBS, [*map(str, words), "--draws", "0", "--jobs", "1"]))
    told = capsys.readouterr()
    assert found == [0, 2] and "3 of 3 clips" in told.out and "gt.tsv:9: the event Speech of b ends at 4 s" in told.err


def test_rows_of_a_table_are_numbered_by_their_lines(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text("\nx\ty\n1\t2\n\n3\t\n")
    table = read_table(path, ("x",), "test")
    assert table.index.tolist() == [3, 5]
    assert table["x"].tolist() == ["1", "3"]
    path.write_text("x\ty\n")
    assert read_table(path, ("x",), "test").empty


def test_a_table_of_audioset_strong_has_its_own_lines(tmp_path):
    path = tmp_path / "strong.tsv"
    path.write_text(
        "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\t\n\nb0RFKhbpFJA_30000\t0\t2\t/m/03m9d0z\t\n\n"
        "b0RFKhbpFJA_30000\t2\t1\t/m/03m9d0z\t\n"
    )
    with pytest.raises(UserError, match=r"strong.tsv:5 has an event that ends before it starts"):
        read_strong_table(path)


def test_soft_labels_may_end_with_tabs_and_blank_lines(tmp_path):
    path = tmp_path / "cafe_restaurant_00.txt"
    path.write_text("0\t1\tcar\t0.5\t\n\n  \n1\t2\tcar\t0.25\n\t\n\n")
    assert read_soft_labels(path)["confidence"].tolist() == [0.5, 0.25]
    path.write_text("0\t1\tcar\t0.5\t\n\n1\t2\tcar\t7\n")
    with pytest.raises(UserError, match=r"00.txt:3: the confidence of car is 7, outside 0..1"):
        read_soft_labels(path)


@pytest.mark.parametrize(
    "text",
    [SCORES + "\n", SCORES + "\n \n\n", SCORES.replace("\n", "\t\n"), SCORES.replace("\n", "\n\n"),
     SCORES.replace("\n", "\r\n"), SCORES.replace("\t", " \t"), SCORES.rstrip("\n"), "\ufeff" + SCORES],
    ids=["blank_last", "blanks_last", "trailing_tab", "blank_between", "crlf", "spaces", "no_end", "mark"],
)  # fmt: skip
def test_a_score_table_of_a_spreadsheet_is_read(tmp_path, text):
    (tmp_path / "a.tsv").write_text(text)
    table = read_score_tables(tmp_path)
    assert table.values.tolist() == [[0.1, 0.9, 0.2, 0.3], [0.2, 0.3, 0.1, 0.7]]
    assert table.borders.tolist() == [0, 1, 3, 4, 10]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1\t3\t.9\t.3\n3\t4\t.2\t.1", "1\t3\t.9\n3\t4\t.2\t.1\t.5", "a.tsv:3: 3 cells, but the header has 4 columns"),
        ("1\t3\t.9\t.3", "1\t3\t.9\t\t.3", "a.tsv:3: 5 cells"),
        ("1\t3\t.9\t.3\n3\t4\t.2\t.1", "1\t3\t\t.9\n3\t4\t.2 .1\t.5", "a.tsv:3: '' is not a number"),
        ("3\t4\t.2\t.1", "3\t4\t.2 .3\t", "a.tsv:4: '.2 .3' is not a number"),
        ("1\t3\t.9\t.3", "1\t3\tnan\t.3", "a.tsv:3: column 3 is nan; scores must be numbers"),
        ("\n1\t3\t.9\t.3", "\n\n1\t3\tinf\t.3", "a.tsv:4: column 3 is inf; scores must be numbers"),
        ("1\t3\t.9\t.3", "1\t3\tTrue\t.3", "a.tsv:3: 'True' is not a number"),
    ],
)
def test_cells_are_counted_row_by_row(tmp_path, old, new, message):
    (tmp_path / "a.tsv").write_text(SCORES.replace(old, new))
    with pytest.raises(UserError, match=message):
        read_score_tables(tmp_path)


def test_ragged_rows_whose_cells_add_up_are_refused_by_the_verb(capsys, folder):
    (folder / "scores" / "a.tsv").write_text(SCORES.replace("1\t3\t.9\t.3\n3\t4\t.2\t.1", "1\t3\t.9\n3\t4\t.2\t.1\t.3"))
    code, found, err = score(capsys, folder)
    assert (code, found) == (2, {})
    assert "a.tsv:3: 3 cells, but the header has 4 columns" in err


def test_large_folders_skip_blank_lines_too(tmp_path, monkeypatch):
    (tmp_path / "a.tsv").write_text(SCORES.replace("\n", "\n\n"))
    (tmp_path / "b.tsv").write_text(SCORES)
    one = read_score_tables(tmp_path)
    monkeypatch.setattr("task4_sed.scores.tables.SMALL_FOLDER", 0)
    many = read_score_tables(tmp_path)
    assert np.array_equal(many.values, one.values) and np.array_equal(many.borders, one.borders)


def test_scores_that_are_not_numbers_are_neither_written_nor_read(capsys, folder, tmp_path):
    values = np.zeros((2, 4, 2), np.float32)
    with ScoreWriter(tmp_path / "good.h5", ["Speech", "Dog"]) as writer:
        writer.write(["a", "b"], values)
    values[1, 2, 0] = np.nan
    numbers = pytest.raises(UserError, match=r"outputs of b .* hold NaN")
    with numbers, ScoreWriter(tmp_path / "bad.h5", ["Speech", "Dog"]) as writer:
        writer.write(["a", "b"], values)
    assert not (tmp_path / "bad.h5").exists()
    import h5py

    with h5py.File(tmp_path / "good.h5", "r+") as file:
        file["strong_logits"][1, 2, 0] = np.nan
    for read in (read_scores, lambda path: ScoreStore(path).read(["a", "b"])):
        with pytest.raises(UserError, match=r"good.h5: the strong_logits of b hold NaN"):
            read(tmp_path / "good.h5")
    assert ScoreStore(tmp_path / "good.h5").read(["a"]).shape == (1, 4, 2)


def test_names_in_another_unicode_form_are_the_same_clip(capsys, folder):
    code, expected, _ = score(capsys, folder)
    composed, decomposed = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    assert composed != decomposed
    (folder / "scores" / "a.tsv").rename(folder / "scores" / f"{decomposed}.tsv")
    (folder / "events.tsv").write_text(EVENTS.replace("a.wav", f"{composed}.wav"))
    (folder / "durations.tsv").write_text(f"filename\tduration\n{decomposed}.wav\t10\nb.wav\t10\n")
    code, found, _ = score(capsys, folder)
    assert code == 0
    assert found == expected
    frames = pd.DataFrame({"onset": [0.0], "offset": [1.0], "Dog": [0.5]})
    assert from_frames({decomposed: frames}).clips == (composed,)


def test_two_tables_of_one_clip_are_refused(folder):
    (folder / "scores" / "a.wav.tsv").write_text(SCORES)
    with pytest.raises(UserError, match=r"a\.(wav\.)?tsv and a\.(wav\.)?tsv are two tables of one clip"):
        read_score_tables(folder / "scores")
    (folder / "scores" / "a.wav.tsv").unlink()
    (folder / "scores" / "x.tsv").mkdir()
    assert read_score_tables(folder / "scores").clips == ("a", "b")


def test_a_class_with_dollars_is_drawn(tmp_path):
    from task4_sed.metrics.command import draw_curves
    from task4_sed.metrics.polyphonic import Curve

    whole = Curve(np.array([0.5, 0.5]), np.array([0.0, 100.0]))
    paths = draw_curves({"psds1": (whole, {"a$_{$": Curve(np.array([0.5]), np.array([0.0]))})}, tmp_path)
    assert paths[0].stat().st_size > 1000


def test_lists_of_clips_may_end_with_tabs_and_blank_lines(tmp_path):
    path = tmp_path / "weak.tsv"
    path.write_text("filename\tevent_labels\na.wav\tSpeech\t\nb.wav\tDog\t\n\n \n")
    table = read_tsv(path, ["filename", "event_labels"], key="filename")
    assert table["filename"].tolist() == ["a.wav", "b.wav"]
    assert table["event_labels"].tolist() == ["Speech", "Dog"]
    path.write_text("filename\tevent_labels\na.wav\tSpeech\tDog\nb.wav\tDog\n")
    with pytest.raises(UserError, match="rows with more cells than its header has columns"):
        read_tsv(path, ["filename", "event_labels"])
    path.write_text("filename\tevent_labels\na.wav\tSpeech\n\nb.wav\tDog\n")
    with pytest.raises(UserError, match=r"weak.tsv:3 is an empty row"):
        read_tsv(path, ["filename", "event_labels"])
