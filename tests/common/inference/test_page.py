"""The page of `serve`: its answers without a browser, and in a headless one."""

import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import ClassVar
from unittest.mock import MagicMock, call

import numpy as np
import pytest
import soundfile
import torch

from common.errors import UserError
from common.inference import page, tagging
from common.inference.prepare import prepare_for_inference
from common.registry.models import create_audio_model
from common.runs.helper import Helper
from tests.support.places import ROOT
from tests.support.verbs import verb

WIDTHS = {"desktop": (1200, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def tagger():
    torch.manual_seed(0)
    model = prepare_for_inference(create_audio_model("mn04", width_mult=0.1, num_classes=12))
    model.labels = tuple(f"class {number}" for number in range(12))
    return model


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "a.wav"
    soundfile.write(path, np.sin(np.arange(12 * 16000) / 16000 * 2 * np.pi * 1000) / 4, 16000)
    return path


def test_a_timeline_of_a_clip_model_covers_the_file_in_steps_of_a_second(tagger, sound):
    edges, scores = tagging.score_timeline(tagger, sound)
    assert edges == [0.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 12.0]
    assert scores.shape == (8, 12)
    with torch.inference_mode():
        first = tagger(torch.from_numpy(next(tagging.read_blocks(sound, 5, 32000)))[None])
    assert torch.allclose(scores[0], first.logits[0].sigmoid(), atol=1e-4)


def test_a_timeline_of_a_frame_model_has_its_frames(sound):
    model = prepare_for_inference(create_audio_model("frame_mn06", width_mult=0.1, num_classes=3))
    edges, scores = tagging.score_timeline(model, sound)
    assert len(edges) == 301 and edges[1] == pytest.approx(0.04) and edges[-1] == 12.0
    assert scores.shape == (300, 3)


def test_tags_and_picture_of_a_sound(tagger, sound):
    tags, picture = page.Page(tagger).tag(str(sound))
    upper, lower = picture.axes
    assert len(tags) == 10
    assert [text.get_text() for text in upper.texts] == list(tags)[: page.ROWS]
    assert lower.images[0].get_array().shape == (128, 12 * page.COLUMNS_PER_SECOND)
    assert lower.get_xlim() == (0.0, 12.0)
    loudest = lower.images[0].get_array().mean(axis=1).argmax()
    assert 25 < loudest < 50  # a tone of 1 kHz
    assert page.Page(tagger).tag(None) == (None, None)


def test_a_timeline_shows_the_first_class_on_top_and_names_at_the_left():
    scores = np.array([[0.2, 0.1], [0.4, 0.9]])
    upper, lower = page.draw_timeline(np.zeros((4, 6)), [0.0, 1.0, 2.0], scores, ["rain", "wind"]).axes
    mesh = upper.collections[0]
    assert mesh.get_array().tolist() == [[0.2, 0.4], [0.1, 0.9]]
    assert mesh.get_clim() == (0, 1)
    assert upper.get_ylim() == (2.0, 0.0) and upper.get_yticks().tolist() == []
    assert [(text.get_text(), text.get_position()) for text in upper.texts] == [
        ("rain", (0.02, 0.5)), ("wind", (0.02, 1.5)),
    ]  # fmt: skip
    assert lower.images[0].get_extent() == [0, 2.0, 0, 4]
    assert (lower.get_xlabel(), lower.get_ylabel()) == ("seconds", "mel band")


class Asked:
    """A helper that answers each question with one hit, and keeps the questions."""

    facts: ClassVar = {"folder": "/data", "understands": ["text", "example"]}

    def __init__(self):
        self.questions = []

    def ask(self, **question):
        self.questions.append(question)
        return {"hits": [{"rank": 1, "file": "a.wav", "similarity": 0.5}], "notes": ["Nothing fits <b>"]}


def test_words_come_before_a_sound_which_may_be_a_voice(tagger):
    search = Asked()
    shown = page.Page(tagger, search)
    assert shown.find(" ", None) == "" and search.questions == []
    assert shown.find("rain", "x.wav").startswith("<p>Nothing fits &lt;b&gt;</p>\n<figure>")
    shown.find("", "x.wav")
    shown.find("", "x.wav", as_voice=True)
    assert search.questions == [{"text": "rain"}, {"example": "x.wav"}, {"voice": "x.wav"}]


@pytest.mark.parametrize(
    ("search", "events", "tabs"), [(False, False, []), (True, False, ["Search"]), (False, True, ["Events"])]
)
def test_a_tab_for_tags_and_one_for_each_helper(tagger, search, events, tabs):
    gr = MagicMock()
    page.Page(tagger, Asked() if search else None, Asked() if events else None).build(gr)
    assert [each.args[0] for each in gr.Tab.call_args_list] == ["Tags", *tabs]
    assert gr.Blocks.call_args == call(title="Sounds", analytics_enabled=False)
    assert {str(each) for each in gr.Plot.call_args_list} == {str(call(show_label=False))}
    assert gr.Label.call_args == call(show_label=False, show_heading=False)
    assert gr.Audio.call_args == call(
        type="filepath", sources=["upload", "microphone"], label="Drop or record a sound", buttons=["download"]
    )
    if search:
        assert gr.Markdown.call_args == call("Type words, or drop a similar sound.")
        assert [each.kwargs["visible"] for each in (gr.Textbox.call_args, gr.Checkbox.call_args)] == [True, False]


def test_a_sound_that_is_too_long_is_refused(tagger, tmp_path):
    soundfile.write(tmp_path / "long.wav", np.zeros(601 * 100), 100)
    with pytest.raises(UserError, match="lasts 601 s; the page takes 600 s"):
        page.Page(tagger).tag(str(tmp_path / "long.wav"))


def test_names_of_hits_are_text():
    hit = {"rank": 1, "file": '<b>"a" & ü.wav', "similarity": 0.5}
    player = page._player(hit, "/data")
    assert "<b>" not in player and "&lt;b&gt;" in player
    assert 'src="/gradio_api/file=/data/%3Cb%3E%22a%22%20%26%20%C3%BC.wav"' in player


def test_serve_without_gradio_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert verb("serve") == 2
    assert "pip install gradio" in capsys.readouterr().err


def test_a_helper_answers_and_tells_its_errors():
    with Helper("tests.support.answering") as helper:
        assert helper.facts == {"halves": "even numbers"}
        assert [helper.ask(number=2), helper.ask(number=8)] == [1, 4]
        with pytest.raises(UserError, match="3 is odd"):
            helper.ask(number=3)
        assert helper.ask(number=4) == 2
        helper.process.kill()
        with pytest.raises(UserError, match="has ended"):
            helper.ask(number=4)


@pytest.mark.slow
def test_the_page_works_in_a_browser_of_either_width(shared, tmp_path):
    """Needs gradio, playwright (`pip install gradio playwright`) and chromium (Debian: `apt-get install chromium`)."""
    pytest.importorskip("gradio")
    weights = str(shared / "data" / "weights" / "mn04_as_mAP_432.pt")
    sounds = shared / "data" / "freesound_samples" / "audio"
    words = ["index", str(sounds), "--model", "mn04.as", "--weights", weights, "--out", str(tmp_path / "index")]
    subprocess.run([sys.executable, "-m", "retrieval", *words], cwd=ROOT, check=True)
    with running("--weights", weights, "--index", str(tmp_path / "index")) as url, browser() as chromium:
        for width, height in WIDTHS.values():
            tab, errors = open_page(chromium, url, width, height)
            tab.locator("input[type=file]").first.set_input_files(sounds / "birds1.ogg")
            tab.get_by_text("Chirp, tweet").first.wait_for(timeout=60_000)
            tab.locator("img").first.wait_for()
            assert (errors, excess(tab)) == ([], 0)
            tab.get_by_role("tab", name="Search").click()
            tab.get_by_label("Words").fill("rain")
            tab.get_by_role("button", name="Search", exact=True).click()
            tab.get_by_text("1. rain.ogg").wait_for(timeout=60_000)
            player = tab.locator("#hits audio").first
            player.evaluate("player => { player.preload = 'auto'; player.load(); }")
            tab.wait_for_function("document.querySelector('#hits audio').duration > 1")
            assert (errors, excess(tab)) == ([], 0)


def excess(tab):
    """Pixels by which the page is wider than the window."""
    return tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def open_page(chromium, url, width, height):
    """A tab of the browser, and the list of its errors and of what it asks of other machines."""
    tab = chromium.new_page(viewport={"width": width, "height": height})
    errors = []
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda request: errors.append(request.url) if is_outside(request.url, url) else None)
    tab.goto(url)
    return tab, errors


def is_outside(address, url):
    return not address.startswith((url, "data:", "blob:"))


@contextmanager
def running(*words):
    """Address of `serve`."""
    command = [sys.executable, "-m", "common", "serve", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                yield found[0]
                return
        pytest.fail("".join(lines))
    finally:
        process.terminate()
        process.wait()


@contextmanager
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no chromium on the PATH")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=path, args=["--no-sandbox"])
