"""Links in a folder of audio: `tag`, `embed`, `index` and packing follow them; loops and broken links are named."""

import shutil
import subprocess

import numpy as np
import pytest
import soundfile

from common.audioset.packing import _find_clips
from common.data.audio import AudioError, list_audio, read_audio
from common.data.files import walk_files
from common.errors import UserError
from task4_sed.data.maestro import prepare
from tests.support.places import SHARED
from tests.support.verbs import verb


@pytest.fixture
def linked(tmp_path):
    """data/a.wav, and elsewhere/deep/b.wav, which the link data/more leads to."""
    for name in ("data/a.wav", "elsewhere/deep/b.wav"):
        (tmp_path / name).parent.mkdir(parents=True)
        soundfile.write(tmp_path / name, np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    (tmp_path / "data" / "more").symlink_to("../elsewhere")
    return tmp_path / "data"


def names(folder):
    return [path.relative_to(folder).as_posix() for path in list_audio(folder)]


def test_a_linked_folder_is_followed(linked):
    assert names(linked) == ["a.wav", "more/deep/b.wav"]


def test_a_folder_that_is_linked_twice_is_there_twice(linked):
    (linked / "again").symlink_to("../elsewhere")
    assert names(linked) == ["a.wav", "again/deep/b.wav", "more/deep/b.wav"]


@pytest.mark.parametrize("target", [".", "..", "../..", "more", "more/deep"])
def test_a_loop_ends_and_is_named(linked, target, capsys):
    """To the folder itself, above it, and back to a folder that another link led to."""
    link = linked / "more" / "deep" / "round"
    link.symlink_to((linked / target).resolve())
    assert names(linked) == ["a.wav", "more/deep/b.wav"]
    assert f"{link} is a link back to {(linked / target).resolve()}" in capsys.readouterr().err


def test_two_folders_that_link_to_each_other_end(tmp_path, capsys):
    for own, other in (("a", "b"), ("b", "a")):
        (tmp_path / own).mkdir()
        (tmp_path / own / f"{own}.wav").touch()
        (tmp_path / own / other).symlink_to(f"../{other}")
    assert names(tmp_path) == ["a/a.wav", "a/b/b.wav", "b/a/a.wav", "b/b.wav"]
    assert "a/b/a is a link back" in capsys.readouterr().err


def test_a_broken_link_is_named_and_no_file_is_left_out_in_silence(linked, capsys):
    (linked / "gone.wav").symlink_to("nowhere.wav")
    (linked / "lost").symlink_to("../a folder that was moved")
    (linked / "self").symlink_to("self")
    assert names(linked) == ["a.wav", "gone.wav", "more/deep/b.wav"]
    told = capsys.readouterr().err
    assert f"{linked / 'lost'} is a link to ../a folder that was moved, which does not exist" in told
    assert f"{linked / 'self'} is a link to self" in told
    with pytest.raises(AudioError, match=r"gone\.wav is a link to nowhere\.wav, which does not exist"):
        read_audio(linked / "gone.wav")


def test_hidden_files_and_folders_stay_out(linked):
    (linked / ".cache").symlink_to("../elsewhere")
    (linked / "._a.wav").touch()
    assert names(linked) == ["a.wav", "more/deep/b.wav"]


def test_a_folder_that_may_not_be_read_is_named(linked, monkeypatch):
    def scandir(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(UserError, match=r"The folder .*data cannot be read: Permission denied"):
        list(walk_files(linked))


def test_clips_of_audioset_in_linked_folders_are_packed(linked):
    (linked.parent / "elsewhere" / "Yabcdefghijk.mp3").touch()
    assert _find_clips(linked)["Yabcdefghijk"] == linked / "more" / "Yabcdefghijk.mp3"


def test_a_linked_file_is_embedded_and_a_broken_one_is_refused(linked, shared, capsys):
    weights = shared / "data" / "weights" / "mn04_as_mAP_432.pt"
    words = ["embed", linked, "--model", "mn04.as", "--weights", weights, "--out", linked.parent / "all.npz"]
    assert verb(*words) == 0
    assert np.load(linked.parent / "all.npz")["filename"].tolist() == ["a.wav", "more/deep/b.wav"]
    (linked / "gone.wav").symlink_to("nowhere.wav")
    assert verb(*words) == 2
    assert "gone.wav is a link to nowhere.wav" in capsys.readouterr().err


def test_the_case_of_the_pack_is_tagged_whole(tmp_path, shared, capsys):
    case = SHARED / "cases" / "8_linked_subfolder"
    if not case.is_dir():
        pytest.skip("the pack has no cases")
    shutil.copytree(case, tmp_path / "case")
    subprocess.run(["sh", tmp_path / "case" / "make.sh"], check=True)
    weights = shared / "data" / "weights" / "mn04_as_mAP_432.pt"
    assert verb("tag", tmp_path / "case" / "data", "--model", "mn04.as", "--weights", weights, "--top", "1") == 0
    shown = capsys.readouterr().out
    assert shown.count(".wav") == 2 and "more/b.wav" in shown


def test_recordings_and_annotations_of_maestro_in_linked_folders_are_cut(tmp_path):
    for name in ("audio", "annotation"):
        (tmp_path / name).mkdir()
        (tmp_path / "source" / f"development_{name}").mkdir(parents=True)
        (tmp_path / "source" / f"development_{name}" / "more").symlink_to(tmp_path / name)
    for stem in ("cafe_restaurant_00", "cafe_restaurant_01"):
        soundfile.write(tmp_path / "audio" / f"{stem}.wav", np.zeros(16000 * 12), 16000)
        (tmp_path / "annotation" / f"{stem}.txt").write_text("0\t1\tcoffee machine\t0.5\n")
    counts = prepare(tmp_path / "source", tmp_path / "out", 1, validation_recordings=["cafe_restaurant_01"])
    assert list(counts.values()) == [3, 3]  # windows of 10 s, each second
