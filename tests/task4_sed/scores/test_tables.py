"""Score tables: what is read, and what is refused with file and line."""

import numpy as np
import pytest

from common.errors import UserError
from task4_sed.scores.store import read_score_tables
from tests.support.golden_sed import write_golden

HEAD = "onset\toffset\tdog\tcat\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEAD + "0\t1\t.1\t.2\n1.5\t2\t.1\t.2\n",
            "b.tsv:3: this frame starts at 1.5 s, but the one before ends at 1 s",
        ),
        (HEAD + "1\t2\t.1\t.2\n0\t1\t.1\t.2\n", "b.tsv:3: this frame starts at 0 s, but the one before ends at 2 s"),
        (HEAD + "0\t1\t.1\t.2\n1\t1\t.1\t.2\n", "b.tsv:3: a frame from 1 to 1 s has no length"),
        (HEAD + "0\t1\t.1\tnan\n", "b.tsv:2: column 4 is nan"),
        (HEAD + "0\t1\t.1\n", "b.tsv:2: 3 cells, but the header has 4 columns"),
        (HEAD + "0\t1\t.1\t\n", "b.tsv:2: '' is not a number"),
        (HEAD + "0\t1\t.1\tx\n", "b.tsv:2: 'x' is not a number"),
        (HEAD, "b.tsv has a header but no frames"),
        ("onset\tdog\toffset\tcat\n0\t1\t.1\t.2\n", "b.tsv:1: columns must be onset, offset"),
        ("onset,offset,dog,cat\n0,1,.1,.2\n", "b.tsv:1: columns must be onset, offset"),
        ("onset\toffset\tdog\tcats\n0\t1\t.1\t.2\n", "b.tsv:1: no column for the class cat"),
        ("onset\toffset\tdog\tcat\tcow\n0\t1\t.1\t.2\t.3\n", "b.tsv:1: a column for the class cow"),
        ("onset\toffset\tdog\tdog\n0\t1\t.1\t.2\n", "b.tsv:1: the class dog has two columns"),
    ],
)
def test_damaged_score_tables_are_refused_with_their_line(tmp_path, text, message):
    (tmp_path / "a.tsv").write_text(HEAD + "0\t1\t.1\t.2\n1\t2\t.3\t.4\n")
    (tmp_path / "b.tsv").write_text(text)
    with pytest.raises(UserError) as refusal:
        read_score_tables(tmp_path)
    assert message in str(refusal.value)


def test_score_tables_may_have_their_classes_in_another_order(tmp_path):
    (tmp_path / "a.tsv").write_text(HEAD + "0\t1\t.1\t.2\n")
    (tmp_path / "b.tsv").write_text("onset\toffset\tcat\tdog\r\n0\t1\t.4\t-inf\r\n")
    tables = read_score_tables(tmp_path)
    assert tables.column("cat").tolist() == [0.2, 0.4]
    assert tables.column("dog").tolist() == [0.1, -np.inf]


def test_a_folder_without_tables_names_the_folders_inside_that_have_some(tmp_path):
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "a.tsv").write_text(HEAD + "0\t1\t.1\t.2\n")
    with pytest.raises(UserError, match="Its sub-folders student do"):
        read_score_tables(tmp_path)


def test_many_tables_parsed_by_several_processes_equal_those_of_one(tmp_path, monkeypatch):
    import task4_sed.scores.tables as module

    folder, *_ = write_golden("ties", tmp_path)
    one = read_score_tables(folder)
    monkeypatch.setattr(module, "SMALL_FOLDER", 0)
    many = read_score_tables(folder, jobs=2)
    assert many.clips == one.clips
    assert np.array_equal(many.values, one.values)
    assert np.array_equal(many.borders, one.borders)
