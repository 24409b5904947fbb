"""Labels of a whole recording, and events with their times."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.data.audio import audio_info, list_audio, read_blocks
from common.data.files import atomic_write
from common.errors import UserError
from common.inference.as_model import load_run, names_a_folder
from common.inference.events import Event, EventFinder
from common.inference.prepare import prepare_for_inference
from common.models.audio_model import AudioModel, ClipScores, Passage, WindowPolicy
from common.models.network import ModelOutput, choose_device
from common.output import Progress, escape, say
from common.registry import load_audio_model

EVENT_COLUMNS = ("filename", "onset", "offset", "label", "score")


@dataclass(frozen=True)
class EventOptions:
    """How scores become events.

    threshold: 0..1; None takes 0.5 for frame models, 0.3 for clip models (their windows dilute short events).
    median: frames of the median filter; None takes 9 (360 ms) for frame models, 1 for clip models.
    window, hop: seconds; only for clip models, which hear windows. Below 5 s the quality of MN falls.
    """

    threshold: float | None = None
    median: int | None = None
    window: float = 5.0
    hop: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that give no events."""
        if not 0 < self.hop <= self.window:
            raise UserError(f"hop is {self.hop} s; it must be above 0 and at most the window of {self.window} s.")
        if self.median is not None and (self.median < 1 or self.median % 2 == 0):
            raise UserError(f"median is {self.median} frames; it must be odd and at least 1.")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise UserError(f"threshold is {self.threshold}; it must lie between 0 and 1.")


@dataclass(frozen=True)
class Tags:
    """Labels of one file, the most probable first, and its events where they were asked for."""

    filename: str
    duration: float
    tags: list[tuple[str, float]]
    events: list[Event]


class Timeline(NamedTuple):
    """Scores over time: `edges` (steps + 1) in seconds, `scores` (steps, classes)."""

    edges: list[float]
    scores: Tensor


def load_tagger(name: str, weights: Path | None = None) -> AudioModel:
    """A model with a classifier, of the registry or of the folder of any run; devices as `load_model`."""
    model = prepare_for_inference(load_model(name, weights))
    if not model.labels:
        raise UserError(f"{name} has no labels, so it cannot tag; use it with `embed`.")
    return model


def load_model(name: str, weights: Path | None = None) -> AudioModel:
    """The model of a name, on the GPU if any, or of a run's folder, on the device of its settings."""
    if weights is None and names_a_folder(name):
        return load_run(Path(name))
    return load_audio_model(name, weights).to(choose_device())


def read_noted(model: AudioModel, path: Path, progress: Progress) -> Iterator[Tensor]:
    """Blocks of a file for a model; `progress` says how far a long file has been read."""
    path = Path(path)
    duration, seconds = audio_info(path).duration, 0.0
    for block in read_blocks(path, model.windows.window, model.sample_rate):
        yield torch.from_numpy(block)
        seconds += len(block) / model.sample_rate
        progress.advance(0, f"({path.name}: {seconds:,.0f} of {duration:,.0f} s)")


