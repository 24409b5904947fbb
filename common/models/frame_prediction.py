"""Frames and classifiers on top of a network that turns a spectrogram into a sequence.

The wrapper of Schmid et al., "Effective Pre-Training of Audio Transformers for Sound Event Detection" (ICASSP 2025):
base model, 250 frames of 40 ms, optional recurrent layers, one linear layer for frames and one for clips.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from math import ceil
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from common.models.encoder import Block, Encoder, check_options
from common.models.network import ModelOutput

FRAME_SECONDS = 0.04
HOP_SECONDS = 0.01  # of the spectrogram, in all these models
LEAST_LOGIT = -1e4  # logit of a class that cannot occur: its sigmoid is exactly 0, a BCE against target 0 stays finite


class SequenceModel(nn.Module):
    """A spectrogram (batch, 1, mels, frames) to a sequence (batch, steps, dim); base of all frame-level encoders.

    The attributes say where the steps lie in time, which only ``time_grid="exact"`` needs.
    """

    dim: int = 768
    step_frames: int = 4
    """Spectrogram frames from one step to the next."""
    max_steps: int | None = None
    """Steps of the longest input that the network has positions for (10 s); None: no bound."""
    first_centre: float = 0.02
    """Centre of the first step in seconds."""
    edge_frames: float = 0.0
    """Frames to add to the spectrogram's to get the clip's length in hops."""
    stack: str = "blocks"
    """Name of the list of transformer blocks."""
    unused_parameters: tuple[str, ...] = ()
    """Parameters that the released files hold and the forward pass never uses."""

    def time_steps(self, spectrogram: Tensor) -> Tensor:
        """One vector for each step of time, without extra tokens; (batch, steps, dim)."""
        return self(spectrogram)

    def refuse_long(self, steps: int) -> None:
        """Refuse more steps of 40 ms than there are positions for."""
        if self.max_steps is not None and steps > self.max_steps:
            raise UserError(
                f"There are positions for {self.max_steps} steps of 40 ms, the spectrogram has {steps}. Give "
                f"{type(self).__name__} windows of 10 s (AudioModel does), or build it with time_grid exact."
            )

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters for layer-wise learning-rate decay, nearest to the output first.

        One list for each block, last block first, the final norm with it; then one with everything before the blocks
        (patches, positions, extra tokens). Parameters in `unused_parameters` are in no list.
        """
        groups = [list(block.parameters()) for block in reversed(list(self.get_submodule(self.stack).children()))]
        groups[0] += [p for name, p in self.named_parameters() if name.startswith(("norm.", "norm_frame."))]
        seen = {id(parameter) for group in groups for parameter in group}
        unused = self.unused_parameters
        groups.append([p for name, p in self.named_parameters() if id(p) not in seen and name not in unused])
        return groups


class BidirectionalRnn(nn.Module):
    """Recurrent layers in both directions: (batch, frames, num_features) to (batch, frames, 2 * dim)."""

    def __init__(self, num_features: int, dim: int, num_layers: int = 2, kind: str = "BiGRU", dropout: float = 0.0):
        super().__init__()
        layer = {"BiGRU": nn.GRU, "BiLSTM": nn.LSTM}[kind]
        dropout = dropout if num_layers > 1 else 0.0
        self.rnn = layer(num_features, dim, num_layers, batch_first=True, dropout=dropout, bidirectional=True)
        if kind == "BiLSTM":
            self.embedding = nn.Linear(2 * dim, 2 * dim)

    def forward(self, frames: Tensor) -> Tensor:
        """(batch, frames, num_features) to (batch, frames, 2 * dim)."""
        frames, _ = self.rnn(frames)
        return self.embedding(frames) if hasattr(self, "embedding") else frames


