"""Queries by words, tags and example, ranges of time, and that nothing fits."""

from itertools import pairwise

import numpy as np
import pytest

from common.cli import run
from common.data.audio import write_wav
from common.errors import UserError
from retrieval.__main__ import VERBS
from retrieval.search.answer import answer, answer_one, search, shown
from retrieval.search.index import Index, Windows, build_index
from retrieval.search.page import write_page
from tests.retrieval.search.conftest import HERTZ, RATE, tone


@pytest.fixture
def index(searcher, sounds, tmp_path):
    build_index(searcher, None, sounds, tmp_path / "index")
    return Index.read(tmp_path / "index")


def test_an_example_finds_its_like_but_not_itself(index, sounds, tmp_path):
    found = [hit["file"] for hit in search(index, example=sounds / "low_3.wav", top=7)]
    assert sorted(found) == [f"low_{number}.wav" for number in range(8) if number != 3]
    (tmp_path / "link.wav").symlink_to(sounds / "low_3.wav")
    assert "low_3.wav" not in [hit["file"] for hit in search(index, example=tmp_path / "link.wav", top=24)]
    (tmp_path / "copy.wav").write_bytes((sounds / "low_3.wav").read_bytes())
    assert "low_3.wav" in [hit["file"] for hit in search(index, example=tmp_path / "copy.wav", top=8)]


def test_words_find_what_the_tagger_calls_so_and_that_is_said(index):
    (found,) = answer(index, ["the lowest low tones"], top=8)
    assert all(hit["file"].startswith("low") for hit in found.hits)
    assert "by tags, for want of a text model: Low tone or Low tone, far away" in found.notes[0]
    assert found.notes[1:] == ["No tag has lowest; left out of the query."]
    with pytest.raises(UserError, match=r"Nothing fits 'hihg': no tag has a word of it, .* near it: high"):
        answer(index, ["hihg"])


def test_an_index_of_the_example_alone_says_that_it_holds_nothing_else(sounds, searcher, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.wav").write_bytes((sounds / "low_0.wav").read_bytes())
    build_index(searcher, None, tmp_path / "one", tmp_path / "index")
    (found,) = answer(Index.read(tmp_path / "index"), examples=[tmp_path / "one" / "a.wav"])
    assert found.hits == [] and found.notes[0].startswith("The index holds no other file than")


def test_several_queries_are_answered_in_a_call(index, sounds):
    found = answer(index, ["low", "high"], (), [sounds / "middle_0.wav", sounds / "high_0.wav"], top=3)
    assert [each.hits[0]["file"].partition("_")[0] for each in found] == ["low", "high", "middle", "high"]
    assert [[hit["rank"] for hit in each.hits] for each in found] == [[1, 2, 3]] * 4
    rows = search(index, text=["low", "high"], top=2)
    assert [row["query"] for row in rows] == ["low", "low", "high", "high"]


def test_nothing_fits_a_sound_that_is_farther_than_the_indexed_sounds_are_from_each_other(index, sounds, tmp_path):
    write_wav(tmp_path / "noise.wav", 0.1 * tone(0, 1), RATE)  # noise alone: all bands
    near, far = answer(index, (), (), [sounds / "low_0.wav", tmp_path / "noise.wav"])
    assert near.notes == [] and "Nothing fits" in far.notes[0] and len(far.hits) == 5
    for path in sounds.glob("high_*"):
        path.unlink()
    build_index(index.searcher(), None, sounds, index.folder)
    (found,) = answer(Index.read(index.folder), ["high"])
    assert "Nothing fits 'high'" in found.notes[-1] and "below 0.030" in found.notes[-1]


def test_the_limit_is_the_similarity_that_19_of_20_files_reach(index):
    vectors = np.asarray(index.vectors, np.float64)
    similarity = vectors @ vectors.T - 2 * np.eye(len(vectors))
    assert index.content["fits"] == {"example": pytest.approx(np.sort(similarity.max(axis=1))[0], abs=1e-4)}


def test_neighbouring_windows_that_fit_become_one_range(searcher, tmp_path):
    parts = [("low", 20), ("high", 15), ("low", 30), ("high", 5), ("low", 10)]
    waveform = np.concatenate([tone(HERTZ[kind], seconds, at) for at, (kind, seconds) in enumerate(parts)])
    write_wav(tmp_path / "sounds" / "long.wav", waveform, RATE)
    write_wav(tmp_path / "sounds" / "middle.wav", tone(HERTZ["middle"], 8), RATE)
    write_wav(tmp_path / "high.wav", tone(HERTZ["high"], 5, 9), RATE)
    build_index(searcher, None, tmp_path / "sounds", tmp_path / "index", windows=Windows(5, 2.5))
    index = Index.read(tmp_path / "index")
    for given in ({"text": "high"}, {"example": tmp_path / "high.wav"}):
        first, second = search(index, **given, top=2)
        times = sorted((hit["onset"], hit["offset"]) for hit in (first, second))
        assert {first["file"], second["file"]} == {"long.wav"}
        for (onset, offset), (true_onset, true_offset) in zip(times, [(20, 35), (65, 70)], strict=True):
            assert onset == pytest.approx(true_onset, abs=2.5) and offset == pytest.approx(true_offset, abs=2.5)
    assert shown(first | {"onset": 3661.25, "offset": 3669.0})["time"] == "1:01:01.2 - 1:01:09.0"
    # More hits than there are: each range once, none overlaps another of its file.
    ranges = [(hit["file"], hit["onset"], hit["offset"]) for hit in search(index, text="low", top=50)]
    assert len(ranges) == len(set(ranges)) and "middle.wav" in {file for file, _, _ in ranges}
    inner = sorted(each[1:] for each in ranges if each[0] == "long.wav")
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(inner))


