"""AudioSet strong: tables, frame targets, weights, batches, teachers' targets, and what is told of bad files."""

import re
import shutil
from collections import Counter

import h5py
import numpy as np
import pytest
import torch

from common.data.encoded_store import EncodedClips, encode_audio
from common.data.keyed_outputs import OutputWriter
from common.data.loading import EpochDraws
from common.errors import UserError
from common.features.augment import wavmix
from task4_sed.data.annotations import merge_touching
from task4_sed.pretraining.check import check_strong, pack_strong
from task4_sed.pretraining.clips import (
    CLASSES,
    KIND,
    SCORED_CLASSES,
    JointBatches,
    OrderedBatches,
    StrongClips,
    TeacherTargets,
    read_evaluation_set,
    read_training_set,
)
from task4_sed.pretraining.settings import StrongDataSettings
from task4_sed.pretraining.tables import FrameTargets, StrongEvents, event_frames, read_strong_table, temporal_weights
from task4_sed.settings import WavmixSettings

DOG, SPEECH = "/m/0bt9lr", "/m/09x0r"
HEAD = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel"


@pytest.fixture
def table(tmp_path):
    """Writes a table of events, one line each."""

    def write(*rows, head=HEAD, name="events.tsv"):
        path = tmp_path / name
        path.write_text("\n".join([head, *rows]) + "\n")
        return path

    return write


@pytest.fixture
def data(tiny_strong):
    return StrongDataSettings(root=tiny_strong)


def events_of(rows, clips=("Ya",), classes=("A", "B")):
    """StrongEvents of (clip, class, onset, offset) rows, merged."""
    columns = [np.array(column) for column in zip(*rows)]
    onset, offset = columns[2].astype(float), columns[3].astype(float)
    first, last = merge_touching(columns[0], columns[1], onset, offset)
    starts = np.searchsorted(columns[0][first], np.arange(len(clips) + 1))
    return StrongEvents(clips, classes, starts, columns[1][first], onset[first], last)


def test_the_part_of_a_segment_after_the_last_underscore_is_dropped(table):
    events = read_strong_table(table(f"ab_c-d_30000\t1.0\t2.0\t{DOG}", f"-x_0\t0\t10\t{SPEECH}"))
    assert events.clips == ("Y-x", "Yab_c-d")


def test_events_of_a_class_that_overlap_or_touch_are_merged(table):
    rows = [(0.0, 1.0), (0.5, 2.0), (2.0, 3.0), (3.5, 4.0), (0.2, 0.3)]
    events = read_strong_table(
        table(*(f"a_0\t{a}\t{b}\t{DOG}" for a, b in rows), f"a_0\t2.5\t2.6\t{SPEECH}", f"b_0\t2\t3\t{DOG}")
    )
    found = [(events.clips[c], events.classes[k], a, b) for c, k, a, b in
             zip(events.clip_of_event(), events.label, events.onset, events.offset)]  # fmt: skip
    assert found == [
        ("Ya", "Dog", 0.0, 3.0), ("Ya", "Dog", 3.5, 4.0), ("Ya", "Speech", 2.5, 2.6), ("Yb", "Dog", 2.0, 3.0),
    ]  # fmt: skip


def test_the_csv_of_pretrained_sed_is_read_like_the_official_table(table):
    official = read_strong_table(table(f"a_0\t1\t2\t{DOG}", f"b_0\t3\t4\t{SPEECH}"))
    head = ",start_time_seconds,end_time_seconds,label"
    other = read_strong_table(table(f"a_0,1,2,{DOG}", f"b_0,3,4,{SPEECH}", head=head, name="events.csv"))
    assert official.clips == other.clips
    np.testing.assert_array_equal(official.offset, other.offset)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("a_0\t1\t2\t/m/000", r":3 has the label /m/000, none of the 456 of AudioSet strong"),
        (f"a_0\t3\t2\t{DOG}", r":3 has an event that ends before it starts \(3 to 2 s\)"),
        (f"a_0\t9\t11.2\t{DOG}", r":3 has an event past the end of its clip, which lasts 10 s \(9 to 11.2 s\)"),
        (f"a_0\tx\t2\t{DOG}", r":3 has times that are no numbers"),
    ],
)
def test_a_row_that_cannot_be_is_told_with_its_line(table, row, sentence):
    with pytest.raises(UserError, match=sentence):
        read_strong_table(table(f"a_0\t0\t1\t{DOG}", row))


