"""Which clips of a labelled set fine-tuning takes, in which folds, and under which names."""

from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest

from common.audioset import finetune
from common.audioset.settings import FineTuneSettings
from common.audioset.tasks import TEST, TRAIN, VALIDATION, LabelledClips
from common.errors import UserError
from common.settings import load_settings
from tests.support.places import ROOT

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