def test_the_page_holds_a_player_for_each_hit_and_nothing_from_elsewhere(index, sounds, tmp_path):
    found = answer(index, ["low", "<b>high"], top=2)
    (sounds / found[0].hits[1]["file"]).unlink()
    text = write_page(tmp_path / "hits.html", index, found).read_text()
    assert text.count("<audio") == 3 and "does not exist" in text and "<b>" not in text
    assert "http" not in text and "by tags" in text and found[0].hits[0]["file"] in text


def test_the_page_of_serve_gets_notes_and_hits(index, sounds):
    found = answer_one(index, text="low")
    assert found["hits"][0]["file"].startswith("low") and "by tags" in found["notes"][0]
    assert answer_one(index, example=str(sounds / "high_0.wav"))["hits"][0]["file"].startswith("high")


BAD_CALLS = [
    ("search low --top 0", "--top is 0; ask for at least 1"),
    ("search", "Give one query"),
    ("search --voice v.wav", "takes no voice"),
    ("search --example none.wav", "none.wav does not exist"),
    ("index sounds --out o", "either --run RUN, or --model NAME"),
    ("index sounds --out o --run r --model mn04", "either --run RUN, or --model NAME"),
    ("index sounds --out o --run r --weights w", "--weights belongs to --model"),
    ("index sounds --out o --model mn04 --hop 5", "--hop needs --windows"),
]


def test_bad_calls_are_refused_in_a_sentence(index, capsys):
    for words, message in BAD_CALLS:
        more = ["--index", str(index.folder)] if words.startswith("search") else []
        assert run("python -m retrieval", VERBS, [*words.split(), *more]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UserError, match="A query is empty"):
        answer(index, [" "])


def test_real_rain_is_found_without_training(shared, tmp_path, capsys):
    weights, sounds = shared / "data/weights/mn04_as_mAP_432.pt", shared / "data/freesound_samples"
    made = ["index", str(sounds), "--model", "mn04.as", "--weights", str(weights), "--out", str(tmp_path / "index")]
    assert run("python -m retrieval", VERBS, made) == 0
    asked = ["search", "rain", "typing", "--index", str(tmp_path / "index"), "--top", "1"]
    assert run("python -m retrieval", VERBS, asked) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[2] for row in rows[1:]] == ["audio/rain.ogg", "audio/typing.ogg"]
