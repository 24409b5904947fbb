"""What the verbs on AudioSet strong print and write."""

import json
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest

from common.cli import run
from task4_sed.__main__ import VERBS
from task4_sed.pretraining import recipe, verbs


def call(*words):
    return run("python -m task4_sed", VERBS, list(map(str, words)))


def test_the_data_of_audioset_strong_are_checked(tiny_strong, capsys):
    assert call("data", "check_strong", "--root", tiny_strong, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 2  # training and evaluation
    assert call("data", "check_strong", "--root", tiny_strong) == 0
    assert "training\t30\t30" in capsys.readouterr().out


def test_clips_are_packed_and_told(tiny_strong, tmp_path, capsys):
    root, audio = tmp_path / "root", tmp_path / "audio"
    for folder in (root, audio):
        folder.mkdir()
    for table in (path for path in tiny_strong.iterdir() if path.suffix in (".tsv", ".csv")):
        (root / table.name).write_bytes(table.read_bytes())
    for path in tiny_strong.rglob("*.hdf"):
        with h5py.File(path) as file:
            for name, content in zip(file["audio_name"].asstr(), file["mp3"]):
                (audio / Path(name).name).write_bytes(content.tobytes())
    assert call("data", "pack_strong", "--audio", audio, "--root", root) == 0
    told = capsys.readouterr().err
    assert {path.name in told for path in root.rglob("*.hdf")} == {True}


def figure(value, interval=None):
    return {"value": value, "interval": interval, "per_class": {"Dog": value, "Cat": value}}


@pytest.fixture
def pretraining(tmp_path):
    """A finished pre-training, of which only the figures exist."""
    found = {name: figure(0.25, [0.2, 0.3]) for name in ("psds1_macro", "psds1", "pauroc")}
    found |= {"model": "atst_frame", "seed": 3, "made_up": True}
    found["clips"] = {"evaluated": 12_000, "comparable": False, "missing": ["Ya", "Yb"]}
    settings = SimpleNamespace(model=SimpleNamespace(name="atst_frame"))
    return SimpleNamespace(folder=tmp_path, settings=settings, read_evaluation=lambda: found)


def test_a_pretraining_shows_its_figures_for_people_or_as_json(pretraining, monkeypatch, capsys):
    monkeypatch.setattr(verbs, "open_run", lambda folder, cls: pretraining)
    assert call("pretrain_evaluate", "somewhere") == 0
    shown = capsys.readouterr()
    assert "Made-up data: atst_frame, seed 3, 12,000 clips, 2 classes; per cent" in shown.out
    assert shown.out.count("25.0 [20.0, 30.0]") == 3
    assert "2 evaluation clips are missing: the figures are not comparable." in shown.err
    assert "weights.pt is a weights file for atst_frame" in shown.err
    assert call("pretrain_evaluate", "somewhere", "--json") == 0
    assert json.loads(capsys.readouterr().out)["psds1"]["value"] == 0.25
    pretraining.read_evaluation()["clips"]["comparable"] = True
    assert call("pretrain_evaluate", "somewhere") == 0
    assert "comparable" not in capsys.readouterr().err


def test_a_finetuning_without_intervals_shows_its_figures_and_where_events_are(tmp_path, capsys):
    found = {name: figure(0.5) for name in verbs.OFFICE_NAMES}
    found |= {"model": "beats", "seed": 0, "made_up": False, "recordings": 18}
    verbs._show_finetuning(SimpleNamespace(folder=tmp_path, read_evaluation=lambda: found))
    shown = capsys.readouterr()
    assert shown.out.startswith("beats, seed 0, 18 recordings; per cent\n")
    assert shown.out.count("\t50.0\n") == len(verbs.OFFICE_NAMES)
    assert f"The events are in {tmp_path / 'test' / 'events.json'}." in shown.err


def test_targets_are_of_all_teachers_and_the_first_decides_the_clips(monkeypatch, capsys):
    asked = []

    def write(runs, settings, out):
        asked.append((runs, settings, out))
        return [{"teacher": "a", "psds1": 0.415}, {"teacher": "b", "psds1": None}]

    opened = SimpleNamespace(open=lambda folder: SimpleNamespace(settings=f"settings of {folder}"))
    monkeypatch.setattr(recipe, "write_teacher_logits", write)
    monkeypatch.setattr(verbs, "load_pretraining", lambda: opened)
    assert call("pretrain_targets", "a", "b", "--out", "targets.h5") == 0
    assert asked == [((Path("a"), Path("b")), "settings of a", Path("targets.h5"))]
    shown = capsys.readouterr()
    assert "a\t41.5\n" in shown.out and "Wrote targets.h5." in shown.err
