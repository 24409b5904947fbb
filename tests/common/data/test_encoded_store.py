"""Encoded clips in HDF5 files, and tables of teacher outputs."""

import multiprocessing
import pickle

import h5py
import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from common.data.audio import resample
from common.data.encoded_store import EncodedClips, encode_audio, pack_encoded
from common.data.keyed_outputs import KeyedOutputs, OutputWriter, clip_key
from common.data.loading import make_loader
from common.errors import UserError

RATE = 16000


def tone(hertz, seconds=1.0, rate=RATE):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    """Three clips as mp3: tones of 200, 400 and 800 Hz of 1, 2 and 3 s."""
    for number, hertz in enumerate((200, 400, 800)):
        (tmp_path / f"Yclip{number}.mp3").write_bytes(encode_audio(tone(hertz, 1 + number), RATE))
    return tmp_path


@pytest.fixture
def packed(folder):
    targets = np.eye(3, 11, dtype=np.uint8)
    pack_encoded(sorted(folder.glob("*.mp3")), folder / "clips.hdf", targets, quiet=True)
    return folder / "clips.hdf"


def pitch(waveform, rate=RATE):
    spectrum = np.abs(np.fft.rfft(np.asarray(waveform)))
    return spectrum.argmax() * rate / len(waveform)


def test_the_file_has_the_layout_of_the_field(packed, folder):
    with h5py.File(packed) as file:
        assert file["audio_name"][:].tolist() == [b"Yclip0.mp3", b"Yclip1.mp3", b"Yclip2.mp3"]
        assert bytes(file["mp3"][1]) == (folder / "Yclip1.mp3").read_bytes()
        assert file["target"].shape == (3, 2)
        assert np.unpackbits(file["target"][:], axis=1)[:, :11].tolist() == np.eye(3, 11).tolist()


def test_clips_are_decoded_cut_and_padded(packed):
    clips = EncodedClips([packed], RATE, seconds=2.0)
    items = [clips[index] for index in range(3)]
    assert [item["waveform"].shape for item in items] == [(2 * RATE,)] * 3
    assert [item["filename"] for item in items] == ["Yclip0", "Yclip1", "Yclip2"]
    assert pitch(items[0]["waveform"][:RATE]) == pytest.approx(200, abs=2)
    assert pitch(items[2]["waveform"]) == pytest.approx(800, abs=2)
    assert not items[0]["waveform"][int(1.1 * RATE) :].any()


def test_clips_are_resampled(packed):
    clip = EncodedClips([packed], 32000, seconds=1.0)[1]["waveform"]
    assert clip.shape == (32000,)
    assert pitch(clip, 32000) == pytest.approx(400, abs=2)


def test_names_work_with_and_without_ending_and_folder(packed):
    for names in (["Yclip2", "Yclip0"], ["Yclip2.mp3", "Yclip0.mp3"], ["07/Yclip2.mp3", "Yclip0.wav"]):
        clips = EncodedClips([packed], RATE, 1.0, names)
        assert clips.filenames == ["Yclip2", "Yclip0"]
        assert np.unpackbits(clips.packed_targets(11), axis=1)[:, :3].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert clip_key("a/b/Y-x.y.mp3") == "Y-x.y"
    assert clip_key("no_ending") == "no_ending"


def test_several_files_are_read_as_one(folder, packed):
    (folder / "more.mp3").write_bytes(encode_audio(tone(1600), RATE))
    pack_encoded([folder / "more.mp3"], folder / "more.hdf", quiet=True)
    clips = EncodedClips([packed, folder / "more.hdf"], RATE, 1.0, ["more", "Yclip1"])
    assert [round(pitch(clips[index]["waveform"])) for index in range(2)] == [1600, 400]


