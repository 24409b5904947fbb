"""The made-up Task 1 data: official layout, the same for the same seed, and learnable but not trivial."""

import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from common.data.files import MARKER, compute_sha256, is_made_up, read_marker
from common.errors import UserError
from common.synthetic.scenes import draw_place, record
from common.synthetic.synthesize import synthesize
from common.synthetic.task1 import DEVELOPMENT, EVALUATION, PLACES, SOUND, plan_recordings, write_task1
from task1_asc.data.tau2022 import CLASSES, DEVICE_GROUPS, DEVICES, SUBSETS, TRAINING_DEVICES
from tests.support.places import ROOT

CLIPS = 100


@pytest.fixture
def root(tiny_task1) -> Path:
    return tiny_task1


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t")


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): compute_sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_layout_is_the_official_one(root):
    development, evaluation = root / DEVELOPMENT, root / EVALUATION
    meta = read(development / "meta.csv")
    assert list(meta.columns) == ["filename", "scene_label", "identifier", "source_label"]
    assert {path.name for path in (development / "audio").iterdir()} == {Path(name).name for name in meta["filename"]}
    pattern = r"audio/[a-z_]+-[a-z]+-\d+-\d+-[0-9]-(a|b|c|s[1-6])\.wav"
    assert all(re.fullmatch(pattern, name) for name in meta["filename"])
    for name, scene, place, device in meta.itertuples(index=False):
        assert name.startswith(f"audio/{scene}-{place}-")
        assert name.endswith(f"-{device}.wav")
    setup = development / "evaluation_setup"
    train, test = read(setup / "fold1_train.csv"), read(setup / "fold1_evaluate.csv")
    assert list(train.columns) == list(test.columns) == ["filename", "scene_label"]
    assert list(read(setup / "fold1_test.csv").columns) == ["filename"]
    assert read(setup / "fold1_test.csv")["filename"].tolist() == test["filename"].tolist()
    assert train.equals(read(root / "split_setup" / "split100.csv"))
    assert test.equals(read(root / "split_setup" / "test.csv"))
    answers = read(evaluation / "evaluation_setup" / "fold1_test.csv")
    assert list(answers.columns) == ["filename"]
    assert answers["filename"].tolist() == [f"audio/{number}.wav" for number in range(len(answers))]
    assert {path.name for path in (evaluation / "audio").iterdir()} == {Path(n).name for n in answers["filename"]}


def test_clips_are_one_second_of_24_bit_mono_at_44100_hertz(root):
    for folder in (root / DEVELOPMENT, root / EVALUATION):
        for path in sorted((folder / "audio").iterdir())[::25]:
            info = soundfile.info(path)
            assert (info.samplerate, info.frames, info.channels, info.subtype) == (44100, 44100, 1, "PCM_24")
            waveform, _ = soundfile.read(path)
            assert 1e-4 < np.abs(waveform).max() < 1  # sound, and not clipped


def test_subsets_are_nested_by_segment_and_places_are_on_one_side(root):
    meta = read(root / DEVELOPMENT / "meta.csv").set_index("filename")
    lists = {subset: set(read(root / "split_setup" / f"split{subset}.csv")["filename"]) for subset in SUBSETS}
    test = set(read(root / "split_setup" / "test.csv")["filename"])
    for smaller, larger in pairwise(SUBSETS):
        assert lists[smaller] <= lists[larger]
    for names in (*lists.values(), test):
        segments = pd.Series([re.sub(r"-\d-([a-z0-9]+)\.wav", r"-\1", name) for name in names])
        assert set(segments.value_counts()) == {10}
        assert set(meta.loc[list(names), "scene_label"]) == set(CLASSES)
    assert not lists[100] & test
    assert not set(meta.loc[list(lists[100]), "identifier"]) & set(meta.loc[list(test), "identifier"])
    assert set(meta.loc[list(lists[100]), "source_label"]) <= set(TRAINING_DEVICES)
    assert set(meta.loc[list(test), "source_label"]) == set(DEVICES)
    assert set(meta.index) - lists[100] - test  # some are in neither, as in the real set


