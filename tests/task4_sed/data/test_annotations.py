"""Tables of events and durations: what is merged, and what is refused with its line."""

import pytest

from common.errors import UserError
from task4_sed.data.annotations import merge_overlapping, read_durations, read_events
from task4_sed.metrics import evaluation_set
from tests.support.made_up_scores import frame_table


def test_events_of_one_class_that_overlap_or_touch_become_one():
    events = read_events(
        {"a": [(0.0, 2.0, "dog"), (1.0, 3.0, "dog"), (3.0, 4.0, "dog"), (3.5, 5.0, "cat"), (6.0, 7.0, "dog")]}
    )
    merged, gone = merge_overlapping(events.events)
    assert gone == 2
    assert merged[["onset", "offset", "event_label"]].to_numpy().tolist() == [
        [3.5, 5.0, "cat"],
        [0.0, 4.0, "dog"],
        [6.0, 7.0, "dog"],
    ]
    evaluation = evaluation_set({"a": frame_table([0.5] * 100)}, {"a": [(0, 2, "dog"), (1, 3, "dog")]}, {"a": 10})
    assert "1 events that overlap" in evaluation.notes[0]


def test_soft_labels_outside_0_to_1_are_refused_with_their_line(tmp_path):
    table = tmp_path / "soft.tsv"
    table.write_text("filename\tonset\toffset\tevent_label\tconfidence\na.wav\t0\t1\tcar\t0.4\na.wav\t1\t2\tcar\t1.4\n")
    with pytest.raises(UserError, match=r"soft.tsv:3: the event car of a has confidence 1.4, outside 0..1"):
        read_events(table)


def test_durations_must_be_one_positive_number_per_clip(tmp_path):
    table = tmp_path / "durations.tsv"
    table.write_text("filename\tduration\na.wav\t10\na.flac\t9\n")
    with pytest.raises(UserError, match=r"durations.tsv:3: a.flac has the durations 10 s and 9 s"):
        read_durations(table)
    table.write_text("filename\tduration\na.wav\t-1\n")
    with pytest.raises(UserError, match=r"durations.tsv:2: the duration of a.wav is -1"):
        read_durations(table)
    with pytest.raises(UserError, match="There is no durations table"):
        read_durations(tmp_path / "none.tsv")
