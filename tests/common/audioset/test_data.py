"""AudioSet on disk: tables, packing, clips with labels and teacher; and the labelled sets for fine-tuning."""

import csv
import json
import shutil

import h5py
import numpy as np
import pytest
import soundfile
import torch

from common.audioset import packing, tasks
from common.audioset.data import PackedTargets, Teacher, open_audioset
from common.audioset.settings import AugmentSettings, FineTuneDataSettings, TableSettings, TeacherSettings
from common.audioset.tables import find_files, read_classes, read_segments, segment_targets
from common.audioset.teachers import import_published_logits
from common.data.encoded_store import EncodedClips
from common.data.keyed_outputs import KeyedOutputs, OutputWriter
from common.errors import UserError
from common.synthetic.synthesize import synthesize

RATE = 32000
TRAINING = ["balanced_train_segments_mp3.hdf", "unbalanced_train_segments_mp3.hdf"]


@pytest.fixture
def miniature(tiny_audioset):
    return tiny_audioset


@pytest.fixture
def copied(miniature, tmp_path):
    """A miniature that a test may change."""
    return shutil.copytree(miniature, tmp_path / "audioset")


def test_the_miniature_has_the_official_layout(miniature):
    classes = read_classes(miniature)
    assert len(classes) == 16 and classes.names[0] == "Speech" and classes.mids[0] == "/m/09x0r"
    text = (miniature / "eval_segments.csv").read_text().splitlines()
    assert [line[0] for line in text[:3]] == ["#"] * 3
    video, start, end, mids = next(csv.reader([text[3]], skipinitialspace=True))
    assert len(video) == 11 and float(end) - float(start) == 10 and set(mids.split(",")) <= set(classes.mids)
    with h5py.File(miniature / "eval_segments_mp3.hdf") as file:
        assert file["audio_name"][0].decode().startswith("Y") and file["audio_name"][0].decode().endswith(".mp3")
        assert file["target"].shape[1] == 2


def test_the_miniature_is_the_same_for_the_same_seed(miniature, tmp_path):
    synthesize("audioset", tmp_path, clips=60)
    for name in ("eval_segments.csv", "unbalanced_train_segments.csv"):
        assert (tmp_path / name).read_text() == (miniature / name).read_text()
    first, second = (EncodedClips([root / TRAINING[0]], RATE, 2.5) for root in (miniature, tmp_path))
    assert torch.equal(first[3]["waveform"], second[3]["waveform"])


def test_labels_of_clips_are_those_of_the_table(miniature):
    classes = read_classes(miniature)
    clips = open_audioset(miniature, ["eval_segments_mp3*.hdf"], classes, RATE, 2.5)
    segments = {segment.name: segment for segment in read_segments(miniature, "eval", classes)}
    batch = clips.gather(range(len(clips)))
    assert batch["waveform"].shape == (len(clips), 80000)
    for name, target in zip(batch["filename"], batch["target"]):
        assert tuple(target.nonzero().flatten().tolist()) == tuple(sorted(segments[name].labels))
    # A dog is an animal.
    dog, animal = classes.names.index("Dog"), classes.names.index("Animal")
    assert batch["target"][:, dog].sum() > 0
    assert (batch["target"][:, animal] >= batch["target"][:, dog]).all()


def test_packed_targets_unpack_to_what_was_packed():
    targets = (np.random.default_rng(0).random((50, 527)) < 0.01).astype(np.uint8)
    packed = PackedTargets(np.packbits(targets, axis=1), 527)
    assert packed.packed.shape == (50, 66)
    assert packed[[3, 1]].tolist() == targets[[3, 1]].tolist()


