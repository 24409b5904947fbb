"""Tables, splits, clips, packing and checking of the Task 1 data."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from common.data.files import MARKER
from common.data.loading import make_loader
from common.errors import UserError
from task1_asc.data import check, download
from task1_asc.data.check import check_data
from task1_asc.data.clips import open_clips, pack_data, store_folder
from task1_asc.data.tau2022 import (
    CLASSES,
    DEVELOPMENT,
    DEVICES,
    EVALUATION,
    SUBSETS,
    development_folder,
    evaluation_folder,
    hold_out_by_location,
    is_made_up_data,
    read_clips,
    read_evaluation,
    read_split,
    read_training_list,
)


@pytest.fixture
def whole(tiny_task1) -> Path:
    return tiny_task1


@pytest.fixture
def root(whole, tmp_path) -> Path:
    """Own tables to damage, the audio shared."""
    for name in (DEVELOPMENT, EVALUATION.format(year=2024)):
        shutil.copytree(whole / name, tmp_path / name, ignore=shutil.ignore_patterns("audio"))
        (tmp_path / name / "audio").symlink_to(whole / name / "audio")
    shutil.copytree(whole / "split_setup", tmp_path / "split_setup")
    return tmp_path


def edit(path: Path, change) -> list[str]:
    lines = path.read_text().splitlines()
    change(lines)
    path.write_text("\n".join(lines) + "\n")
    return lines


def test_meta_gives_what_the_names_say(root):
    clips = read_clips(root)
    row = clips[clips["filename"].str.endswith("-7-s4.wav")].iloc[0]
    scene, city, place, segment, piece, _ = row["filename"].removeprefix("audio/").split("-")
    assert row.to_dict() == {
        "filename": row["filename"],
        "scene_label": scene,
        "identifier": f"{city}-{place}",
        "source_label": "s4",
        "city": city,
        "location": place,
        "segment": f"{scene}-{city}-{place}-{segment}",
        "piece": 7,
    }
    assert piece == "7"
    assert development_folder(root) == development_folder(root / DEVELOPMENT) == root / DEVELOPMENT
    assert evaluation_folder(root) == evaluation_folder(root / EVALUATION.format(year=2024))
    assert is_made_up_data(root)


def test_splits_are_selected_in_the_order_of_meta(root):
    clips = read_clips(root)
    edit(root / "split_setup" / "split10.csv", lambda lines: lines[1:].reverse())
    chosen = read_split(root, 10)
    listed = {line.split("\t")[0] for line in (root / "split_setup" / "split10.csv").read_text().splitlines()[1:]}
    assert chosen["filename"].tolist() == [name for name in clips["filename"] if name in listed]
    assert len(read_split(root, "test")) == len((root / "split_setup/test.csv").read_text().splitlines()) - 1


def test_lists_are_found_in_evaluation_setup_where_no_other_exist(root):
    expected = {split: read_split(root, split)["filename"].tolist() for split in (100, "test")}
    shutil.rmtree(root / "split_setup")
    for split, names in expected.items():
        assert read_split(root, split)["filename"].tolist() == names
    with pytest.raises(UserError, match=r"no list of the split 5: .*split_setup/split5.csv does not exist"):
        read_split(root, 5)
    with pytest.raises(UserError, match=r"No split named 7. "):
        read_split(root, 7)


def a_missing_column(lines):
    lines[0] = lines[0].replace("scene_label", "label")
    return r"meta.csv:1 has no column scene_label; it has filename label identifier source_label"


def commas(lines):
    lines[:] = [line.replace("\t", ",") for line in lines]
    return r"meta.csv:1 has no column filename"


def an_empty_row(lines):
    lines.insert(7, "")
    return r"meta.csv:8 is an empty row"


def an_empty_cell(lines):
    cells = lines[4].split("\t")
    lines[4] = "\t".join([cells[0], "", *cells[2:]])
    return r"meta.csv:5 has nothing in the column scene_label"


def a_doubled_row(lines):
    lines.insert(9, lines[2])
    return r"meta.csv:10 names audio/.* again \(first on line 3\)"


def too_many_cells(lines):
    lines[5] += "\tmore"
    return r"meta.csv:6 has 5 cells, expected 4"


def an_unknown_scene(lines):
    lines[3] = lines[3].replace("airport", "airprot")
    return r"meta.csv:4 has the scene airprot, which does not exist; near it: airport"


def an_unknown_device(lines):
    name, scene, place, _ = lines[3].split("\t")
    lines[3] = "\t".join([name.rsplit("-", 1)[0] + "-s9.wav", scene, place, "s9"])
    return r"meta.csv:4 has the recording device s9"


def another_form_of_name(lines):
    lines[3] = lines[3].replace("audio/", "", 1)
    return r"meta.csv:4 has the file name airport-.*, expected audio/<scene>-<city>"


def a_scene_against_the_name(lines):
    name, _, place, device = lines[3].split("\t")
    lines[3] = "\t".join([name, "bus", place, device])
    return r"meta.csv:4 has the scene_label bus, but the file is named audio/airport"


def no_rows(lines):
    del lines[1:]
    return "meta.csv has a header but no rows"


def nothing_at_all(lines):
    lines[:] = [""]
    return r"meta.csv is empty; it needs the header|meta.csv:1 has no column"


@pytest.mark.parametrize(
    "damage",
    [
        a_missing_column,
        commas,
        an_empty_row,
        an_empty_cell,
        a_doubled_row,
        too_many_cells,
        an_unknown_scene,
        an_unknown_device,
        another_form_of_name,
        a_scene_against_the_name,
        no_rows,
        nothing_at_all,
    ],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_meta_is_told_with_file_and_line(root, damage):
    path = root / DEVELOPMENT / "meta.csv"
    lines = path.read_text().splitlines()
    sentence = damage(lines)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=sentence) as error:
        read_clips(root)
    assert "\n" not in str(error.value)


def test_a_table_that_is_no_text_is_told(root):
    (root / DEVELOPMENT / "meta.csv").write_bytes(b"filename\tscene_label\n\xff\xfe\x00\n")
    with pytest.raises(UserError, match=r"meta.csv is not a table of text"):
        read_clips(root)


def test_windows_line_ends_and_a_byte_order_mark_do_no_harm(root):
    expected = read_clips(root)
    path = root / DEVELOPMENT / "meta.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_clips(root).equals(expected)


def test_a_list_that_names_an_absent_clip_is_told(root):
    edit(root / "split_setup" / "split5.csv", lambda lines: lines.insert(3, "audio/bus-lyon-1-2-3-a.wav\tbus"))
    with pytest.raises(
        UserError, match=r"split5.csv:4 names audio/bus-lyon-1-2-3-a.wav, which .*meta.csv does not have"
    ):
        read_split(root, 5)


def test_a_list_with_another_scene_than_meta_is_told(root):
    def relabel(lines):
        name, scene = lines[2].split("\t")
        lines[2] = f"{name}\t{'bus' if scene != 'bus' else 'tram'}"

    edit(root / "split_setup" / "split5.csv", relabel)
    with pytest.raises(UserError, match=r"split5.csv:3 says that audio/.* is (bus|tram), .*meta.csv says"):
        read_split(root, 5)


def test_a_training_list_with_a_test_clip_is_refused(root):
    stray = read_split(root, "test").iloc[0]
    edit(root / "split_setup" / "split25.csv", lambda lines: lines.append(f"{stray.filename}\t{stray.scene_label}"))
    with pytest.raises(UserError, match=rf"split25.csv:\d+: {stray.filename} is a clip of the test split \(1 clips"):
        read_split(root, 25)


def test_a_training_list_with_an_unseen_device_is_refused(root):
    clips = read_clips(root)
    test = read_split(root, "test")
    left_over = clips[~clips["filename"].isin(test["filename"]) & clips["source_label"].isin(["s4", "s5", "s6"])]
    row = left_over.iloc[0]
    edit(root / "split_setup" / "split25.csv", lambda lines: lines.append(f"{row.filename}\t{row.scene_label}"))
    with pytest.raises(UserError, match="device that occurs in the test split only"):
        read_split(root, 25)


def test_an_own_training_list_must_lie_within_the_declared_subset(root, tmp_path):
    five, hundred = read_split(root, 5), read_split(root, 100)
    mine = tmp_path / "mine.csv"
    mine.write_text("filename\n" + "\n".join(five["filename"][:7]) + "\n")
    assert read_training_list(root, mine, 5)["filename"].tolist() == five["filename"][:7].tolist()
    stray = next(name for name in hundred["filename"] if name not in set(five["filename"]))
    mine.write_text(mine.read_text() + stray + "\n")
    with pytest.raises(UserError, match=rf"mine.csv:9: {stray} is not in the split 5 that is declared"):
        read_training_list(root, mine, 5)
    assert len(read_training_list(root, mine, 100)) == 8


def test_no_place_is_on_both_sides_of_the_validation_part(root):
    clips = read_split(root, 100)
    train, held = hold_out_by_location(clips, 0.3, seed=0)
    assert len(train) + len(held) == len(clips)
    assert not set(train["identifier"]) & set(held["identifier"])
    assert set(train["scene_label"]) == set(CLASSES)
    again = hold_out_by_location(clips, 0.3, seed=0)
    assert again[1].equals(held)
    one_place = clips.groupby("scene_label")["identifier"].transform("first")
    with pytest.raises(UserError, match="Nothing can be held out"):
        hold_out_by_location(clips[clips["identifier"] == one_place], 0.3, seed=0)


def test_clips_from_wavs_and_from_the_store_agree(root):
    clips = read_split(root, 10)
    report = pack_data(root, 44100)
    assert report.packed == len(read_split(root, 100)) + len(read_split(root, "test"))
    wavs = open_clips(clips, development_folder(root))
    packed = open_clips(clips, development_folder(root), store_folder(root, 44100))
    assert (wavs.sample_rate, packed.sample_rate) == (44100, 44100)
    for one, other in zip(make_loader(wavs, 16), make_loader(packed, 16)):
        assert torch.equal(one["target"], other["target"])
        assert one["filename"] == other["filename"]
        assert one["recording_device"] == other["recording_device"]
        assert (one["waveform"] - other["waveform"]).abs().max() <= 0.5001 / 32768
    item = packed[3]
    assert item["target"] == CLASSES.index(clips["scene_label"].iloc[3])
    assert item["recording_device"] in DEVICES
    slow = next(iter(DataLoader(packed, batch_size=8)))
    assert torch.equal(slow["target"], packed.gather(range(8))["target"])


def test_packing_resamples_as_the_baseline_does(root):
    import torchaudio

    pack_data(root, 32000)
    packed = open_clips(read_split(root, "test"), development_folder(root), store_folder(root, 32000))
    item = packed[5]
    waveform, _ = soundfile.read(root / DEVELOPMENT / item["filename"], dtype="float32")
    expected = torchaudio.transforms.Resample(44100, 32000)(torch.from_numpy(waveform))
    assert item["waveform"].shape == (32000,)
    assert (item["waveform"] - expected).abs().max() <= 0.5001 / 32768


def test_evaluation_clips_have_no_labels(root):
    clips = read_evaluation(root)
    assert clips["filename"].iloc[0] == "audio/0.wav"
    pack_data(root, 32000, evaluation=2024)
    packed = open_clips(clips, evaluation_folder(root), store_folder(root, 32000, evaluation=2024))
    assert set(packed.gather([0, 1])) == {"waveform", "filename", "index"}
    assert set(packed[0]) == {"waveform", "filename", "index"}
    with pytest.raises(UserError, match=r"2025-mobile-evaluation has no evaluation_setup/fold1_test.csv"):
        read_evaluation(root, 2025)


def stereo(path):
    soundfile.write(path, np.zeros((44100, 2)), 44100)
    return "1 of 300 files are not mono", "has 2 channels, expected 1"


def another_rate(path):
    soundfile.write(path, np.zeros(48000), 48000)
    return "1 of 300 files are not sampled at 44100 Hz", "is sampled at 48000 Hz, expected 44100 Hz"


def short(path):
    soundfile.write(path, np.zeros(44000), 44100)
    return "1 of 300 files do not last one second", r"lasts 0.9977 s, expected 1.0000 s"


def unreadable(path):
    path.write_text("not audio")
    return "1 of 300 files cannot be read", "cannot be read as audio"


def truncated(path):
    soundfile.write(path, np.zeros(44100), 44100)
    path.write_bytes(path.read_bytes()[:5000])
    return "1 of 300 files cannot be read", "is cut off"


def gone(path):
    path.unlink()
    return "1 of 300 files are missing", "does not exist"


@pytest.mark.parametrize("damage", [stereo, another_rate, short, unreadable, truncated, gone], ids=lambda d: d.__name__)
def test_a_bad_file_is_listed_by_the_check_and_named_when_read(whole, root, damage):
    (root / DEVELOPMENT / "audio").unlink()
    (root / DEVELOPMENT / "audio").mkdir()
    for path in (whole / DEVELOPMENT / "audio").iterdir():
        (root / DEVELOPMENT / "audio" / path.name).symlink_to(path)
    clips = read_split(root, "test")
    path = root / DEVELOPMENT / clips["filename"].iloc[0]
    path.unlink()
    if damage is gone:
        path.write_text("")
    listed, named = damage(path)
    listed = listed.replace("300", str(len(read_clips(root))))
    report = check_data(root)
    assert len(report.problems) == 1
    assert report.problems[0].startswith(f"{listed}: {clips['filename'].iloc[0]}. ")
    with pytest.raises(UserError, match=named):
        open_clips(clips, development_folder(root))[0]
    with pytest.raises(UserError, match=named):
        pack_data(root, 44_100)


def test_made_up_data_is_compared_with_its_own_numbers_and_said_to_be(root):
    report = check_data(root)
    assert report.problems == []
    assert report.made_up
    assert [row["split"] for row in report.rows] == [*map(str, SUBSETS), "test", "neither"]
    assert all(row["clips"] == row["expected"] for row in report.rows)
    assert check_data(root, evaluation=2024).problems == []
    edit(root / "split_setup" / "split25.csv", lambda lines: lines.pop())
    problems = check_data(root).problems
    assert any(problem.startswith("The split 25 has ") and "run `data download`" in problem for problem in problems)
    edit(root / EVALUATION.format(year=2024) / "evaluation_setup" / "fold1_test.csv", lambda lines: lines.pop())
    assert "expected" in check_data(root, evaluation=2024).problems[0]


def test_the_check_names_a_clip_of_a_smaller_split_that_the_larger_one_lacks(root):
    lists = root / "split_setup"
    lost = (lists / "split5.csv").read_text().splitlines()[1]
    edit(lists / "split10.csv", lambda lines: lines.remove(lost))
    problems = check_data(root).problems
    sentence = f"1 clips of split 5 are not in split 10 (first {lost.split()[0]}); run `data download` again"
    assert [problem for problem in problems if problem.startswith(sentence)], problems


def test_data_without_the_marker_is_compared_with_the_official_numbers(root):
    (root / DEVELOPMENT / MARKER).unlink()
    report = check_data(root)
    assert not report.made_up
    assert any("The split 100 has" in problem and "expected 139620" in problem for problem in report.problems)
    assert any("The split test has" in problem and "expected 29680" in problem for problem in report.problems)
    folder = root / EVALUATION.format(year=2024)
    (folder / MARKER).unlink()
    (folder / "audio").unlink()
    count, missing = check_data(root, evaluation=2024).problems
    assert "expected 135730" in count and "are missing" in missing


def test_the_official_numbers_add_up():
    numbers = check._official_numbers()
    assert {split: row["clips"] for split, row in numbers.items()} == {
        "5": 6980, "10": 13960, "25": 34900, "50": 69800, "100": 139620, "test": 29680, "neither": 61050,
    }  # fmt: skip
    for split in ("100", "test"):
        assert sum(numbers[split]["scenes"].values()) == numbers[split]["clips"]
    per_device = [sum(numbers[split]["devices"][device] for split in ("100", "test", "neither")) for device in DEVICES]
    assert per_device == [144000, 10780, 10770] + [10800] * 6


def test_nothing_there_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"has no meta.csv. Run `python -m task1_asc data download"):
        read_clips(tmp_path)


def test_the_download_knows_every_part_and_checksum():
    files = download.development_files()
    assert len(files) == 18
    assert files[1].name == "TAU-urban-acoustic-scenes-2022-mobile-development.meta.zip"
    assert all(len(file.checksum) == len("md5:") + 32 for file in files)
    assert len({file.checksum for file in files}) == 18
    assert [file.name for file in download.split_files()][-2:] == ["split100.csv", "test.csv"]


def test_an_evaluation_set_of_an_unknown_record_asks_for_it(tmp_path):
    with pytest.raises(UserError, match="--record"):
        download.download_data(tmp_path, year=2024)


def test_archives_are_fetched_unpacked_and_not_fetched_again(tmp_path, monkeypatch):
    import zipfile

    fetched = []

    def fetch(file, folder, quiet=False):
        fetched.append(file.name)
        path = Path(folder) / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr(f"{DEVELOPMENT}/{file.name}.txt", "x")
        return path

    monkeypatch.setattr(download, "download", fetch)
    monkeypatch.setattr("common.data.archives.download", fetch)
    assert download.download_data(tmp_path, delete_archives=True) == tmp_path / DEVELOPMENT
    assert len(list((tmp_path / DEVELOPMENT).iterdir())) == 18
    assert not list((tmp_path / "archives").iterdir())
    fetched.clear()
    download.download_data(tmp_path, delete_archives=True)
    assert [name for name in fetched if name.endswith(".zip")] == []
