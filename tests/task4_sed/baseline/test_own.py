"""A run on own recordings: from a table to figures under the data's own name, and scores of other long recordings."""

import json

import numpy as np
import pandas as pd
import pytest

from common.data.audio import write_wav
from common.errors import UserError
from common.settings import SettingsError, load_settings
from task4_sed.baseline.settings import Task4Settings
from task4_sed.reports.report import figure_rows, published_note, write_task4_report
from task4_sed.systems import load_recipe, predict, score_file
from tests.support.quick_task4 import QUICK, SMALL


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """Nine recordings of 12 s with a tone each, some after 10 s; one class is called as one of MAESTRO."""
    folder = tmp_path_factory.mktemp("data") / "birds"
    rows = []
    time = np.arange(12 * 16000) / 16000
    for number in range(9):
        onset = (10.5, 1.0, 5.0)[number % 3]
        tone = 0.3 * np.sin(2 * np.pi * (800, 2000)[number % 2] * time) * (time > onset) * (time < onset + 1)
        write_wav(folder / "audio" / f"r{number}.wav", tone.astype(np.float32), 16000)
        rows.append((f"r{number}.wav", onset, onset + 1, ("whistle", "car")[number % 2]))
    table = pd.DataFrame(rows, columns=["filename", "onset", "offset", "label"])
    table.to_csv(folder / "events.tsv", sep="\t", index=False)
    return folder


def settings_for(birds, folder, **changes):
    places = {"data.table": str(birds / "events.tsv"), "data.audio": str(birds / "audio")}
    places |= {"data.store": str(folder / "own"), "runs": str(folder / "runs"), "name": "run"}
    return load_settings(Task4Settings, SMALL, {**QUICK, **places, **changes})


@pytest.fixture(scope="module")
def run(birds, tmp_path_factory):
    return load_recipe().run(settings_for(birds, tmp_path_factory.mktemp("work")))


def test_the_run_has_the_classes_and_the_name_of_the_data_and_no_published_figure(run):
    assert run.settings.labels.classes == ["car", "whistle"]
    assert [group.sets for group in run.settings.data.batch] == [["own_train"]]
    assert run.settings.postprocessing.median_frames == {"car": 7, "whistle": 7}
    rows = figure_rows([run])
    assert {row["set"] for row in rows} == {"birds test"} and not any("published" in row for row in rows)
    assert published_note(run.settings) == "" and rows[0]["clips"] == "2 of 2 clips"
    scores = run.read_evaluation()["networks"]["teacher"]["postprocessed"]["own_test"]
    assert set(scores["psds1"]["per_class"]) == {"car", "whistle"}
    assert run.read_evaluation()["made_up"] is False
    text = write_task4_report([run.folder]).read_text()
    assert "birds test" in text and "DESED" not in text.split("<h2")[1] and "Published" not in text


def test_the_same_call_keeps_the_run_and_a_finished_one_needs_no_table(run, birds, capsys):
    again = load_recipe().run(settings_for(birds, run.folder.parents[1]))
    assert again.settings == run.settings and capsys.readouterr().err.count("kept, its settings are the same") == 2
    (birds / "events.tsv").rename(birds / "away.tsv")
    try:
        load_recipe().run(load_recipe().open(run.folder).settings)
    finally:
        (birds / "away.tsv").rename(birds / "events.tsv")


def test_scores_of_other_recordings_reach_to_their_end(run, tmp_path):
    write_wav(tmp_path / "long.wav", np.zeros(25 * 16000, np.float32), 16000)
    folder = predict(run, tmp_path)
    table = pd.read_csv(folder / "unprocessed" / "long.tsv", sep="\t")
    assert table["offset"].iloc[-1] == 25 and len(table) == 391
    assert json.loads((folder / "predictions.json").read_text())["durations"] == {"long.wav": 25.0}
    finished = pd.read_csv(folder / "postprocessed" / "long.tsv", sep="\t")
    alone = score_file(run, str(tmp_path / "long.wav"))
    assert alone["labels"] == tuple(finished)[2:] and alone["edges"] == pytest.approx([*finished["onset"], 25.0])
    assert np.allclose(alone["scores"], finished[[*alone["labels"]]], atol=1e-5)


def test_two_steps_of_everything_and_mistakes(birds, tmp_path):
    load_recipe().check(settings_for(birds, tmp_path, **{"postprocessing.boxes": {}}))
    with pytest.raises(UserError, match="There is no folder"):
        load_recipe().run(settings_for(birds, tmp_path, **{"data.audio": str(tmp_path / "none")}))
    assert not (tmp_path / "runs").exists(), "inputs are checked before the folder of the run is made"
    with pytest.raises(SettingsError, match=r"names own_train, the recordings of a table; give --data\.table"):
        load_settings(Task4Settings, SMALL.with_name("own.yaml"), {"data.table": None})