def test_the_default_size_compares_device_groups_on_the_same_sounds():
    recordings = [recording for recording in plan_recordings(1.0, 0) if recording.split == "test"]
    assert sum(len(recording.devices) for recording in recordings) == 180
    for recording in recordings:
        groups = [set(group) & set(recording.devices) for group in DEVICE_GROUPS.values()]
        assert [len(group) for group in groups] == [1, 1, 1]


@pytest.mark.slow
def test_writing_killed_in_the_middle_goes_on_and_another_number_of_workers_gives_the_same_files(root, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = f"from common.synthetic.task1 import write_task1; write_task1({str(tmp_path)!r}, {CLIPS}, 0, workers=1)"
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    audio = tmp_path / DEVELOPMENT / "audio"
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and (not audio.is_dir() or len(list(audio.glob("*.wav"))) < 25):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert read_marker(tmp_path / DEVELOPMENT)["whole"] is False
    write_task1(tmp_path, CLIPS, 0, workers=1)
    assert digests(tmp_path) == {name: value for name, value in digests(root).items() if not name.startswith("packed")}


def test_another_seed_gives_other_places_and_sounds():
    one, other = (draw_place(np.random.default_rng((seed, PLACES, 0)), "bus") for seed in (0, 1))
    assert one != other
    sounds = [record(np.random.default_rng((seed, SOUND, 0)), one) for seed in (0, 0, 1)]
    assert np.array_equal(sounds[0], sounds[1])
    assert not np.array_equal(sounds[0], sounds[2])


def test_a_whole_set_is_kept_and_another_one_refused(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    counts = synthesize("task1_asc", root, CLIPS)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert counts["development"] == len(read(root / DEVELOPMENT / "meta.csv"))
    with pytest.raises(UserError, match=r"holds made-up data of .*'seed': 0.*give another --root"):
        synthesize("task1_asc", root, CLIPS, seed=1)


def test_a_real_data_set_is_not_written_into(tmp_path):
    (tmp_path / DEVELOPMENT / "audio").mkdir(parents=True)
    (tmp_path / DEVELOPMENT / "meta.csv").write_text("filename\n")
    with pytest.raises(UserError, match=f"no {MARKER}.*give another --root"):
        synthesize("task1_asc", tmp_path, 120)
    assert not is_made_up(tmp_path / DEVELOPMENT)
    assert [path.name for path in tmp_path.iterdir()] == [DEVELOPMENT]


def test_an_unknown_task_and_a_size_of_nothing_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"No task with made-up data named task1_acs. Near it: task1_asc"):
        synthesize("task1_acs", tmp_path)
    with pytest.raises(UserError, match="0 clips cannot be made"):
        synthesize("task1_asc", tmp_path, 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file is a file\. Choose another place"):
        synthesize("task1_asc", tmp_path / "file")


def test_every_recording_device_colours_the_same_sound_in_its_own_way(root):
    """Mean spectra of parallel recordings differ by several dB between devices, and hardly between pieces of one."""
    from common.synthetic.scenes import DEVICES as COLOURS
    from common.synthetic.scenes import record_with

    random = np.random.default_rng(0)
    noise = (0.05 * random.standard_normal(441000)).astype(np.float32)
    edges = np.geomspace(100, 12000, 13)
    bands = {}
    for device in COLOURS:
        power = np.abs(np.fft.rfft(record_with(np.random.default_rng(1), noise, device))) ** 2
        hertz = np.fft.rfftfreq(441000, 1 / 44100)
        level = [10 * np.log10(power[(hertz >= low) & (hertz < high)].mean()) for low, high in pairwise(edges)]
        bands[device] = np.array(level) - np.mean(level)
    assert np.abs(bands["a"]).max() < 0.5
    names = list(bands)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            assert np.abs(bands[one] - bands[other]).max() > 2, (one, other)
