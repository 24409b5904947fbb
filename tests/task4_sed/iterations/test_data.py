"""Pseudo-labels and the clips that carry them."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from common.errors import UserError
from common.runs.run import Run, read_record
from common.runs.stages import run_stages
from task4_sed.iterations.data import STORES, DistilledClips, PseudoLabels, training_sets
from task4_sed.iterations.recipe import make_stages
from task4_sed.labels import CLASSES
from task4_sed.scores.store import ScoreStore, ScoreWriter


def write_store(path: Path, names: list[str], classes=CLASSES, frames: int = 156, frame_seconds: float = 0.064) -> Path:
    values = np.random.default_rng(0).normal(size=(len(names), frames, len(classes)))
    path.parent.mkdir(parents=True, exist_ok=True)
    with ScoreWriter(path, classes, frame_seconds=frame_seconds, dtype="float32") as writer:
        writer.write(names, values)
    return path


def test_pseudo_labels_are_found_by_name_and_are_the_sigmoid_of_the_logits(tmp_path):
    names = [f"{number}.wav" for number in range(5)]
    path = write_store(tmp_path / "a.h5", names)
    labels = PseudoLabels(path, ["3.wav", "0.wav"], CLASSES).gather(np.array([1, 0]))
    store = ScoreStore(path)
    expected = torch.from_numpy(np.stack([store["0"], store["3"]])).sigmoid().mT
    torch.testing.assert_close(labels, expected, atol=2e-3, rtol=2e-3)
    assert labels.shape == (2, 27, 156)


def test_pseudo_labels_that_do_not_fit_are_refused_in_one_sentence(tmp_path):
    names = [f"{number}.wav" for number in range(5)]
    path = write_store(tmp_path / "a.h5", names)
    with pytest.raises(UserError, match=r"has no pseudo-labels of 2 of 4 clips \(first x.wav\)"):
        PseudoLabels(path, ["1.wav", "x.wav", "y.wav", "2.wav"], CLASSES)
    other = write_store(tmp_path / "b.h5", names, classes=(*CLASSES[:26], "siren"))
    with pytest.raises(UserError, match="has other classes: column 27 is siren, expected birds_singing"):
        PseudoLabels(other, names, CLASSES)
    with pytest.raises(UserError, match="has frames of 40 ms, expected 64 ms"):
        PseudoLabels(write_store(tmp_path / "c.h5", names, frame_seconds=0.04), names, CLASSES)
    with pytest.raises(UserError, match="has 250 frames per clip, expected 156"):
        PseudoLabels(write_store(tmp_path / "d.h5", names, frames=250), names, CLASSES)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(UserError, match="cut off"):
        PseudoLabels(path, names, CLASSES)
    with pytest.raises(UserError, match="There is no file"):
        PseudoLabels(tmp_path / "e.h5", names, CLASSES)


def test_stores_of_another_system_take_the_place_of_the_first_iteration(quick, tmp_path):
    given = tmp_path / "given"
    settings = quick(members=["atst"], pseudo_labels__folder=str(given))
    sets, _ = training_sets(settings, settings.stage1.batch)
    for name, clips in sets.items():
        path = write_store(given / f"{STORES[name]}.h5", list(clips.filenames))
        with h5py.File(path, "r+") as file:  # the published files name neither classes nor frames
            for key in list(file.attrs):
                del file.attrs[key]
            del file["ends"]
    run = Run(tmp_path / "run", settings)
    stages = make_stages(settings)
    assert [stage.name for stage in stages] == [
        "pseudo_labels", "iteration2_stage1_atst", "iteration2_stage2_atst", "test",
    ]  # fmt: skip
    run_stages(run, stages[:2])
    record = read_record(run.folder, "iteration2_stage1_atst")
    assert set(record["pseudo_labels"]) == set(sets)
    assert "train_pseudo_loss" in (run.folder / "iteration2_stage1_atst" / "metrics.csv").read_text()
    (given / "weak_train.h5").unlink()
    with pytest.raises(UserError, match=r"There is no file .*weak_train.h5"):
        run_stages(Run(tmp_path / "other", settings), stages[:1])


def test_clips_with_pseudo_labels_are_not_cropped_at_random(quick, tmp_path):
    settings = quick()
    sets, _ = training_sets(settings, settings.stage1.batch)
    clips = sets["weak"]
    path = write_store(tmp_path / "weak.h5", list(clips.filenames))
    opened = DistilledClips(clips, settings, PseudoLabels(path, clips.filenames, CLASSES))
    opened.durations = opened.durations + 3  # as if they were longer than 10 s
    batch = opened.gather([0, 1], np.random.default_rng(0))
    assert torch.equal(batch["waveform"], opened.gather([0, 1])["waveform"])
    assert batch["pseudo"].shape == (2, 27, 156)
