"""Recall1 and mAP of audio moment retrieval, as standalone_eval of the DCASE 2026 Task 6 baseline and of Lighthouse.

Windows are [start, end] in seconds, with a score as third number or in the order of the list. A hit has an
intersection over union with a true window of at least the threshold.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import UserError
from common.reports.statistics import Interval, bootstrap_mean

Array = NDArray[np.float64]
Windows = Mapping[str, ArrayLike]

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Decimals: numpy.arange gives 0.7000000000000002, which windows of whole seconds miss."""
LISTED = 10
"""Windows of a query that count."""
LENGTHS = ("under 5 s", "5 to 20 s", "over 20 s")


def recall_at_1(predictions: Windows, truth: Windows, thresholds: Sequence[float] = THRESHOLDS) -> Array:
    """Share of the queries whose first listed window hits any true window; scores are not considered.

    Args:
        predictions: qid to windows (n, 2 or 3), best first. A query of `truth` without windows counts as a miss.
        truth: qid to true windows (m, 2).
        thresholds: of the intersection over union.

    Returns:
        (thresholds,), 0..1, mean over the queries of `truth`.

    Raises:
        UserError: if a window is not finite numbers or ends before it starts, or a query has no true window.
    """
    return hits_at_1(predictions, truth, thresholds).mean(axis=0)


def mean_average_precision(predictions: Windows, truth: Windows, thresholds: Sequence[float] = THRESHOLDS) -> Array:
    """Mean over the queries of `truth` of `average_precision`: (thresholds,), 0..1; arguments as `recall_at_1`."""
    return average_precision(predictions, truth, thresholds).mean(axis=0)


def hits_at_1(predictions: Windows, truth: Windows, thresholds: Sequence[float] = THRESHOLDS) -> Array:
    """`recall_at_1` of each query: (queries, thresholds), 0 or 1, in the order of `truth`."""
    best = [iou[:1].max(initial=-1.0) for _, iou in _compared(predictions, truth)]
    return (np.array(best)[:, None] >= np.array(thresholds)).astype(np.float64)


def average_precision(predictions: Windows, truth: Windows, thresholds: Sequence[float] = THRESHOLDS) -> Array:
    """Average precision of each query: (queries, thresholds), 0..1, in the order of `truth`.

    The first ten listed windows, highest score first (equal scores, and windows without score, in their order), each
    take the free true window of highest intersection over union if it reaches the threshold. Precision is interpolated
    (VOC 2011); recall is over all true windows, also where they are more than ten.
    """
    limits = np.array(thresholds, dtype=np.float64)
    rows = []
    for windows, iou in _compared(predictions, truth):
        windows, iou = windows[:LISTED], iou[:LISTED]
        if windows.shape[1] == 3:
            iou = iou[np.argsort(-windows[:, 2], kind="stable")]
        rows.append(_interpolated(_found(iou, limits), iou.shape[1]))
    return np.array(rows, dtype=np.float64)


def score(predictions: Windows, truth: Windows, recordings: Sequence[str], seed: int = 0) -> dict[str, Interval]:
    """The figures of the challenge with 95 % intervals, and R1@0.7 by the length of the true window.

    Args:
        predictions, truth: as `recall_at_1`.
        recordings: recording of each query of `truth`; its queries are drawn together in the bootstrap.
        seed: of the bootstrap.

    Returns:
        "R1@0.5", "R1@0.7", "mAP", "mAP@0.5", "mAP@0.75", "R1@0.7 under 5 s" and so on to interval; 0..1. In the figures
        by length, a query counts where it has a true window of the range, and only these windows can be hit.
    """
    values = query_values(predictions, truth, recordings)
    return {name: bootstrap_mean(*one, np.random.default_rng(seed)) for name, one in values.items()}


