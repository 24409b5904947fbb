"""The packed store and its data sets."""

import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from common.data.audio import AudioError, ReadClip
from common.data.loading import EpochSampler, PackedClips, make_loader
from common.data.packed_store import verify
from common.data.packing import pack
from common.errors import UserError
from tests.support.places import ROOT

RATE = 8000


def write_clips(root: Path, count: int = 12, samples: int = 800, peak: float = 0.5) -> pd.DataFrame:
    random = np.random.default_rng(0)
    (root / "audio").mkdir(parents=True, exist_ok=True)
    for index in range(count):
        waveform = random.uniform(-peak, peak, samples)
        soundfile.write(root / f"audio/{index}.wav", waveform, RATE, subtype="PCM_24")
    return pd.DataFrame({"filename": [f"audio/{i}.wav" for i in range(count)], "scene_label": "park"})


def pack_clips(clips: pd.DataFrame, root: Path, folder: Path, **options):
    options = {"dtype": "int16", "sample_rate": RATE, "num_samples": 800, "root": root, **options}
    read = ReadClip(root, options["sample_rate"], options["num_samples"])
    return pack(clips, read, folder, **options)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("common.data.packing.BLOCK_BYTES", 800 * 2 * 5)  # five clips a block


@pytest.mark.parametrize(("dtype", "largest_error"), [("int16", 0.5 / 32768), ("float16", 2**-13)])
def test_packed_clips_are_the_files_within_half_a_step(tmp_path, small_blocks, dtype, largest_error):
    clips = write_clips(tmp_path)
    report = pack_clips(clips, tmp_path, tmp_path / "store", dtype=dtype)
    packed = PackedClips(tmp_path / "store")
    assert (report.packed, len(packed), packed.sample_rate) == (12, 12, RATE)
    for index in (0, 4, 5, 11):
        waveform, _ = soundfile.read(tmp_path / f"audio/{index}.wav", dtype="float32")
        item = packed[index]
        assert item["filename"] == f"audio/{index}.wav"
        assert item["index"] == index
        assert np.abs(item["waveform"].numpy() - waveform).max() <= largest_error * 1.001
    assert verify(tmp_path / "store", full=True) == []


def test_the_array_opens_with_plain_numpy(tmp_path, small_blocks):
    pack_clips(write_clips(tmp_path), tmp_path, tmp_path / "store")
    array = np.load(tmp_path / "store" / "waveforms.npy", mmap_mode="r")
    assert array.shape == (12, 800)
    waveform, _ = soundfile.read(tmp_path / "audio/7.wav")
    assert array[7].tolist() == np.rint(waveform * 32768).tolist()


def test_a_finished_store_is_kept(tmp_path, small_blocks):
    clips = write_clips(tmp_path)
    pack_clips(clips, tmp_path, tmp_path / "store")
    before = (tmp_path / "store" / "waveforms.npy").stat().st_mtime_ns
    assert pack_clips(clips, tmp_path, tmp_path / "store").packed == 0
    assert (tmp_path / "store" / "waveforms.npy").stat().st_mtime_ns == before