def test_packing_lists_what_is_missing_and_goes_on(copied):
    clips = sorted((copied / "audio" / "eval_segments").glob("*.mp3"))
    clips[0].unlink()
    clips[1].write_bytes(b"broken")
    report = packing.pack_split(copied, copied / "audio", "eval", clips_per_file=8, quiet=True)
    parts_expected = -(-report.segments // 8)
    assert parts_expected > 1 and len(report.files) == parts_expected
    packed = sum(file.num_clips for file in report.files)
    missing = f"of {report.segments} segments {len(report.not_found)} have no clip, 1 are broken."
    assert str(report) == f"eval: {packed} clips packed into {parts_expected} files; {missing}"
    assert clips[0].stem[1:] in report.not_found and report.num_broken == 1
    listed = list(csv.DictReader(report.list_of_missing.open()))
    assert {"clip": clips[0].stem[1:], "reason": "no file"} in listed
    assert any("cannot be read" in row["reason"] for row in listed)
    times = {path: path.stat().st_mtime_ns for path in copied.glob("eval_segments_mp3_*.hdf")}
    parts = sorted(times)
    parts[0].unlink()
    again = packing.pack_split(copied, copied / "audio", "eval", clips_per_file=8, quiet=True)
    packed_now = {report.path for report in again.files}
    assert parts[0] in packed_now and len(again.kept) + len(packed_now) == parts_expected
    assert all(path.stat().st_mtime_ns == times[path] for path in again.kept)
    clips[1].write_bytes(clips[2].read_bytes())
    packing.pack_split(copied, copied / "audio", "eval", clips_per_file=8, quiet=True)
    last = packing.pack_split(copied, copied / "audio", "eval", clips_per_file=8, quiet=True)
    assert str(last).startswith("eval: 0 clips packed into 0 files, 2 files kept; of 15 segments ")


def test_a_good_miniature_passes_the_check_and_a_wrong_label_does_not(copied):
    rows, problems = packing.check_audioset(copied, decode=5)
    assert [row["split"] for row in rows] == ["balanced_train", "unbalanced_train", "eval"]
    assert [row["official"] for row in rows] == [22_160, 2_041_789, 20_371]
    for row in rows:
        assert (row["files"], row["decoded"]) == (1, 5) and row["missing"] == row["segments"] - row["clips"]
    assert problems == []
    (copied / "eval_segments.csv").rename(copied / "away.csv")
    assert packing.check_audioset(copied, decode=1)[0][-1]["missing"] is None
    (copied / "away.csv").rename(copied / "eval_segments.csv")
    with h5py.File(copied / "eval_segments_mp3.hdf", "a") as file:
        file["target"][2] = 255 - file["target"][2]
        name = file["audio_name"][2].decode().removesuffix(".mp3")
        file["mp3"][1] = np.zeros(10, dtype=np.uint8)
    problems = packing.check_audioset(copied, decode=1000)[1]
    assert any(f"1 clips have other labels than the table (first {name})" in problem for problem in problems)
    assert any("cannot be read as audio" in problem for problem in problems)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: text.replace("/m/09x0r", "/m/none"), r"eval_segments.csv:\d+ has the class /m/none"),
        (lambda text: text + text.splitlines()[-1] + "\n", r"eval_segments.csv:\d+ names .{11} again"),
        (lambda text: text + "only_a_video\n", r"eval_segments.csv:\d+ is not of the form YTID, start, end"),
    ],
)
def test_damaged_tables_are_told_with_their_line(copied, change, sentence):
    path = copied / "eval_segments.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=sentence):
        read_segments(copied, "eval", read_classes(copied))


def test_absent_and_cut_files_are_told(copied):
    with pytest.raises(UserError, match=r"has no evaluation\*.hdf \(it has balanced_train_segments_mp3.hdf, "):
        find_files(copied, ["evaluation*.hdf"])
    path = copied / "eval_segments_mp3.hdf"
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match="cut off or no HDF5 file"):
        open_audioset(copied, ["eval_segments_mp3.hdf"], read_classes(copied), RATE, 2.5)


@pytest.fixture
def teacher_file(miniature, tmp_path):
    names = open_audioset(miniature, TRAINING, read_classes(miniature), RATE, 2.5).audio.filenames
    path = tmp_path / "teacher.hdf"
    with OutputWriter(path, names[::-1], (16,)) as writer:
        writer.write(names, np.arange(len(names))[:, None] / 10 + np.zeros((1, 16)))
    return path