def test_a_seed_chooses_the_part_of_a_long_clip(packed):
    clips = EncodedClips([packed], RATE, 0.5)
    first, again, other = (clips[(2, seed)]["waveform"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(clips[2]["waveform"], EncodedClips([packed], RATE, 3.0)[2]["waveform"][: RATE // 2])


def test_a_batch_holds_what_the_items_hold(packed):
    clips = EncodedClips([packed], RATE, 1.0)
    batch = next(iter(make_loader(clips, 3)))
    assert torch.equal(batch["waveform"], torch.stack([clips[index]["waveform"] for index in range(3)]))
    assert batch["filename"] == clips.filenames
    assert batch["index"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_open_the_file_themselves(packed, method):
    clips = EncodedClips([packed], RATE, 1.0)
    expected = clips[1]["waveform"]  # opened in this process first
    context = multiprocessing.get_context(method)
    loader = DataLoader(clips, batch_size=1, num_workers=1, multiprocessing_context=context)
    assert torch.equal(list(loader)[1]["waveform"][0], expected)


def test_missing_and_broken_files_are_left_out_and_told(folder, capfd):
    (folder / "text.mp3").write_text("this is no audio " * 100)
    (folder / "empty.mp3").touch()
    whole = (folder / "Yclip2.mp3").read_bytes()
    (folder / "cut.mp3").write_bytes(whole[: len(whole) // 2])
    names = ["Yclip0.mp3", "text.mp3", "gone.mp3", "empty.mp3", "cut.mp3", "Yclip1.mp3"]
    report = pack_encoded([folder / name for name in names], folder / "out.hdf", np.eye(6), quiet=True)
    assert report.num_clips == 2
    assert [name.rpartition("/")[2] for name in report.missing] == ["gone.mp3"]
    assert len(report.unreadable) == 3
    assert "1 files are missing" in str(report) and "3 files cannot be read" in str(report)
    clips = EncodedClips([folder / "out.hdf"], RATE)
    assert clips.filenames == ["Yclip0", "Yclip1"]
    assert np.unpackbits(clips.packed_targets(6), axis=1).argmax(axis=1).tolist() == [0, 5]


def test_nothing_is_left_of_a_file_that_could_not_be_written(folder):
    with pytest.raises(UserError, match="None of the 1 files can be read"):
        pack_encoded([folder / "gone.mp3"], folder / "out.hdf", quiet=True)
    with pytest.raises(UserError, match="holds Yclip0 more than once"):
        pack_encoded([folder / "Yclip0.mp3", folder / "Yclip0.mp3"], folder / "out.hdf", quiet=True)
    assert not [path for path in folder.iterdir() if "out.hdf" in path.name]


def test_other_formats_can_be_turned_into_mp3(folder):
    soundfile.write(folder / "stereo.wav", np.stack([tone(300, rate=44100)] * 2, axis=1), 44100)
    pack_encoded([folder / "stereo.wav"], folder / "out.hdf", encode_rate=32000, quiet=True)
    clips = EncodedClips([folder / "out.hdf"], 32000, 1.0)
    assert pitch(clips[0]["waveform"], 32000) == pytest.approx(300, abs=2)
    assert len(clips.encoded(0)) < 20000


def test_files_are_refused_instead_of_left_out_where_all_are_needed(folder):
    (folder / "empty.mp3").touch()
    for name, told in (("empty.mp3", "is empty"), ("gone.mp3", "does not exist")):
        with pytest.raises(UserError, match=rf"{name} {told}"):
            pack_encoded([folder / "Yclip0.mp3", folder / name], folder / "out.hdf", strict=True, quiet=True)
    assert not (folder / "out.hdf").exists()


def test_flac_loses_nothing_but_the_last_bits_and_clips_nothing(folder):
    loud = np.clip(2 * tone(300, rate=44100), -1, 1)  # resampling overshoots
    soundfile.write(folder / "quiet.wav", tone(300), RATE)
    soundfile.write(folder / "loud.wav", loud, 44100)
    files = [folder / "quiet.wav", folder / "loud.wav"]
    pack_encoded(files, folder / "out.hdf", encode_rate=RATE, encode_format="flac", quiet=True)
    clips = EncodedClips([folder / "out.hdf"], RATE, None)
    assert np.abs(clips[0]["waveform"].numpy() - tone(300)).max() < 1.1 / 32768
    whole = resample(loud, 44100, RATE)
    assert np.abs(whole).max() > 1
    difference = clips[1]["waveform"].numpy() - whole / np.abs(whole).max()
    assert np.abs(difference).max() < 2.1 / 32768  # rounded to 16 bits twice, in the wav and in the flac


def test_clips_of_their_own_length_come_one_at_a_time(packed):
    clips = EncodedClips([packed], RATE, None)
    assert [clips.gather([index])["waveform"].shape for index in range(2)] == [(1, RATE), (1, 2 * RATE)]
    with pytest.raises(ValueError, match="batches of one"):
        clips.gather([0, 1])


def test_a_broken_clip_is_named(packed):
    with h5py.File(packed, "a") as file:
        file["mp3"][1] = np.frombuffer(b"no audio" * 10, dtype=np.uint8)
        file["mp3"][2] = np.zeros(0, dtype=np.uint8)
    clips = EncodedClips([packed], RATE)
    assert clips[0]["waveform"].any()
    with pytest.raises(UserError, match=r"Yclip1 in .*clips.hdf cannot be read as audio"):
        clips[1]
    with pytest.raises(UserError, match=r"Yclip2 in .*clips.hdf is empty"):
        clips[2]


def test_a_file_that_is_cut_off_is_told(packed):
    packed.write_bytes(packed.read_bytes()[:-2000])
    with pytest.raises(UserError, match="cut off or no HDF5 file"):
        EncodedClips([packed], RATE)


def test_wrong_files_and_names_are_told(packed, tmp_path):
    with pytest.raises(UserError, match="There is no file"):
        EncodedClips([tmp_path / "none.hdf"], RATE)
    with pytest.raises(UserError, match=r"lacks 2 of 3 clips \(first Yx.mp3\)"):
        EncodedClips([packed], RATE, names=["Yx.mp3", "Yclip0", "Yz"])
    with pytest.raises(UserError, match=r"more than once \(3 names are doubled\)"):
        EncodedClips([packed, packed], RATE)
    with pytest.raises(UserError, match="not packed bits of 527 classes"):
        EncodedClips([packed], RATE).packed_targets(527)
    with h5py.File(tmp_path / "other.hdf", "w") as file:
        file["waveforms"] = np.zeros(3)
    with pytest.raises(UserError, match="it needs audio_name and mp3, it has waveforms"):
        EncodedClips([tmp_path / "other.hdf"], RATE)


@pytest.fixture
def outputs(tmp_path):
    path = tmp_path / "teacher.hdf"
    with OutputWriter(path, ["Ya.mp3", "Yb.mp3", "Yc.mp3"], (2, 4), "strong_logits") as writer:
        writer.write(["07/Yc.wav"], torch.full((1, 2, 4), 3.0))
        writer.write(["Ya", "Yb"], np.stack([np.full((2, 4), 1.0), np.full((2, 4), 2.0)]))
    return path


def test_outputs_are_found_by_name(outputs):
    table = KeyedOutputs(outputs)
    assert table.kind == "strong_logits" and table.shape == (2, 4) and len(table) == 3
    rows = table.rows(["Yc.mp3", "Ya", "x/Yb.wav"])
    values = table.read(rows)
    assert values.dtype == np.float16
    assert values[:, 0, 0].tolist() == [3, 1, 2]
    assert pickle.loads(pickle.dumps(table)).read(rows).tolist() == values.tolist()


@pytest.mark.parametrize("options", [{}, {"chunks": (1, 4), "compression": "gzip"}])
def test_files_of_others_are_read(tmp_path, options):
    with h5py.File(tmp_path / "official.hdf5", "w") as file:
        file["filenames"] = np.array([b"Ya.mp3", b"Yb.mp3"])
        file.create_dataset("logits", data=np.arange(8, dtype=np.float32).reshape(2, 4), **options)
    table = KeyedOutputs(tmp_path / "official.hdf5", "logits", (4,))
    assert table.read(table.rows(["Yb", "Ya"])).tolist() == [[4, 5, 6, 7], [0, 1, 2, 3]]


def test_clips_without_outputs_are_counted_or_marked(outputs):
    table = KeyedOutputs(outputs)
    with pytest.raises(UserError, match=r"teacher.hdf lacks 2 of 3 clips \(first Yx\)"):
        table.rows(["Yx", "Ya", "Yy"])
    rows = table.rows(["Yx", "Ya", "Yy"], allow_missing=True)
    assert rows.tolist() == [-1, 0, -1]
    assert table.read(rows)[:, 0, 0].tolist() == [0, 1, 0]


def test_bad_outputs_are_told(outputs, tmp_path):
    with pytest.raises(UserError, match=r"shape \(2, 4\), expected \(527,\)"):
        KeyedOutputs(outputs, shape=(527,))
    with pytest.raises(UserError, match="has no logits"):
        KeyedOutputs(outputs, "logits")
    with h5py.File(outputs, "a") as file:
        file["strong_logits"][1, 0, 2] = np.nan
    with pytest.raises(UserError, match="the strong_logits of Yb hold NaN"):
        KeyedOutputs(outputs).read([0, 1])
    with h5py.File(outputs, "a") as file:
        del file["filenames"]
        file["filenames"] = np.array([b"Ya", b"Yb", b"Ya.mp3"])
    with pytest.raises(UserError, match=r"holds Ya more than once \(1 names"):
        KeyedOutputs(outputs)
    outputs.write_bytes(outputs.read_bytes()[:300])
    with pytest.raises(UserError, match="cut off or no HDF5 file"):
        KeyedOutputs(outputs)


def test_the_writer_leaves_nothing_behind_unless_all_clips_came(tmp_path):
    path = tmp_path / "teacher.hdf"
    with (
        pytest.raises(UserError, match=r"1 of 2 clips got no outputs \(first b\)"),
        OutputWriter(path, ["a", "b"], (3,)) as writer,
    ):
        writer.write(["a"], np.zeros((1, 3)))
    with pytest.raises(UserError, match="outputs of b for"), OutputWriter(path, ["a", "b"], (3,)) as writer:
        writer.write(["a", "b"], np.array([[0, 1, 2], [0, np.inf, 0]]))
    assert list(tmp_path.iterdir()) == []


def test_outputs_beyond_half_precision_are_cut_to_its_range(tmp_path):
    with OutputWriter(tmp_path / "t.hdf", ["a"], (2,)) as writer:
        writer.write(["a"], np.array([[1e6, -1e6]]))
    assert KeyedOutputs(tmp_path / "t.hdf").read([0]).tolist() == [[65504, -65504]]


def test_rows_that_were_written_before_a_stop_are_kept(tmp_path):
    path = tmp_path / "frames.h5"

    def writer(model: str, names: str = "abc") -> OutputWriter:
        return OutputWriter(path, list(names), kind="frames", attributes={"model": model}, resume=True)

    with pytest.raises(RuntimeError), writer("beats") as rows:
        assert rows.missing.tolist() == [0, 1, 2]
        rows.write(["b"], np.full((1, 4, 2), 2.0))
        raise RuntimeError
    assert not path.exists()
    for other in (("atst", "abc"), ("beats", "abd")):
        with pytest.raises(UserError, match="of other clips or another model; delete it"), writer(*other):
            pass
    with writer("beats") as rows:
        assert rows.missing.tolist() == [0, 2]
        rows.write(["c", "a"], np.stack([np.full((4, 2), 3.0), np.full((4, 2), 1.0)]))
    table = KeyedOutputs(path, "frames", (4, 2))
    assert table.attributes == {"model": "beats"}
    assert table.read([0, 1, 2])[:, 0, 0].tolist() == [1, 2, 3]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["frames.h5"]


def test_clips_can_be_written_as_they_come(tmp_path):
    path = tmp_path / "vectors.h5"
    with OutputWriter(path, None, key=str) as writer:
        writer.write(["é/b.wav"], np.ones((1, 3)))
        writer.write(["a.wav", "b.wav"], np.zeros((2, 3)))
    table = KeyedOutputs(path, key=str)
    assert table.filenames.names() == ("é/b.wav", "a.wav", "b.wav")
    assert table.read(table.rows(["b.wav", "é/b.wav"])).tolist() == [[0, 0, 0], [1, 1, 1]]
    with pytest.raises(UserError, match=r"Ya was stored twice"), OutputWriter(path, None) as writer:
        writer.write(["Ya.mp3", "Ya.wav"], np.zeros((2, 3)))
