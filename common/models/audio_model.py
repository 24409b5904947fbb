"""Front end and network joined: waveform in, scores out, at any length.

Long recordings run as windows: clip scores are averaged, frames are joined with a taper, in constant memory.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.features.front_ends import FrontEnd
from common.models.network import ModelOutput


@dataclass(frozen=True)
class WindowPolicy:
    """How a network takes clips of any length, in seconds; common/registry/released.yaml holds one for every family.

    window: longer clips are cut into windows of this length.
    overlap: of two windows; their frames are cross-faded there.
    shortest: shorter clips get zeros at their end up to this length.
    frame: distance of a frame model's frames, None for a clip model.
    """

    window: float = 10.0
    overlap: float = 0.0
    shortest: float = 0.0
    frame: float | None = None

    def __post_init__(self) -> None:
        """Refuse a policy that would never end."""
        if not 0 <= self.overlap < self.window:
            raise ValueError(
                f"overlap is {self.overlap} s, it must be at least 0 and below the window of {self.window} s"
            )


@dataclass(frozen=True)
class Window:
    """Samples of one window: (batch, samples), the index of its first sample, and whether it is the last."""

    waveform: Tensor
    start: int
    end: int


def cut_windows(blocks: Iterable[Tensor], window: int, hop: int, grid: int = 1) -> Iterator[Window]:
    """Windows of `window` samples every `hop` samples out of consecutive blocks (batch, samples).

    The last window ends with the recording (its start is rounded up to a multiple of `grid`, the rest filled with
    zeros), so no window is mostly padding. A recording shorter than one window gives one shorter window. At most one
    window and one block are held.
    """
    buffer: Tensor | None = None
    first, start, last_end = 0, 0, 0  # of the buffer, of the next window, of the last one given
    for block in blocks:
        buffer = block if buffer is None else torch.cat([buffer, block], dim=-1)
        while first + buffer.shape[-1] >= start + window:
            last_end = start + window
            yield Window(buffer[..., start - first : last_end - first], start, last_end)
            start += hop
        # Samples that the next window or the last one may need.
        keep = max(0, min(start, first + buffer.shape[-1] - window) - first)
        buffer, first = buffer[..., keep:], first + keep
    if buffer is None or first + buffer.shape[-1] == 0:
        raise ValueError("the waveform holds no sample")
    total = first + buffer.shape[-1]
    if total > last_end:
        start = max(0, math.ceil((total - window) / grid) * grid)
        tail = buffer[..., start - first :]
        if start > 0:
            tail = F.pad(tail, (0, window - tail.shape[-1]))
        yield Window(tail, start, total)


class ClipScores:
    """Running mean over windows: of probabilities (given back as logits), and of embeddings.

    For sigmoid outputs the result is the logit of the mean probability; for softmax outputs the log of it. Both are
    summed in the log domain, so nothing saturates.
    """

    def __init__(self, activation: str):
        self.activation = activation
        self.count = 0
        self.yes: Tensor | None = None
        self.no: Tensor | None = None
        self.embedding: Tensor | None = None

    def add(self, logits: Tensor | None, embedding: Tensor) -> None:
        """One more window: logits (batch, classes) or None, embedding (batch, dim)."""
        self.count += 1
        self.embedding = embedding if self.embedding is None else self.embedding + embedding
        if logits is None:
            return
        if self.activation == "softmax":
            self.yes = _log_sum(self.yes, F.log_softmax(logits, dim=-1))
        else:
            self.yes = _log_sum(self.yes, F.logsigmoid(logits))
            self.no = _log_sum(self.no, F.logsigmoid(-logits))

    def result(self) -> tuple[Tensor | None, Tensor]:
        """Logits (batch, classes) or None, and embedding (batch, dim)."""
        assert self.embedding is not None, "no window was added"
        logits = self.yes
        if logits is not None:
            logits = logits - math.log(self.count) if self.no is None else logits - self.no
        return logits, self.embedding / self.count


def _log_sum(total: Tensor | None, value: Tensor) -> Tensor:
    return value if total is None else torch.logaddexp(total, value)


class FrameJoiner:
    """Overlap-add of the frames of windows: weights rise and fall linearly over the overlap.

    Frames are given out as soon as no later window can change them.
    """

    def __init__(self, fade: int):
        self.fade = fade
        self.first = 0  # index of the first frame that is not given out
        self.total: Tensor | None = None
        self.weight: Tensor | None = None

    def add(self, frames: Tensor, start: int) -> Tensor:
        """Add frames (batch, time, dim) from index `start` on; returns the finished frames."""
        taper = self._taper(frames.shape[1], frames)
        if self.total is None or self.weight is None:
            self.total, self.weight, self.first = frames * taper, taper, start
            return frames[:, :0]
        finished = self._give(start)
        grown = start + frames.shape[1] - self.first - self.total.shape[1]
        if grown > 0:
            self.total = F.pad(self.total, (0, 0, 0, grown))
            self.weight = F.pad(self.weight, (0, 0, 0, grown))
        own = slice(start - self.first, start - self.first + frames.shape[1])
        self.total, self.weight = self.total.clone(), self.weight.clone()
        self.total[:, own] += frames * taper
        self.weight[own] += taper
        return finished

    def finish(self, count: int | None = None) -> Tensor:
        """The frames that are left, up to the index `count`."""
        assert self.total is not None, "no window was added"
        return self._give(self.first + self.total.shape[1] if count is None else count)

    def _give(self, until: int) -> Tensor:
        assert self.total is not None and self.weight is not None
        count = max(0, min(until - self.first, self.total.shape[1]))
        finished = self.total[:, :count] / self.weight[:count]
        self.total, self.weight = self.total[:, count:], self.weight[count:]
        self.first += count
        return finished

    def _taper(self, length: int, like: Tensor) -> Tensor:
        position = torch.arange(length, device=like.device, dtype=like.dtype)
        distance = torch.minimum(position, length - 1 - position) + 1
        return (distance / (self.fade + 1)).clamp(max=1).unsqueeze(-1)


def _each(output: ModelOutput, change: Callable[[Tensor], Tensor]) -> ModelOutput:
    """Apply `change` to every tensor of the output."""
    return output._replace(**{name: change(value) for name, value in output._asdict().items() if value is not None})


def _not_in_half(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


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
        spectrogram = self.front_end(waveform)
        if self.memory_format is not torch.contiguous_format:
            spectrogram = spectrogram.contiguous(memory_format=self.memory_format)
        dtype = self.autocast_dtype
        with torch.autocast(waveform.device.type, dtype=dtype) if dtype else nullcontext():
            output = self.network(spectrogram)
        if dtype is None and torch.is_grad_enabled():
            return output
        return _each(output, _not_in_half)

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