def opened(miniature, path, **settings):
    classes = read_classes(miniature)
    return open_audioset(miniature, TRAINING, classes, RATE, 2.5, TeacherSettings(logits=path, **settings))


def test_the_teacher_is_found_by_name(miniature, teacher_file):
    clips = opened(miniature, teacher_file, temperature=2.0)
    batch = clips.gather([4, 0])
    logits = torch.tensor([0.4, 0.0]).half().float()
    assert torch.allclose(batch["teacher_target"][:, 3], torch.sigmoid(logits / 2))
    assert batch["teacher_weight"].tolist() == [[1], [1]]


def test_missing_doubled_and_wrong_teachers_are_refused(miniature, teacher_file):
    with h5py.File(teacher_file, "a") as file:
        names = file["filenames"][:]
        names[:2] = [b"Yother_clip_", b"Yanother_clip"]
        del file["filenames"]
        file["filenames"] = names
    with pytest.raises(UserError, match=r"teacher.logits: .* lacks 2 of \d+ clips .* Or set teacher.missing"):
        opened(miniature, teacher_file)
    clips = opened(miniature, teacher_file, missing="labels_only")
    last = clips.gather([len(clips) - 1, 0])
    assert last["teacher_weight"].tolist() == [[0], [1]]
    assert not last["teacher_target"][0].any()
    with h5py.File(teacher_file, "a") as file:
        file["filenames"][3] = file["filenames"][4]
    with pytest.raises(UserError, match="more than once"):
        opened(miniature, teacher_file, missing="labels_only")


def test_clips_without_a_teacher_are_counted(miniature, teacher_file, capsys):
    with h5py.File(teacher_file, "a") as file:
        names = file["filenames"][:]
        names[3:5] = [b"Yother_clip_", b"Yanother_clip"]
        del file["filenames"]
        file["filenames"] = names
    clips = opened(miniature, teacher_file, missing="labels_only")
    assert capsys.readouterr().err.startswith(f"2 of {len(clips)} clips have no teacher logits")


def test_teachers_of_other_classes_or_with_nan_are_refused(miniature, teacher_file, tmp_path):
    with OutputWriter(tmp_path / "other.hdf", ["Ya"], (527,)) as writer:
        writer.write(["Ya"], np.zeros((1, 527)))
    with pytest.raises(UserError, match=r"shape \(527,\), expected \(16,\)"):
        opened(miniature, tmp_path / "other.hdf")
    with OutputWriter(tmp_path / "none.hdf", ["Ya"], (16,)) as writer:
        writer.write(["Ya"], np.zeros((1, 16)))
    with pytest.raises(UserError, match=r"has none of the \d+ training clips"):
        opened(miniature, tmp_path / "none.hdf", missing="labels_only")
    with h5py.File(teacher_file, "a") as file:
        file["logits"][-1, 0] = np.nan
    with pytest.raises(UserError, match="hold NaN or infinity"):
        opened(miniature, teacher_file).gather([0])


@pytest.mark.parametrize("teacher", ["first", "mixed"])
def test_wavmix_mixes_waveform_and_labels_and_if_asked_the_teacher(miniature, teacher_file, teacher):
    augment = AugmentSettings(wavmix_probability=1.0, wavmix_teacher=teacher)
    classes = read_classes(miniature)
    clips = open_audioset(miniature, TRAINING, classes, RATE, 2.5, TeacherSettings(logits=teacher_file), augment)
    draws = [(index, 100 + index) for index in range(6)]
    mixed, again, plain = clips.gather(draws), clips.gather(draws), clips.gather(range(6))
    assert torch.equal(mixed["waveform"], again["waveform"])
    everything = clips.gather(range(len(clips)))
    for row in range(6):
        # Whatever the partner is: of each clip some share between a half and all is left.
        random = np.random.default_rng((100 + row, 1))
        random.random()
        partner, _ = int(random.integers(len(clips))), random.integers(2**62)
        share = random.beta(2, 2)
        share = max(share, 1 - share)
        for key in ("target", "teacher_target"):
            own = 1.0 if key == "teacher_target" and teacher == "first" else share
            expected = own * plain[key][row] + (1 - own) * everything[key][partner]
            assert torch.allclose(mixed[key][row], expected, atol=1e-6)
        waves = [wave - wave.mean() for wave in (plain["waveform"][row], everything["waveform"][partner])]
        assert torch.allclose(mixed["waveform"][row], share * waves[0] + (1 - share) * waves[1], atol=1e-6)


