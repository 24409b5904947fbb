"""`compare` of retrieval, on similarities as the stage test writes them."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from common.cli import run
from common.errors import UserError
from common.settings import load_settings
from retrieval import compare
from retrieval.__main__ import VERBS
from retrieval.imitation.data import Search
from retrieval.imitation.settings import ImitationSettings
from tests.support.places import ROOT

CLIPS = [f"clip{number}.wav" for number in range(30)]
CAPTIONS = [f"caption {number} of {clip}" for clip in CLIPS for number in range(2)]


def write_similarity(folder: Path, signal: float, captions=CAPTIONS) -> Path:
    folder.mkdir()
    owner = np.repeat(np.arange(len(CLIPS)), 2)
    similarity = np.random.default_rng(0).normal(size=(60, 30)) + signal * np.eye(30)[owner]
    pd.DataFrame({"caption": captions, "file_name": np.array(CLIPS)[owner]}).to_csv(folder / "queries.csv", index=False)
    np.savez(folder / "model.npz", similarity=similarity, captions=np.array(captions), file_names=np.array(CLIPS))
    return folder


def call(capsys, *words) -> tuple[int, str, str]:
    code = run("python -m retrieval", VERBS, ["compare", *map(str, words)])
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.fixture
def folders(tmp_path):
    return write_similarity(tmp_path / "weak", 1.0), write_similarity(tmp_path / "strong", 3.0)


def test_systems_are_compared_over_clips(capsys, folders):
    code, out, _ = call(capsys, *folders, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["counted"] == "30 clips"
    gain = found["systems"][1]["figures"]["mAP@10"]["difference"]
    assert gain["interval"][0] > 0 and "audio to text mAP@10" in found["systems"][1]["figures"]
    code, out, _ = call(capsys, *folders)
    assert code == 0 and "strong is better than weak: +" in out


def test_mistakes_are_one_sentence(capsys, folders, tmp_path):
    other = write_similarity(tmp_path / "other", 1.0, [f"not {caption}" for caption in CAPTIONS])
    (tmp_path / "empty").mkdir()
    for words, sentence in (
        ((folders[0], other), "have different test sets"),
        ((folders[0], tmp_path / "empty"), "empty has 0 files *.npz beside queries.csv"),
    ):
        code, out, err = call(capsys, *words)
        assert (code, out) == (2, "") and sentence in err and err.count("\n") == 1


def test_a_run_is_measured_by_its_last_model_with_its_seed(tmp_path):
    folder = write_similarity(tmp_path / "test", 3.0)
    (folder / "model.npz").rename(folder / "distilled_ensemble.npz")
    np.savez(folder / "contrastive_mn.npz", similarity=np.zeros((60, 30)))
    content = {"figures": {"contrastive mn": {}, "distilled ensemble": {}}, "made_up": True}
    settings = SimpleNamespace(seed=7, data=SimpleNamespace(relevance=None))
    found = compare.measure(SimpleNamespace(folder=tmp_path, settings=settings, read_evaluation=lambda: content))
    assert (found.run, found.seed, found.made_up, found.counted) == (tmp_path.name, 7, True, "30 clips")
    assert list(found.test_sets["test"][:30]) == CLIPS and len(found.test_sets["test"]) == 30 + 60
    alone = compare.measure_folder(write_similarity(tmp_path / "alone", 3.0))
    assert found.figures["mAP@10"][0] == alone.figures["mAP@10"][0]
    assert (alone.seed, alone.made_up, alone.run) == (None, False, str(tmp_path / "alone"))


def test_queries_of_other_captions_or_clips_are_refused(tmp_path):
    folder = write_similarity(tmp_path / "test", 3.0)
    queries = pd.read_csv(folder / "queries.csv")
    for column in ("caption", "file_name"):
        queries.assign(**{column: "other"}).to_csv(folder / "queries.csv", index=False)
        with pytest.raises(UserError, match=r"queries\.csv has other captions or clips than model\.npz"):
            compare.measure_folder(folder)


@pytest.fixture
def imitations(tmp_path, monkeypatch):
    """A run of imitations whose three queries find their item first, second and third of three."""
    sounds = [Path(f"data/{name}.wav") for name in "abc"]
    queries = [Path(f"data/voice{number}.wav") for number in range(3)]
    search = Search(queries, sounds, [0, 1, 2], ["x", "x", "y"], ["all"] * 3, ["all"] * 3)
    monkeypatch.setattr(compare, "read_search", lambda _data: search)
    settings = load_settings(ImitationSettings, ROOT / "retrieval" / "configs" / "imitation_small.yaml", {"seed": 3})
    similarity = [[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.9, 0.5, 0.1]]
    content = {
        "similarity": similarity,
        "queries": [path.name for path in queries],
        "items": ["a.wav", "b.wav", "c.wav"],
    }
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "similarities.json").write_text(json.dumps(content))
    return SimpleNamespace(folder=tmp_path, settings=settings, read_evaluation=lambda: {"made_up": True})


def test_imitations_are_measured_from_their_similarities(imitations):
    found = compare.measure(imitations)
    assert found.figures["MRR"][0] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert [found.figures[name][0] for name in ("R@1", "R@2")] == pytest.approx([1 / 3, 2 / 3])
    assert (found.seed, found.counted, found.made_up) == (3, "3 imitated sounds", True)
    assert found.test_sets["test"] == ["voice0.wav", "voice1.wav", "voice2.wav", "a.wav", "b.wav", "c.wav"]
    path = imitations.folder / "test" / "similarities.json"
    path.write_text(path.read_text().replace("b.wav", "d.wav"))
    with pytest.raises(UserError, match="has other sounds than"):
        compare.measure(imitations)