class FramePrediction(nn.Module):
    """A base model, its sequence brought to frames of 40 ms, and heads for frames (strong) and clips (weak).

    Args:
        num_classes, num_weak_classes: of the strong and of the weak head; the weak one has as many if not given.
        head_type: "linear": one layer for frames, a second for the mean over frames. "attention" (DESED): the clip
            probability is the mean of the frame probabilities, weighted by a softmax over *classes* of the second
            layer. None: no classifier; `logits` and `frame_logits` are None.
        seq_model_type: "rnn" puts recurrent layers between frames and heads (the published teachers: BiGRU, 2 x 2048).
        seq_len: frames of the official time grid.
        time_grid: "official" stretches or pools whatever the base model returns to `seq_len` frames, as the released
            weights and published figures need it: a 5-s clip gets frames of 20 ms; the 62 steps (9.92 s) of BEATs, ASiT
            and M2D are spread over 10 s; frames of BEATs and ASiT average neighbouring *frequency* patches, in ASiT
            with the class token before them. "exact" is the right version for own training: frame i is centred at
            40 * i + 20 ms of the clip at any length, read from the mean over the frequency patches of a time step.
            Clips beyond the model's positions are cut into equal pieces.

    `frames` of the output is the input of the heads; `embedding` is its mean over time.
    """

    def __init__(
        self,
        model: SequenceModel,
        num_classes: int = 447,
        num_weak_classes: int | None = None,
        *,
        head_type: Literal["linear", "attention"] | None = "linear",
        seq_model_type: Literal["rnn"] | None = None,
        seq_len: int = 250,
        time_grid: Literal["official", "exact"] = "official",
        rnn_type: Literal["BiGRU", "BiLSTM"] = "BiGRU",
        rnn_layers: int = 2,
        rnn_dim: int = 2048,
        rnn_dropout: float = 0.0,
    ):
        super().__init__()
        num_weak_classes = num_classes if num_weak_classes is None else num_weak_classes
        if head_type == "attention" and num_weak_classes != num_classes:
            raise ValueError(
                f"head_type attention needs as many weak as strong classes, not {num_weak_classes} and {num_classes}"
            )
        self.model = model
        self.head_type, self.seq_len, self.time_grid = head_type, seq_len, time_grid
        num_features = model.dim
        self.seq_model: nn.Module = nn.Identity()
        if seq_model_type == "rnn":
            self.seq_model = BidirectionalRnn(num_features, rnn_dim, rnn_layers, rnn_type, rnn_dropout)
            num_features = 2 * rnn_dim
        if head_type is not None:
            self.strong_head = nn.Linear(num_features, num_classes)
            self.weak_head = nn.Linear(num_features, num_weak_classes)

    def forward(self, spectrogram: Tensor) -> ModelOutput:
        """(batch, 1, mels, frames) to logits (batch, classes), embedding, frames and frame logits (batch, 250, ...)."""
        if self.time_grid == "exact":
            frames = exact_frames(self.model, spectrogram)
        else:
            frames = stretch(self.model(spectrogram), self.seq_len)
        frames = self.seq_model(frames)
        embedding = frames.mean(dim=1)
        if self.head_type is None:
            return ModelOutput(None, embedding, frames, None)
        frame_logits = self.strong_head(frames)
        if self.head_type == "attention":
            logits = pooled_logits(frame_logits, self.weak_head(frames))
        else:
            logits = self.weak_head(embedding)
        return ModelOutput(logits, embedding, frames, frame_logits)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters of the base model for layer-wise decay."""
        return self.model.layer_groups()


def pooled_logits(frame_logits: Tensor, attention_logits: Tensor, class_mask: Tensor | None = None) -> Tensor:
    """Clip logits (batch, classes): the logit of the attention-weighted mean of the frame probabilities.

    DCASE 2024 Task 4 baseline, desed_task/nnet/CRNN.py. Within about +-16, as the probability is kept in
    1e-7..1 - 1e-7, or -1e4 where masked.

    Args:
        frame_logits, attention_logits: (batch, frames, classes).
        class_mask: (batch, classes), True where a class can occur; others take no attention and get probability 0.
    """
    probabilities = frame_logits.float().sigmoid()
    attention_logits = attention_logits.float()
    if class_mask is not None:
        attention_logits = attention_logits.masked_fill(~class_mask[:, None], -1e30)
    # Over classes, not frames: the published weights were trained this way.
    attention = attention_logits.softmax(dim=-1).clamp(min=1e-7)
    logits = ((probabilities * attention).sum(dim=1) / attention.sum(dim=1)).logit(eps=1e-7)
    return logits if class_mask is None else logits.masked_fill(~class_mask, LEAST_LOGIT)


def stretch(sequence: Tensor, num_frames: int) -> Tensor:
    """(batch, steps, dim) to (batch, num_frames, dim): averaged if longer, linearly interpolated if shorter."""
    steps = sequence.shape[1]
    if steps > num_frames:
        return resize_time(partial(F.adaptive_avg_pool1d, output_size=num_frames), sequence.mT).mT
    if steps < num_frames:
        return resize_time(partial(F.interpolate, size=num_frames, mode="linear"), sequence.mT).mT
    return sequence


def resize_time(resize: Callable[[Tensor], Tensor], sequence: Tensor) -> Tensor:
    """`resize`, linear in (batch, dim, steps); on a GPU a matrix product, whose gradient is the same in every run."""
    if not sequence.is_cuda:
        return resize(sequence)
    units = torch.eye(sequence.shape[-1], device=sequence.device)
    return sequence @ resize(units[None])[0].to(sequence.dtype)


def exact_frames(model: SequenceModel, spectrogram: Tensor) -> Tensor:
    """Frames of 40 ms at their true times, for clips of any length; (batch, frames, dim)."""
    length = spectrogram.shape[-1]
    if length < model.step_frames:
        spectrogram = F.pad(spectrogram, (0, model.step_frames - length))
    steps = spectrogram.shape[-1] // model.step_frames
    pieces = 1 if model.max_steps is None else ceil(steps / model.max_steps)
    borders = [round(steps * piece / pieces) * model.step_frames for piece in range(pieces + 1)]
    sequence = torch.cat([model.time_steps(spectrogram[..., a:b]) for a, b in pairwise(borders)], dim=1)
    step_seconds = model.step_frames * HOP_SECONDS
    if step_seconds == FRAME_SECONDS:
        return sequence
    num_frames = max(1, round((length + model.edge_frames) * HOP_SECONDS / FRAME_SECONDS))
    centres = (torch.arange(num_frames, device=sequence.device) + 0.5) * FRAME_SECONDS
    return interpolate_at(sequence, (centres - model.first_centre) / step_seconds)


def interpolate_at(sequence: Tensor, positions: Tensor) -> Tensor:
    """Read (batch, steps, dim) at fractional positions (frames,); the first and last step are held outside."""
    positions = positions.clamp(0, sequence.shape[1] - 1)
    lower = positions.floor().long()
    upper = (lower + 1).clamp(max=sequence.shape[1] - 1)
    return torch.lerp(sequence[:, lower], sequence[:, upper], (positions - lower)[:, None].to(sequence.dtype))


def plain_key(inner: Sequence[str], key: str) -> str:
    """Our name, ``model.…``, for a key ``model.beats.…``, ``model.m2d.backbone.…`` or ``model.model.…`` of a file."""
    for prefix in (*(f"model.{name}." for name in inner), "model.model."):
        if key.startswith(prefix):
            return "model." + key.removeprefix(prefix)
    return key


def wrap(
    base: type[SequenceModel], num_classes: int = 447, num_weak_classes: int | None = None, **options: Any
) -> FramePrediction:
    """`base` under a `FramePrediction`; the options that the wrapper does not know go to the base model."""
    names = inspect.signature(FramePrediction).parameters
    above = {name: value for name, value in options.items() if name in names}
    below = {name: value for name, value in options.items() if name not in names}
    passed_on = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(base).parameters.values())
    check_options(below, base, *((Encoder, Block) if passed_on else ()))
    return FramePrediction(base(**below), num_classes, num_weak_classes, **above)