def test_gain_is_a_whole_number_of_decibels(miniature):
    clips = open_audioset(miniature, TRAINING, read_classes(miniature), RATE, 2.5, None, AugmentSettings(gain_db=7))
    changed = clips.gather([(0, seed) for seed in range(40)])["waveform"]
    decibels = 20 * torch.log10(changed.abs().amax(1) / clips.gather([0])["waveform"].abs().max())
    assert torch.allclose(decibels, decibels.round(), atol=1e-3)
    assert decibels.min() >= -7.01 and decibels.max() <= 6.01 and len(set(decibels.round().tolist())) > 8
    assert torch.equal(clips.gather([0])["waveform"], clips.gather([0])["waveform"])  # without a seed: as it is


def test_the_published_logits_can_be_imported(tmp_path):
    import pickle

    logits = np.random.default_rng(0).normal(size=(3, 527)).astype(np.float16)
    np.save(tmp_path / "logits.npy", logits)
    index = {"abcdefghijk": 2, "-bcdefghijk": np.int64(0)}
    (tmp_path / "index.pkl").write_bytes(pickle.dumps(index))
    assert import_published_logits(tmp_path / "logits.npy", tmp_path / "index.pkl", tmp_path / "out.hdf") == 2
    table = KeyedOutputs(tmp_path / "out.hdf", "logits", (527,))
    assert np.array_equal(table.read(table.rows(["Yabcdefghijk.mp3", "Y-bcdefghijk"])), logits[[2, 0]])
    (tmp_path / "index.pkl").write_bytes(pickle.dumps({"a": print}))
    with pytest.raises(UserError, match="no pickled dict of names and rows"):
        import_published_logits(tmp_path / "logits.npy", tmp_path / "index.pkl", tmp_path / "out.hdf")
    (tmp_path / "index.pkl").write_bytes(pickle.dumps({"a": 9}))
    with pytest.raises(UserError, match=r"has the shape \(3, 527\), but .* names rows up to 9"):
        import_published_logits(tmp_path / "logits.npy", tmp_path / "index.pkl", tmp_path / "out.hdf")


# --- labelled sets ---------------------------------------------------------------------------------------------------


def write_clip(path, seconds=0.2):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).normal(size=int(seconds * 16000)) * 0.1, 16000)


def table_settings(root, **changes):
    table = TableSettings(file="clips.csv", **changes)
    return FineTuneDataSettings(root=root, table=table)


@pytest.fixture
def labelled(tmp_path):
    """Six clips of two classes in two folds."""
    rows = ["filename,label,fold"]
    for number in range(6):
        write_clip(tmp_path / "audio" / f"{number}.wav")
        rows.append(f"{number}.wav,{'cat' if number % 2 else 'dog'},{1 + number // 3}")
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_a_folder_with_a_table_is_read(labelled):
    clips = tasks.read_task(table_settings(labelled))
    assert clips.labels == ("cat", "dog") and clips.objective == "one_label"
    assert clips.folds == ["1", "2"]
    assert clips.rows("train", "1").tolist() == [3, 4, 5] and clips.rows("test", "1").tolist() == [0, 1, 2]
    assert clips.targets.argmax(axis=1).tolist() == [1, 0, 1, 0, 1, 0]


