"""What the report of retrieval shows: means over runs, recall over the ranking, the hardest queries."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile

from common.errors import UserError
from common.runs.systems import Trained
from common.settings import load_settings
from retrieval import report
from retrieval.imitation.settings import ImitationSettings
from retrieval.settings import RetrievalSettings
from tests.support.places import ROOT


def finished(folder: Path, seed: int, ranks: list[int], **figures):
    """A run and its evaluation: figures of two models, and its queries."""
    (folder / "test").mkdir(parents=True)
    names = [f"{number}.wav" for number in range(len(ranks))]
    pd.DataFrame(
        {"caption": [f"caption {number}" for number in range(len(ranks))], "file_name": names, "rank": ranks,
         "found_first": names[::-1]}
    ).to_csv(folder / "test" / "queries.csv", index=False)  # fmt: skip
    shown = {name: {"value": value, "interval": [value - 0.1, value + 0.1]} for name, value in figures.items()}
    content = {"figures": {"contrastive": shown, "distilled": shown}, "clips": {"scored": len(ranks)}}
    return SimpleNamespace(folder=folder, settings=SimpleNamespace(seed=seed)), content


def test_rows_are_means_over_runs_with_limits_each_direction_apart(tmp_path):
    first = finished(tmp_path / "a", 0, [1], **{"mAP@10": 0.5, "audio to text R@1": 0.2})
    second = finished(tmp_path / "b", 1, [1], **{"mAP@10": 0.7, "audio to text R@1": 0.4})
    assert report.result_rows([first]) == [
        {"model": "contrastive", "mAP@10": "50.0 [40.0, 60.0]"}, {"model": "distilled", "mAP@10": "50.0 [40.0, 60.0]"}
    ]  # fmt: skip
    back = report.result_rows([first, second], "audio to text ")
    assert back[0] == {"model": "contrastive", "R@1": "30.0 [20.0, 40.0]"}
    del second[1]["figures"]["distilled"]  # a run that stopped after the first model
    assert [row["mAP@10"] for row in report.result_rows([first, second])] == ["60.0 [50.0, 70.0]", "50.0 [40.0, 60.0]"]
    assert report.result_rows([finished(tmp_path / "c", 0, [1], **{"MRR": 0.5})], "audio to text ") == []


def test_systems_are_named_where_there_are_several(tmp_path):
    runs = [finished(tmp_path / name, seed, [1], MRR=0.5) for seed, name in enumerate("abc")]
    one = Trained("one", "", [runs[0][0]], [runs[0][1]])
    two = Trained("two", "", [run for run, _ in runs[1:]], [content for _, content in runs[1:]])
    assert [(row["system"], row["model"], row["runs"]) for row in report.system_rows([one, two])] == [
        ("one", "contrastive", "seed 0"), ("one", "distilled", "seed 0"),
        ("two", "contrastive", "2 seeds"), ("two", "distilled", "2 seeds"),
    ]  # fmt: skip
    assert list(report.system_rows([one])[0]) == ["model", "runs", "MRR"]


def test_recall_is_the_share_of_queries_up_to_a_rank_beside_chance(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(report.html, "figure", lambda plot, caption: drawn.append((plot, caption)) or "")
    report.ranks_part([finished(tmp_path / "run", 0, [1, 1, 3, 4])])
    ((plot, caption),) = drawn
    ours, chance = plot.axes[0].lines
    assert (ours.get_label(), chance.get_label()) == ("run", "by chance")
    np.testing.assert_allclose(ours.get_xdata(), [1, 2, 3, 4])
    np.testing.assert_allclose(ours.get_ydata(), [50, 50, 75, 100])
    np.testing.assert_allclose(chance.get_ydata(), [25, 50, 75, 100])
    assert plot.axes[0].get_xscale() == "log"
    assert [text.get_text() for text in plot.axes[0].get_xticklabels()] == ["1", "2"]
    assert "distilled" in caption  # the last model


@pytest.fixture
def heard(monkeypatch, tmp_path) -> Path:
    """Four clips of 3 s, the last one not there."""
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", np.full(3 * report.RATE, 0.1 * number), report.RATE)
    paths = {f"{number}.wav": str(tmp_path / f"{number}.wav") for number in range(4)}
    manifest = pd.DataFrame({"file_name": list(paths), "path": list(paths.values())})
    monkeypatch.setattr(report, "read_manifest", lambda *_where: manifest)
    return tmp_path


def test_the_hardest_queries_come_with_their_clip_and_the_one_that_was_found(heard, monkeypatch):
    played = []
    monkeypatch.setattr(report.html, "audio", lambda waveform, rate, caption: played.append((waveform, caption)) or "")
    run, _ = finished(heard / "run", 0, [1, 4, 2, 3])
    source = SimpleNamespace(dataset="folder", root=heard, split="x")
    run.settings.data = SimpleNamespace(evaluation=source, max_duration=2.0)
    table, *parts = report.hardest_part(run)
    places = [table.index(f"caption {number}") for number in (1, 3, 2, 0)]  # ranks 4, 3, 2, 1
    assert places == sorted(places)
    assert "“caption 1” (rank 4)" in parts[0] and len(parts) == 2 * report.HEARD
    captions = [caption for _, caption in played]
    assert captions == ["1.wav, its clip", "2.wav, found first", "0.wav, found first", "2.wav, its clip",
                        "1.wav, found first"]  # fmt: skip
    assert all(len(waveform) == 2 * report.RATE for waveform, _ in played)
    assert "3.wav (its clip) is not here any more" in "".join(parts)


@pytest.fixture
def systems(tmp_path, monkeypatch):
    """Makes what the report finds: a run for each settings class, with the directions that it has."""

    def make(*configs: tuple[type, str]):
        found = []
        for number, (cls, config) in enumerate(configs):
            figures = {"mAP@10": 0.5, **({"audio to text R@1": 0.25} if cls is RetrievalSettings else {})}
            run, content = finished(tmp_path / f"run{number}", 0, [1, 2], **figures)
            run.settings = load_settings(cls, ROOT / "retrieval" / "configs" / config)
            content["clips"] |= {"notes": ["One clip was silent."]}
            found.append(Trained(f"run{number}", "", [run], [{**content, "tie_rule": "ties by name", "made_up": True}]))
        monkeypatch.setattr(report, "read_systems", lambda _paths, _open: (found, [Path("runs/stopped")]))
        monkeypatch.setattr(report, "hardest_part", lambda _run: [])
        return found

    return make


TEXT, IMITATION = (RetrievalSettings, "small.yaml"), (ImitationSettings, "imitation_small.yaml")


def test_the_page_of_retrieval_by_text_has_both_directions_ranks_and_queries(systems, tmp_path, capsys):
    systems(TEXT, TEXT)
    path = report.write_retrieval_report([tmp_path / "run0"])
    page = path.read_text()
    assert path == tmp_path / "run0" / "report.html" and "Audio retrieval by text (made-up data)" in page
    headings = re.findall(r"<h2[^>]*>([^<]*)</h2>", page)
    assert headings == ["Results", "Ranks", "Hardest queries", "Learning curves", "Energy", "Settings"]
    assert "<caption>The other direction: a clip finds its captions.</caption>" in page
    assert page.count("One clip was silent.") == 1 and "left out: stopped" in page and "2 runs; ties by name" in page
    assert "<caption>Each training.</caption>" in page
    printed = capsys.readouterr().out
    assert "Audio retrieval by text, per cent (MADE-UP DATA)" in printed and "25.0" not in printed


def test_the_page_of_imitations_has_one_direction(systems, tmp_path):
    systems(IMITATION)
    page = report.write_retrieval_report([tmp_path / "run0"], tmp_path / "out.html").read_text()
    assert "Query by vocal imitation" in page and "The other direction" not in page and "1 run; " in page
    assert re.findall(r"<h2[^>]*>([^<]*)</h2>", page) == ["Results", "Learning curves", "Energy", "Settings"]


def test_runs_of_both_kinds_cannot_stand_in_one_report(systems, tmp_path):
    systems(TEXT, IMITATION)
    with pytest.raises(UserError, match="cannot stand in one report"):
        report.write_retrieval_report([tmp_path / "run0"])
