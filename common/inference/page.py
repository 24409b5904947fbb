"""A page in the browser: the tags of a sound and their times, search in an index, the scores of a Task 4 run.

It needs gradio, an optional part, and answers this machine only.
"""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch.nn import functional

from common.data.audio import audio_info, read_audio
from common.errors import UserError, import_part
from common.inference.tagging import load_tagger, score_timeline, tag_file
from common.models.audio_model import AudioModel
from common.output import say
from common.reports.plots import axes, literal
from common.runs.helper import Helper

LONGEST = 600.0
"""Seconds of a sound on the page; `common tag --events` takes longer ones."""
ROWS = 8
"""Classes in the picture."""
COLUMNS_PER_SECOND = 20
BLOCK = 10


def serve(
    model: str, weights: Path | None = None, index: Path | None = None, run: Path | None = None, port: int | None = None
) -> None:
    """Show the page until Ctrl-C, see the verb `serve`.

    Raises:
        UserError: if gradio, the model, the index or the run cannot be used.
    """
    gradio = _import_gradio()
    with ExitStack() as helpers:
        search, events = (
            None if place is None else helpers.enter_context(Helper(package, "answer", str(place)))
            for package, place in (("retrieval", index), ("task4_sed", run))
        )
        page = Page(load_tagger(model, weights), search, events)
        allowed = [search.facts["folder"]] if search else []
        try:
            _, url, _ = page.build(gradio).launch(
                server_name="127.0.0.1", server_port=port, share=False, allowed_paths=allowed, quiet=True,
                prevent_thread_lock=True, footer_links=[], ssr_mode=False, pwa=False,
                theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]), css=STYLE,
            )  # fmt: skip
        except OSError as error:
            raise UserError(f"Port {port or '7860 to 7959'} is in use; choose another --port.") from error
        say(f"The page is at {url} on this machine; Ctrl-C ends it.")
        threading.Event().wait()


class Page:
    """What the page does, and its parts: a tab for tags, one for each helper."""

    def __init__(self, model: AudioModel, search: Helper | None = None, events: Helper | None = None):
        self.model, self.search, self.events = model, search, events

    def tag(self, path: str | None) -> tuple[dict[str, float] | None, Any]:
        """Scores of the ten best tags of a file, and the picture of the best ones."""
        if path is None:
            return None, None
        _refuse_long(Path(path))
        tags = dict(tag_file(self.model, Path(path)).tags)
        edges, scores = score_timeline(self.model, Path(path))
        shown = list(tags)[:ROWS]
        rows = scores[:, [self.model.labels.index(name) for name in shown]]
        return tags, draw_timeline(self.spectrogram(Path(path)), edges, rows.numpy(), shown)

    def score(self, path: str | None) -> Any:
        """Picture of the scores of the Task 4 run over a file."""
        if path is None:
            return None
        _refuse_long(Path(path))
        assert self.events is not None
        answer = self.events.ask(file=path)
        scores = np.asarray(answer["scores"])
        shown = np.argsort(-scores.max(axis=0), kind="stable")[:ROWS]
        names = [answer["labels"][row] for row in shown]
        return draw_timeline(self.spectrogram(Path(path)), answer["edges"], scores[:, shown], names)

    def find(self, text: str, path: str | None, as_voice: bool = False) -> str:
        """Players of the files that fit words, or else a sound."""
        if not text.strip() and path is None:
            return ""
        assert self.search is not None
        query = {"text": text} if text.strip() else {"voice" if as_voice else "example": path}
        answer = self.search.ask(**query)
        players = [_player(hit, self.search.facts["folder"]) for hit in answer["hits"]]
        return "\n".join([*(f"<p>{escape(note)}</p>" for note in answer["notes"]), *players])

    @torch.inference_mode()
    def spectrogram(self, path: Path) -> np.ndarray:
        """(mels, columns) of the model's front end, `COLUMNS_PER_SECOND`."""
        rate = self.model.sample_rate
        waveform = torch.from_numpy(read_audio(path, rate))
        blocks = functional.pad(waveform, (0, -len(waveform) % (BLOCK * rate))).reshape(-1, BLOCK * rate)
        device = next(self.model.parameters()).device
        every = self.model.front_end(blocks.to(device))[:, 0]
        columns = functional.adaptive_avg_pool1d(every, BLOCK * COLUMNS_PER_SECOND)
        count = max(1, round(len(waveform) / rate * COLUMNS_PER_SECOND))
        return torch.cat(list(columns), dim=1)[:, :count].cpu().numpy()

    def build(self, gr: Any) -> Any:
        """The page as gradio's Blocks."""
        with gr.Blocks(title="Sounds", analytics_enabled=False) as page, gr.Tabs():
            with gr.Tab("Tags"):
                sound = self._sound(gr)
                picture = gr.Plot(show_label=False)
                tags = gr.Label(show_label=False, show_heading=False)
                sound.change(_answered(gr, self.tag), sound, [tags, picture])
            if self.search is not None:
                understands = self.search.facts["understands"]
                with gr.Tab("Search"):
                    gr.Markdown(f"{', or '.join(QUERIES[kind] for kind in understands)}.".capitalize())
                    words = gr.Textbox(label="Words", visible="text" in understands)
                    example = self._sound(gr)
                    as_voice = gr.Checkbox(label="The sound is a voice that imitates", visible="voice" in understands)
                    button = gr.Button("Search", variant="primary")
                    hits = gr.HTML(elem_id="hits")
                    gr.on([words.submit, button.click], _answered(gr, self.find), [words, example, as_voice], hits)
            if self.events is not None:
                with gr.Tab("Events"):
                    clip = self._sound(gr)
                    scores = gr.Plot(show_label=False)
                    clip.change(_answered(gr, self.score), clip, scores)
        return page

    @staticmethod
    def _sound(gr: Any) -> Any:
        """Where a sound is dropped or recorded."""
        sources = ["upload", "microphone"]
        return gr.Audio(type="filepath", sources=sources, label="Drop or record a sound", buttons=["download"])


