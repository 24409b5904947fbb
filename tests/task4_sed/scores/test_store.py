"""The score store: found by name, whole or absent, refused when it does not fit."""

import json
import pickle

import h5py
import numpy as np
import pytest

from common.errors import UserError
from task4_sed.scores.store import (
    ScoreStore,
    ScoreWriter,
    ensemble_stores,
    logit,
    mean_logits,
    read_score_tables,
    read_scores,
    sigmoid,
)
from task4_sed.scores.tables import from_frames, write_score_tables
from tests.support.made_up_scores import made_up_scores, write_tables_as_store

CLASSES = ["dog", "cat", "speech"]


def write_store(path, names=("a.wav", "b.wav"), frames=5, **options) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(len(names), frames, len(CLASSES))).astype(np.float32)
    with ScoreWriter(path, CLASSES, **options) as writer:
        writer.write(names, values)
    return values


def test_scores_are_found_by_name_whatever_the_order(tmp_path):
    values = write_store(tmp_path / "scores.h5", ("b.wav", "a.flac", "c"), dtype="float32")
    store = ScoreStore(tmp_path / "scores.h5", CLASSES, 0.064)
    assert store["a"] == pytest.approx(values[1])
    assert store.read(["c.wav", "b"]) == pytest.approx(values[[2, 0]])
    assert "a.wav" in store and "d" not in store
    with pytest.raises(UserError, match=r"lacks 1 of 1 clips \(first d\)"):
        store["d"]


def test_half_precision_is_the_default_and_large_logits_stay_finite(tmp_path):
    with ScoreWriter(tmp_path / "scores.h5", ["dog"]) as writer:
        writer.write(["a"], np.array([[[1e6], [0.1]]]))
    with h5py.File(tmp_path / "scores.h5") as file:
        assert file["strong_logits"].dtype == np.float16
    assert np.isfinite(ScoreStore(tmp_path / "scores.h5")["a"]).all()


def test_tensors_can_be_written_as_they_come_from_a_model(tmp_path):
    import torch

    values = torch.randn(2, 4, 3, requires_grad=True)
    with ScoreWriter(tmp_path / "scores.h5", CLASSES, dtype="float32") as writer:
        writer.write(["a", "b"], values)
        writer.write(["c"], values[:1].bfloat16())
    assert ScoreStore(tmp_path / "scores.h5").read(["a", "b"]) == pytest.approx(values.detach().numpy())


def test_there_is_no_file_when_writing_stops_half_way(tmp_path):
    with pytest.raises(RuntimeError), ScoreWriter(tmp_path / "scores.h5", CLASSES) as writer:
        writer.write(["a"], np.zeros((1, 5, 3)))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rewrite_leaves_the_old_store(tmp_path):
    values = write_store(tmp_path / "scores.h5", dtype="float32")
    with pytest.raises(UserError, match="No clip was written"), ScoreWriter(tmp_path / "scores.h5", CLASSES):
        pass
    assert ScoreStore(tmp_path / "scores.h5")["a"] == pytest.approx(values[0])


def test_a_store_refuses_doubled_names_nan_and_other_lengths(tmp_path):
    for values, names, message in (
        (np.zeros((2, 5, 3)), ["a.wav", "a.flac"], "a was stored twice"),
        (np.full((1, 5, 3), np.nan), ["a"], "outputs of a for .* hold NaN"),
    ):
        with pytest.raises(UserError, match=message), ScoreWriter(tmp_path / "scores.h5", CLASSES) as writer:
            writer.write(names, values)
    shorter = pytest.raises(UserError, match=r"b has outputs of shape \(4, 3\)")
    with shorter, ScoreWriter(tmp_path / "scores.h5", CLASSES) as writer:
        writer.write(["a"], np.zeros((1, 5, 3)))
        writer.write(["b"], np.zeros((1, 4, 3)))


def test_a_cut_off_store_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "scores.h5"
    write_store(path, tuple(f"clip{index}" for index in range(50)))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match="is cut off or no HDF5 file"):
        ScoreStore(path)
    path.write_text("no store")
    with pytest.raises(UserError, match="is cut off or no HDF5 file"):
        ScoreStore(path)
    with pytest.raises(UserError, match="There is no file"):
        ScoreStore(tmp_path / "none.h5")


