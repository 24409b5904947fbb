"""The DESED and MAESTRO tree: counts, cutting, splits, reading, packing, and what is said about bad input."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile

from common.data.files import read_marker
from common.errors import UserError
from common.synthetic.events import EVENT_SOUNDS, render_event
from task4_sed.data import maestro
from task4_sed.data.annotations import read_durations
from task4_sed.data.check import check_data
from task4_sed.data.clips import GroupedBatches, GroupSampler, SoundEventClips
from task4_sed.data.maestro import (
    TRAIN_HOP,
    VALIDATION_RECORDINGS,
    cut_labels,
    prepare,
    split_training_windows,
    split_windows,
    window_name,
)
from task4_sed.data.sets import SETS, audio_folder, pack_set, read_set, split_weak, store_folder
from task4_sed.labels import CLASSES, LabelSettings

RATE = 44100


@pytest.fixture
def tree(tiny_task4, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(tiny_task4, tmp_path / "tree", ignore=shutil.ignore_patterns("packed"))


def edit(path, change):
    lines = path.read_text().splitlines()
    change(lines)
    path.write_text("\n".join(lines) + "\n")


def set_line(number, text):
    def change(lines):
        lines[number - 1] = text

    return change


def test_cutting_the_published_durations_gives_the_published_numbers_of_windows(shared):
    folder = shared / "reference" / "metrics" / "sed" / "real_ground_truth"
    durations = read_durations(folder / "maestro_real_durations.tsv")
    names = {
        part: pd.read_csv(folder / f"maestro_real_2024_{part}_files.csv").iloc[:, 0].str.removesuffix(".txt")
        for part in ("train", "validation")
    }
    assert set(names["validation"]) == set(VALIDATION_RECORDINGS)

    def count(part, hop):
        return sum(len(list(split_windows(round(durations[name] * RATE), RATE, hop))) for name in names[part])

    assert count("train", TRAIN_HOP) == SETS["maestro_train"].clips == 7503
    assert count("validation", 1) == 3474
    assert count("validation", 5) == SETS["maestro_validation"].clips == 718
    last = list(split_windows(round(durations["cafe_restaurant_13"] * RATE), RATE, 5))[-1]
    assert window_name("cafe_restaurant_13", last, RATE) == "cafe_restaurant_13-020500-021149"


def test_windows_are_full_ones_and_a_shorter_one_to_the_end():
    assert [(w.first, w.end) for w in split_windows(125, 10, 1)] == [(0, 100), (10, 110), (20, 120), (30, 125)]
    assert [(w.first, w.end) for w in split_windows(120, 10, 1)] == [(0, 100), (10, 110), (20, 120)]
    assert [(w.first, w.end) for w in split_windows(60, 10, 5)] == [(0, 60)]


def test_labels_of_a_window_are_cut_to_it_and_told_from_its_start():
    times = {"onset": [0.0, 4.0, 9.0, 20.0], "offset": [5.0, 6.0, 30.0, 21.0]}
    labels = pd.DataFrame({**times, "event_label": list("abcd"), "confidence": 0.5})
    cut = cut_labels(labels, 5.0, 15.0)
    assert cut[["onset", "offset", "event_label"]].to_numpy().tolist() == [[0.0, 1.0, "b"], [4.0, 10.0, "c"]]


def test_recordings_are_cut_into_windows_with_their_labels(tmp_path):
    source = tmp_path / "source"
    for name in ("cafe_restaurant_04", "cafe_restaurant_00"):
        for part in ("audio", "annotation"):
            (source / f"development_{part}" / "cafe_restaurant").mkdir(parents=True, exist_ok=True)
        waveform = np.linspace(-0.5, 0.5, 8000 * 12)
        soundfile.write(source / f"development_audio/cafe_restaurant/{name}.wav", waveform, 8000)
        rows = [f"{second}\t{second + 1}\tcar\t{second / 20}" for second in range(12)]
        (source / f"development_annotation/cafe_restaurant/{name}.txt").write_text("\n".join(rows) + "\n")
    counts = prepare(source, tmp_path, validation_recordings=["cafe_restaurant_04"])
    assert counts == {"maestro_train": 3, "maestro_validation": 2}
    train = pd.read_csv(tmp_path / "metadata/maestro_real_train.tsv", sep="\t")
    windows = ("000000-001000", "000100-001100", "000200-001200")
    assert sorted(set(train["filename"])) == [f"cafe_restaurant_00-{window}.wav" for window in windows]
    second = train[train["filename"] == "cafe_restaurant_00-000100-001100.wav"]
    assert second["confidence"].tolist() == pytest.approx([second / 20 for second in range(1, 11)])
    assert second["onset"].tolist() == list(range(10))
    written = soundfile.info(tmp_path / "audio/maestro_real_validation/cafe_restaurant_04-000500-001200.wav")
    assert (written.subtype, written.samplerate, written.channels) == ("PCM_16", 8000, 1)
    part, _ = soundfile.read(tmp_path / "audio/maestro_real_validation/cafe_restaurant_04-000500-001200.wav")
    whole, _ = soundfile.read(source / "development_audio/cafe_restaurant/cafe_restaurant_04.wav")
    np.testing.assert_allclose(part, whole[8000 * 5 :], atol=1e-4)
    assert read_durations(tmp_path / "metadata/maestro_real_durations.tsv") == {
        "cafe_restaurant_00": 12.0, "cafe_restaurant_04": 12.0
    }  # fmt: skip


def test_bad_soft_labels_are_told_with_file_and_line(tmp_path):
    source = tmp_path / "source"
    (source / "development_audio").mkdir(parents=True)
    (source / "development_annotation").mkdir()
    soundfile.write(source / "development_audio/cafe_restaurant_00.wav", np.zeros(8000 * 11), 8000)
    for row, message in (
        ("0\t1\tcar\t1.5", r"cafe_restaurant_00.txt:2: the confidence of car is 1.5, outside 0..1"),
        ("2\t1\tcar\t0.5", r":2: the event car lasts from 2 to 1 s"),
        ("0\t1\tcar", r":2 is not onset, offset, event and confidence"),
    ):
        (source / "development_annotation/cafe_restaurant_00.txt").write_text(f"0\t1\tcar\t0.5\n{row}\n")
        with pytest.raises(UserError, match=message):
            prepare(source, tmp_path, validation_recordings=[])


def test_the_weak_split_has_1420_and_158_of_1578_clips(tmp_path):
    (tmp_path / "audio/train/weak").mkdir(parents=True)
    (tmp_path / "metadata/train").mkdir(parents=True)
    names = [f"Y{number:05d}_0.000_10.000.wav" for number in range(1578)]
    table = pd.DataFrame({"filename": names, "event_labels": "Dog"})
    table.to_csv(tmp_path / "metadata/train/weak.tsv", sep="\t", index=False)
    for name in names:
        (tmp_path / "audio/train/weak" / name).touch()
    training, held_out = split_weak(read_set(tmp_path, "weak"), tmp_path)
    assert (len(training), len(held_out)) == (1420, 158)
    assert set(training.filenames) == set(table.sample(frac=0.9, random_state=42)["filename"])


def test_maestro_recordings_are_held_out_whole_and_of_every_scene():
    clips = [
        f"{scene}_{number:02d}-{start:06d}-{start + 1000:06d}"
        for scene in ("cafe_restaurant", "metro_station")
        for number in range(6)
        for start in (0, 100)
    ]
    chosen = split_training_windows(clips)
    recordings = {clip.split("-")[0] for clip, training in zip(clips, chosen) if training}
    assert len(recordings) == 2 * int(0.9 * 6)
    assert chosen.sum() == 2 * len(recordings)
    assert (split_training_windows(clips) == chosen).all()


@pytest.mark.parametrize("name", [name for name in SETS if not name.startswith("external")])
def test_every_set_of_the_made_up_tree_is_read_whole(tiny_task4, name):
    clips = read_set(tiny_task4, name)
    assert len(clips) == read_marker(tiny_task4)["numbers"][name]
    assert clips.missing == ()
    assert set(clips.events["event_label"]) <= set(CLASSES)
    assert (len(clips.events) > 0) == (SETS[name].kind != "unlabeled")


def test_the_made_up_tree_passes_its_check(tiny_task4):
    report = check_data(tiny_task4)
    assert report.problems == []
    assert report.made_up


def test_made_up_events_begin_and_end_where_their_rows_say(tiny_task4):
    """Of clips with one event only, the louder ones: within it the sound is louder than outside."""
    clips = read_set(tiny_task4, "synthetic_train")
    counted = clips.events.groupby("clip").size()
    louder = []
    for clip in counted.index[counted == 1]:
        event = clips.events[clips.events["clip"] == clip].iloc[0]
        waveform, rate = soundfile.read(clips.folder / clips.filenames[clip])
        inside = slice(int(event["onset"] * rate), int(event["offset"] * rate))
        outside = np.delete(waveform, np.r_[inside])
        if len(outside) > rate:
            louder.append(np.std(waveform[inside]) / np.std(outside))
    assert min(louder) > 1.5


def test_every_class_has_a_sound_that_is_not_that_of_another():
    spectra = {}
    for name, sound in EVENT_SOUNDS.items():
        waveform = render_event(sound, 2.0, np.random.default_rng(1))
        assert np.sqrt(np.mean(waveform**2)) == pytest.approx(1, abs=1e-3)
        assert abs(waveform[0]) < 1e-3
        halves = np.abs(np.fft.rfft(waveform.reshape(2, -1)))[:, :8000] ** 2
        spectra[name] = np.log(halves + 1e-3).reshape(80, -1).mean(axis=1)
    assert set(spectra) == set(CLASSES)
    matrix = np.corrcoef(list(spectra.values()))
    assert (matrix[~np.eye(27, dtype=bool)] < 0.99).all()


def test_missing_clips_are_counted_named_and_refused_unless_allowed(tree):
    folder = audio_folder(tree, "validation")
    gone = sorted(path.name for path in folder.glob("*.wav"))[:2]
    for name in gone:
        (folder / name).unlink()
    with pytest.raises(UserError, match=r"2 of .* clips of the set validation are missing: .*allow_missing"):
        read_set(tree, "validation")
    clips = read_set(tree, "validation", allow_missing=True)
    assert clips.missing == tuple(name.removesuffix(".wav") for name in gone)
    report = check_data(tree)
    assert report.missing == {"validation": clips.missing}
    assert len(report.problems) == 1


def test_a_shorter_table_than_was_published_is_told(tree):
    edit(tree / "metadata/train/weak.tsv", lambda lines: lines.pop())
    assert any("The set weak lists 7 clips, published are 8" in problem for problem in check_data(tree).problems)


BAD_TABLES = {
    "an unknown label": ("strong", 2, "{file}\t0.1\t1.0\tDogg", r":2: No class named Dogg\. Near it: Dog"),
    "a negative time": ("strong", 2, "{file}\t-0.1\t1.0\tDog", r"starts before its clip, at -0.1 s"),
    "swapped times": ("strong", 2, "{file}\t2.0\t1.0\tDog", "are the columns swapped"),
    "text for a time": ("strong", 2, "{file}\tsoon\t1.0\tDog", "not a number of seconds"),
    "an unknown weak label": ("weak", 3, "new.wav\tDog,Catt", r"weak.tsv:3: No class named Catt\. Near it: Cat"),
    "a soft label above 1": ("maestro_train", 2, "{file}\t0\t1\tcar\t1.2", r"has confidence 1.2, outside 0\.\.1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_row_is_refused_with_its_line(tree, case):
    name, line, text, message = BAD_TABLES[case]
    clip = read_set(tree, name).filenames[0]
    edit(tree / SETS[name].labels, set_line(line, text.format(file=clip)))
    with pytest.raises(UserError, match=message):
        read_set(tree, name)


def test_soft_labels_without_confidence_are_refused(tree):
    path = tree / SETS["maestro_train"].labels
    pd.read_csv(path, sep="\t").drop(columns="confidence").to_csv(path, sep="\t", index=False)
    with pytest.raises(UserError, match="has no column confidence"):
        read_set(tree, "maestro_train")


def test_a_file_that_ends_before_its_labels_is_refused(tree):
    clips = read_set(tree, "synthetic_train")
    event = clips.events[clips.events["onset"] > 2].iloc[0]
    path = clips.folder / clips.filenames[int(event["clip"])]
    waveform, rate = soundfile.read(path)
    soundfile.write(path, waveform[: int(rate * (event["onset"] - 0.5))], rate)
    with pytest.raises(UserError, match=f"{path.name} lasts .*the file is cut off, or the row is another clip's"):
        pack_set(tree, "synthetic_train")
    assert any("cut off" in problem for problem in check_data(tree).problems)


def test_a_file_of_another_length_than_its_row_is_told(tree):
    clips = read_set(tree, "validation")
    path = clips.folder / clips.filenames[0]
    waveform, rate = soundfile.read(path)
    soundfile.write(path, np.concatenate([waveform, waveform[: rate // 2]]), rate)
    assert any("longer or shorter than" in problem and path.name in problem for problem in check_data(tree).problems)


def test_a_set_that_is_not_there_says_how_to_get_it(tmp_path):
    with pytest.raises(UserError, match=r"audio of the set weak is missing.*synthesize task4_sed"):
        read_set(tmp_path, "weak")


def test_packed_clips_are_the_files_padded_with_zeros(tree):
    clips = read_set(tree, "validation")
    pack_set(tree, "validation")
    packed = SoundEventClips(clips, tree, LabelSettings()).gather(np.arange(len(clips)))
    plain = SoundEventClips(clips, tree, LabelSettings(), packed=False).gather(np.arange(len(clips)))
    assert packed["waveform"].shape == (len(clips), 160_000)
    np.testing.assert_allclose(packed["waveform"], plain["waveform"], atol=1e-4)
    short = int(np.argmin(packed["duration"]))
    assert packed["duration"][short] < 10
    assert not packed["waveform"][short, round(packed["duration"][short] * 16000) :].any()
    assert (store_folder(tree, "validation") / "store.json").is_file()


def test_a_long_clip_gives_its_first_ten_seconds_and_in_training_a_random_part_with_its_labels(tree):
    clips = read_set(tree, "strong")
    event = clips.events.iloc[0]
    row = int(event["clip"])
    long = np.zeros(16000 * 14)
    begin, end = 16000 * 11, 16000 * 12
    long[begin:end] = 0.5
    soundfile.write(clips.folder / clips.filenames[row], long, 16000)
    table = tree / SETS["strong"].labels
    events = pd.read_csv(table, sep="\t")
    events = events[events["filename"] != clips.filenames[row]]
    events.loc[len(events) + 1000] = [clips.filenames[row], 11.0, 12.0, "Dog"]
    events.to_csv(table, sep="\t", index=False)
    dataset = SoundEventClips(read_set(tree, "strong"), tree, LabelSettings())
    first = dataset.gather([row])
    assert not first["waveform"].any()
    assert not first["strong"].any()
    dog = CLASSES.index("Dog")
    seen = set()
    for seed in range(20):
        batch = dataset.gather([row], np.random.default_rng(seed))
        heard = np.flatnonzero(batch["waveform"][0].numpy() > 0.4)
        frames = np.flatnonzero(batch["strong"][0, dog].numpy())
        assert (len(heard) == 0 and len(frames) == 0) or abs(heard[0] / 1024 - frames[0]) <= 1
        seen.add(len(heard))
    assert len(seen) > 1


def test_batches_are_groups_in_order_drawn_from_seed_and_epoch(tiny_task4):
    settings = LabelSettings()
    sets = {
        name: SoundEventClips(read_set(tiny_task4, name), tiny_task4, settings, packed=False)
        for name in ("maestro_train", "synthetic_train", "strong", "weak", "unlabeled")
    }
    groups = [["maestro_train"], ["strong", "synthetic_train"], ["weak"], ["unlabeled"]]
    dataset = GroupedBatches([[sets[name] for name in names] for names in groups])
    sampler = GroupSampler(dataset.sizes, [3, 4, 2, 2], seed=1)
    assert len(sampler) == min(size // count for size, count in zip(dataset.sizes, [3, 4, 2, 2]))
    plans = list(sampler)
    batch = dataset[plans[0]]
    assert batch["waveform"].shape == (11, 160_000)
    members = [set(sets[name].clips.filenames) for name in ("maestro_train", "weak", "unlabeled")]
    assert set(batch["filename"][:3]) <= members[0]
    assert set(batch["filename"][7:9]) <= members[1]
    assert set(batch["filename"][9:]) <= members[2]
    assert batch["valid"].sum(dim=1).tolist() == [19] * 3 + [10] * 8
    assert not batch["strong"][7:].any()
    assert batch["weak"][7:9].any(dim=1).all()
    again = list(sampler)
    assert all((a == b).all() for plan, other in zip(plans, again) for a, b in zip(plan.rows, other.rows))
    sampler.set_epoch(1)
    assert any((a != b).any() for plan, other in zip(plans, sampler) for a, b in zip(plan.rows, other.rows))
    drawn = np.concatenate([plan.rows[0] for plan in plans])
    assert len(set(drawn)) == len(drawn)


def test_a_validation_table_without_rows_is_refused(tree):
    (tree / SETS["validation"].labels).write_text("filename\tonset\toffset\tevent_label\n")
    with pytest.raises(UserError, match="holds none of the 0 clips of the set validation"):
        read_set(tree, "validation")


def test_both_archives_of_maestro_are_fetched_and_cut_as_asked(tmp_path, monkeypatch):
    files = [SimpleNamespace(name=name) for name in (*maestro.MAESTRO_ARCHIVES, "more.zip")]
    fetched, cut = [], []
    monkeypatch.setattr(maestro, "zenodo_files", lambda record, archives: files)
    monkeypatch.setattr(maestro, "download_and_unpack", lambda file, *given: fetched.append((file.name, *given)))
    monkeypatch.setattr(maestro, "prepare", lambda *given, **options: cut.append((*given, options)))
    maestro.download_maestro(tmp_path, delete_archives=True)
    source = tmp_path / "MAESTRO_original" / "maestro_dev"
    assert fetched == [(name, tmp_path / "archives", source, True) for name in maestro.MAESTRO_ARCHIVES]
    maestro.download_maestro(tmp_path, 1.0, allow_missing=True)
    assert cut == [(source, tmp_path, 5, {"allow_missing": False}), (source, tmp_path, 1.0, {"allow_missing": True})]
    files.pop(0)
    with pytest.raises(
        UserError, match=r"has no development_audio\.zip; it has development_annotation\.zip, more\.zip"
    ):
        maestro.download_maestro(tmp_path)
