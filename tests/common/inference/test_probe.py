"""HEAR's shallow evaluation: its grid, its folds, and what it can and cannot learn."""

import json

import numpy as np
import pytest
import soundfile
import torch

from common.errors import UserError
from common.inference import probe
from tests.support.verbs import verb


def made_task(separation, clips=120, classes=3, folds=4, seed=0):
    """Embeddings whose classes lie `separation` apart, with their task."""
    draw = np.random.default_rng(seed)
    label = np.arange(clips) % classes
    embeddings = draw.normal(size=(clips, 16)) + separation * np.eye(classes, 16)[label]
    names = [str(1 + index // classes % folds) for index in range(clips)]
    targets = np.eye(classes, dtype=np.float32)[label]
    labels = tuple(str(c) for c in range(classes))
    return embeddings.astype(np.float32), probe.LabelledClips(labels, "one_label", [], targets, np.array(names), names)


def test_the_published_grid_has_sixteen_points_and_eight_are_tried():
    points = probe.grid_points("published")
    assert len(points) == len(set(points)) == 8
    assert {(p.hidden_dim, p.dropout, p.batch_size, p.max_epochs, p.patience) for p in points} == {
        (1024, 0.1, 1024, 500, 20)
    }
    assert {p.lr for p in points} <= {3.2e-3, 1e-3, 3.2e-4, 1e-4} and {p.hidden_layers for p in points} <= {1, 2}
    assert points == probe.grid_points("published")
    assert {p.max_epochs for p in probe.grid_points("fast")} == {10, 50}


def test_fold_i_tests_and_the_next_one_validates():
    assert probe.fold_plan(["3", "1", "2", "10"]) == [
        ("1", "2", ["3", "10"]),
        ("2", "3", ["1", "10"]),
        ("3", "10", ["1", "2"]),
        ("10", "1", ["2", "3"]),
    ]
    assert probe.fold_plan(["train", "test", "valid"]) == [("test", "valid", ["train"])]
    with pytest.raises(UserError, match="2 folds are too few"):
        probe.fold_plan(["1", "2"])


def test_the_network_is_linear_batch_norm_dropout_relu():
    network = probe.ShallowNetwork(5, 3, probe.Point(hidden_layers=2, hidden_dim=8))
    kinds = [type(layer).__name__ for layer in network]
    assert kinds == ["Linear", "BatchNorm1d", "Dropout", "ReLU"] * 2 + ["Linear"]
    bound = (2**0.5) * (6 / (8 + 3)) ** 0.5
    assert network[-1].weight.abs().max() <= bound < 1.2 * network[-1].weight.abs().max()


def test_separable_classes_are_told_apart_and_noise_is_not():
    for separation, low, high in ((15.0, 0.97, 1.0), (0.0, 0.1, 0.6)):
        result = probe.evaluate_embeddings(*made_task(separation), grid="faster")
        assert low <= result["score"] <= high
        assert result["interval"][0] <= result["score"] <= result["interval"][1] + 1e-9
        assert result["clips"] == 120 and list(result["folds"]) == ["1", "2", "3", "4"]


def test_the_test_fold_is_never_learned_from():
    embeddings, task = made_task(0.0)
    embeddings[task.parts == "1", 0] += 100.0 * task.targets[task.parts == "1", 0]
    result = probe.evaluate_embeddings(embeddings, task, grid="faster", folds=["1"])
    assert result["score"] < 0.75  # that one column tells a class only in fold 1


def test_the_same_seed_gives_the_same_network_whatever_was_drawn_before():
    embeddings, task = made_task(2.0)
    values, targets = torch.from_numpy(embeddings), torch.from_numpy(task.targets).float()
    weights = []
    for draws in (0, 7):
        torch.rand(draws)
        point = probe.Point(max_epochs=6, hidden_dim=16)
        network, _ = probe.train((values[:60], values[60:]), (targets[:60], targets[60:]), point, "one_label")
        weights.append(network[0].weight)
    assert torch.equal(*weights)


def test_several_labels_are_scored_by_mean_average_precision():
    logits = torch.tensor([[2.0, 0.0], [1.0, 3.0], [0.0, 1.0]])
    targets = torch.tensor([[1, 0], [0, 1], [1, 1]])
    # First label: ranks 1 and 3 are right, (1 + 2 / 3) / 2. Second: ranks 1 and 2 are right, 1.
    assert probe.score(logits, targets, "several_labels") == pytest.approx((5 / 6 + 1) / 2)


def write_task(folder):
    """Tones of two pitches with folds, as a table."""
    (folder / "audio").mkdir(parents=True)
    lines = ["filename,label,fold"]
    for index in range(12):
        pitch = 400 if index % 2 else 4000
        tone = np.sin(2 * np.pi * pitch * np.arange(16000) / 32000 + index) / 2
        soundfile.write(folder / "audio" / f"{index}.wav", tone, 32000)
        lines.append(f"{index}.wav,{'low' if index % 2 else 'high'},{index // 4}")
    (folder / "task.csv").write_text("\n".join(lines))


def test_a_table_is_probed_from_the_command_line(tmp_path, shared, capsys):
    write_task(tmp_path)
    weights = shared / "data" / "weights" / "mn04_as_mAP_432.pt"
    words = ["probe", tmp_path, "--model", "mn04.as", "--weights", weights, "--grid", "faster", "--json"]
    assert verb(*words) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["score"] == 1.0 and result["metric"] == "accuracy" and set(result["folds"]) == {"0", "1", "2"}


def test_what_a_table_lacks_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("filename,label\na.wav,x\n")
    with pytest.raises(UserError, match="no column fold"):
        probe.read_task(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("filename,label,fold\na.wav,x,1\n")
    with pytest.raises(UserError, match=r"names a\.wav"):
        probe.read_task(tmp_path / "t.csv")


def test_folders_are_labels_with_folds_spread_evenly(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for index in range(5):
            soundfile.write(tmp_path / label / f"{index}.wav", np.zeros(100), 32000)
    task = probe.read_task(tmp_path)
    assert task.labels == ("cat", "dog") and task.targets.sum(axis=0).tolist() == [5, 5]
    assert sorted(task.parts) == sorted(["1", "2", "3", "4", "5"] * 2)


@pytest.mark.slow
def test_released_mn04_reaches_98_percent_on_esc10(shared):
    result = probe.probe(
        shared / "data" / "esc10", "mn04.as", shared / "data" / "weights" / "mn04_as_mAP_432.pt", "fast"
    )
    assert result["score"] >= 0.98
