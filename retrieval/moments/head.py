"""A small network that sharpens a similarity curve: `head` of the system `similarity`."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.output import Progress
from common.training.seeds import seed_all
from retrieval.moments.annotations import Query, cut_windows
from retrieval.moments.metrics import Array
from retrieval.moments.settings import Head, MomentSettings, Similarity
from retrieval.moments.spans import tune
from retrieval.moments.train import MONITOR, selection

SCALES = (1, 3, 7, 15, 31)
"""Seconds of the moving means that the network sees."""
Curves = Sequence[Array]


class CurveHead(nn.Module):
    """Convolutions over moving means of a curve."""

    def __init__(self, settings: Head):
        super().__init__()
        layers: list[nn.Module] = []
        for inside in (len(SCALES), settings.width, settings.width):
            convolution = nn.Conv1d(inside, settings.width, 7, padding=3)
            layers += [convolution, nn.ReLU(), nn.Dropout(settings.dropout)]
        self.layers = nn.Sequential(*layers, nn.Conv1d(settings.width, 1, 1))

    def forward(self, curve: Tensor) -> Tensor:
        """(batch, seconds) of any scale to logits of the same shape: is the second inside?"""
        scaled = (curve - curve.mean(dim=1, keepdim=True)) / (curve.std(dim=1, keepdim=True, correction=0) + 1e-6)
        means = [functional.avg_pool1d(scaled[:, None], n, 1, n // 2, count_include_pad=False) for n in SCALES]
        return self.layers(torch.cat(means, dim=1))[:, 0]


def train_head(
    training: tuple[Curves, Sequence[Query]],
    validation: tuple[Curves, Sequence[Query]],
    settings: MomentSettings,
    seed: int,
    epochs: int,
) -> tuple[CurveHead, list[dict[str, Any]]]:
    """A head, trained on one query after another, of the epoch with the highest validation R1@0.7.

    Args:
        training, validation: curves (seconds,) and their queries.
        settings: its system cuts the curves, see `tune`.
        seed: decides weights, order and dropout.

    Returns:
        The head, and a row of figures for each validated epoch.
    """
    assert isinstance(settings.system, Similarity) and settings.system.head is not None
    options = settings.system.head
    seed_all(seed)
    head, rng = CurveHead(options), np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=options.lr, weight_decay=options.weight_decay)
    rows: list[dict[str, Any]] = []
    with Progress("Training the head", epochs, "epochs") as progress:
        for epoch in range(1, epochs + 1):
            loss = _train_epoch(head, optimizer, training, rng.permutation(len(training[1])).tolist())
            progress.advance()
            if epoch % options.validate_every and epoch != epochs:
                continue
            tuned = tune(sharpen(head, validation[0]), validation[1], settings)
            value = selection(tuned["R1@0.7"], tuned["mAP"], len(validation[1]))
            if not rows or value > max(row[MONITOR] for row in rows):
                best = deepcopy(head.state_dict())
            rows.append({"epoch": epoch, "loss": loss, "R1@0.7": tuned["R1@0.7"], "mAP": tuned["mAP"], MONITOR: value})
    head.load_state_dict(best)
    return head, rows


def _train_epoch(
    head: CurveHead, optimizer: torch.optim.Optimizer, sides: tuple[Curves, Sequence[Query]], order: list[int]
) -> float:
    """The mean loss."""
    head.train()
    losses = []
    for row in order:
        loss = _loss(head, sides[0][row], sides[1][row])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses))


def _loss(head: CurveHead, curve: Array, query: Query) -> Tensor:
    inside = torch.zeros(1, len(curve))
    for start, end in cut_windows(query).round().astype(int):
        inside[0, start:end] = 1
    return functional.binary_cross_entropy_with_logits(head(torch.from_numpy(curve)[None].float()), inside)


@torch.inference_mode()
def sharpen(head: CurveHead, curves: Curves) -> list[Array]:
    """Probabilities of the seconds of each curve."""
    head.eval()
    return [head(torch.from_numpy(curve)[None].float()).sigmoid()[0].double().numpy() for curve in curves]
