"""Losses of QD-DETR as published: matched spans, labels of the slots, saliency of the seconds.

Lighthouse: lighthouse/common/qd_detr.py (SetCriterion), matcher.py; training/dataset.py for what is drawn.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from retrieval.moments.metrics import Array
from retrieval.moments.network import FOREGROUND, MomentOutput
from retrieval.moments.settings import Losses

RANKS = 12
"""Divisor of the rank contrast: the official code has so many ranks of saliency; labels of two values fill one."""
LOWEST = -1e3


class Targets(NamedTuple):
    """Targets of a batch.

    spans: for each recording (windows, 2), centre and width as shares of the recording.
    salient: (batch, seconds), True in the first window.
    positive, negative: (batch, pairs), seconds inside and outside of the first window.
    """

    spans: list[Tensor]
    salient: Tensor
    positive: Tensor
    negative: Tensor


class Draw(NamedTuple):
    """What is drawn for a query: its windows (n, 2) in seconds, the first one for the saliency; pairs of seconds."""

    windows: Array
    positive: list[int]
    negative: list[int]


def draw_targets(windows: Array, seconds: int, most: int, rng: np.random.Generator, pairs: int = 2) -> Draw:
    """Draw windows where there are more than `most`, and seconds to compare.

    Args:
        windows: (n, 2) in seconds.
        seconds: of the recording.
        most: windows that are kept.
        rng: of (seed, epoch, query).
        pairs: positive and negative seconds; without enough seconds outside, positive ones stand in.
    """
    if len(windows) > most:
        windows = windows[rng.permutation(len(windows))[:most]]
    first, last = seconds_of(windows[0], seconds)
    inside = np.arange(first, last + 1)
    outside = np.setdiff1d(np.arange(seconds), inside)
    positive = rng.choice(inside, pairs, replace=False) if len(inside) >= pairs else np.repeat(inside[:1], pairs)
    negative = rng.choice(outside, pairs, replace=False) if len(outside) >= pairs else positive
    return Draw(windows, positive.tolist(), negative.tolist())


def seconds_of(window: Array, seconds: int) -> tuple[int, int]:
    """First and last second of a window, as the official labels."""
    last = max(0, min(int(window[1]), seconds) - 1)
    return min(int(window[0]), last), last


def make_targets(draws: Sequence[Draw], durations: Sequence[float], mask: Tensor) -> Targets:
    """Targets of draws; `mask` (batch, seconds) is True where there is a recording."""
    salient, lengths = torch.zeros_like(mask), mask.sum(dim=1).tolist()
    for row, (draw, length) in enumerate(zip(draws, lengths, strict=True)):
        first, last = seconds_of(draw.windows[0], length)
        salient[row, first : last + 1] = True
    spans = [as_spans(draw.windows, duration).to(mask.device) for draw, duration in zip(draws, durations, strict=True)]
    pairs = torch.tensor([[draw.positive, draw.negative] for draw in draws], device=mask.device)
    return Targets(spans, salient, pairs[:, 0], pairs[:, 1])


def as_spans(windows: Array, duration: float) -> Tensor:
    """(n, 2) start and end in seconds to centre and width as shares of the recording, float32."""
    share = torch.as_tensor(windows, dtype=torch.float32) / duration
    return torch.stack([share.mean(dim=1), share[:, 1] - share[:, 0]], dim=1)


def as_windows(spans: Tensor) -> Tensor:
    """(..., 2) centre and width to start and end."""
    half = spans[..., 1] / 2
    return torch.stack([spans[..., 0] - half, spans[..., 0] + half], dim=-1)


def generalized_iou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised intersection over union of windows (..., 2) with broadcasting: -1 far apart, 1 equal."""
    overlap = (torch.minimum(first[..., 1], second[..., 1]) - torch.maximum(first[..., 0], second[..., 0])).clamp(min=0)
    around = torch.maximum(first[..., 1], second[..., 1]) - torch.minimum(first[..., 0], second[..., 0])
    union = first[..., 1] - first[..., 0] + second[..., 1] - second[..., 0] - overlap
    return overlap / union - (around - union) / around


