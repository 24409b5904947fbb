"""The recipe of moments on features with a known answer: training, a system without training, answers, report."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from common.data.audio import audio_info
from common.errors import UserError
from common.reports.compare import print_comparison
from common.runs.run import Run
from common.runs.stages import quick_stages, run_stages
from common.settings import load_settings
from common.synthetic.synthesize import synthesize
from retrieval.moments import recipe
from retrieval.moments.annotations import Query, check_annotations, read_predictions, read_queries
from retrieval.moments.compare import compare_systems
from retrieval.moments.data import QueryBatches
from retrieval.moments.features import FeatureReader
from retrieval.moments.recipe import RECIPE, predict
from retrieval.moments.report import write_moment_report
from retrieval.moments.settings import MomentSettings
from retrieval.moments.spans import cut_curve, spread
from retrieval.moments.submission import count_parameters
from retrieval.moments.train import answer, finish_windows, make_detector
from retrieval.settings import RetrievalSettings

CONFIGS = sorted(Path("retrieval/moments/configs").glob("*.yaml"))
SIZE = 12


def write_set(root, name, queries, seed, seconds=40):
    """Recordings with one direction in the windows of their query; the words of the query are this direction."""
    rng = np.random.default_rng(seed)
    lines = []
    for folder in ("clap", "clap_text"):
        (root / "features" / folder).mkdir(parents=True, exist_ok=True)
    for number in range(queries):
        vid, direction = f"{name}_{number}", np.eye(SIZE)[number % SIZE]
        start = int(rng.integers(2, seconds - 14))
        window = [start, start + int(rng.integers(4, 12))]
        vectors = rng.normal(0, 0.1, (seconds, SIZE))
        vectors[slice(*window)] += direction
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        np.savez(root / "features" / "clap" / f"{vid}.npz", features=vectors, projected=unit)
        words = {"last_hidden_state": np.tile(direction, (3, 1)), "sentence": direction}
        np.savez(root / "features" / "clap_text" / f"qid{vid}_1.npz", **words)
        line = {"qid": f"{vid}_1", "query": f"sound {number}", "duration": seconds, "vid": vid}
        lines.append(line if name == "evaluation" else {**line, "relevant_windows": [window]})
    (root / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("moments")
    for seed, (name, queries) in enumerate({"train": 9, "val": 6, "test": 8, "evaluation": 4}.items()):
        write_set(root, name, queries, seed)
    return root


def load(root, **changes):
    splits = {"training": "train", "pretraining": "train", "validation": "val", "evaluation": "test"}
    data = {name: {"root": str(root), "annotations": f"{split}.jsonl"} for name, split in splits.items()}
    plain = {
        "runs": str(root / "runs"),
        "data": data,
        "features": {},
        "system": {
            "kind": "qd_detr", "dim": 16, "heads": 2, "feedforward": 16, "batch_size": 4, "pretraining_epochs": 1,
            "input_dropout": 0,
            "trainer": {"epochs": 2, "gradient_clip": 0.1, "accelerator": "cpu", "measure_energy": False},
        },
    }  # fmt: skip
    return MomentSettings.model_validate({**plain, **changes})


@pytest.fixture(scope="module")
def trained(root):
    return RECIPE.run(load(root, name="trained"))


@pytest.fixture(scope="module")
def untrained(root):
    return RECIPE.run(load(root, name="untrained", system={"kind": "similarity"}))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_loads_and_has_stages(path):
    if path.stem == "small_encoder":  # of `python -m retrieval train`
        assert load_settings(RetrievalSettings, path).distilled is None
        return
    names = [stage.name for stage in RECIPE.stages(load_settings(MomentSettings, path))]
    assert names[-1] == "test" and {"train", "tune"} & set(names)


def test_a_detector_learns_on_synthetic_queries_first_and_is_tested(trained):
    assert [path.parent.name for path in sorted(trained.folder.glob("*/stage.json"))] == ["pretrain", "test", "train"]
    (figures,) = trained.read_evaluation()["figures"].values()
    assert {"R1@0.5", "R1@0.7", "mAP", "mAP@0.5", "mAP@0.75", "R1@0.7 5 to 20 s"} <= set(figures)
    found = read_predictions(trained.folder / "test" / "predictions.jsonl")
    assert len(found) == 8 and {windows.shape for windows in found.values()} == {(10, 3)}
    assert all((windows[:, 1] > windows[:, 0]).all() and windows.max() <= 40 for windows in found.values())
    assert all((np.diff(windows[:, 2]) <= 0).all() for windows in found.values())


@pytest.mark.parametrize("spans", ["boxes", "threshold"])
def test_without_training_a_clear_similarity_gives_the_windows(root, untrained, spans):
    run = untrained
    if spans == "threshold":
        run = RECIPE.run(load(root, name="cut", system={"kind": "similarity", "spans": "threshold"}))
    (figures,) = run.read_evaluation()["figures"].values()
    assert figures["R1@0.7"]["value"] == 1


def test_a_head_is_trained_tuned_tested_and_counted(root):
    head = {"width": 4, "epochs": 30, "validate_every": 10, "lr": 0.01}
    run = RECIPE.run(load(root, name="head", system={"kind": "similarity", "spans": "threshold", "head": head}))
    assert [path.parent.name for path in sorted(run.folder.glob("*/stage.json"))] == ["test", "train", "tune"]
    evaluation = run.read_evaluation()
    assert evaluation["figures"]["similarity"]["R1@0.5"]["value"] > 0.5 and "epoch" in evaluation["tested"]
    rows = pd.read_csv(run.folder / "train" / "metrics.csv")
    assert list(rows["epoch"]) == [10, 20, 30] and RECIPE.objective.of(run) == rows["selection"].max()
    assert count_parameters(run) == {"trainable_parameters": (5 * 7 + 1) * 4 + 2 * (4 * 7 + 1) * 4 + 5}


def test_answers_do_not_depend_on_their_batch_and_long_recordings_come_in_pieces(root, trained):
    queries, settings = read_queries(root / "test.jsonl"), trained.settings
    reader = FeatureReader(settings.features, root)
    torch.manual_seed(0)
    model = make_detector(settings.system, reader, queries[0])
    together = answer(model, queries, reader, settings)
    alone = answer(model, queries[:1], reader, settings)
    assert np.allclose(together[0][0], alone[0][0], atol=1e-4) and np.allclose(together[0][1], alone[0][1], atol=1e-4)
    pieces = settings.model_copy(update={"data": settings.data.model_copy(update={"max_seconds": 16})})
    windows, curve = answer(model, queries[:1], reader, pieces)[0]
    assert len(curve) == 40 and windows.shape == (10, 3) and windows.max() <= 40
    assert model.training


def test_an_evaluation_set_is_answered_and_says_where_it_is_from(root, untrained, trained):
    for run in (untrained, trained):
        path = predict(run, root, "evaluation.jsonl")
        assert list(read_predictions(path)) == [f"evaluation_{number}_1" for number in range(4)]
        assert json.loads((path.parent / "evaluation.json").read_text())["made_up"] is False


def test_the_report_shows_both_systems_and_queries_without_audio(untrained, trained):
    path = write_moment_report([trained.folder, untrained.folder])
    page = path.read_text()
    for words in ("qd_detr", "similarity", "Best queries", "Worst queries", "no audio", "5 to 20 s"):
        assert words in page


def test_systems_are_compared_by_recording(untrained, trained, capsys):
    (found,) = compare_systems([trained.folder, untrained.folder])
    print_comparison([found])
    assert "R1@0.7" in capsys.readouterr().out
    with pytest.raises(UserError, match="neither a run nor a sweep"):
        compare_systems([trained.folder / "test", untrained.folder])


def test_a_stopped_training_resumes_to_the_same_weights(root, trained, tmp_path):
    longer = load(root, name="again", runs=str(tmp_path))
    stages = [stage for stage in RECIPE.stages(longer) if stage.name != "test"]
    system = longer.system.model_copy(update={"trainer": longer.system.trainer.model_copy(update={"epochs": 1})})
    short = longer.model_copy(update={"system": system})
    run_stages(Run(longer.folder, short), stages)
    for name in ("stage.json", ".begun.json"):
        (longer.folder / "train" / name).unlink(missing_ok=True)
    run_stages(Run(longer.folder, longer), stages)
    first, second = (
        torch.load(folder / "train" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (trained.folder, longer.folder)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_steps_of_everything_work(root, tmp_path):
    settings = load(root, runs=str(tmp_path), system={"kind": "similarity"})
    run_stages(Run(settings.folder, settings), quick_stages(RECIPE.stages(settings)))


def test_every_query_comes_once_an_epoch_and_never_alone():
    sampler = QueryBatches(9, 4, seed=1)
    batches = [rows for _, rows in sampler]
    assert [len(rows) for rows in batches] == [4, 4]  # the ninth would have no neighbour
    sampler.set_epoch(1)
    assert [rows for _, rows in sampler] != batches
    halves = [list(QueryBatches(16, 4, 1, rank, 2)) for rank in (0, 1)]
    assert sorted(row for half in halves for _, rows in half for row in rows) == list(range(16))


def test_times_are_whole_seconds_inside_the_recording():
    windows = np.array([[-1.0, 0.2, 0.1], [37.2, 400.0, 0.9], [12.4, 12.4, 0.5]])
    assert finish_windows(windows, 40.5, "whole").tolist() == [[37, 40, 0.9], [12, 13, 0.5], [0, 1, 0.1]]
    assert finish_windows(windows, 40.5, "published")[:, :2].tolist() == [[37, 300], [12, 12], [0, 0]]
    assert finish_windows(windows, 40.5, "exact")[0, :2].tolist() == [37.2, 40.5]
    assert finish_windows(np.array([[0.0, 0.3, 1.0]]), 0.4, "whole").tolist() == [[0, 1, 1]]


def test_a_flat_curve_and_a_short_one_give_spans_or_none():
    for kind in ("threshold", "boxes"):
        for curve in (np.zeros(5), np.ones(1), np.array([0.0, 1.0])):
            assert cut_curve(curve, kind, 3, 0.5, 2.0).shape[1] == 3


def test_windows_of_an_index_become_a_value_a_second():
    onsets, offsets = np.array([0.0, 2.0]), np.array([4.0, 6.0])
    curve = spread(np.array([1.0, 3.0]), onsets, offsets, 7.9)
    assert curve.tolist() == [1, 1, 2, 2, 3, 3, 3]  # the last second is nearest to the last window


def test_made_up_recordings_have_the_counts_that_were_told(tmp_path):
    counts = synthesize("moments", tmp_path, clips=4, seed=1)
    report = check_annotations(tmp_path)
    assert report.problems == [] and report.made_up
    assert {row["file"]: row["queries"] for row in report.rows} == counts
    for query in read_queries(tmp_path / "castella_train_release.jsonl"):
        info = audio_info(tmp_path / "audio" / f"{query.vid}.wav")
        assert query.duration <= info.duration < query.duration + 1
        assert query.windows.max() <= query.duration + 1


def test_features_that_are_missing_are_told_before_the_end(root):
    with pytest.raises(UserError, match=r"download the features, or set features\.encoder"):
        FeatureReader(load(root).features, root).audio(Query("x", "y", "nobody", 40.0, np.empty((0, 2))))


@pytest.mark.parametrize("fast_check", [False, True])
def test_features_are_written_for_every_split_that_a_run_names(monkeypatch, fast_check):
    sources = [SimpleNamespace(root=Path(name), annotations="q.jsonl") for name in ("a", "b")]
    encoder = SimpleNamespace(encoder="run")
    settings = SimpleNamespace(features=encoder, system=SimpleNamespace(trainer="trainer"))
    written = []
    monkeypatch.setattr(recipe, "Encoder", lambda *given: given)
    monkeypatch.setattr(recipe, "sources_of", lambda settings: sources)
    monkeypatch.setattr(recipe, "read_queries", lambda path: [f"{path} {number}" for number in range(6)])
    monkeypatch.setattr(recipe, "write_features", lambda *given: written.append(given))
    recipe.write_all_features(None, settings, fast_check)
    assert written == [
        (
            ("run", "trainer"),
            encoder,
            Path(name),
            [f"{name}/q.jsonl {number}" for number in range(4 if fast_check else 6)],
        )
        for name in "ab"
    ]
    written.clear()
    recipe.write_all_features(None, SimpleNamespace(features=SimpleNamespace(encoder=None)), fast_check)
    assert written == []
