"""Figures of tagging: mean average precision, area under the ROC curve, accuracy; each with a bootstrap interval."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.reports.statistics import bootstrap_mean, draw_groups, percentile_limits

Array = NDArray[Any]
RESAMPLES_AT_ONCE = 64


def mean_average_precision(scores: ArrayLike, target: ArrayLike, weight: ArrayLike | None = None) -> float:
    """mAP: mean over classes of the average precision, as scikit-learn defines it (macro).

    >>> round(mean_average_precision([[0.9], [0.8], [0.1]], [[1], [0], [1]]), 4)  # (1 + 2 / 3) / 2
    0.8333

    Args:
        scores: (clips, classes), higher is more likely; any range.
        target: (clips, classes), 0 or 1.
        weight: (clips, classes), 0 where a label is not known (OpenMIC); None for 1 everywhere.

    Returns:
        0..1, over the classes that have a positive clip.

    Raises:
        ValueError: if shapes differ, a score is NaN, or no class has a positive clip.
    """
    return float(np.nanmean(average_precisions(scores, target, weight)))


def average_precisions(scores: ArrayLike, target: ArrayLike, weight: ArrayLike | None = None) -> Array:
    """(classes,) average precision; NaN for a class without a positive clip."""
    columns = _sorted_columns(*(checked := _checked(scores, target, weight)), np.ones((1, len(checked[0]))))
    return np.array([_average_precision(*column)[0] for column in columns])


def accuracy(scores: ArrayLike, target: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Share of clips (0..1) with the highest score at the one label in `target` (clips, classes); no `weight`.

    >>> accuracy([[0.9, 0.1], [0.6, 0.4]], [[1, 0], [0, 1]])
    0.5
    """
    scores, target, _ = _checked(scores, target, None)
    return float((scores.argmax(axis=1) == target.argmax(axis=1)).mean())


def score_tags(
    logits: ArrayLike,
    target: ArrayLike,
    groups: ArrayLike,
    generator: np.random.Generator,
    weight: ArrayLike | None = None,
    resamples: int = 1000,
) -> dict[str, Any]:
    """All figures of one multi-label model on one split.

    Args:
        logits, target, weight: as for `mean_average_precision`.
        groups: (clips,) recordings that are drawn as a whole for the intervals. With few clips the interval lies high:
            clips that are drawn twice rank beside each other, and rare classes are often not drawn at all.

    Returns:
        clips, classes (with a positive clip), mAP {value, low, high}, roc_auc (macro, of the same classes),
        class_wise: (classes,) average precisions, None where there is no positive clip.
    """
    logits, target, weight = _checked(logits, target, weight)
    each = average_precisions(logits, target, weight)
    drawn = _resampled_map(logits, target, weight, np.asarray(groups), generator, resamples)
    low, high = percentile_limits(drawn) if drawn.size else (np.nan, np.nan)
    return {
        "clips": len(logits),
        "classes": int(np.isfinite(each).sum()),
        "mAP": {"value": float(np.nanmean(each)), "low": low, "high": high},
        "roc_auc": _mean_roc_auc(logits, target, weight),
        "class_wise": [None if np.isnan(value) else float(value) for value in each],
    }


def score_labels(
    logits: ArrayLike, target: ArrayLike, groups: ArrayLike, generator: np.random.Generator, resamples: int = 1000
) -> dict[str, Any]:
    """Accuracy of a model that chooses one label; arguments as `score_tags`, target one-hot.

    Returns:
        clips, accuracy {value, low, high}, class_wise: (classes,) accuracies, None for a class without clips.
    """
    logits, target, _ = _checked(logits, target, None)
    labels = target.argmax(axis=1)
    right = (logits.argmax(axis=1) == labels).astype(float)
    interval = bootstrap_mean(right, groups, generator, resamples)
    class_wise = [
        float(right[labels == label].mean()) if (labels == label).any() else None for label in range(target.shape[1])
    ]
    return {"clips": len(logits), "accuracy": interval._asdict(), "class_wise": class_wise}


def _checked(scores: ArrayLike, target: ArrayLike, weight: ArrayLike | None) -> tuple[Array, Array, Array]:
    scores, target = np.asarray(scores, dtype=np.float64), np.asarray(target) > 0.5
    weight = np.ones(scores.shape) if weight is None else np.asarray(weight, dtype=np.float64)
    if scores.shape != target.shape or weight.shape != scores.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape}, target {target.shape} and weight {weight.shape} do not fit")
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    if not (target & (weight > 0)).any():
        raise ValueError("no class has a positive clip")
    return scores, target, weight


def _sorted_columns(scores: Array, target: Array, weight: Array, times: Array) -> Any:
    """For each class: counts (draws, clips) and positives (clips,) by falling score, and where a tie ends."""
    for column in range(scores.shape[1]):
        order = np.argsort(-scores[:, column], kind="stable")
        ordered = scores[order, column]
        ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
        yield times[:, order] * weight[order, column], target[order, column], ends


def _average_precision(counts: Array, positive: Array, ends: Array) -> Array:
    """(draws,) sum over thresholds of (recall - recall before) * precision; counts (draws, clips): how often each."""
    hits = np.cumsum(counts * positive, axis=1)[:, ends]
    retrieved = np.cumsum(counts, axis=1)[:, ends]
    total = hits[:, -1:]
    new_hits = np.diff(hits, axis=1, prepend=0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(retrieved > 0, hits / retrieved, 0.0)
        return np.where(total[:, 0] > 0, (new_hits * precision).sum(axis=1) / total[:, 0], np.nan)


def _resampled_map(
    scores: Array, target: Array, weight: Array, groups: Array, generator: np.random.Generator, resamples: int
) -> Array:
    """(resamples,) mAP when whole groups are drawn with replacement; empty for fewer than two groups."""
    group_of_clip = np.unique(groups, return_inverse=True)[1]
    count = int(group_of_clip.max()) + 1
    if count < 2:
        return np.zeros(0)
    figures = []
    for first in range(0, resamples, RESAMPLES_AT_ONCE):
        drawn = np.stack(list(draw_groups(count, generator, min(RESAMPLES_AT_ONCE, resamples - first))))
        times = drawn[:, group_of_clip].astype(np.float64)
        each = np.stack([_average_precision(*c) for c in _sorted_columns(scores, target, weight, times)])
        figures.append(np.nanmean(each, axis=0))
    return np.concatenate(figures)


def _mean_roc_auc(scores: Array, target: Array, weight: Array) -> float | None:
    """Macro area under the ROC curve over the classes that have positive and negative clips; None without any."""
    from sklearn.metrics import roc_auc_score

    areas = []
    for column in range(scores.shape[1]):
        known = weight[:, column] > 0
        if len(np.unique(target[known, column])) == 2:
            areas.append(roc_auc_score(target[known, column], scores[known, column]))
    return float(np.mean(areas)) if areas else None