def test_other_files_are_refused(table, tmp_path):
    with pytest.raises(UserError, match="no column end_time_seconds"):
        read_strong_table(table("a_0\t1", head="segment_id\tstart_time_seconds"))
    with pytest.raises(UserError, match="There is no table"):
        read_strong_table(tmp_path / "absent.tsv")


def test_frames_are_rounded_outwards():
    first, last = event_frames(np.array([0.0, 0.1, 0.28, 9.99]), np.array([0.04, 0.17, 0.32, 10.4]))
    assert first.tolist() == [0, 2, 7, 249] and last.tolist() == [1, 5, 8, 250]


def test_borders_on_the_frame_grid_are_rounded_as_published():
    times = np.round(np.arange(251) * 0.04, 2)
    first, last = event_frames(times, times)
    assert last.tolist() == list(range(251))
    assert times[first < np.arange(251)].tolist() == [8.04, 8.12]  # in double precision these lie a sample too early


def test_targets_are_the_frames_of_the_events():
    events = events_of([(0, 0, 0.0, 0.08), (0, 1, 9.96, 10.0), (1, 0, 1.0, 1.01)], clips=("Ya", "Yb"))
    target = FrameTargets(events, ("B", "A")).gather([1, 0, 0])
    assert target.shape == (3, 2, 250)
    assert np.argwhere(target).tolist() == [[0, 1, 25], [1, 0, 249], [1, 1, 0], [1, 1, 1], [2, 0, 249], [2, 1, 0], [2, 1, 1]]  # fmt: skip # noqa: E501


def test_weights_are_the_published_sums():
    # Class A: 50 frames in the first clip (two events that share frame 30), 10 in the second; class B: 5 in the second.
    rows = [(0, 0, 0.0, 1.21), (0, 0, 1.22, 2.0), (1, 0, 0.0, 0.4), (1, 1, 0.0, 0.2)]
    targets = FrameTargets(events_of(rows, clips=("Ya", "Yb")), ("A", "B"))
    assert targets.gather([0])[0, 0].sum() == 50
    a, b = 1000 / (30 + 60), 1000 / (30 + 5)
    np.testing.assert_allclose(temporal_weights(targets, 30), [50 * a, 10 * a + 5 * b])


def test_weights_equal_those_of_decoded_targets(data):
    targets = FrameTargets(read_training_set(data).events, CLASSES)
    counts = targets.gather(range(len(targets))).sum(axis=2)
    expected = (counts * 1000 / (30 + counts.sum(axis=0))).sum(axis=1)
    np.testing.assert_allclose(temporal_weights(targets, 30), expected, rtol=1e-5)


def test_without_replacement_the_heavy_clips_come_first_and_hardly_any_is_left_out():
    weights = np.concatenate([np.full(100, 50.0), np.full(900, 0.5)])
    draws = EpochDraws(1000, 980, weights, replacement=False)
    order = draws.order(seed=1, epoch=0)
    assert len(set(order.tolist())) == 980
    assert (order[:100] < 100).mean() > 0.8
    assert np.isin(np.arange(100), order).all()


def test_without_replacement_the_first_draw_follows_the_weights():
    weights = np.array([1.0, 2.0, 5.0])
    first = Counter(int(EpochDraws(3, 3, weights).order(seed, 0)[0]) for seed in range(4000))
    shares = np.array([first[index] for index in range(3)]) / 4000
    np.testing.assert_allclose(shares, weights / 8, atol=0.03)  # 4 standard deviations of 4000 draws


def test_with_replacement_rare_classes_come_as_often_as_their_weights_say():
    weights = np.concatenate([np.full(10, 9.0), np.full(90, 1.0)])
    order = EpochDraws(100, 20_000, weights, replacement=True).order(0, 0)
    assert (order < 10).mean() == pytest.approx(0.5, abs=0.02)


