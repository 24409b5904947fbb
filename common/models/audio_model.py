"""Front end and network joined: waveform in, scores out, at any length."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.features.front_ends import FrontEnd
from common.models.output import ModelOutput
from common.models.windows import ClipScores, FrameJoiner, Window, WindowPolicy, cut_windows


def _each(output: ModelOutput, change: Callable[[Tensor], Tensor]) -> ModelOutput:
    """Apply `change` to every tensor of the output."""
    logits, embedding, frames, frame_logits = output
    return ModelOutput(
        None if logits is None else change(logits),
        change(embedding),
        None if frames is None else change(frames),
        None if frame_logits is None else change(frame_logits),
    )


class Passage(NamedTuple):
    """Output of one window of a long recording.

    start, end: of the window in seconds.
    output: logits and embedding of the window; frames and frame_logits that no later window changes (overlap-added), so
        that passages joined are the frames of the whole recording.
    """

    start: float
    end: float
    output: ModelOutput


class AudioModel(nn.Module):
    """A front end and a network.

    Clips up to `windows.window` seconds run at once (shorter than `windows.shortest`: zeros behind them). Longer ones
    are cut into windows: clip scores are averaged over them as probabilities, embeddings as they are, frames are
    cross-faded where windows overlap. The front end always runs in float32.

    Args:
        front_end: waveform (batch, samples) to spectrogram (batch, 1, mels, frames); has `sample_rate`.
        network: spectrogram to ModelOutput.
        labels: names of the classes, in the order of the logits.
        windows: how clips of other lengths are treated.
        activation: "sigmoid" or "softmax", from logits to probabilities.
        name: of the architecture in the registry.
    """

    def __init__(
        self,
        front_end: FrontEnd,
        network: nn.Module,
        labels: Sequence[str] = (),
        windows: WindowPolicy | None = None,
        activation: str = "sigmoid",
        name: str = "",
    ):
        super().__init__()
        self.front_end = front_end
        self.network = network
        self.labels = tuple(labels)
        self.windows = windows or WindowPolicy()
        self.activation = activation
        self.name = name
        self.window_batch = 8  # windows of a long clip that run at once
        self.autocast_dtype: torch.dtype | None = None  # of the network; set by prepare_for_inference
        self.memory_format = torch.contiguous_format

    @property
    def sample_rate(self) -> int:
        """Hz that the waveform must have."""
        return self.front_end.sample_rate

    def forward(self, waveform: Tensor) -> ModelOutput:
        """(batch, samples), -1..1 at `sample_rate`, of any length but 0."""
        if waveform.ndim != 2 or waveform.shape[1] == 0:
            raise ValueError(f"a waveform is (batch, samples) with at least one sample, not {tuple(waveform.shape)}")
        if waveform.shape[1] <= self._samples(self.windows.window):
            return self._run_clip(waveform)
        scores = ClipScores(self.activation)
        parts = []
        for _, output in self._follow([waveform], scores):
            parts.append(output)
        logits, embedding = scores.result()
        return ModelOutput(
            logits, embedding, _joined(part.frames for part in parts), _joined(part.frame_logits for part in parts)
        )

    @torch.no_grad()
    def stream(self, source: Path | str | Iterable[Tensor]) -> Iterator[Passage]:
        """Run over a file or an iterable of blocks in constant memory (no gradients), one passage for each window.

        Args:
            source: an audio file of any rate, or consecutive blocks (samples,) at `sample_rate`.

        Yields:
            Passages; batch is 1 in their outputs.
        """
        for window, output in self._follow(self._blocks(source), None):
            yield Passage(window.start / self.sample_rate, window.end / self.sample_rate, output)

    @torch.no_grad()
    def clip_scores(self, source: Path | str | Iterable[Tensor]) -> ModelOutput:
        """Logits and embedding (batch 1) of a whole file or of consecutive blocks, in constant memory; no frames."""
        scores = ClipScores(self.activation)
        for _ in self._follow(self._blocks(source), scores):
            pass
        return ModelOutput(*scores.result())

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (..., classes) to 0..1."""
        return logits.softmax(dim=-1) if self.activation == "softmax" else logits.sigmoid()

    def run(self, waveform: Tensor) -> ModelOutput:
        """Front end and network on (batch, samples), without windows or padding."""
        device = waveform.device.type
        with torch.autocast(device, enabled=False):
            spectrogram = self.front_end(waveform.float())
        if self.memory_format is not torch.contiguous_format:
            spectrogram = spectrogram.contiguous(memory_format=self.memory_format)
        dtype = self.autocast_dtype
        with torch.autocast(device, dtype=dtype) if dtype else nullcontext():
            output = self.network(spectrogram)
        if dtype is None:
            return output
        return _each(output, Tensor.float)

    def _samples(self, seconds: float) -> int:
        return round(seconds * self.sample_rate)

    def _blocks(self, source: Path | str | Iterable[Tensor]) -> Iterator[Tensor]:
        if isinstance(source, Path | str):
            from common.data.audio import read_blocks

            source = map(torch.from_numpy, read_blocks(source, self.windows.window, self.sample_rate))
        device = next(self.network.parameters()).device
        for block in source:
            yield torch.as_tensor(block).reshape(1, -1).to(device)

    def _run_clip(self, waveform: Tensor) -> ModelOutput:
        """Up to one window; zeros behind a clip that is too short, their frames cut off again."""
        missing = self._samples(self.windows.shortest) - waveform.shape[1]
        if missing <= 0:
            return self.run(waveform)
        output = self.run(F.pad(waveform, (0, missing)))
        if self.windows.frame is None:
            return output
        count = max(1, -(-waveform.shape[1] // self._samples(self.windows.frame)))
        return output._replace(
            frames=None if output.frames is None else output.frames[:, :count],
            frame_logits=None if output.frame_logits is None else output.frame_logits[:, :count],
        )

    def _follow(self, blocks: Iterable[Tensor], scores: ClipScores | None) -> Iterator[tuple[Window, ModelOutput]]:
        """Every window of the blocks with its clip outputs and the frames that it finishes."""
        policy = self.windows
        grid = 1 if policy.frame is None else self._samples(policy.frame)
        hop = max(grid, self._samples(policy.window - policy.overlap) // grid * grid)
        windows = cut_windows(blocks, self._samples(policy.window), hop, grid)
        fade = self._samples(policy.overlap) // grid
        joiners = FrameJoiner(fade), FrameJoiner(fade)
        held: tuple[Window, ModelOutput] | None = None  # one window late: only then is it known which one is the last
        for window, output in self._run_windows(windows):
            if scores is not None:
                scores.add(output.logits, output.embedding)
            finished = [
                None if values is None else joiner.add(values, window.start // grid)
                for joiner, values in zip(joiners, (output.frames, output.frame_logits), strict=True)
            ]
            if held is not None:
                yield held[0], held[1]._replace(frames=finished[0], frame_logits=finished[1])
            held = window, output
        assert held is not None
        last, output = held
        count = -(-last.end // grid)
        rest = [
            None if values is None else joiner.finish(count)
            for joiner, values in zip(joiners, (output.frames, output.frame_logits), strict=True)
        ]
        yield last, output._replace(frames=rest[0], frame_logits=rest[1])

    def _run_windows(self, windows: Iterator[Window]) -> Iterator[tuple[Window, ModelOutput]]:
        while group := list(islice(windows, self.window_batch)):
            whole = [window for window in group if window.waveform.shape[-1] == group[0].waveform.shape[-1]]
            assert whole == group, "only a recording shorter than one window gives a shorter window"
            batch = group[0].waveform.shape[0]
            output = self._run_clip(torch.cat([window.waveform for window in group]))
            for index, window in enumerate(group):
                own = slice(index * batch, (index + 1) * batch)
                yield window, _each(output, itemgetter(own))


def _joined(parts: Iterable[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present, dim=1) if present else None