def test_other_classes_or_another_frame_rate_are_refused(tmp_path):
    write_store(tmp_path / "scores.h5")
    with pytest.raises(UserError, match="column 2 is cat, expected speech"):
        ScoreStore(tmp_path / "scores.h5", ["dog", "speech", "cat"])
    with pytest.raises(UserError, match="frames of 64 ms, expected 40 ms"):
        ScoreStore(tmp_path / "scores.h5", CLASSES, 0.04)


def test_files_of_the_winning_system_are_read_when_the_classes_are_given(tmp_path):
    values = np.random.default_rng(1).normal(size=(2, 156, 3)).astype(np.float32)
    with h5py.File(tmp_path / "theirs.hdf5", "w") as file:
        file["filenames"] = np.array([b"a", b"b"])
        file["strong_logits"] = values
    with pytest.raises(UserError, match="does not say which classes its 3 columns are"):
        ScoreStore(tmp_path / "theirs.hdf5")
    with pytest.raises(UserError, match="scores of 3 classes, but 2 are named"):
        ScoreStore(tmp_path / "theirs.hdf5", ["dog", "cat"])
    store = ScoreStore(tmp_path / "theirs.hdf5", CLASSES)
    assert store["b"] == pytest.approx(values[1])
    tables = read_scores(tmp_path / "theirs.hdf5", CLASSES)
    assert tables.borders_of(0)[-1] == pytest.approx(9.984)
    assert tables.scores_of(0) == pytest.approx(1 / (1 + np.exp(-values[0])), abs=1e-6)


def test_a_store_that_contradicts_itself_is_refused(tmp_path):
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file["filenames"] = np.array([b"a"])
        file["strong_logits"] = np.zeros((2, 5, 3))
    with pytest.raises(UserError, match="names 1 clips but its strong_logits have the shape"):
        ScoreStore(tmp_path / "bad.h5", CLASSES)
    with h5py.File(tmp_path / "none.h5", "w") as file:
        file.attrs["classes"] = json.dumps(CLASSES)
    with pytest.raises(UserError, match="it has no data set filenames"):
        ScoreStore(tmp_path / "none.h5")


def test_worker_processes_open_the_store_themselves(tmp_path):
    values = write_store(tmp_path / "scores.h5", dtype="float32")
    store = ScoreStore(tmp_path / "scores.h5")
    _ = store["a"]
    assert pickle.loads(pickle.dumps(store))["b"] == pytest.approx(values[1])


@pytest.mark.parametrize("kind", ["scores", "logits"])
def test_tables_and_store_can_be_turned_into_each_other(tmp_path, kind):
    scores, *_ = made_up_scores(4, 3)
    scores["clip_00002"] = scores["clip_00002"].iloc[:70]  # a shorter clip
    scores["clip_00003"].loc[155, "offset"] = 9.97  # a last frame that the end of the clip cuts
    write_score_tables(from_frames(scores), tmp_path / "tables")
    write_tables_as_store(read_score_tables(tmp_path / "tables"), tmp_path / "scores.h5", kind)
    assert ScoreStore(tmp_path / "scores.h5").kind == kind
    write_score_tables(read_scores(tmp_path / "scores.h5"), tmp_path / "again")
    before, after = read_score_tables(tmp_path / "tables"), read_score_tables(tmp_path / "again")
    assert before.clips == after.clips
    assert after.borders == pytest.approx(before.borders, abs=1e-6)
    assert after.values == pytest.approx(before.values, abs=2e-6)
    assert read_score_tables(tmp_path / "scores.h5").clips == before.clips