@torch.inference_mode()
def tag_file(
    model: AudioModel, path: Path, top: int = 10, events: EventOptions | None = None, progress: Progress | None = None
) -> Tags:
    """The `top` labels of one file of any length and rate, in constant memory; with `events` also its events."""
    duration = audio_info(path).duration
    progress = progress or Progress("Tagging", None, quiet=True)
    scores = ClipScores(model.activation)
    found: list[Event] = []
    if events is None or model.windows.frame is None:
        output = model.clip_scores(read_noted(model, path, progress))
        if events is not None:
            found = _events_of_windows(model, path, duration, events, progress)
    else:
        passages = _scored(model.stream(read_noted(model, path, progress)), scores)
        found = list(_events_of_frames(model, passages, duration, events))
        output = ModelOutput(*scores.result())
    if output.logits is None:
        raise UserError(f"{model.name} has no clip classifier, so it cannot tag.")
    probabilities = model.probabilities(output.logits)[0].cpu()
    if not probabilities.isfinite().all():
        raise UserError(f"{model.name} gives NaN for {path}, so it was not tagged; use other weights.")
    best = probabilities.topk(min(top, len(probabilities)))
    tags = [(model.labels[i], score) for score, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
    return Tags(str(path), duration, tags, found)


@torch.inference_mode()
def score_timeline(model: AudioModel, path: Path, options: EventOptions | None = None) -> Timeline:
    """Scores over a file: of each frame, or for a clip model of windows, each shown around its centre."""
    options, progress = options or EventOptions(), Progress("Tagging", None, quiet=True)
    duration, frame = audio_info(path).duration, model.windows.frame
    if frame is None:
        parts, before = list(_scores_of_windows(model, path, options, progress)), (options.window - options.hop) / 2
    else:
        frames = (passage.output.frame_logits for passage in model.stream(read_noted(model, path, progress)))
        parts, before = [model.probabilities(each)[0].cpu() for each in frames if each is not None], 0.0
    scores = torch.cat(parts)
    inner = (before + step * (frame or options.hop) for step in range(1, len(scores)))
    return Timeline([0.0, *(min(edge, duration) for edge in inner), duration], scores)


def tag_files(
    files: Sequence[Path],
    name: str,
    weights: Path | None = None,
    top: int = 10,
    events_file: Path | None = None,
    options: EventOptions | None = None,
) -> tuple[list[dict[str, Any]], int]:
    """Tag files (of folders: all audio below them); see the verb `tag` of common/__main__.py.

    Returns:
        One row per file: filename, duration, tags (label, score) and, if `events_file` is given, events; and how many
        files could not be tagged (each is reported on stderr; a UserError if none could).
    """
    paths = [path for given in files for path in (list_audio(given) if given.is_dir() else [given])]
    if not paths:
        raise UserError("Name at least one audio file, or a folder of them.")
    if top < 1:
        raise UserError(f"--top is {top}; ask for at least 1.")
    model = load_tagger(name, weights)
    options = options or EventOptions()
    rows, found, failed = list[dict[str, Any]](), list[dict[str, Any]](), []
    with Progress("Tagging", len(paths), "files") as progress:
        for path in paths:
            try:
                tagged = tag_file(model, path, top, None if events_file is None else options, progress)
            except UserError as error:
                say(str(error))
                failed.append(path)
                continue
            tags = [{"label": label, "score": score} for label, score in tagged.tags]
            rows.append({"filename": tagged.filename, "duration": tagged.duration, "tags": tags})
            for event in tagged.events:
                values = tagged.filename, event.onset, event.offset, model.labels[event.index], event.score
                found.append(dict(zip(EVENT_COLUMNS, values, strict=True)))
            if events_file is not None:
                rows[-1]["events"] = found[len(found) - len(tagged.events) :]
            progress.advance()
    if failed and not rows:
        raise UserError(f"None of {len(paths)} files could be tagged." if len(paths) > 1 else "Nothing was tagged.")
    if events_file is not None:
        with atomic_write(events_file) as file:
            file.write("\t".join(EVENT_COLUMNS) + "\n")
            line = "{filename}\t{onset:.3f}\t{offset:.3f}\t{label}\t{score:.4f}\n"
            names = ({key: escape(row[key]) for key in ("filename", "label")} for row in found)
            file.writelines(line.format_map(row | own) for row, own in zip(found, names))
    if failed:
        say(f"{len(failed)} of {len(paths)} files could not be tagged; the others were.")
    return rows, len(failed)


def _scored(passages: Iterator[Passage], scores: ClipScores) -> Iterator[Passage]:
    """The passages, their clip outputs summed on the way."""
    for passage in passages:
        scores.add(passage.output.logits, passage.output.embedding)
        yield passage


def _events_of_frames(
    model: AudioModel, passages: Iterable[Passage], duration: float, options: EventOptions
) -> Iterator[Event]:
    frame = model.windows.frame
    assert frame is not None
    threshold = 0.5 if options.threshold is None else options.threshold
    finder = EventFinder(frame, threshold, options.median or 9)
    for passage in passages:
        if passage.output.frame_logits is not None:
            yield from finder.add(model.probabilities(passage.output.frame_logits)[0].cpu())
    yield from finder.finish(duration)


def _events_of_windows(
    model: AudioModel, path: Path, duration: float, options: EventOptions, progress: Progress
) -> list[Event]:
    """Events of a clip model: every window is a frame of `hop` seconds around the window's centre."""
    threshold = 0.3 if options.threshold is None else options.threshold
    finder = EventFinder(options.hop, threshold, options.median or 1)
    before = (options.window - options.hop) / 2  # the first window also covers the time before its centre
    events: list[Event] = []
    for scores in _scores_of_windows(model, path, options, progress):
        events += finder.add(scores)
    events += finder.finish(finder.position * options.hop)
    last = finder.position * options.hop
    return [  # the first frame begins with the file, the last ends with it
        replace(
            event,
            onset=0.0 if event.onset == 0 else min(event.onset + before, duration),
            offset=duration if event.offset >= last else min(event.offset + before, duration),
        )
        for event in events
    ]


def _scores_of_windows(model: AudioModel, path: Path, options: EventOptions, progress: Progress) -> Iterator[Tensor]:
    """Scores (1, classes) of a clip model in each window of a file."""
    kept = model.windows
    shortest = min(kept.shortest, options.window)
    model.windows = WindowPolicy(options.window, options.window - options.hop, shortest)
    try:
        for passage in model.stream(read_noted(model, path, progress)):
            assert passage.output.logits is not None
            yield model.probabilities(passage.output.logits).cpu()
    finally:
        model.windows = kept
