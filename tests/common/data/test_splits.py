"""The split of recordings that come without one."""

from collections import Counter

import pytest

from common.data.splits import describe_split, split_recordings
from common.errors import UserError


def test_each_class_is_in_training_and_test_and_the_shares_hold():
    labels = {
        f"{name}_{number}": [name] for name, count in {"dog": 50, "cat": 5, "owl": 2}.items() for number in range(count)
    }
    parts = split_recordings(labels, "clips.csv")
    of_class = Counter((labels[recording][0], part) for recording, part in parts.items())
    assert [of_class["dog", part] for part in ("train", "validation", "test")] == [35, 5, 10]
    assert [of_class["cat", part] for part in ("train", "validation", "test")] == [3, 1, 1]
    assert [of_class["owl", part] for part in ("train", "validation", "test")] == [1, 0, 1]


def test_the_split_depends_on_the_names_alone():
    labels = {str(number): ["a", "b"][: 1 + number % 2] for number in range(30)}
    assert split_recordings(labels, "x") == split_recordings(dict(reversed(labels.items())), "x")
    assert "30 recordings were split by recording (21 train, 3 validation, 6 test)" in describe_split(
        split_recordings(labels, "x"), "x"
    )


def test_no_part_is_empty_and_two_recordings_are_refused():
    assert sorted(split_recordings({"a": ["x"], "b": ["x"], "c": []}, "x").values()) == ["test", "train", "validation"]
    with pytest.raises(UserError, match=r"events\.tsv has 2 recordings; a split needs at least three"):
        split_recordings({"a": ["x"], "b": ["x"]}, "events.tsv")