def test_a_copy_with_other_times_keeps_its_store_and_so_does_one_of_an_earlier_version(tmp_path, small_blocks):
    clips = write_clips(tmp_path / "a")
    pack_clips(clips, tmp_path / "a", tmp_path / "a" / "packed" / "store")
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    for path in (tmp_path / "b" / "audio").iterdir():
        os.utime(path, (1, 1))
    store = tmp_path / "b" / "packed" / "store"
    assert pack_clips(clips, tmp_path / "b", store).packed == 0
    table = pd.read_csv(store / "clips.tsv", sep="\t").drop(columns="sha256").assign(mtime_ns=7)
    text = table.to_csv(sep="\t", index=False, lineterminator="\n")
    info = json.loads((store / "store.json").read_text())
    info["plan"]["table_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (store / "clips.tsv").write_text(text)
    (store / "store.json").write_text(json.dumps(info))
    assert pack_clips(clips, tmp_path / "b", store).packed == 0


def test_two_workers_pack_the_same_bytes_as_one(tmp_path, small_blocks):
    clips = write_clips(tmp_path)
    pack_clips(clips, tmp_path, tmp_path / "one")
    pack_clips(clips, tmp_path, tmp_path / "two", workers=2)
    for name in ("waveforms.npy", "clips.tsv", "store.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_clipping_to_int16_is_counted_per_clip(tmp_path):
    clips = write_clips(tmp_path, count=3)
    loud = np.zeros(800)
    loud[[3, 50, 700]] = [1.5, -1.2, 1.0]  # 1.0 loses one step of int16 only, which is rounding
    soundfile.write(tmp_path / "audio/1.wav", loud, RATE, subtype="FLOAT")
    report = pack_clips(clips, tmp_path, tmp_path / "store")
    assert report.clipped == {"audio/1.wav": 2}
    assert "2 samples of 1 clips were clipped" in str(report)
    assert PackedClips(tmp_path / "store")[1]["waveform"].max() == pytest.approx(1, abs=2**-15)
    assert pack_clips(clips, tmp_path, tmp_path / "store").clipped == {"audio/1.wav": 2}
    assert pack_clips(clips, tmp_path, tmp_path / "float", dtype="float16").clipped == {}


def changed_rate(clips, root):
    return clips, {"sample_rate": 4000, "num_samples": 400}, "sample_rate was 8000, is now 4000"


def changed_type(clips, root):
    return clips, {"dtype": "float16"}, "dtype was int16, is now float16"


def changed_file(clips, root):
    soundfile.write(root / "audio/3.wav", np.zeros(800), RATE)
    return clips, {}, r"1 files changed \(first audio/3.wav\)"


def changed_label(clips, root):
    return clips.assign(scene_label=["park"] * 11 + ["bus"]), {}, r"1 rows of the table changed \(first audio/11.wav\)"


def fewer_clips(clips, root):
    return clips.iloc[:-2], {}, r"2 clips are gone \(first audio/10.wav\)"


def other_order(clips, root):
    return clips.iloc[::-1], {}, "the order of the clips changed"


@pytest.mark.parametrize(
    "change",
    [changed_rate, changed_type, changed_file, changed_label, fewer_clips, other_order],
    ids=lambda change: change.__name__,
)
def test_a_stale_store_is_refused_with_what_changed(tmp_path, small_blocks, change):
    clips = write_clips(tmp_path)
    pack_clips(clips, tmp_path, tmp_path / "store")
    clips, options, sentence = change(clips, tmp_path)
    with pytest.raises(UserError, match=f"packed from other data.*{sentence}.*Pack into another folder"):
        pack_clips(clips, tmp_path, tmp_path / "store", **options)


def stop_packing_after(root: Path, clips: pd.DataFrame, count: int) -> None:
    calls = []

    def read_some(row):
        calls.append(row["filename"])
        if len(calls) > count:
            raise KeyboardInterrupt
        return ReadClip(root, RATE, 800)(row)

    with pytest.raises(KeyboardInterrupt):
        pack(clips, read_some, root / "store", sample_rate=RATE, num_samples=800, root=root)


def test_an_unfinished_store_is_not_opened(tmp_path, small_blocks):
    stop_packing_after(tmp_path, write_clips(tmp_path), 6)
    with pytest.raises(UserError, match="was not finished"):
        PackedClips(tmp_path / "store")


def test_packing_goes_on_with_the_blocks_that_are_whole(tmp_path, small_blocks):
    clips = write_clips(tmp_path)
    stop_packing_after(tmp_path, clips, 11)  # two of three blocks
    with (tmp_path / "store" / "packing.jsonl").open("a") as journal:
        journal.write('{"block": 2, "sha')  # a line that was cut
    with (tmp_path / "store" / "waveforms.npy").open("rb+") as file:
        file.seek(128 + 800 * 2 * 2)
        file.write(b"damage")  # in block 0
    assert pack_clips(clips, tmp_path, tmp_path / "store").packed == 7  # blocks 0 and 2
    assert verify(tmp_path / "store", full=True) == []
    pack_clips(clips, tmp_path, tmp_path / "fresh")
    assert (tmp_path / "store/waveforms.npy").read_bytes() == (tmp_path / "fresh/waveforms.npy").read_bytes()
    assert not (tmp_path / "store" / "packing.jsonl").exists()


def test_an_unfinished_store_of_another_rate_is_refused_and_changed_rows_are_packed_again(tmp_path, small_blocks):
    clips = write_clips(tmp_path)
    stop_packing_after(tmp_path, clips, 11)
    with pytest.raises(UserError, match="sample_rate was 8000, is now 4000"):
        pack_clips(clips, tmp_path, tmp_path / "store", sample_rate=4000, num_samples=400)
    clips = clips.assign(scene_label=["park"] * 2 + ["bus"] + ["park"] * 9)
    assert pack_clips(clips, tmp_path, tmp_path / "store").packed == 7  # block 1 is kept
    assert PackedClips(tmp_path / "store").clips["scene_label"].tolist() == clips["scene_label"].tolist()


SLOW_PACKING = """
import sys, time
from pathlib import Path
import pandas as pd
from common.data import packing
from common.data.audio import ReadClip

packing.BLOCK_BYTES = 800 * 2 * 5

class SlowRead(ReadClip):
    def __call__(self, row):
        time.sleep(0.02)
        return super().__call__(row)

if __name__ == "__main__":
    root, workers = Path(sys.argv[1]), int(sys.argv[2])
    clips = pd.DataFrame({"filename": [f"audio/{i}.wav" for i in range(60)], "scene_label": "park"})
    packing.pack(clips, SlowRead(root, 8000, 800), root / "store", sample_rate=8000, num_samples=800, root=root,
                 workers=workers)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_packing_killed_in_the_middle_goes_on_and_ends_with_the_same_bytes(tmp_path, small_blocks, workers):
    clips = write_clips(tmp_path, count=60)
    script = tmp_path / "slow.py"
    script.write_text(SLOW_PACKING)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, script, tmp_path, str(workers)], env=environment)
    journal = tmp_path / "store" / "packing.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not journal.is_file() or journal.read_text().count('"clipped"') < 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "store" / "store.json").exists()
    report = pack_clips(clips, tmp_path, tmp_path / "store")
    assert 0 < report.packed <= 45
    assert verify(tmp_path / "store", full=True) == []
    pack_clips(clips, tmp_path, tmp_path / "fresh")
    assert (tmp_path / "store/waveforms.npy").read_bytes() == (tmp_path / "fresh/waveforms.npy").read_bytes()


@pytest.mark.parametrize("ends", [True, False])
def test_a_folder_that_another_process_packs_is_waited_for_and_taken_over_when_it_stops(
    tmp_path, small_blocks, ends, capsys
):
    clips = write_clips(tmp_path)
    reports, waiting = [], threading.Event()

    def second():
        waiting.set()
        reports.append(pack_clips(clips, tmp_path, tmp_path / "store"))

    def read(row):
        if not waiting.is_set():
            thread.start()
            waiting.wait()
            time.sleep(0.2)
        if not ends:
            raise AudioError("stopped")
        return np.zeros(800, dtype=np.float32)

    thread = threading.Thread(target=second)
    options = {"sample_rate": RATE, "num_samples": 800, "root": tmp_path}
    if ends:
        assert pack(clips, read, tmp_path / "store", **options).packed == len(clips)
    else:
        with pytest.raises(UserError, match="stopped"):
            pack(clips, read, tmp_path / "store", **options)
    thread.join(60)
    assert [report.packed for report in reports] == [0 if ends else len(clips)]
    assert "being packed by another process; waiting for it" in capsys.readouterr().err
    assert verify(tmp_path / "store", full=True) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_clip_that_cannot_be_read_is_named_and_the_rest_kept(tmp_path, small_blocks, workers):
    clips = write_clips(tmp_path)
    whole = (tmp_path / "audio/7.wav").read_bytes()
    (tmp_path / "audio/7.wav").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"audio/7.wav is cut off"):
        pack_clips(clips, tmp_path, tmp_path / "store", workers=workers)
    (tmp_path / "audio/7.wav").write_bytes(whole)
    finished = pack_clips(clips, tmp_path, tmp_path / "store")
    assert finished.packed == 7 if workers == 1 else finished.packed >= 5  # clips 0 to 4 were a whole block
    assert verify(tmp_path / "store", full=True) == []


def test_a_clip_of_another_length_is_named(tmp_path):
    clips = write_clips(tmp_path)
    soundfile.write(tmp_path / "audio/2.wav", np.zeros(700), RATE)
    with pytest.raises(UserError, match=r"audio/2.wav lasts 0.0875 s, expected 0.1000 s"):
        pack_clips(clips, tmp_path, tmp_path / "store")


def test_a_doubled_row_an_absent_file_and_an_empty_table_are_refused(tmp_path):
    clips = write_clips(tmp_path, count=2)
    with pytest.raises(UserError, match=r"names audio/0.wav twice"):
        pack_clips(pd.concat([clips, clips.iloc[:1]]), tmp_path, tmp_path / "store")
    with pytest.raises(UserError, match=r"gone.wav does not exist"):
        pack_clips(clips.replace("audio/1.wav", "audio/gone.wav"), tmp_path, tmp_path / "store")
    with pytest.raises(UserError, match="table is empty"):
        pack_clips(clips.iloc[:0], tmp_path, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_place_where_nothing_can_be_written_is_one_sentence(tmp_path):
    clips = write_clips(tmp_path, count=2)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write the packed store"):
        pack_clips(clips, tmp_path, tmp_path / "file" / "store")


def test_a_disk_without_room_is_told_before_decoding(tmp_path, monkeypatch):
    clips = write_clips(tmp_path, count=2)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full_disk)
    with pytest.raises(UserError, match=r"no room for .*waveforms.npy: it needs 3.2 KiB"):
        pack_clips(clips, tmp_path, tmp_path / "store")
    assert not (tmp_path / "store" / "waveforms.npy").exists()


def test_damage_to_each_part_of_a_store_is_found(tmp_path, small_blocks):
    clips = write_clips(tmp_path, count=40)  # eight blocks
    store = tmp_path / "store"
    pack_clips(clips, tmp_path, store)
    array, table = (store / "waveforms.npy").read_bytes(), (store / "clips.tsv").read_text()
    (store / "waveforms.npy").write_bytes(array[:-1])
    assert any("bytes, expected" in problem for problem in verify(store))
    with pytest.raises(UserError, match="bytes, expected"):
        PackedClips(store)
    changed = bytearray(array)
    changed[128 + 800 * 2 * 12] ^= 1  # clip 12, in the third block
    (store / "waveforms.npy").write_bytes(changed)
    assert verify(store) == []  # the quick look reads blocks 0, 3 and 7
    assert "clips 10 to 14 are not what was packed" in verify(store, full=True)[0]
    (store / "waveforms.npy").write_bytes(array)
    (store / "clips.tsv").write_text(table.replace("park", "tram", 1))
    assert "was changed after packing" in verify(store)[0]
    (store / "clips.tsv").write_text(table)
    content = json.loads((store / "store.json").read_text())
    content["plan"]["version"] = 99
    (store / "store.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="version 99"):
        PackedClips(store)
    (store / "store.json").write_text('{"plan": {')
    with pytest.raises(UserError, match="is damaged"):
        PackedClips(store)
    with pytest.raises(UserError, match="is not a packed store"):
        PackedClips(tmp_path / "nothing")


def test_clips_can_be_chosen_by_name_and_absent_ones_are_named(tmp_path):
    pack_clips(write_clips(tmp_path), tmp_path, tmp_path / "store")
    chosen = PackedClips(tmp_path / "store", ["audio/9.wav", "audio/2.wav"])
    everything = PackedClips(tmp_path / "store")
    assert [item["index"] for item in (chosen[0], chosen[1])] == [9, 2]
    assert torch.equal(chosen[0]["waveform"], everything[9]["waveform"])
    with pytest.raises(UserError, match=r"lacks 1 of 2 clips \(first audio/x.wav"):
        PackedClips(tmp_path / "store", ["audio/9.wav", "audio/x.wav"])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_gathered_batches_equal_the_items_one_by_one(tmp_path, num_workers):
    pack_clips(write_clips(tmp_path), tmp_path, tmp_path / "store")
    packed = PackedClips(tmp_path / "store", [f"audio/{i}.wav" for i in (3, 1, 4, 11, 5, 9, 2)])
    slow = list(DataLoader(packed, batch_size=3))
    fast = list(make_loader(packed, 3, num_workers=num_workers))
    assert len(slow) == len(fast) == 3
    for one, other in zip(slow, fast):
        assert torch.equal(one["waveform"], other["waveform"])
        assert torch.equal(one["index"], other["index"])
        assert one["filename"] == other["filename"]


def test_the_order_depends_on_seed_and_epoch_only(tmp_path):
    pack_clips(write_clips(tmp_path), tmp_path, tmp_path / "store")
    packed = PackedClips(tmp_path / "store")

    def names(loader, epoch):
        loader.sampler.set_epoch(epoch)
        return [name for batch in loader for name in batch["filename"]]

    state = torch.get_rng_state()
    loader = make_loader(packed, 5, shuffle_seed=1)
    first, second = names(loader, 0), names(loader, 1)
    assert first != second
    assert sorted(first) == sorted(second)
    assert names(make_loader(packed, 5, shuffle_seed=1), 1) == second
    assert names(make_loader(packed, 5, shuffle_seed=2), 1) != second
    assert torch.equal(state, torch.get_rng_state())
    assert len(EpochSampler(12, 0)) == 12


def test_an_opened_store_can_be_pickled_without_its_samples(tmp_path):
    pack_clips(write_clips(tmp_path), tmp_path, tmp_path / "store")
    packed = PackedClips(tmp_path / "store")
    expected = packed[3]["waveform"]
    again = pickle.loads(pickle.dumps(packed))
    assert len(pickle.dumps(packed)) < 12 * 800 * 2
    assert torch.equal(again[3]["waveform"], expected)
