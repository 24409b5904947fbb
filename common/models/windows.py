"""Long recordings as windows: cutting, averaging clip scores, and joining frames with a taper, in constant memory."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


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