@torch.no_grad()
def match(spans: Tensor, logits: Tensor, targets: Sequence[Tensor], weights: Losses) -> tuple[Tensor, Tensor, Tensor]:
    """The cheapest assignment of slots to true windows in each recording.

    Args:
        spans, logits: (batch, slots, 2) of one decoder layer.
        targets: true spans (windows, 2) of each recording.
        weights: factors of the costs.

    Returns:
        Recording, slot and row of the joined targets of each pair, each (pairs,).
    """
    joined = torch.cat([*targets])
    l1 = (spans[:, :, None] - joined).abs().sum(dim=-1)
    overlap = generalized_iou(as_windows(spans)[:, :, None], as_windows(joined))
    probability = logits.softmax(dim=-1)[..., FOREGROUND, None]
    cost = weights.span * l1 - weights.giou * overlap - weights.label * probability
    found, start = [], 0
    for row, (costs, target) in enumerate(zip(cost.float().cpu().numpy(), targets, strict=True)):
        slots, windows = linear_sum_assignment(costs[:, start : start + len(target)])
        found.append(np.stack([np.full(len(slots), row), slots, windows + start]))
        start += len(target)
    recording, slot, window = torch.from_numpy(np.concatenate(found, axis=1)).to(spans.device)
    return recording, slot, window


def moment_losses(output: MomentOutput, mask: Tensor, targets: Targets, weights: Losses) -> dict[str, Tensor]:
    """Weighted losses of a batch by name: span, giou, label (each summed over the decoder layers) and saliency."""
    joined = torch.cat(targets.spans)
    losses = {name: joined.new_zeros(()) for name in ("span", "giou", "label")}
    for spans, logits in zip(output.spans, output.logits):
        recording, slot, window = match(spans, logits, targets.spans, weights)
        found, true = spans[recording, slot], joined[window]
        label = torch.full(logits.shape[:2], 1 - FOREGROUND, device=logits.device)
        label[recording, slot] = FOREGROUND
        class_weight = torch.tensor([1.0, weights.background], device=logits.device)
        entropy = functional.cross_entropy(logits.float().mT, label, class_weight, reduction="none")
        losses["span"] = losses["span"] + weights.span * functional.l1_loss(found, true)
        overlap = generalized_iou(as_windows(found), as_windows(true))
        losses["giou"] = losses["giou"] + weights.giou * (1 - overlap).mean()
        losses["label"] = losses["label"] + weights.label * entropy.mean()
    return losses | {"saliency": weights.saliency * saliency_loss(output, mask, targets, weights)}


def saliency_loss(output: MomentOutput, mask: Tensor, targets: Targets, weights: Losses) -> Tensor:
    """Hinge between pairs of seconds, contrast of salient seconds with the others, silence for another query."""
    scores, other = output.saliency.float(), output.other_saliency
    rows = torch.arange(len(scores), device=scores.device)[:, None]
    hinge = (weights.margin + scores[rows, targets.negative] - scores[rows, targets.positive]).clamp(min=0)
    loss = 2 * hinge.mean()
    if other is None:
        return loss
    other = other.float()
    both = torch.cat([scores, other], dim=1).masked_fill(~mask.repeat(1, 2), LOWEST) / weights.temperature
    both = both - both.max(dim=1, keepdim=True).values
    log_share = both - (both.exp().sum(dim=1, keepdim=True) + 1e-6).log()
    salient = functional.pad(targets.salient & mask, (0, mask.shape[1]))
    contrast = -(log_share * salient).sum(dim=1) / (salient.sum(dim=1) + 1e-6)
    silence = (functional.softplus(other) * mask).sum(dim=1)
    return loss + contrast.mean() / RANKS + silence.mean()