def query_values(
    predictions: Windows, truth: Windows, recordings: Sequence[str]
) -> dict[str, tuple[Array, NDArray[np.str_]]]:
    """By figure of `score`: the value of each query that counts, and its recording."""
    hits, precision = hits_at_1(predictions, truth), average_precision(predictions, truth)
    at = {threshold: place for place, threshold in enumerate(THRESHOLDS)}
    groups = np.array(recordings)
    values = {
        "R1@0.5": (hits[:, at[0.5]], groups),
        "R1@0.7": (hits[:, at[0.7]], groups),
        "mAP": (precision.mean(axis=1), groups),
        "mAP@0.5": (precision[:, at[0.5]], groups),
        "mAP@0.75": (precision[:, at[0.75]], groups),
    }
    for name in LENGTHS:
        kept = {qid: part for qid, windows in truth.items() if len(part := of_length(windows, name))}
        if kept:
            chosen = groups[[qid in kept for qid in truth]]
            values[f"R1@0.7 {name}"] = hits_at_1(predictions, kept, [0.7])[:, 0], chosen
    return values


def of_length(windows: ArrayLike, name: str) -> Array:
    """The windows (n, 2) with a length in a range of `LENGTHS`."""
    windows = np.asarray(windows, dtype=np.float64).reshape(-1, 2)
    length = windows[:, 1] - windows[:, 0]
    return windows[(length >= 5).astype(int) + (length > 20) == LENGTHS.index(name)]


def intersection_over_union(first: Array, second: Array) -> Array:
    """(n, 2) and (m, 2) to (n, m), 0..1; 0 where both windows are empty."""
    overlap = np.minimum(first[:, None, 1], second[None, :, 1]) - np.maximum(first[:, None, 0], second[None, :, 0])
    overlap = np.maximum(overlap, 0.0)
    union = (first[:, 1] - first[:, 0])[:, None] + (second[:, 1] - second[:, 0])[None, :] - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def as_windows(windows: ArrayLike, qid: str, columns: Sequence[int] = (2, 3)) -> Array:
    """Windows of a query as (n, 2 or 3) float64.

    Raises:
        UserError: if they are not that many finite numbers each, or a window ends before it starts.
    """
    try:
        values = np.asarray(windows, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.array(np.nan)
    if values.size == 0:
        return np.empty((0, columns[0]))
    if values.ndim != 2 or values.shape[1] not in columns:
        numbers = " or ".join(map(str, columns))
        raise UserError(f"A window of query {qid} is not {numbers} numbers; give lists such as [12, 15].")
    if not np.isfinite(values).all():
        raise UserError(f"A window of query {qid} holds NaN or infinity; write it again.")
    if len(bad := values[values[:, 1] < values[:, 0]]):
        raise UserError(f"A window of query {qid} ends before it starts: {bad[0, :2].tolist()}; correct it.")
    return values


def _compared(predictions: Windows, truth: Windows) -> Iterator[tuple[Array, Array]]:
    """For each query of `truth`, its predicted windows and their IoU with the true ones (predictions, truths)."""
    if not truth:
        raise UserError("There is no query to score.")
    for qid, given in truth.items():
        true = as_windows(given, qid, (2,))
        if not len(true):
            raise UserError(f"Query {qid} has no true window; leave it out.")
        windows = as_windows(predictions.get(qid, ()), qid)
        yield windows, intersection_over_union(windows[:, :2], true)


def _found(iou: Array, limits: Array) -> NDArray[np.bool_]:
    """Which predictions, in the order of `iou`, take a free true window: (thresholds, predictions)."""
    num_true, at = iou.shape[1], np.arange(len(limits))
    free, found = np.ones((len(limits), num_true), dtype=bool), np.zeros((len(limits), len(iou)), dtype=bool)
    for place, row in enumerate(iou):
        # Of equal overlaps the last window, as the official argsort read backwards.
        best = num_true - 1 - np.where(free, row, -1.0)[:, ::-1].argmax(axis=1)
        found[:, place] = free[at, best] & (row[best] >= limits)
        free[at, best] &= ~found[:, place]
    return found


def _interpolated(found: NDArray[np.bool_], num_true: int) -> Array:
    """Area under the interpolated precision of ranked predictions (thresholds, predictions): (thresholds,)."""
    hits = found.cumsum(axis=1)
    precision = hits / np.arange(1, found.shape[1] + 1)
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return (highest * found).sum(axis=1) / num_true
