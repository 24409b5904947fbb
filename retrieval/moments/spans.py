"""Spans without training: the similarity of a text with each second, cut by a threshold or into event boxes."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.inference.event_boxes import BoxSettings, curve_boxes
from retrieval.model import DualEncoder, embed_captions
from retrieval.moments.annotations import Query
from retrieval.moments.features import FeatureReader
from retrieval.moments.metrics import Array, mean_average_precision, recall_at_1
from retrieval.moments.settings import MomentSettings, Similarity
from retrieval.moments.train import finish_windows
from retrieval.search.index import Index


def similarity_curve(query: Query, reader: FeatureReader) -> Array:
    """Cosine of the query with each second, (seconds,)."""
    return (reader.audio(query, "projected") @ reader.text(query, "sentence")[0]).astype(np.float64)


def similarity_curves(settings: MomentSettings, queries: Sequence[Query], reader: FeatureReader) -> list[Array]:
    """The curve of each query, from features or from the index of the settings."""
    assert isinstance(settings.system, Similarity)
    if settings.system.index is None:
        return [similarity_curve(query, reader) for query in queries]
    index = Index.read(settings.system.index)
    model = index.searcher().model
    if not (index.windowed and isinstance(model, DualEncoder)):
        raise UserError(f"{index.folder} is no index of windows by a model of text; index with --windows 10 --hop 5.")
    number = {Path(name).stem: place for place, name in enumerate(index.files) if name is not None}
    if absent := [query.vid for query in queries if query.vid not in number]:
        raise UserError(f"{index.folder} lacks the recording {absent[0]}; index its folder.")
    curves = []
    for query, vector in zip(queries, embed_captions(model, [query.query for query in queries]).numpy(), strict=True):
        place = index.rows_of(number[query.vid])
        rows = index.rows[place]
        similarity = np.asarray(index.vectors[place], dtype=np.float32) @ vector
        curves.append(spread(similarity, rows["onset"], rows["offset"], query.duration))
    return curves


def spread(values: NDArray, onsets: NDArray, offsets: NDArray, duration: float) -> Array:
    """Values of windows to one a second: the mean over the windows around its middle, or the nearest window's."""
    middle = np.arange(max(1, int(duration)))[:, None] + 0.5
    away = np.maximum(np.maximum(onsets - middle, middle - offsets), 0)
    nearest = away == away.min(axis=1, keepdims=True)
    return (nearest * values).sum(axis=1) / nearest.sum(axis=1)


def cut_curve(curve: Array, kind: str, smoothing: int, level: float, step_filter: float = 0.0) -> Array:
    """Windows (n, 3) of a curve (seconds,), with a score each: the mean of the curve inside, scaled to 0..1.

    Args:
        curve: one value a second.
        kind: "threshold" or "boxes".
        smoothing: seconds of a moving mean, odd.
        level: threshold, or depth of the gap that separates two boxes, as a share of the range of the curve.
        step_filter: seconds; of boxes.
    """
    padded = np.pad(curve, smoothing // 2, mode="edge")
    smooth = np.convolve(padded, np.full(smoothing, 1 / smoothing), mode="valid")
    scaled = (smooth - smooth.min()) / max(np.ptp(smooth), 1e-9)
    if kind == "boxes":
        return curve_boxes(scaled, np.arange(len(scaled) + 1.0), BoxSettings(step_filter, level, np.inf))
    edges = np.flatnonzero(np.diff(np.pad(scaled >= level, 1).astype(int)))
    return np.array([[start, end, scaled[start:end].mean()] for start, end in edges.reshape(-1, 2)]).reshape(-1, 3)


def grid_of(settings: Similarity) -> list[dict[str, Any]]:
    """The parameters to choose from."""
    if settings.spans == "threshold":
        pairs: Any = product(settings.smoothing, settings.thresholds)
        return [{"smoothing": smoothing, "level": level} for smoothing, level in pairs]
    triples = product(settings.smoothing, settings.merge_thresholds, settings.step_filters)
    return [{"smoothing": s, "level": level, "step_filter": length} for s, level, length in triples]


def find_spans(
    curves: Sequence[Array], queries: Sequence[Query], settings: MomentSettings, chosen: Mapping[str, Any]
) -> dict[str, Array]:
    """qid to windows (n, 3), best first."""
    assert isinstance(settings.system, Similarity)
    return {
        query.qid: finish_windows(cut_curve(curve, settings.system.spans, **chosen), query.duration, settings.times)
        for query, curve in zip(queries, curves, strict=True)
    }


def tune(curves: Sequence[Array], queries: Sequence[Query], settings: MomentSettings) -> dict[str, Any]:
    """The parameters of highest R1@0.7, then mAP, on validation queries, with these figures."""
    assert isinstance(settings.system, Similarity)
    truth = {query.qid: query.windows for query in queries}
    rows = []
    for chosen in grid_of(settings.system):
        found = find_spans(curves, queries, settings, chosen)
        recall = float(recall_at_1(found, truth, [0.7])[0])
        rows.append({"chosen": chosen, "R1@0.7": recall, "mAP": float(mean_average_precision(found, truth).mean())})
    return max(rows, key=lambda row: (row["R1@0.7"], row["mAP"]))