def test_a_table_may_give_several_labels_and_a_split(labelled):
    (labelled / "clips.csv").write_text(
        "filename,label,fold\n0.wav,cat;dog,train\n1.wav,dog,validation\n2.wav,cat,test\n"
    )
    clips = tasks.read_task(table_settings(labelled, separator=";"))
    assert clips.objective == "several_labels" and clips.folds == []
    assert clips.targets.tolist() == [[1, 1], [0, 1], [1, 0]]
    assert [clips.rows(part).tolist() for part in ("train", "validation", "test")] == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("filename,label,fold\n0.wav,cat,1\nnone.wav,dog,2\n", r"1 of 2 clips of .* do not exist \(first .*none.wav\)"),
        ("filename,label,fold\n0.wav,cat,1\n0.wav,dog,2\n", r"clips.csv:3 names 0.wav again"),
        ("filename,label,fold\n0.wav,,1\n1.wav,dog,2\n", r"clips.csv:2 has nothing in the column label"),
        ("filename,lable,fold\n0.wav,cat,1\n", r"clips.csv:1 has no column label; it has filename lable fold"),
        ("clip,label,fold\n0.wav,cat,1\n", r"clips.csv:1 has no column filename; it has clip label fold"),
        ("filename,label,fold\n0.wav,cat,train\n1.wav,dog,train\n", "it needs train and test"),
        ("filename,label,fold\n0.wav,cat,1\n1.wav,dog,1\n", "at least two folds are needed"),
        ("filename,label,fold\n", "has a header but no rows"),
    ],
)
def test_mistakes_of_a_table_are_named(labelled, table, sentence):
    (labelled / "clips.csv").write_text(table)
    with pytest.raises(UserError, match=sentence):
        tasks.read_task(table_settings(labelled))


def test_a_table_without_split_is_split_by_recording_whatever_its_columns_are_called(tmp_path):
    rows = [f"{number}.wav\t{'cat' if number % 4 < 2 else 'dog'}\tr{number // 2}" for number in range(20)]
    (tmp_path / "clips.tsv").write_text("\n".join(["fname\tclass\trecording", *rows]) + "\n")
    assert tasks.find_table(tmp_path) == tmp_path / "clips.tsv"
    for number in range(20):
        write_clip(tmp_path / f"{number}.wav")
    clips = tasks.read_task(FineTuneDataSettings(root=tmp_path, table=TableSettings(file="clips.tsv")))
    assert clips.labels == ("cat", "dog") and (clips.parts[::2] == clips.parts[1::2]).all()
    assert "its 10 recordings were split by recording" in clips.note and "each file" not in clips.note.lower()
    assert set(clips.parts) == {"train", "validation", "test"}


def test_a_folder_of_class_folders_is_read_and_split(tmp_path):
    for name in ("dog", "cat"):
        for number in range(6):
            write_clip(tmp_path / "clips" / name / (f"long/{number}.wav" if number < 2 else f"{number}.wav"))
    clips = tasks.read_task(FineTuneDataSettings(task="folder", root=tmp_path / "clips"))
    assert clips.labels == ("cat", "dog") and clips.objective == "one_label" and len(clips) == 12
    assert len(set(clips.recordings)) == 10 and "were split by recording" in clips.note
    (tmp_path / "clips" / "loose.wav").write_bytes((tmp_path / "clips" / "dog" / "3.wav").read_bytes())
    with pytest.raises(UserError, match=r"loose\.wav is in no folder of a class"):
        tasks.read_task(FineTuneDataSettings(task="folder", root=tmp_path / "clips"))


def test_what_is_no_folder_and_no_table_is_refused(tmp_path):
    with pytest.raises(UserError, match="none does not exist; give a folder of class folders, or a table"):
        tasks.read_task(FineTuneDataSettings(task="folder", root=tmp_path / "none"))
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"notes\.txt is neither a folder of clips nor a table of them"):
        tasks.refuse_no_clips(tmp_path / "notes.txt")
    (tmp_path / "clips.tsv").write_text("")
    (tmp_path / "folder.csv").mkdir()
    for name in ("clips.tsv", "folder.csv"):
        tasks.refuse_no_clips(tmp_path / name)


