"""What both systems of Task 4 have in common: the objective of a search, the row of a sweep, a run that is finished."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from common.data.audio import write_wav
from common.errors import UserError
from common.settings import load_settings
from task4_sed.systems import SYSTEM, _evaluation_clips, load_recipe, predict, result_row


@pytest.mark.parametrize("config", ["small", "two_iterations"])
def test_a_search_goes_by_the_validation_of_the_last_network(config):
    objective = load_recipe().objective
    settings = load_settings(SYSTEM, f"task4_sed/configs/{config}.yaml")
    assert objective is not None and objective.column == "val_objective"
    assert objective.training(settings) == settings.training_stages[-1]


@pytest.fixture
def finished(tmp_path):
    """A run of two trainings of which only records and figures exist."""
    for stage, seconds, kwh in (("first", 1.23456, 0.5), ("second", 2.0, 0.25)):
        (tmp_path / stage).mkdir()
        record = {"settings": {}, "seconds": seconds, "energy_kwh": kwh}
        (tmp_path / stage / "stage.json").write_text(json.dumps(record))
    figures = {"validation": {"psds1": {"value": 0.25}}, "maestro_validation": {"mpauc": {"value": 0.5}}}
    content = {"networks": {"teacher": {"postprocessed": figures}}}
    settings = SimpleNamespace(network="teacher", training_stages=["first", "second"])
    return SimpleNamespace(folder=tmp_path, settings=settings, read_evaluation=lambda: content)


def test_the_row_of_a_sweep_has_figures_of_each_set_and_sums_over_trainings(finished):
    row = {"validation_psds1": 0.25, "maestro_validation_mpauc": 0.5, "train_seconds": 3.235, "energy_kwh": 0.75}
    assert result_row(finished) == row
    record = finished.folder / "second" / "stage.json"
    record.write_text(record.read_text().replace("0.25", "null"))
    assert result_row(finished)["energy_kwh"] is None


def test_an_evaluation_set_is_one_folder_of_clips_or_lies_in_audio_eval24(finished, tmp_path):
    for name in ("a/x.wav", "tree/audio/eval24/y.wav"):
        write_wav(tmp_path / name, np.zeros(16_000, np.float32), 16_000)
    assert _evaluation_clips(tmp_path / "tree").filenames == ("y.wav",)
    assert _evaluation_clips(tmp_path / "a").filenames == ("x.wav",)
    with pytest.raises(UserError, match=r"has no audio/eval24, and its clips lie in further folders \(a/x\.wav\)"):
        _evaluation_clips(tmp_path)


def test_a_run_without_a_finished_test_predicts_nothing(finished, tmp_path):
    with pytest.raises(UserError, match="has no finished stage test"):
        predict(finished, tmp_path / "clips")
