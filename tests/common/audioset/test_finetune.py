"""Fine-tuning: which clips of a labelled set it takes, in which folds and under which names; and whole, small."""

import contextlib
import json
import shutil
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import soundfile
import torch

from common.audioset import finetune
from common.audioset.settings import FineTuneSettings
from common.audioset.tasks import TEST, TRAIN, VALIDATION, LabelledClips
from common.errors import UserError
from common.inference import export
from common.inference.tagging import load_tagger, tag_file
from common.registry.models import create_model
from common.runs.run import Run
from common.settings import load_settings
from tests.support.places import ROOT
from tests.support.verbs import verb

CONFIG = ROOT / "common" / "audioset" / "configs" / "table.yaml"


def labelled(*parts: str) -> LabelledClips:
    paths = [Path(f"data/{number}.wav") for number in range(len(parts))]
    targets = np.ones((len(parts), 1), dtype=np.float32)
    return LabelledClips(("a",), "one_label", paths, targets, np.array(parts), [path.stem for path in paths])


def with_data(**changes) -> FineTuneSettings:
    table = {"root": "data", "table": {"file": "t.csv"}}
    return load_settings(FineTuneSettings, CONFIG, {f"data.{name}": value for name, value in (table | changes).items()})


@pytest.mark.parametrize("seed", range(3))
def test_a_limit_of_clips_holds_for_each_part_and_without_one_all_are_taken(seed):
    clips = labelled(*[TRAIN] * 10, *[VALIDATION] * 2, *[TEST] * 6)
    drawn = {}
    for limit in (None, 100, 4, 1):
        settings = with_data(clips=limit).model_copy(update={"seed": seed})
        drawn[limit] = [
            finetune._some(settings, clips, clips.rows(part)).tolist() for part in (TRAIN, VALIDATION, TEST)
        ]
    whole = [list(range(10)), [10, 11], list(range(12, 18))]
    assert drawn[None] == drawn[100] == whole
    assert [len(rows) for rows in drawn[4]] == [4, 2, 4] and [len(rows) for rows in drawn[1]] == [1, 1, 1]
    for some, every in zip(drawn[4], whole, strict=True):
        assert set(some) <= set(every) and some == sorted(some)
    assert drawn[4][0] != [0, 1, 2, 3]  # drawn, not the first ones of a table that is often sorted by class
    folded = labelled(*"1122")
    rows = finetune._some(with_data(clips=1), folded, folded.rows(TRAIN, "1"))
    assert len(rows) == 1 and rows[0] in (2, 3)


def test_folds_are_those_of_the_settings_or_all():
    folded = labelled(*"112233")
    assert finetune._folds(with_data(), folded) == ["1", "2", "3"]
    assert finetune._folds(with_data(folds=["3", "1"]), folded) == ["3", "1"]
    with pytest.raises(UserError, match="there is no fold 4; there are 1, 2, 3"):
        finetune._folds(with_data(folds=["1", "4"]), folded)
    split = labelled(TRAIN, TEST)
    assert finetune._folds(with_data(), split) == [None]
    with pytest.raises(UserError, match="the set has one split and no folds"):
        finetune._folds(with_data(folds=["1"]), split)
    assert [finetune._name(fold) for fold in (None, "2")] == ["split", "fold_2"]


def test_only_the_training_clips_are_changed_at_random(monkeypatch):
    monkeypatch.setattr("common.audioset.train.TaggingTraining", MagicMock())
    opened = []
    monkeypatch.setattr(
        finetune, "open_labelled", lambda *given, **options: opened.append((given[2].tolist(), options))
    )
    monkeypatch.setattr(finetune, "fit_network", lambda *_: None)
    finetune._train_fold(with_data(), labelled(TRAIN, VALIDATION, TEST, TRAIN), None, 0, Path("train"), False)
    assert opened == [([0, 3], {"training": True}), ([1], {})]


def test_clips_that_differ_in_their_folder_alone_have_different_names():
    names = [finetune._clip_name(with_data(), Path("data") / name) for name in ("a/x.wav", "b/x.wav", "a/x.1.flac")]
    assert names == ["a__x", "b__x", "a__x_1"]


def tune_settings(root, runs, **changes):
    plain = {
        "data.root": str(root), "data.table": {"file": "tones.csv"}, "data.seconds": 1.0, "runs": str(runs),
        "data.store": str(Path(runs).parent / "encoded"),
        "model.name": "mn01", "model.norm_momentum": 0.3, "loader.batch_size": 6, "loader.num_workers": 0,
        "front_end.n_mels": 64, "front_end.hop_length": 640, "optim.lr": 1e-2, "optim.warmup": 1, "trainer.epochs": 12,
        "trainer.accelerator": "cpu", "trainer.measure_energy": False, "augment.wavmix_probability": 0.1,
    }  # fmt: skip
    return load_settings(FineTuneSettings, CONFIG, {**plain, **changes})