QUERIES = {"text": "type words", "example": "drop a similar sound", "voice": "imitate the sound with your voice"}
STYLE = "#hits figure { margin: 12px 0; } #hits audio { width: 100%; max-width: 480px; }"


def draw_timeline(spectrogram: np.ndarray, edges: Sequence[float], scores: np.ndarray, names: Sequence[str]) -> Any:
    """Scores (steps, classes) between `edges` in seconds, above the spectrogram (mels, columns); a Figure."""
    with axes(5.2, 4.6, nrows=2, sharex=True) as (plot, (upper, lower)):
        upper.grid(False)
        upper.pcolormesh(edges, np.arange(len(names) + 1), scores.T, cmap="Blues", vmin=0, vmax=1)
        for row, name in enumerate(names):  # in the picture, which leaves its width to the sound on a phone
            box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1.5}
            upper.text(0.01 * edges[-1], row + 0.5, literal(name), va="center", fontsize=10, bbox=box)
        upper.set_yticks([])
        upper.invert_yaxis()
        upper.set_title("scores, white 0 to blue 1", fontsize=11, loc="left")
        lower.grid(False)
        extent = (0, edges[-1], 0, len(spectrogram))
        lower.imshow(spectrogram, aspect="auto", origin="lower", cmap="magma", extent=extent)
        lower.set_xlabel("seconds")
        lower.set_ylabel("mel band")
    return plot


def _player(hit: dict[str, Any], folder: str) -> str:
    """A hit to listen to."""
    source = quote(f"{folder}/{hit['file']}")
    caption = escape(f"{hit['rank']}. {hit['file']} ({hit['similarity']:.2f})")
    audio = f'<audio controls preload="none" src="/gradio_api/file={source}"></audio>'
    return f"<figure>{audio}<figcaption>{caption}</figcaption></figure>"


def _answered(gr: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the page, with a user's error shown in the browser."""

    def answer(*given: Any) -> Any:
        try:
            return function(*given)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return answer


def _refuse_long(path: Path) -> None:
    if (duration := audio_info(path).duration) > LONGEST:
        raise UserError(
            f"The sound lasts {duration:,.0f} s; the page takes {LONGEST:,.0f} s. Use `python -m common tag --events`."
        )


def _import_gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    return import_part("gradio", "`serve` needs gradio, an optional part; install it with `pip install gradio`.")
