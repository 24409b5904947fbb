"""One small run of three stages on made-up data, and what is made of it."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from common.data.keyed_outputs import KeyedOutputs
from common.errors import UserError
from common.registry.models import create_audio_model
from common.settings import load_settings
from common.training.checkpoints import read_weights
from task1_asc.broad_sounds import recipe
from task1_asc.broad_sounds.compare import compare_systems
from task1_asc.broad_sounds.data import read_sounds
from task1_asc.broad_sounds.evaluate import folds_of, predict
from task1_asc.broad_sounds.metrics import hierarchical_scores
from task1_asc.broad_sounds.recipe import RECIPE
from task1_asc.broad_sounds.report import write_sound_report
from task1_asc.broad_sounds.settings import Learning, SoundSettings
from task1_asc.broad_sounds.taxonomy import CODES
from task1_asc.broad_sounds.train import BalancedSampler, augment, draw_kept, sound_loss
from tests.support.places import ROOT

CONFIGS = ROOT / "task1_asc" / "broad_sounds" / "configs"
QUICK = {
    "network": {"hidden_size": 64, "num_residual_blocks": 0},
    "curated": {"epochs": 3, "batch_size": 16, "lr": 3e-3},
    "trainer": {"accelerator": "cpu", "measure_energy": False, "deterministic": True},
}
LATER = {"crowd": {"epochs": 1, "batch_size": 16}, "final": {"epochs": 1, "batch_size": 16}}


def quick(made_up, runs, name, staged=False, **changes):
    """Settings of a small run of two folds."""
    data = {"curated": made_up / "BSD10k", "crowd": made_up / "BSD35k-CS" if staged else None, "folds": (0, 3)}
    data |= changes.pop("data", {})
    later = LATER if staged else {}
    return SoundSettings.model_validate({"name": name, "runs": runs, "data": data, **QUICK, **later, **changes})


@pytest.fixture(scope="module")
def staged(made_up, tmp_path_factory):
    return RECIPE.run(quick(made_up, tmp_path_factory.mktemp("runs"), "staged", staged=True))


@pytest.fixture(scope="module")
def plain(made_up, tmp_path_factory):
    inputs = {"text": {"used": False}}
    curated = {"epochs": 8, "batch_size": 16, "lr": 3e-3, "masked": 0.1}
    runs = tmp_path_factory.mktemp("runs")
    return RECIPE.run(quick(made_up, runs, "plain", inputs=inputs, members=2, curated=curated))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_configuration_loads(path):
    settings = load_settings(SoundSettings, path)
    assert [stage.name for stage in RECIPE.stages(settings)][-1] == "test"
    if path.stem == "baseline":
        assert settings.curated == Learning() and settings.network == SoundSettings(data=settings.data).network


def test_a_run_leaves_its_folds_and_figures(staged, made_up):
    content = staged.read_evaluation()
    sounds = read_sounds(made_up / "BSD10k")
    splits = pd.read_csv(staged.folder / "folds" / "fold_3" / "splits.csv", dtype=str)
    table = pd.read_csv(staged.folder / "test" / "predictions.csv", dtype={"sound_id": str})
    tested = splits[splits["split"] == "test"]["index"].tolist()
    assert table[table["fold"] == 3]["sound_id"].tolist() == tested
    assert tested == [sounds.ids[row] for row in folds_of(sounds, staged.settings)[3].test]
    assert np.allclose(table[list(CODES)].sum(axis=1), 1, atol=1e-5)
    table["predicted"] = table[list(CODES)].idxmax(axis=1)
    scores = [hierarchical_scores(own["class"].tolist(), own["predicted"].tolist()) for _, own in table.groupby("fold")]
    figures = content["sets"]["bsd10k"]["figures"]
    for name in ("hP", "hR", "hF"):
        assert figures[name]["folds"] == pytest.approx([score[name] for score in scores])
        assert figures[name]["value"] == pytest.approx(np.mean([score[name] for score in scores]))
        assert figures[name]["spread"] == pytest.approx(np.std([score[name] for score in scores]))
    assert set(content["sets"]) == {"bsd10k", "bsd35k-cs"} and content["made_up"]
    assert list(content["sets"]["bsd10k"]["phases"]) == ["curated", "crowd", "final"]
    assert content["sets"]["bsd10k"]["phases"]["final"]["value"] == pytest.approx(figures["hF"]["value"])


def test_training_learns(plain):
    assert plain.read_evaluation()["sets"]["bsd10k"]["figures"]["accuracy"]["value"] > 3 / 23


def test_pseudo_labels_are_those_of_the_fold(staged, made_up):
    crowd = read_sounds(made_up / "BSD35k-CS")
    stored = [KeyedOutputs(staged.folder / f"fold{fold}_pseudo_labels" / "probabilities.h5") for fold in (0, 3)]
    values = [one.read(one.rows(crowd.ids)) for one in stored]
    assert values[0].shape == (184, 23) and np.allclose(values[0].sum(axis=1), 1, atol=1e-5)
    assert not np.allclose(values[0], values[1])


def test_the_crowd_part_holds_nothing_of_the_test(staged, made_up):
    settings = staged.settings
    curated, crowd = read_sounds(made_up / "BSD10k"), read_sounds(made_up / "BSD35k-CS")
    part = folds_of(curated, settings)[3]
    split = recipe.crowd_part(staged, settings, 3, curated, part)
    assert not set(split.rows) & set(folds_of(crowd, settings)[3].test)
    share, labels = settings.crowd.pseudo_weight, recipe.one_hot(crowd)
    stored = KeyedOutputs(staged.folder / "fold3_pseudo_labels" / "probabilities.h5")
    expected = share * stored.read(stored.rows(crowd.ids)) + (1 - share) * labels
    assert np.allclose(split.target, expected, atol=1e-6)
    by_uploader = settings.model_copy(update={"data": settings.data.model_copy(update={"protocol": "uploader"})})
    part = folds_of(curated, by_uploader)[3]
    rows = recipe.crowd_part(staged, by_uploader, 3, curated, part).rows
    unseen = set(curated.clips["uploader"].iloc[np.concatenate([part.test, part.validation])])
    assert len(rows) and not unseen & set(crowd.clips["uploader"].iloc[rows])


def test_an_evaluation_set_is_classified_by_all_folds(staged, made_up):
    table = pd.read_csv(predict([staged], made_up / "BSD2k"))
    assert table["anonymous_id"].tolist() == read_sounds(made_up / "BSD2k").ids
    assert np.allclose(table[list(CODES)].sum(axis=1), 1, atol=1e-5)
    content = json.loads((staged.folder / "predictions" / "evaluation.json").read_text())
    assert content == {"set": "bsd2k", "clips": 36, "made_up": True, "runs": ["staged"]}


@pytest.mark.parametrize("name", ["BSD2k", "BSD35k-CS"])
def test_vectors_of_another_size_are_named(staged, made_up, tmp_path, name):
    shutil.copytree(made_up / name / "metadata", tmp_path / name / "metadata")
    for side, size in (("audio", 256), ("text", 512)):
        folder = tmp_path / name / "features" / f"clap_{side}_embeddings"
        folder.mkdir(parents=True)
        for sound_id in read_sounds(tmp_path / name).ids:
            np.save(folder / f"{sound_id}.npy", np.zeros(size, np.float32))
    if name == "BSD2k":
        with pytest.raises(UserError, match=r"audio vectors of this data set hold 256 numbers, .* was trained on 512"):
            predict([staged], tmp_path / name)
    else:
        settings = quick(made_up, tmp_path, "x", staged=True, data={"crowd": tmp_path / name})
        with pytest.raises(UserError, match=r"BSD10k hold 512 numbers, those of .*BSD35k-CS 256"):
            recipe.prepare(settings)


def test_runs_are_compared_and_averaged(staged, plain):
    (comparison,) = compare_systems([plain.folder, staged.folder], ensemble=True)
    assert [system.name for system in comparison.systems][-1] == "ensemble of 2"
    own = staged.read_evaluation()["sets"]["bsd10k"]["figures"]["hF"]["value"]
    assert comparison.figures["hF"][1].own.value == pytest.approx(own)
    first = comparison.figures["hF"][0].own.value
    assert comparison.figures["hF"][1].difference.value == pytest.approx(own - first)


def test_the_report_shows_classes_and_wrong_clips(staged):
    text = write_sound_report([staged.folder]).read_text()
    assert "Made-up data" in text and "<audio" in text and "hF after final" in text
    assert "Sound effects / Animals" in text


def test_an_interrupted_training_ends_with_the_same_weights(made_up, tmp_path, monkeypatch):
    from task1_asc.broad_sounds import train

    monkeypatch.setattr(train, "SAVE_EVERY", 1)
    settings = quick(made_up, tmp_path, "whole", data={"folds": (0,)}, curated={**QUICK["curated"], "mixup_alpha": 0.2})
    whole = RECIPE.run(settings)
    keep = train.SoundTraining.on_validation_epoch_end

    def stop_after_two(module):
        keep(module)
        if module.current_epoch == 2:
            raise KeyboardInterrupt

    stopped = settings.model_copy(update={"name": "stopped"})
    monkeypatch.setattr(train.SoundTraining, "on_validation_epoch_end", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        RECIPE.run(stopped)
    monkeypatch.setattr(train.SoundTraining, "on_validation_epoch_end", keep)
    assert (tmp_path / "stopped" / "fold0_curated" / "member0" / "last.ckpt").is_file()
    again = RECIPE.run(stopped)
    weights = [read_weights(run.folder / "fold0_curated" / "member0" / "network.ckpt") for run in (whole, again)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.slow
def test_the_audio_encoder_is_trained_too(made_up, tmp_path):
    """On waveforms of mixed lengths with one of 7 ms."""
    torch.manual_seed(0)
    given = create_audio_model("mn04").network.state_dict()
    torch.save(given, tmp_path / "mn04.pt")
    inputs = {"audio": {"model": "mn04", "weights": tmp_path / "mn04.pt", "finetuned_seconds": 0.5}}
    curated = {"epochs": 6, "batch_size": 16, "lr": 1e-3, "optimizer": "adamw"}
    inputs["text"] = {"used": False}
    run = RECIPE.run(quick(made_up, tmp_path, "ends", inputs=inputs, curated=curated, data={"folds": (0,)}))
    folder = run.folder / "fold0_curated" / "member0"
    losses = pd.read_csv(folder / "metrics.csv")["train_loss"]
    assert losses.iloc[-1] < losses.iloc[0] - 0.1
    trained = read_weights(folder / "network.ckpt", "encoder.network.")
    moved = [name for name, value in given.items() if not torch.equal(value, trained[name])]
    assert "features.0.0.weight" in moved


def test_commercial_clips_only_are_learnt_from(made_up, tmp_path, capsys):
    settings = quick(made_up, tmp_path, "free", data={"folds": (0,), "commercial_only": True})
    settings = settings.model_copy(update={"curated": settings.curated.model_copy(update={"epochs": 1})})
    RECIPE.run(settings)
    sounds = read_sounds(made_up / "BSD10k")
    fold = folds_of(sounds, settings)[0]
    kept = int(recipe.is_free(sounds)[fold.train].sum())
    assert f"{kept} clips, {len(fold.validation)} to choose" in capsys.readouterr().err and kept < len(fold.train)


def test_stages_that_do_not_belong_together_are_refused(made_up):
    with pytest.raises(ValueError, match="belong together"):
        quick(made_up, made_up, "x", crowd={"epochs": 1})
    with pytest.raises(ValueError, match="comes after the stage crowd"):
        quick(made_up, made_up, "x", final={"epochs": 1})
    with pytest.raises(ValueError, match="folds are some of"):
        quick(made_up, made_up, "x", data={"folds": (0, 5)})
    with pytest.raises(UserError, match="smaller batch_size"):
        sounds = read_sounds(made_up / "BSD10k")
        split = recipe.SoundSplit(sounds, np.arange(5), recipe.one_hot(sounds), np.ones(184, np.float32))
        recipe.make_loaders(None, Learning(), split, split, None, 0)


def test_confidence_weighs_training_clips_only(made_up):
    sounds = read_sounds(made_up / "BSD10k")
    weights = recipe.confidence_weights(sounds, Learning(confidence_weights=(0.1, 0.2, 0.3, 0.4, 0.5)))
    confidence = sounds.clips["confidence"]
    assert weights[confidence.isna()].tolist() == [1.0] * int(confidence.isna().sum())
    assert weights[confidence == 4].tolist() == pytest.approx([0.4] * int((confidence == 4).sum()))


def test_the_hierarchical_loss_adds_that_of_the_top_level():
    logits, target = torch.randn(6, 23), F.one_hot(torch.tensor([0, 3, 8, 11, 19, 22]), 23).float()
    plain = sound_loss(logits, target, Learning(label_smoothing=0))
    assert torch.allclose(plain, F.cross_entropy(logits, target, reduction="none"))
    found = sound_loss(logits, target, Learning(label_smoothing=0, hierarchical_weight=0.5)) - plain
    sizes = [3, 5, 3, 8, 4]
    tops = torch.stack([part.sum(dim=1) for part in logits.softmax(dim=1).split(sizes, dim=1)], dim=1)
    expected = -0.5 * tops[torch.arange(6), torch.tensor([0, 1, 2, 3, 4, 4])].log()
    assert torch.allclose(found, expected, atol=1e-5)


def test_masks_are_of_every_size_up_to_the_share():
    zeros = (draw_kept((4000, 20), 0.5, torch.Generator().manual_seed(0)) == 0).sum(dim=1)
    assert zeros.unique().tolist() == list(range(1, 11))
    assert zeros.double().mean().item() == pytest.approx(5.5, abs=0.2)
    assert draw_kept((2, 20), 0.0, torch.Generator()) is None


def test_mixup_mixes_all_inputs_alike():
    one_hot = torch.eye(23)[torch.arange(16)]
    batch = {"audio": one_hot.clone(), "text": one_hot.clone(), "target": one_hot.clone(), "weight": torch.ones(16)}
    learning = Learning(noise=0, masked=0, mixup_alpha=0.5)
    mixed = augment(batch, learning, torch.Generator().manual_seed(0))
    assert torch.allclose(mixed["audio"], mixed["target"]) and torch.allclose(mixed["text"], mixed["target"])
    assert not torch.allclose(mixed["target"], one_hot)


def test_a_balanced_epoch_draws_classes_alike():
    classes = np.repeat([0, 1, 2], [900, 90, 10])
    drawn = np.bincount(classes[list(BalancedSampler(classes, 1.0, 0))], minlength=3)
    assert drawn.sum() == 1000 and drawn.min() > 250
    half = np.bincount(classes[list(BalancedSampler(classes, 0.5, 0))], minlength=3) / 1000
    assert half == pytest.approx(np.sqrt([900, 90, 10]) / np.sqrt([900, 90, 10]).sum(), abs=0.05)
