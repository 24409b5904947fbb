"""Sounds as vectors: by a trained run, or without training by any audio model."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from common.data.audio import read_blocks
from common.data.files import compute_sha256
from common.inference.prepare import prepare_for_inference
from common.inference.tagging import load_model
from common.models.audio_model import AudioModel, cut_windows
from retrieval.data.clips import split_windows
from retrieval.imitation.model import ImitationModel
from retrieval.imitation.settings import ImitationSettings
from retrieval.model import DualEncoder
from retrieval.systems import open_run

WINDOWS_AT_ONCE = 16


class Rows(NamedTuple):
    """What an index holds of files or of their windows.

    vectors: (rows, dim) float32, unit length.
    tags: (rows, classes) 0..1, of a model with a classifier.
    times: (rows, 2) float32, onset and offset in seconds; zeros for whole files.
    """

    vectors: NDArray[np.float32]
    tags: NDArray[np.float32] | None
    times: NDArray[np.float32]


@dataclass
class Searcher:
    """A model as the search uses it.

    model: of text-to-audio retrieval, of vocal imitation, or any audio model.
    window: seconds of one input of the encoder.
    identity: digest of the weights; an index of another model is refused.
    name, weights: of an audio model, by which an index finds it again; a run is found by its folder.
    fits: similarity that 95 % of what belongs together reach, by kind of query.
    """

    model: DualEncoder | ImitationModel | AudioModel
    window: float
    identity: str
    name: str = ""
    weights: Path | None = None
    fits: dict[str, float] = field(default_factory=dict)

    @property
    def understands(self) -> list[str]:
        """Kinds of query: text, voice, example."""
        if isinstance(self.model, ImitationModel):
            return ["voice", "example"]
        return ["example"] if isinstance(self.model, AudioModel) and not self.labels else ["text", "example"]

    @property
    def labels(self) -> Sequence[str]:
        """Tags of the model; empty where it has none."""
        return self.model.labels if isinstance(self.model, AudioModel) else ()

    @torch.inference_mode()
    def embed_files(self, paths: Sequence[Path], voice: bool = False) -> Tensor:
        """Files of any length to unit vectors (paths, dim): the mean over windows, in constant memory."""
        if isinstance(self.model, AudioModel):
            return torch.from_numpy(self.embed_rows(paths).vectors)
        total: list[Tensor | float] = [0.0] * len(paths)
        count = [0] * len(paths)
        every = self._windows(paths)
        while batch := list(islice(every, WINDOWS_AT_ONCE)):
            windows = torch.stack([window for window, _, _ in batch])
            steps, _ = self._encode(windows, voice)
            for row, (_, length, file) in enumerate(batch):
                counted = -(-length * steps.shape[1] // windows.shape[1])
                total[file] = total[file] + steps[row, :counted].sum(dim=0)
                count[file] += counted
        return self._project(torch.stack([torch.as_tensor(t) / c for t, c in zip(total, count, strict=True)]))

    @torch.inference_mode()
    def embed_rows(self, paths: Sequence[Path]) -> Rows:
        """A row for each file, with its tags where the model has them, as `python -m common tag` computes them."""
        times = np.zeros((len(paths), 2), np.float32)
        if not isinstance(self.model, AudioModel):
            return Rows(self.embed_files(paths).numpy(), None, times)
        outputs = [self.model.clip_scores(path) for path in paths]
        vectors = self._project(torch.cat([output.embedding for output in outputs])).numpy()
        logits = [output.logits for output in outputs if output.logits is not None]
        return Rows(vectors, self.model.probabilities(torch.cat(logits)).cpu().numpy() if logits else None, times)

    @torch.inference_mode()
    def embed_windows(self, path: Path, length: float, hop: float) -> Iterator[Rows]:
        """Rows of the windows of a file, some at a time, in constant memory; the last window ends with the file."""
        rate = self._sample_rate
        size, blocks = round(length * rate), map(torch.from_numpy, read_blocks(path, length, rate))
        windows = cut_windows((block[None] for block in blocks), size, max(1, round(hop * rate)))
        while batch := list(islice(windows, WINDOWS_AT_ONCE)):
            waveforms = torch.cat([window.waveform for window in batch])
            heard = waveforms.shape[1]  # less than a window for a short file
            if not isinstance(self.model, AudioModel):
                waveforms = functional.pad(waveforms, (0, size - heard))
            steps, tags = self._encode(waveforms)
            counted = -(-heard * steps.shape[1] // waveforms.shape[1])
            times = np.array([(window.start / rate, window.end / rate) for window in batch], np.float32)
            yield Rows(self._project(steps[:, :counted].mean(dim=1)).numpy(), tags, times)

    @property
    def _sample_rate(self) -> int:
        return self.model.sample_rate

    def _encode(self, windows: Tensor, voice: bool = False) -> tuple[Tensor, NDArray[np.float32] | None]:
        """Windows (windows, samples) to steps (windows, steps, dim), and to the tags of a model that has them."""
        windows = windows.to(next(self.model.parameters()).device)
        if isinstance(self.model, DualEncoder):
            return self.model.encode_windows(windows), None
        if isinstance(self.model, ImitationModel):
            return (self.model.voice if voice else self.model.recording)(windows).embedding[:, None], None
        output = self.model(windows)
        logits = output.logits
        return output.embedding[:, None], None if logits is None else self.model.probabilities(logits).cpu().numpy()

    def _project(self, vectors: Tensor) -> Tensor:
        """Means over time to unit vectors on the CPU."""
        if isinstance(self.model, DualEncoder):
            vectors = self.model.project_audio(vectors)
        return functional.normalize(vectors.float(), dim=1).cpu()

    def _windows(self, paths: Sequence[Path]) -> Iterator[tuple[Tensor, int, int]]:
        """Windows of consecutive files; for each its samples before padding, and the number of its file."""
        size = round(self.window * self._sample_rate)
        for number, path in enumerate(paths):
            for block in read_blocks(path, self.window, self._sample_rate):
                for start, window in enumerate(split_windows(torch.from_numpy(block.copy()), size)):
                    yield window, min(size, len(block) - start * size), number


def load_searcher(folder: Path) -> Searcher:
    """The first model of a run, of stage 2 where there is one."""
    from retrieval import recipe as text_recipe
    from retrieval.imitation import recipe as imitation_recipe

    run = open_run(folder)
    if isinstance(run.settings, ImitationSettings):
        model = imitation_recipe.load_imitation_model(run)
        return Searcher(model, run.settings.data.duration, compute_sha256(imitation_recipe.find_checkpoint(run)))
    name = next(iter(run.settings.models))
    best = run.checkpoint(f"distilled_{name}/best.ckpt", f"contrastive_{name}/best.ckpt")
    stage = best.parent.name.partition("_")[0]
    dual = text_recipe.load_model(run, name, stage)
    fits = _similarity_of_true_pairs(run.folder / "test", f"{stage}_{name}")
    return Searcher(dual, run.settings.data.window, compute_sha256(best), fits=fits)


def load_audio_searcher(name: str, weights: Path | None = None) -> Searcher:
    """An audio model without training: of the registry by its name, or the folder of a run of `finetune`."""
    model = load_model(name, weights)
    digest = hashlib.sha256()
    for key, tensor in model.state_dict().items():
        digest.update(key.encode() + tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    model = prepare_for_inference(model)
    return Searcher(model, model.windows.window, digest.hexdigest(), name, weights)


def _similarity_of_true_pairs(folder: Path, name: str) -> dict[str, float]:
    """The similarity that 95 % of the captions of a run's test reach with their own clip."""
    import pandas as pd

    if not (folder / f"{name}.npz").is_file() or not (folder / "queries.csv").is_file():
        return {}
    with np.load(folder / f"{name}.npz") as content:
        similarity, clips = content["similarity"], content["file_names"].tolist()
    owner = pd.read_csv(folder / "queries.csv", dtype=str, keep_default_na=False)["file_name"]
    if len(owner) != len(similarity) or not set(owner) <= set(clips):
        return {}
    column = {clip: place for place, clip in enumerate(clips)}
    own = similarity[np.arange(len(owner)), [column[clip] for clip in owner]]
    return {"text": round(float(np.quantile(own, 0.05)), 4)}
