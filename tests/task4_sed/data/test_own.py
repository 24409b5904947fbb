"""Own recordings: tables as people write them, splits by recording, windows in which every event is."""

import shutil

import numpy as np
import pandas as pd
import pytest

from common.data.audio import audio_info, write_wav
from common.errors import UserError
from task4_sed.data.check import check_own
from task4_sed.data.own import cut_windows, median_lengths, prepare_own, read_own
from task4_sed.data.sets import read_set, set_durations

SECONDS = {"a": 3.0, "b": 10.0, "night/c": 27.5, "d": 20.5, "e": 10.5, "f": 4.0}
EVENTS = [("a", 0.5, 1.0, "tick"), ("b", 9.0, 9.5, "tock"), ("night/c", 9.5, 10.5, "tick"),
          ("night/c", 26.0, 27.4, "tock"), ("d", 16.0, 17.9, "tick"), ("e", 10.1, 10.4, "tock"),
          ("f", 0.0, 4.0, "tick")]  # fmt: skip
PARTS = {"a": "train", "b": "train", "night/c": "test", "d": "train", "e": "val", "f": "test"}


@pytest.fixture
def folder(tmp_path):
    """birds/: events.csv and audio/ with six recordings of 3 to 27.5 s at 8 kHz."""
    random = np.random.default_rng(0)
    for name, seconds in SECONDS.items():
        noise = random.normal(0, 0.05, round(seconds * 8000)).astype(np.float32)
        write_wav(tmp_path / "birds" / "audio" / f"{name}.wav", noise, 8000)
    table = pd.DataFrame(EVENTS, columns=["filename", "onset", "offset", "label"])
    table["filename"] += ".wav"
    write(tmp_path / "birds", table.assign(split=[PARTS[event[0]] for event in EVENTS]))
    return tmp_path / "birds"


def write(folder, table):
    table.to_csv(folder / "events.csv", index=False)
    return table


def test_every_event_is_in_a_window_and_windows_join_without_a_gap(folder, tmp_path, capsys):
    root, facts = prepare_own(folder / "events.csv", folder / "audio", tmp_path / "own", "birds")
    assert facts["classes"] == ["tick", "tock"] and facts["windows"] == {"train": 5, "validation": 2, "test": 5}
    assert "7 of 7 events of 2 classes lie in them" in capsys.readouterr().err
    train = read_set(root, "own_train", classes=facts["classes"])
    assert train.filenames[2] == "d-000000-001000.wav" and train.filenames[-1] == "d-001600-002050.wav"
    first, second = (train.events[train.events["clip"] == place] for place in (3, 4))
    assert first[["onset", "offset"]].to_numpy().tolist() == [[8.0, pytest.approx(9.9)]]
    assert second[["onset", "offset"]].to_numpy().tolist() == [[0.0, pytest.approx(1.9)]]
    windows = read_set(root, "own_test_windows")
    assert [audio_info(windows.folder / name).duration for name in windows.filenames] == [4.0, 10.0, 10.0, 10.0, 3.5]
    # The reference of the test are whole recordings with their own times.
    tested = read_set(root, "own_test", classes=facts["classes"])
    assert tested.filenames == ("f.wav", "night__c.wav") and tested.events["offset"].max() == 27.4
    assert set_durations(root, "own_test") == {"f": 4.0, "night__c": 27.5}
    assert read_set(root, "own_train", classes=["tock"]).events["event_label"].unique().tolist() == ["tock"]
    assert sorted(path.name for path in folder.iterdir()) == ["audio", "events.csv"], "nothing is written there"


def test_a_copy_finds_the_windows_again_and_a_changed_file_makes_new_ones(folder, tmp_path):
    store = tmp_path / "own"
    root, _ = prepare_own(folder / "events.csv", folder / "audio", store, "birds")
    moved = shutil.copytree(folder, tmp_path / "moved", copy_function=shutil.copyfile)
    assert prepare_own(moved / "events.csv", moved / "audio", store, "moved")[0] == root
    write_wav(moved / "audio" / "a.wav", np.full(24000, 0.1, np.float32), 8000)
    assert prepare_own(moved / "events.csv", moved / "audio", store, "birds")[0] != root


def test_a_table_without_split_is_split_by_recording_and_the_column_recording_keeps_files_together(folder):
    table = pd.read_csv(folder / "events.csv").drop(columns="split")
    write(folder, table)
    own = read_own(folder / "events.csv", folder / "audio")
    assert sorted(set(own.parts.values())) == ["test", "train", "validation"]
    assert "names no split: its 6 recordings were split by recording" in own.notes[-1]
    write(folder, table.assign(recording=["1", "1", "2", "2", "3", "4", "4"]))
    parts = read_own(folder / "events.csv", folder / "audio").parts
    assert parts["a"] == parts["b"] and parts["e"] == parts["f"] and len(set(parts.values())) == 3


def test_mistakes_are_named_with_their_place(folder):
    source = folder / "events.csv", folder / "audio"
    table = pd.read_csv(source[0])
    write(folder, table.assign(split=["train", "train", "test", "train", "train", "validation", "test"]))
    with pytest.raises(UserError, match=r"events\.csv:5: night/c has the splits test and train; every row"):
        read_own(*source)
    write(folder, table.assign(split="dev"))
    with pytest.raises(UserError, match="split dev is none of train, validation, test"):
        read_own(*source)
    write(folder, table.assign(split=table["split"].replace("val", "train")))
    assert "1 of 4 training recordings are held out" in read_own(*source).notes[0]
    write(folder, table.assign(offset=table["offset"].replace(1.0, 5.0)))
    assert "event tick of a lasts from 0.5 to 5 s, but the clip ends at 3 s" in check_own(*source).problems[0]
    (folder / "audio" / "b.wav").write_bytes(b"no sound")
    assert "b.wav" in check_own(*source).problems[0]
    (folder / "audio" / "b.wav").unlink()
    report = check_own(*source)
    assert "1 of the 6 recordings of" in report.problems[0] and report.missing == {"own": ("b",)}
    with pytest.raises(UserError, match=r"are not in .* \(first b\); there is a\.wav"):
        read_own(*source)


def test_filter_lengths_follow_the_lengths_of_events():
    lengths = {"note": [0.05, 0.09, 0.1], "call": [1.0, 1.0], "rain": [30.0]}
    events = pd.DataFrame([(0.0, end, name) for name, ends in lengths.items() for end in ends],
                          columns=["onset", "offset", "event_label"])  # fmt: skip
    assert median_lengths(events) == {"call": 7, "note": 1, "rain": 25}


def test_a_recording_of_any_length_is_covered():
    for samples in (1, 160_000, 160_001, 288_000, 400_000):
        parts = [(round(start * 16_000), len(cut)) for _, start, cut in cut_windows("r", np.zeros(samples, np.float32))]
        assert parts[0][0] == 0 and sum(parts[-1]) == samples
        assert all(start == 128_000 * number for number, (start, _) in enumerate(parts))
