"""Lists of missing and broken clips of AudioSet name the clip in every row (reported by a user)."""

import csv
import shutil

import numpy as np
import soundfile

from common.audioset.packing import pack_split

TABLE = "# made up\n# num_ytids=3\n# YTID, start_seconds, end_seconds, positive_labels\n"


def test_each_row_names_the_video_and_the_reason(tmp_path):
    root, clips = tmp_path / "root", tmp_path / "clips" / "part"
    root.mkdir()
    clips.mkdir(parents=True)
    videos = ["caaaaaaaaaa", "daaaaaaaaaa", "eaaaaaaaaaa", "Yaaaaaaaaaa"]
    rows = [f'{video}, 0.000, 10.000, "/m/0bt9lr"\n' for video in videos]
    (root / "eval_segments.csv").write_text(TABLE + "".join(rows))
    for video in ("caaaaaaaaaa", "daaaaaaaaaa", "Yaaaaaaaaaa"):
        soundfile.write(clips / f"Y{video}.wav", np.zeros(16_000, dtype=np.float32), 16_000)
    for video in ("daaaaaaaaaa", "Yaaaaaaaaaa"):
        whole = (clips / f"Y{video}.wav").read_bytes()
        (clips / f"Y{video}.wav").write_bytes(whole[:20_000])
    pack_split(root, tmp_path / "clips", "eval", encode_rate=32_000, quiet=True)
    with (root / "eval_segments_missing.csv").open(newline="") as file:
        listed = {row["clip"]: row["reason"] for row in csv.DictReader(file)}
    assert list(listed) == ["eaaaaaaaaaa", "daaaaaaaaaa", "Yaaaaaaaaaa"]
    assert listed["eaaaaaaaaaa"] == "no file"
    assert all("is cut off" in listed[video] and video in listed[video] for video in ("daaaaaaaaaa", "Yaaaaaaaaaa"))


def test_the_reported_list_names_the_broken_clip(tmp_path, shared):
    case = shutil.copytree(shared / "cases" / "12_audioset_missing_list", tmp_path / "case")
    pack_split(case / "root", case / "clips", "eval", encode_rate=32_000, quiet=True)
    with (case / "root" / "eval_segments_missing.csv").open(newline="") as file:
        assert [row["clip"] for row in csv.DictReader(file)] == ["daaaaaaaaaa"]