def test_an_epoch_depends_on_seed_and_epoch_alone():
    draws = EpochDraws(50, 40, np.linspace(1, 2, 50))
    assert draws.order(3, 4).tolist() == draws.order(3, 4).tolist()
    assert draws.order(3, 4).tolist() != draws.order(3, 5).tolist()
    assert draws.order(3, 4).tolist() != draws.order(4, 4).tolist()


def test_more_draws_than_clips_are_refused_without_replacement():
    with pytest.raises(UserError, match=r"100,000 clips cannot be drawn without replacement from 50"):
        EpochDraws(50, 100_000)


def plans(monkeypatch, world, batches):
    """The plans of every process."""
    found = []
    for rank in range(world):
        monkeypatch.setattr("task4_sed.pretraining.clips.rank_and_count", lambda rank=rank: (rank, world))
        found.append((len(batches), list(batches)))
    return found


@pytest.mark.parametrize("world", [2, 3, 6])
def test_the_parts_of_all_processes_are_the_batch_of_one(monkeypatch, world):
    batches = JointBatches(EpochDraws(100, 45), 12, seed=5, wavmix=WavmixSettings(probability=0.5, alpha=2.0))
    batches.set_epoch(2)
    ((length, whole),) = plans(monkeypatch, 1, batches)
    parts = plans(monkeypatch, world, batches)
    assert all(count == len(planned) for count, planned in parts)
    for number in range(length):
        of_all = [planned[number] for _, planned in parts if number < len(planned)]
        if number == length - 1:  # 9 clips: 8 or 6 of them are shared by 2 and 6 processes
            assert sum(len(plan.rows) for plan in of_all) == 9 // world * world
            continue
        assert [plan.first for plan in of_all] == [rank * 12 // world for rank in range(world)]
        for name in ("rows", "partner", "partner_weight", "seeds"):
            joint = np.concatenate([getattr(plan, name) for plan in of_all])
            np.testing.assert_array_equal(joint, getattr(whole[number], name))


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setattr("task4_sed.pretraining.clips.rank_and_count", lambda: (0, 5))
    with pytest.raises(UserError, match=r"data.batch_size 12 cannot be shared by 5 processes"):
        len(JointBatches(EpochDraws(100, 45), 12, seed=0))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_scoring_goes_through_every_clip(monkeypatch, world):
    for clips in (1, 7, 8, 19):
        parts = plans(monkeypatch, world, OrderedBatches(clips, 6))
        rows = []
        for number in range(parts[0][0]):
            sizes = {len(planned[number].rows) for _, planned in parts}
            assert len(sizes) == 1 and sizes != {0}
            rows += [row for _, planned in parts for row in planned[number].rows.tolist()]
        assert list(dict.fromkeys(rows)) == list(range(clips))
        assert len(rows) < clips + world


def test_the_partners_of_wavmix_are_any_clips_and_weigh_less():
    batches = JointBatches(EpochDraws(1000, 1000), 1000, seed=0, wavmix=WavmixSettings(probability=0.8, alpha=2.0))
    (plan,) = list(batches)
    mixed = plan.partner >= 0
    assert mixed.mean() == pytest.approx(0.8, abs=0.05)
    assert len(np.unique(plan.partner[mixed])) > 450
    assert plan.partner_weight[mixed].min() >= 0.5 and (plan.partner_weight[~mixed] == 1).all()
    # The mean of max(l, 1 - l) with l from Beta(2, 2) is 11/16.
    assert plan.partner_weight[mixed].mean() == pytest.approx(11 / 16, abs=0.015)


def test_wavmix_adds_waveforms_without_their_means_and_targets_as_they_are():
    batch = {"waveform": torch.tensor([[1.0, 3.0], [5.0, 7.0]]), "target": torch.tensor([[1.0, 0.0], [1.0, 1.0]])}
    partners = {"waveform": torch.tensor([[0.0, 4.0]]), "target": torch.tensor([[0.0, 1.0]])}
    wavmix(batch, partners, torch.tensor([1]), torch.tensor([0.75]))
    # 0.75 * [-1, 1] + 0.25 * [-2, 2]
    assert batch["waveform"].tolist() == [[1.0, 3.0], [-1.25, 1.25]]
    assert batch["target"].tolist() == [[1.0, 0.0], [0.75, 1.0]]


def test_made_up_clips_are_read_with_their_targets(data):
    clips = StrongClips(read_training_set(data))
    (plan,) = list(OrderedBatches(len(clips), 1000))
    batch = clips[plan]
    assert batch["waveform"].shape == (len(clips), 160_000) and batch["target"].shape == (len(clips), 447, 250)
    audio = EncodedClips([data.root / "balanced_train_segments_mp3.hdf"], 16_000)
    row = clips.clips.events.clips.index(audio.filenames[3])
    torch.testing.assert_close(batch["waveform"][row], audio[3]["waveform"])


def test_a_batch_mixes_what_the_plan_says(data):
    clips = StrongClips(read_training_set(data))
    batches = JointBatches(EpochDraws(len(clips), 8), 8, seed=1, wavmix=WavmixSettings(probability=0.5, alpha=2.0))
    (plan,) = list(batches)
    batch = clips[plan]
    row = int(np.flatnonzero(plan.partner >= 0)[0])
    own, other = (clips.gather(np.array([index]), np.array([0])) for index in (plan.rows[row], plan.partner[row]))
    weight = float(plan.partner_weight[row])
    expected = weight * own["target"][0] + (1 - weight) * other["target"][0]
    torch.testing.assert_close(batch["target"][row], expected)
    assert abs(float(batch["waveform"][row].mean())) < 1e-6


def test_the_parts_know_407_common_classes(data):
    assert len(CLASSES) == 447 and len(SCORED_CLASSES) == 407
    clips, durations = read_evaluation_set(data)
    assert set(clips.events.clips) <= set(durations)
    assert list(CLASSES) == sorted(CLASSES)


def test_missing_clips_stop_unless_they_may_be_missing(tiny_strong, tmp_path):
    shutil.copytree(tiny_strong, tmp_path / "strong")
    (tmp_path / "strong" / "unbalanced_train_segments_mp3.hdf").unlink()
    data = StrongDataSettings(root=tmp_path / "strong")
    with pytest.raises(UserError, match=r"20 of 30 training clips have no audio \(first Y"):
        read_training_set(data)
    clips = read_training_set(data.model_copy(update={"allow_missing": True}))
    assert len(clips.missing) == 20 and len(clips.events) == 10


def teacher_file(path, names, shape=(447, 250), value=0.0, kind=KIND):
    with OutputWriter(path, names, shape, kind) as writer:
        writer.write(names, np.full((len(names), *shape), value))
    return path


def test_teachers_are_found_by_name_with_and_without_ending(tmp_path, data):
    names = read_training_set(data).events.clips
    logits = np.arange(len(names), dtype=np.float32)
    path = tmp_path / "logits.h5"
    with h5py.File(path, "w") as file:  # as published: names in another order, half of them with .mp3
        order = np.argsort(np.random.default_rng(0).random(len(names)))
        file["filenames"] = np.array([names[i] + (".mp3" if i % 2 else "") for i in order], dtype=np.bytes_)
        file[KIND] = np.broadcast_to(logits[order, None, None], (len(names), 447, 250)).astype(np.float16)
    read = TeacherTargets(path, names).gather(np.array([5, 0, 7]))
    assert read.shape == (3, 447, 250)
    torch.testing.assert_close(read[:, 0, 0], torch.tensor([5.0, 0.0, 7.0]).sigmoid())


def test_teachers_are_found_under_names_that_lost_their_last_letters(tmp_path):
    """PretrainedSED cuts the characters of ".mp3" off the end of a name, one by one."""
    path = teacher_file(tmp_path / "logits.h5", ["Yab", "Yabcm"])
    assert TeacherTargets(path, ["Yabm3p", "Yabcm"]).rows.tolist() == [0, 1]
    with pytest.raises(UserError, match=r"lacks 1 of 2 clips \(first Yxm\)"):
        TeacherTargets(path, ["Yab", "Yxm"])


@pytest.mark.parametrize("shape", [(527, 250), (447, 156), (250, 447), (447,)])
def test_targets_of_other_classes_or_frames_are_refused(tmp_path, shape):
    path = teacher_file(tmp_path / "logits.h5", ["Ya"], shape)
    with pytest.raises(UserError, match=re.escape(f"of shape {shape}, expected (447, 250)")):
        TeacherTargets(path, ["Ya"])


def test_targets_that_miss_clips_are_refused(tmp_path):
    path = teacher_file(tmp_path / "logits.h5", ["Ya", "Yb"])
    with pytest.raises(UserError, match=r"logits.h5 lacks 2 of 3 clips \(first Yc\)"):
        TeacherTargets(path, ["Ya", "Yc", "Yd"])


def test_targets_that_were_cut_off_are_refused(tmp_path):
    path = teacher_file(tmp_path / "logits.h5", ["Ya", "Yb"])
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(UserError, match="is cut off"):
        TeacherTargets(path, ["Ya"])
    with pytest.raises(UserError, match="There is no file"):
        TeacherTargets(tmp_path / "absent.h5", ["Ya"])


def test_made_up_data_are_as_they_should_be(tiny_strong):
    report = check_strong(tiny_strong, decode=True)
    assert report.problems == [] and report.made_up
    assert [row["missing"] for row in report.rows] == [0, 0]


def test_the_check_tells_which_clips_of_which_class_are_missing(tiny_strong, tmp_path):
    root = tmp_path / "strong"
    shutil.copytree(tiny_strong, root)
    (root / "balanced_train_segments_mp3.hdf").unlink()
    report = check_strong(root)
    events = read_strong_table(root / "audioset_train_strong.tsv")
    missing = report.missing["training"]
    assert len(missing) == 10 and "10 of 30 training clips have no audio" in report.problems[0]
    gone = [events.clips.index(name) for name in missing]
    expected = Counter(
        name for row in gone for name in {events.classes[k] for k in events.label[slice(*events.starts[row : row + 2])]}
    )
    assert {name: lost for name, (lost, _) in report.missing_by_class["training"].items()} == expected


def test_a_table_of_another_size_than_published_is_told(tiny_strong, tmp_path):
    root = tmp_path / "strong"
    shutil.copytree(tiny_strong, root)
    (root / "made_up.json").unlink()
    problems = check_strong(root).problems
    assert "The training table lists 30 clips, published are 103,463." in problems
    assert "The evaluation table lists 10 clips, published are 16,996." in problems


def test_a_folder_of_clips_is_packed_and_read_back(tiny_strong, tmp_path):
    root, audio = tmp_path / "packed", tmp_path / "audio"
    (audio / "sub").mkdir(parents=True)
    root.mkdir()
    for name in ("audioset_train_strong.tsv", "audioset_eval_strong.tsv", "eval_durations.csv"):
        shutil.copy(tiny_strong / name, root / name)
    waveform = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    train = read_strong_table(root / "audioset_train_strong.tsv").clips
    evaluation = read_strong_table(root / "audioset_eval_strong.tsv").clips
    for folder, name in ((audio, train[0]), (audio / "sub", train[1][1:]), (audio, evaluation[0])):
        (folder / f"{name}.mp3").write_bytes(encode_audio(waveform, 16_000))
    reports = pack_strong(audio, root)
    assert [report.num_clips for report in reports] == [2, 1]
    clips = read_training_set(StrongDataSettings(root=root, allow_missing=True))
    assert clips.events.clips == tuple(sorted(train[:2]))
    assert (audio / f"{train[0]}.mp3").read_bytes() == EncodedClips(clips.audio, 16_000, names=train[:1]).encoded(
        0
    ).tobytes()


def test_a_folder_without_listed_clips_is_told(tiny_strong, tmp_path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "Yother.mp3").write_bytes(b"")
    with pytest.raises(UserError, match="has none of the 30 clips"):
        pack_strong(tmp_path / "audio", tiny_strong)