def test_fine_tuning_tests_every_fold(tones, tmp_path):
    finished = finetune.RECIPE.run(tune_settings(tones, tmp_path / "runs"))
    scores = finished.read_evaluation()
    assert scores["clips"] == 24 and list(scores["folds"]) == ["1", "2"]
    assert scores["accuracy"]["value"] > 0.8
    assert sum(scores["folds"].values()) / 2 == pytest.approx(scores["accuracy"]["value"])  # folds of equal size
    with pytest.raises(UserError, match=r"has 2 networks, one for each fold; name one, such as .*train/fold_1"):
        load_tagger(str(finished.folder), None)
    tagger = load_tagger(str(finished.folder / "train" / "fold_2"), None)
    tagged = [tag_file(tagger, tones / "audio" / f"{number}.wav").tags[0][0] for number in (0, 1)]
    assert tagged == ["high", "low"]
    folder = tmp_path / "encoded"
    assert len(list(folder.glob("*.hdf"))) == 1
    # A changed clip is packed anew.
    soundfile.write(tones / "audio" / "3.wav", np.zeros(8000), 16000)
    finetune.RECIPE.run(tune_settings(tones, tmp_path / "runs", name="again", **{"trainer.epochs": 1}))
    assert len(list(folder.glob("*.hdf"))) == 2


def test_a_copy_of_the_data_continues_a_run_and_the_tags_of_one_label_sum_to_one(tones, tmp_path, capsys, monkeypatch):
    clips = tmp_path / "clips"
    for number in range(12):
        name = "low" if number % 2 else "high"
        (clips / name).mkdir(parents=True, exist_ok=True)
        shutil.move(tones / "audio" / f"{number}.wav", clips / name)
    quick = [
        "--runs", tmp_path / "runs", "--data.store", tmp_path / "store", "--model.name", "mn01", "--trainer.epochs", 1,
        "--front_end.n_mels", 64, "--loader.batch_size", 4, "--trainer.accelerator", "cpu",
        "--trainer.measure_energy", "false",
    ]  # fmt: skip
    assert verb("finetune", clips, *quick) == 0
    assert "12 recordings were split by recording" in capsys.readouterr().err
    assert sorted(path.name for path in clips.iterdir()) == ["high", "low"], "nothing is written there"
    moved = shutil.copytree(clips, tmp_path / "moved" / "clips", copy_function=shutil.copyfile)
    assert verb("finetune", moved, *quick) == 0
    assert capsys.readouterr().err.count("kept, its settings are the same") == 2
    assert verb("tag", moved / "low" / "1.wav", "--model", tmp_path / "runs" / "clips", "--json") == 0
    [row] = json.loads(capsys.readouterr().out)
    assert sum(tag["score"] for tag in row["tags"]) == pytest.approx(1, abs=1e-5)
    exported = []
    monkeypatch.setattr(export, "export_model", lambda model, *rest: exported.append(model) or {})
    assert verb("export", tmp_path / "runs" / "clips", "--out", tmp_path / "clips.onnx") == 0
    assert exported[0].labels == ("high", "low") and exported[0].activation == "softmax"
    capsys.readouterr()
    assert verb("data", "check", moved) == 0
    assert "No problems found" in capsys.readouterr().err
    (moved / "low" / "1.wav").write_bytes(b"RIFF")
    assert verb("data", "check", moved, "--json") == 1
    assert "1.wav cannot be read as audio" in capsys.readouterr().err
    assert verb("finetune", tmp_path / "nowhere.csv", *quick) == 2
    assert "nowhere.csv does not exist" in capsys.readouterr().err


def test_whole_clips_and_several_labels(tones, tmp_path):
    text = (tones / "tones.csv").read_text().replace(",1\n", ",train\n").replace(",2\n", ",test\n")
    (tones / "tones.csv").write_text(text.replace("0.wav,high", "0.wav,high;low"))
    changes = {"data.table": {"file": "tones.csv", "separator": ";"}, "data.test_on": "whole", "trainer.epochs": 1}
    scores = finetune.RECIPE.run(tune_settings(tones, tmp_path / "runs", **changes)).read_evaluation()
    assert scores["clips"] == 12 and 0 < scores["mAP"]["value"] <= 1 and scores["folds"] == {}


def test_released_weights_are_fetched_before_the_folder_of_a_run_is_made(tones, tmp_path, monkeypatch):
    fetched = []

    def fetch(released):
        fetched.append(released.name)
        raise UserError("no network")

    monkeypatch.setattr("common.audioset.recipe.fetch", fetch)
    torch.save(create_model("mn01").state_dict(), tmp_path / "mn01.pt")
    for weights in (None, tmp_path / "mn01.pt"):
        chosen = {"model.name": "mn01.as", "model.weights": weights and str(weights)}
        run = Run(tmp_path / "runs" / "x", tune_settings(tones, tmp_path / "runs", **chosen))
        with contextlib.nullcontext() if weights else pytest.raises(UserError, match="no network"):
            finetune.refuse_early(run)
    assert fetched == ["mn01.as"] and not (tmp_path / "runs").exists()


def test_broken_audio_and_absent_folds_are_told(tones, tmp_path):
    with pytest.raises(UserError, match="there is no fold 7; there are 1, 2"):
        finetune.RECIPE.run(tune_settings(tones, tmp_path / "runs", **{"data.folds": ["7"]}))
    assert not (tmp_path / "runs").exists()
    (tones / "audio" / "5.wav").write_bytes(b"RIFF")
    with pytest.raises(UserError, match=r"5\.wav cannot be read as audio"):
        finetune.RECIPE.run(tune_settings(tones, tmp_path / "other"))
    assert not list((tmp_path / "encoded").glob("*.hdf"))