def test_clips_end_with_their_last_frame_unless_their_ends_are_given(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 5, len(CLASSES))).astype(np.float32)
    with ScoreWriter(tmp_path / "scores.h5", CLASSES, frame_seconds=0.5, dtype="float32") as writer:
        writer.write(["b.wav", "c.wav"], values[:2])
        writer.write(["a.wav"], values[2:], [1.2])
    store = ScoreStore(tmp_path / "scores.h5")
    assert [store.end_of(name) for name in ("a", "b", "c")] == [1.2, 2.5, 2.5] and len(store) == 3
    tables = read_scores(tmp_path / "scores.h5")
    assert tables.clips == ("a", "b", "c")
    np.testing.assert_allclose(tables.borders_of(0), [0, 0.5, 1.0, 1.2])  # the other two frames are padding
    np.testing.assert_allclose(tables.borders_of(2), [0, 0.5, 1, 1.5, 2, 2.5])
    np.testing.assert_allclose(tables.scores_of(0), sigmoid(values[2, :3]), rtol=1e-6)
    np.testing.assert_allclose(tables.scores_of(1), sigmoid(values[0]), rtol=1e-6)


@pytest.mark.parametrize("shape", [(5, 3), (1, 5, 2), (1, 5, 4), (1, 5, 3, 1)])
def test_scores_of_another_shape_are_not_written(tmp_path, shape):
    with (
        pytest.raises(ValueError, match="3 classes cannot have scores of"),
        ScoreWriter(tmp_path / "s.h5", CLASSES) as to,
    ):
        to.write(["a"], np.zeros(shape))
    with pytest.raises(UserError, match="A store holds logits or scores, not probabilities"):
        ScoreWriter(tmp_path / "s.h5", CLASSES, kind="probabilities")


def test_probabilities_and_logits_are_each_others_inverse():
    logits = np.array([-800.0, -20.0, -1.0, 0.0, 1.0, 20.0, 800.0])
    with np.errstate(over="raise"):
        found = sigmoid(logits)
    np.testing.assert_allclose(found, [0, np.exp(-20) / (1 + np.exp(-20)), 1 / (1 + np.e), 0.5, np.e / (1 + np.e),
                                       1 / (1 + np.exp(-20)), 1], rtol=1e-12)  # fmt: skip
    np.testing.assert_allclose(logit(found[1:-1]), logits[1:-1], rtol=1e-6, atol=1e-9)
    assert np.isfinite(logit(np.array([0.0, 1.0]))).all()


def test_what_is_no_store_and_no_folder_is_refused_and_so_is_a_mean_of_nothing(tmp_path):
    (tmp_path / "scores.txt").write_text("onset\toffset\n")
    with pytest.raises(UserError, match=r"There is no folder of score tables .*scores\.txt"):
        read_score_tables(tmp_path / "scores.txt")
    with pytest.raises(UserError, match="An ensemble needs at least one member"):
        mean_logits([])


def test_a_mean_of_stores_is_that_of_their_logits_clip_by_clip(tmp_path):
    first = write_store(tmp_path / "1.h5", ("b", "a"), dtype="float32")
    second = np.full((2, 5, 3), 0.75, dtype=np.float32)
    with ScoreWriter(tmp_path / "2.h5", CLASSES, kind="scores", dtype="float32") as writer:
        writer.write(["a", "b"], second, [0.3, 0.3])
    ensemble_stores([tmp_path / "1.h5", tmp_path / "2.h5"], tmp_path / "mean.h5")
    mean = ScoreStore(tmp_path / "mean.h5", CLASSES)
    np.testing.assert_allclose(mean["a"], (first[1] + np.log(3)) / 2, rtol=1e-5)
    assert mean.end_of("a") == pytest.approx(5 * 0.064) and mean.kind == "logits"
    ensemble_stores([tmp_path / "1.h5"], tmp_path / "one.h5")
    np.testing.assert_allclose(ScoreStore(tmp_path / "one.h5")["b"], first[0], rtol=1e-6)
    write_store(tmp_path / "3.h5", ("a", "c"))
    with pytest.raises(UserError, match=r"3\.h5 differs from the first member of the ensemble in 2 clips, as b"):
        ensemble_stores([tmp_path / "1.h5", tmp_path / "3.h5"], tmp_path / "no.h5")
    write_store(tmp_path / "4.h5", ("a", "b"), frames=6)
    with pytest.raises(UserError, match=r"4\.h5 has 6 frames per clip, .* 5"):
        ensemble_stores([tmp_path / "1.h5", tmp_path / "4.h5"], tmp_path / "no.h5")
    assert not (tmp_path / "no.h5").exists()
