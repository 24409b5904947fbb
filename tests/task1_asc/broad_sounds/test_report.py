"""What the report of broad sounds shows: means over runs with limits, missed classes, the clips most surely wrong."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile

from common.errors import UserError
from common.runs.systems import Trained
from task1_asc.broad_sounds import report
from task1_asc.broad_sounds.taxonomy import CLASSES, CODES


def evaluated(value: float, missed: tuple[str, ...] = (), **more) -> dict:
    """The evaluation of a run, all figures 0.1 around `value`."""
    figure = {"value": value, "low": value - 0.1, "high": value + 0.1}
    own = {
        "figures": {name: {**figure, "spread": value / 10} for name in report.SHOWN},
        "phases": {"curated": figure, "final": {**figure, "value": value + 0.05}},
        "class_wise": {"m-sp": {"hF": value, "low": value - 0.1, "high": value + 0.1}},
        "never_predicted": list(missed),
        "official": {"hP": 0.5, "hR": 0.6, "hF": 0.55},
        "confusion": (np.eye(len(CODES)) * 3).tolist(),
    }
    return {"sets": {"bsd10k": own, "bsd35k": own}, "set": "bsd10k", "protocol": "published", "made_up": True, **more}


def system(name: str, *values: float, **more) -> Trained:
    runs = [SimpleNamespace(folder=Path(f"runs/{name}{seed}")) for seed in range(len(values))]
    return Trained(name, "", runs, [evaluated(value, **more) for value in values])


def test_rows_are_means_over_runs_for_each_set_with_the_spread_over_folds():
    rows = report.result_rows(system("a", 0.5, 0.7))
    assert [(row["system"], row["set"], row["protocol"], row["runs"]) for row in rows] == [
        ("a", "bsd10k", "published", 2), ("a", "bsd35k", "published", 2)
    ]  # fmt: skip
    assert {row[name] for row in rows for name in ("hF", "hP", "hR", "hierarchical accuracy", "accuracy")} == {
        "60.0 [50.0, 70.0]"
    }
    assert rows[0]["spread"] == "6.0"
    assert list(report.narrow(rows)[0]) == ["set", "hF", "hP", "hR"]
    both = [*rows, *report.result_rows(system("b", 0.5))]
    assert list(report.narrow(both)[0]) == ["system", "set", "hF", "hP", "hR"]


def test_stages_and_classes_are_in_per_cent_and_absent_classes_a_dash():
    assert report.stage_rows(system("a", 0.5, 0.7)) == [
        {"system": "a", "hF after curated": "60.0 [50.0, 70.0]", "hF after final": "65.0 [50.0, 70.0]"}
    ]
    (first, second, *others) = report.class_rows([system("a", 0.5, 0.7)])
    assert first == {"class": "m-sp", "name": CLASSES["m-sp"], "hF": "50.0 [40.0, 60.0]"}
    assert second["hF"] == "–" and len(others) == len(CLASSES) - 2
    two = report.class_rows([system("a", 0.5), system("b", 0.6)])[0]
    assert (two["a"], two["b"]) == ("50.0 [40.0, 60.0]", "60.0 [50.0, 70.0]") and "hF" not in two


def test_classes_that_are_never_predicted_are_named_with_the_official_reading():
    (text,) = report.missed_texts([system("a", 0.5, missed=("m-si", "fx-a")), system("b", 0.5)])
    assert text.startswith("a never predicts in some fold: m-si, fx-a. They count as 0 here")
    assert text.endswith("leaves them out: hP 50.0, hR 60.0, hF 55.0.")


def test_confusion_is_that_of_two_systems_all_runs_together(monkeypatch):
    drawn = []
    monkeypatch.setattr(report, "plot_confusion", lambda counts, names: drawn.append(np.asarray(counts)))
    monkeypatch.setattr(report.html, "figure", lambda _plot, caption: caption)
    captions = report.confusion_part([system("a", 0.5, 0.7), system("b", 0.5), system("c", 0.5)])
    assert [caption.split(":")[0] for caption in captions] == ["a", "b"]
    assert [counts[0, 0] for counts in drawn] == [6, 3]


@pytest.fixture
def predicted(tmp_path, monkeypatch):
    """A run with three clips, one right, two wrong with 0.6 and 0.9; the clip of 0.9 has audio of 12 s."""
    (tmp_path / "test").mkdir()
    rows = [("1", "m-sp", {"m-sp": 0.8}), ("2", "m-sp", {"m-si": 0.6, "m-m": 0.3}), ("3", "fx-a", {"ss-n": 0.9})]
    table = [{"sound_id": name, "class": code, **dict.fromkeys(CODES, 0.0), **values} for name, code, values in rows]
    pd.DataFrame(table).to_csv(tmp_path / report.TESTED, index=False)
    soundfile.write(tmp_path / "3.wav", np.zeros(12 * report.RATE), report.RATE)
    sounds = SimpleNamespace(
        ids=["1", "2", "3"], texts=lambda: ["a", "b", "long " * 100],
        paths=lambda: [tmp_path / f"{number}.wav" for number in (1, 2, 3)],
    )  # fmt: skip
    monkeypatch.setattr(report, "read_sounds", lambda _folder: sounds)
    return SimpleNamespace(folder=tmp_path, settings=SimpleNamespace(data=SimpleNamespace(curated=tmp_path)))


def test_wrong_clips_come_from_the_surest_on_with_their_text_and_first_seconds(predicted, monkeypatch):
    played = []
    monkeypatch.setattr(report.html, "audio", lambda waveform, rate, said: played.append((len(waveform), said)) or "")
    first, _, last = map(str, report.wrong_part(predicted))
    assert f"2 of 3 test clips of {predicted.folder.name} are wrong." in first
    ((samples, said),) = played
    assert samples == report.HEARD_SECONDS * report.RATE
    assert said == f"3: ss-n with 0.900, labelled fx-a. “{('long ' * 100)[:300]}”"
    assert "2: m-si with 0.600, labelled m-sp. “b” (no audio)" in last


def test_data_that_are_gone_are_told_and_the_clips_still_listed(predicted, monkeypatch):
    def gone(_folder):
        raise UserError("no such folder")

    monkeypatch.setattr(report, "read_sounds", gone)
    parts = list(map(str, report.wrong_part(predicted)))
    assert "The data are not here any more: no such folder" in parts[1]
    assert ["(no audio)" in part for part in parts] == [False, False, True, True]
