"""Manifests of captioned audio: names byte for byte, bad tables refused, nothing leaks, silence is not encoded."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from common.data.audio import write_wav
from common.errors import UserError
from common.synthetic.synthesize import synthesize
from retrieval.data.captions import (
    CLOTHO,
    READERS,
    check_split,
    exclude,
    leaks,
    read_caption_table,
    read_exclusions,
    read_manifest,
    read_relevance,
)
from retrieval.data.check import check_data
from retrieval.data.clips import CaptionedClips, CaptionSampler, collate, evaluation_loader, read_clips, split_windows
from retrieval.evaluate import several_relevant
from retrieval.model import mean_over_signal
from retrieval.settings import Data, DataSource


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    root = tmp_path_factory.mktemp("retrieval")
    synthesize("retrieval", root, clips=18)
    return root


def source(root, split):
    return DataSource(dataset="clotho", root=root, split=split)


def data_settings(root, **changes):
    kept = {"max_duration": 4.0, "window": 2.0, "num_workers": 0}
    splits = {"validation": source(root, "validation"), "evaluation": source(root, "evaluation")}
    return Data(training=(source(root, "development"),), **splits, **(kept | changes))


def test_the_made_up_clotho_is_read_like_the_real_one(made_up):
    manifest = read_manifest("clotho", made_up, "development")
    assert check_split(manifest, made_up) == []
    assert manifest["file_name"].iloc[0].startswith(" ")  # leading blanks are part of the name
    assert all(len(captions) == 5 for captions in manifest["captions"])
    assert all(path.is_file() for path in manifest["path"])


def test_the_official_tables_have_their_counts_and_checksums(shared):
    folder = shared / "data" / "clotho_captions"
    for split, (count, _) in CLOTHO.items():
        manifest = read_manifest("clotho", folder, split)
        assert len(manifest) == count
        problems = check_split(manifest, folder)
        assert len(problems) == 1 and "audio files are missing" in problems[0]
    assert sum(n.startswith(" ") for n in read_manifest("clotho", folder, "development")["file_name"]) == 2


def test_relevance_names_clips_that_hold_what_the_caption_says(made_up):
    manifest = read_manifest("clotho", made_up, "evaluation")
    captions = [caption for five in manifest["captions"] for caption in five]
    relevance = read_relevance(made_up / "relevance_evaluation.csv")
    rows, relevant = several_relevant(captions, list(manifest["file_name"]), relevance)
    owner = rows // 5
    assert relevant[torch.arange(len(rows)), owner].all()
    with pytest.raises(UserError, match=r"the first is 'nowhere\.wav'"):
        several_relevant(captions, list(manifest["file_name"]), {captions[0]: ("nowhere.wav",)})


def test_captions_with_commas_quotes_and_other_scripts_survive(tmp_path):
    path = tmp_path / "captions.csv"
    text = 'file_name,caption_1\n a.wav,"He said ""hello"", twice"\nb.wav,"zwei\nZeilen"\nc.wav,鳥が鳴く\nNA.wav,NA\n'
    path.write_text(text, encoding="utf-8")
    table = read_caption_table(path)
    assert list(table["file_name"]) == [" a.wav", "b.wav", "c.wav", "NA.wav"]
    assert [c[0] for c in table["captions"]] == ['He said "hello", twice', "zwei\nZeilen", "鳥が鳴く", "NA"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,caption_1\na.wav,\n", r":2: caption_1 of 'a.wav' is empty"),
        ("file_name,caption_1\na.wav,x\na.wav,y\n", r":3: 'a.wav' is listed twice"),
        ("name,caption_1\na.wav,x\n", "needs the columns file_name"),
        ("", "is not a table"),
    ],
)
def test_a_bad_caption_table_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_caption_table(tmp_path / "c.csv")


def test_unknown_data_sets_splits_and_clips_that_two_rows_name_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"No data set named cloto\. Near it: clotho"):
        read_manifest("cloto", tmp_path, "development")
    with pytest.raises(UserError, match=r"No split of clotho named dev\. "):
        read_manifest("clotho", tmp_path, "dev")
    twice = pd.DataFrame({"path": [Path("a.wav"), Path("b.wav"), Path("a.wav")]})
    monkeypatch.setitem(READERS, "folder", lambda root, split: twice)
    with pytest.raises(UserError, match=r":4: 'a\.wav' is listed twice; keep one row per clip"):
        read_manifest("folder", tmp_path, "all")


def test_the_line_of_a_relevance_that_is_no_list_is_named(tmp_path):
    table = tmp_path / "relevance.csv"
    table.write_text("query,audio_filenames\nrain,\"['a.wav', 'b.wav']\"\nwind,a.wav b.wav\n")
    with pytest.raises(UserError, match=r"relevance\.csv:3: audio_filenames is not a list of names"):
        read_relevance(table)


def test_exclusions_are_compared_as_text(tmp_path, made_up):
    manifest = read_manifest("clotho", made_up, "development")
    ids = manifest["source_id"].iloc[:2].tolist()
    path = tmp_path / "ids.csv"
    path.write_text("sound_id\n" + "\n".join(ids) + "\n")  # without a text cell a reader makes integers of them
    kept, removed = exclude(manifest, read_exclusions(path), "ids.csv")
    assert removed == 2 and len(kept) == len(manifest) - 2


@pytest.mark.parametrize(
    ("text", "message"),
    [('["1",\n', "damaged in line 2"), ('{"a": 3}', "holds no lists of ids"), ("7", "holds no lists of ids")],
)
def test_exclusions_that_are_no_lists_are_refused(tmp_path, text, message):
    path = tmp_path / "ids.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_exclusions(path)


def test_an_exclusion_that_removes_nothing_is_an_error(made_up):
    with pytest.raises(UserError, match="removes nothing from 12 clips"):
        exclude(read_manifest("clotho", made_up, "development"), {"12345"}, "list.csv")


def test_a_recording_in_training_and_evaluation_is_a_leak(made_up):
    training = read_manifest("clotho", made_up, "development")
    evaluation = read_manifest("clotho", made_up, "evaluation")
    assert leaks(training, evaluation).empty
    evaluation.loc[0, "source_id"] = training["source_id"].iloc[3]
    assert list(leaks(training, evaluation)["file_name"]) == [training["file_name"].iloc[3]]


def test_missing_audio_is_refused_or_said(made_up, tmp_path):
    folder = tmp_path / "own" / "train"
    write_wav(folder / "a.wav", np.zeros(1000, np.float32), 16000)
    (tmp_path / "own" / "captions_train.csv").write_text("file_name,caption_1\na.wav,silence\nb.wav,nothing\n")
    own = DataSource(dataset="folder", root=tmp_path / "own", split="train")
    with pytest.raises(UserError, match="1 of 2 audio files are missing"):
        read_clips(own)
    manifest = read_clips(own, allow_missing=True)
    assert manifest.notes == ["1 of 2 clips of folder train, not comparable"]


def test_silence_that_only_fills_a_batch_is_never_encoded(made_up):
    assert split_windows(torch.ones(12), 10).shape == (2, 10)
    assert split_windows(torch.ones(10), 10).shape == (1, 10)
    assert split_windows(torch.ones(3), 10).sum() == 3
    clips = CaptionedClips(read_clips(source(made_up, "validation")), 16000, data_settings(made_up), False)
    batch = next(iter(evaluation_loader(clips, 3)))
    needed = [min(2, -(-int(min(d, 4.0) * 16000) // 32000)) for d in clips.durations[:3]]
    assert len(batch["windows"]) == sum(needed) and batch["windows"].abs().sum(dim=1).gt(0).all()
    assert torch.bincount(batch["window_clip"]).tolist() == needed


def test_the_cache_gives_what_decoding_gives(made_up, tmp_path):
    manifest = read_clips(source(made_up, "validation"))
    plain = CaptionedClips(manifest, 16000, data_settings(made_up), False)
    cached = CaptionedClips(manifest, 16000, data_settings(made_up, cache=tmp_path / "cache"), False)
    for clip in range(len(plain)):
        assert cached.waveform(clip).shape == plain.waveform(clip).shape
        assert torch.allclose(cached.waveform(clip), plain.waveform(clip), atol=1 / 32768)


def test_an_epoch_sees_every_caption_once_whatever_the_number_of_processes():
    counts = [5, 5, 3, 5, 2, 5, 5, 5, 5]
    for world in (1, 2):
        samplers = [CaptionSampler(counts, 4, 2, seed=1, rank=rank, world_size=world) for rank in range(world)]
        for sampler in samplers:
            sampler.set_epoch(3)
        seen = [(clip, c) for sampler in samplers for batch in sampler for clip, group, _ in batch for c in group]
        assert len(seen) == len(set(seen))
        assert all(len(list(sampler)) == len(sampler) for sampler in samplers)
    first = list(samplers[0])
    samplers[0].set_epoch(4)
    assert list(samplers[0]) != first


def test_captions_for_one_batch_are_enough_and_fewer_are_refused():
    assert len(CaptionSampler([5, 5], 10, 5, 0)) == 1
    with pytest.raises(UserError, match="1 groups of captions do not fill one batch of 2 on each of 1 devices"):
        CaptionSampler([5], 10, 5, 0)


def test_a_batch_holds_pairs_of_each_clip_once():
    items = [
        {"clip": 7, "windows": torch.ones(2, 10), "samples": 17, "captions": ["a", "b"]},
        {"clip": 3, "windows": torch.zeros(1, 10), "samples": 9, "captions": ["c"]},
    ]
    batch = collate(items)
    assert batch["window_clip"].tolist() == [0, 0, 1] and batch["caption_clip"].tolist() == [0, 0, 1]
    assert batch["clip"].tolist() == [7, 3] and batch["captions"] == ["a", "b", "c"]
    assert batch["samples"].tolist() == [17, 9]


def test_audiocaps_groups_the_captions_of_a_clip(tmp_path):
    rows = ["audiocap_id,youtube_id,start_time,caption", "1,abc,30,a dog", "2,abc,30,a hound", "3,xyz,0,rain, heavy"]
    (tmp_path / "val.csv").write_text("\n".join(rows[:3]) + '\n3,xyz,0,"rain, heavy"\n')
    manifest = read_manifest("audiocaps", tmp_path, "val")
    assert list(manifest["captions"]) == [("a dog", "a hound"), ("rain, heavy",)]
    assert list(manifest["file_name"]) == ["abc_30.flac", "xyz_0.flac"]


def test_wavcaps_ids_lose_their_wav_and_broken_files_are_left_out(tmp_path):
    folder = tmp_path / "json_files" / "AudioSet_SL"
    folder.mkdir(parents=True)
    items = [{"id": "Yabc.wav", "caption": "a dog", "duration": 10.0}, {"id": "Y3sSblRfEG2o.wav", "caption": "x"}]
    pd.Series({"num_captions_per_audio": 1, "data": items}).to_json(folder / "as_final.json")
    manifest = read_manifest("wavcaps", tmp_path, "AudioSet_SL")
    assert list(manifest["file_name"]) == ["Yabc.flac"] and list(manifest["source_id"]) == ["Yabc"]


@pytest.mark.parametrize(
    ("text", "message"), [('{"data": [{"caption": "a dog"}]}', "entry 1 of data has no id"), ("{}", "it has no data")]
)
def test_a_damaged_wavcaps_table_is_refused(tmp_path, text, message):
    folder = tmp_path / "json_files" / "AudioSet_SL"
    folder.mkdir(parents=True)
    (folder / "as_final.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_manifest("wavcaps", tmp_path, "AudioSet_SL")


def test_a_clip_longer_than_the_cache_gives_a_drawn_part_in_training(tmp_path):
    ramp = np.linspace(-0.5, 0.5, 5 * 16000, dtype=np.float32)
    write_wav(tmp_path / "own" / "train" / "long.wav", ramp, 16000)
    (tmp_path / "own" / "captions_train.csv").write_text("file_name,caption_1\nlong.wav,a rise\n")
    manifest = read_clips(DataSource(dataset="folder", root=tmp_path / "own", split="train"))
    data = data_settings(tmp_path, max_duration=2.0, cache=tmp_path / "cache")
    drawn, beginning = (CaptionedClips(manifest, 16000, data, random_part) for random_part in (True, False))
    starts = {round(float(drawn.waveform(0, draw=epoch)[0]), 3) for epoch in range(5)}
    assert len(starts) == 5 and len(drawn.waveform(0)) == 2 * 16000
    assert torch.allclose(beginning.waveform(0), torch.from_numpy(ramp[: 2 * 16000]), atol=1e-4)


def test_silent_windows_are_encoded_on_request_and_count_nowhere(made_up):
    manifest = read_clips(source(made_up, "validation"))
    plain, silent = (
        CaptionedClips(manifest, 16000, data_settings(made_up, max_duration=8.0, encode_silence=on), False)
        for on in (False, True)
    )
    assert len(silent.read(0, [0], 0)["windows"]) == 4 >= len(plain.read(0, [0], 0)["windows"])
    batches = [clips[[(number, (0,), 0) for number in range(3)]] for clips in (plain, silent)]
    means = [
        mean_over_signal(batch["windows"].unfold(1, 100, 100), batch["window_clip"], batch["samples"], 32000)
        for batch in batches
    ]
    torch.testing.assert_close(*means)


def test_the_mean_over_frames_leaves_padding_out():
    frames = torch.arange(12.0).reshape(3, 4, 1)  # two windows of clip 0, one of clip 1, four frames each
    samples = torch.tensor([14, 3])  # of windows of 10: ceil(14 * 4 / 10) = 6 frames, ceil(3 * 4 / 10) = 2
    means = mean_over_signal(frames, torch.tensor([0, 0, 1]), samples, window=10)
    assert means[:, 0].tolist() == [(0 + 1 + 2 + 3 + 4 + 5) / 6, (8 + 9) / 2]


def test_the_check_of_a_folder_counts_clips_and_finds_evaluation_recordings(made_up, tmp_path):
    report = check_data(made_up)
    assert report.made_up and report.problems == []
    assert [row["split"] for row in report.rows] == ["development", "validation", "evaluation"]
    assert report.rows[0]["of evaluation recordings"] == 0
    copy = tmp_path / "clotho"
    shutil.copytree(made_up, copy)
    path = copy / "clotho_metadata_evaluation.csv"
    first = read_manifest("clotho", copy, "development")["source_id"].iloc[0]
    old = read_manifest("clotho", copy, "evaluation")["source_id"].iloc[0]
    path.write_bytes(path.read_bytes().replace(old.encode(), first.encode()))
    assert "1 clips of clotho development come from recordings" in check_data(tmp_path).problems[0]
    (tmp_path / "ids.csv").write_text(f"sound_id\n{first}\n")
    assert check_data(tmp_path, (tmp_path / "ids.csv",)).problems == []
    with pytest.raises(UserError, match="holds no table of Clotho"):
        check_data(tmp_path / "clotho" / "development")


def test_a_relative_root_is_that_of_the_current_folder(made_up, tmp_path, monkeypatch):
    shutil.copytree(made_up, tmp_path / "a" / "data")
    synthesize("retrieval", tmp_path / "b" / "data", clips=24)
    found = []
    for name in ("a", "b", "a"):
        monkeypatch.chdir(tmp_path / name)
        found.append(read_clips(source(Path("data"), "development")))
    assert len(found[0].clips) < len(found[1].clips) and found[2] is found[0]


def test_a_damaged_table_is_told_once_and_the_other_splits_are_checked(made_up, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(made_up, tmp_path / name)
    (tmp_path / "a" / "clotho_captions_validation.csv").write_bytes(b"file_name\xff\n")
    lost = read_manifest("clotho", tmp_path / "a", "evaluation")["path"].iloc[0]
    lost.unlink()
    report = check_data(tmp_path)
    assert {row["split"]: row["captions"] > 0 for row in report.rows} == {
        "validation": False, "development": True, "evaluation": True
    }  # fmt: skip
    damaged, missing, unusable = report.problems
    assert "clotho_captions_validation.csv" in damaged and "no usable table" in unusable
    assert "1 of 3 audio files are missing" in missing and lost.name in missing