def test_folders_train_and_test_above_the_classes_are_the_split(tmp_path):
    for part in ("train", "test"):
        for name in ("dog", "cat"):
            write_clip(tmp_path / part / name / "0.wav")
    clips = tasks.read_task(FineTuneDataSettings(task="folder", root=tmp_path))
    assert clips.labels == ("cat", "dog") and clips.note == "" and clips.folds == []
    assert [len(clips.rows(part)) for part in ("train", "test")] == [2, 2]


def test_esc50_is_read_from_its_folders(tmp_path):
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for number in range(4):
        write_clip(tmp_path / "audio" / f"1-{number}-A-{number}.wav")
        rows.append(f"1-{number}-A-{number}.wav,{1 + number % 2},{3 - number},class{3 - number},False,{number // 2},A")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
    clips = tasks.read_task(FineTuneDataSettings(task="esc50", root=tmp_path))
    assert clips.labels == ("class0", "class1", "class2", "class3")
    assert clips.targets.argmax(axis=1).tolist() == [3, 2, 1, 0]
    assert clips.recordings == ["0", "0", "1", "1"] and clips.folds == ["1", "2"]


def test_fsd50k_is_read_from_its_folders(tmp_path):
    tables = tmp_path / "FSD50K.ground_truth"
    tables.mkdir()
    (tables / "vocabulary.csv").write_text("0,Accordion,/m/0mkg\n1,Bark,/m/05tny_\n")
    (tables / "dev.csv").write_text('fname,labels,mids,split\n64,"Bark,Accordion",x,train\n65,Bark,x,val\n')
    (tables / "eval.csv").write_text("fname,labels,mids\n37,Accordion,x\n")
    for name in ("FSD50K.dev_audio/64", "FSD50K.dev_audio/65", "FSD50K.eval_audio/37"):
        write_clip(tmp_path / f"{name}.wav")
    clips = tasks.read_task(FineTuneDataSettings(task="fsd50k", root=tmp_path))
    assert clips.labels == ("Accordion", "Bark")
    assert clips.targets.tolist() == [[1, 1], [0, 1], [1, 0]]
    assert clips.parts.tolist() == ["train", "validation", "test"]


def test_openmic_knows_what_was_not_annotated(tmp_path):
    (tmp_path / "class-map.json").write_text(json.dumps({"drums": 1, "banjo": 0}))
    (tmp_path / "partitions").mkdir()
    (tmp_path / "partitions" / "split01_train.csv").write_text("000046_3840\n")
    (tmp_path / "partitions" / "split01_test.csv").write_text("000135_483840\n")
    (tmp_path / "openmic-2018-aggregated-labels.csv").write_text(
        "sample_key,instrument,relevance,num_responses\n000046_3840,drums,0.51,3\n000135_483840,banjo,0.5,3\n"
    )
    for key in ("000046_3840", "000135_483840"):
        write_clip(tmp_path / "audio" / key[:3] / f"{key}.ogg")
    clips = tasks.read_task(FineTuneDataSettings(task="openmic", root=tmp_path))
    assert clips.labels == ("banjo", "drums")
    assert clips.targets.tolist() == [[0, 1], [0, 0]]  # present above 0.5
    assert clips.weights.tolist() == [[0, 1], [1, 0]]


def test_segments_become_targets(miniature):
    segments = read_segments(miniature, "eval", read_classes(miniature))
    targets = segment_targets(segments, 16)
    assert targets.sum() == sum(len(segment.labels) for segment in segments)


def test_a_teacher_may_lack_clips(teacher_file):
    table = KeyedOutputs(teacher_file)
    teacher = Teacher(table, np.array([-1, 0]), 1.0)
    target, there = teacher.targets(np.array([0, 1, 0]))
    assert there.flatten().tolist() == [0, 1, 0]
    assert not target[0].any() and target[1].any()
