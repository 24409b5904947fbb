"""Figures of acoustic scene classification, as the DCASE 2024 Task 1 baseline reports them, with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

from common.reports.statistics import percentile_limits, resample_sums, sums_by_group
from task1_asc.data.tau2022 import CLASSES, DEVICE_GROUPS, DEVICES, SUBSETS

Array = NDArray[Any]


def macro_accuracy(predictions: ArrayLike, target: ArrayLike) -> float:
    """Mean of the accuracies within each class: the ranking figure of the challenge (`macro_avg_acc` of the baseline).

    Args:
        predictions: (clips,) class numbers, or (clips, classes) logits or probabilities whose largest counts.
        target: (clips,) class numbers.

    Returns:
        0..1, over the classes that occur in `target`.

    Raises:
        ValueError: if there are no clips, or the lengths differ.
    """
    predictions, target = np.asarray(predictions), np.asarray(target)
    if predictions.ndim == 2:
        predictions = predictions.argmax(axis=1)
    if predictions.shape != target.shape or target.size == 0:
        raise ValueError(f"{predictions.shape} predictions for {target.shape} targets")
    correct = predictions == target
    return float(np.mean([correct[target == label].mean() for label in np.unique(target)]))


def log_loss(logits: ArrayLike, target: ArrayLike) -> float:
    """Mean over clips of -ln(probability of the right class); logits (clips, classes), target (clips,).

    Not the baseline's mean of batch means, in which the clips of the short last batch count more.
    """
    return float(_loss_per_clip(np.asarray(logits), np.asarray(target)).mean())


def rank_score(macro_accuracies: Mapping[int, float]) -> float:
    """Mean of the macro accuracies of the five subsets, the challenge's rank score.

    Raises:
        ValueError: if a subset is missing.
    """
    missing = [subset for subset in SUBSETS if subset not in macro_accuracies]
    if missing:
        raise ValueError(f"the rank score needs all five subsets; {missing} are missing")
    return float(np.mean([macro_accuracies[subset] for subset in SUBSETS]))


def score_scenes(
    logits: ArrayLike,
    target: ArrayLike,
    recording_devices: Sequence[str],
    segments: Sequence[str],
    generator: np.random.Generator,
    resamples: int = 1000,
) -> dict[str, Any]:
    """All figures of one model on one split, each with a 95 % interval.

    Args:
        logits: (clips, 10); half-precision logits give the figures that the baseline reports.
        target: (clips,), index into CLASSES.
        recording_devices: (clips,), of DEVICES.
        segments: (clips,), the recording each clip was cut from. Whole segments are drawn for the intervals: the ten
            pieces of a segment, and its parallel recordings with other devices, stay together.
        generator: source of the random numbers.
        resamples: of the bootstrap.

    Returns:
        clips, macro_accuracy, accuracy, log_loss (each {value, low, high}); class_wise, device_wise and groups (real,
        seen, unseen), each name with accuracy, accuracy_low, accuracy_high, log_loss, log_loss_low, log_loss_high,
        clips; confusion (true class x predicted class, clips). Accuracies are 0..1. A device's accuracy is that of all
        its clips, not the mean over classes. A class or device without clips has null figures.
    """
    logits, target = np.asarray(logits), np.asarray(target)
    predictions = logits.argmax(axis=1)
    parts = _parts(target, np.asarray(recording_devices))
    correct, loss = predictions == target, _loss_per_clip(logits, target)
    # One column of clips, right ones and losses for each part: every figure is a ratio of resampled sums.
    masks = np.stack(list(parts.values()), axis=1)
    values = np.concatenate([masks, masks * correct[:, None], masks * loss[:, None]], axis=1)
    sums = sums_by_group(values, segments)
    whole, drawn = sums.sum(axis=0), resample_sums(sums, generator, resamples)
    figures = {name: _figures(whole, drawn, number, len(parts)) for number, name in enumerate(parts)}
    macro = [_macro(_accuracies(table, len(parts))) for table in (whole, drawn)]
    overall = figures["all"]
    return {
        "clips": len(target),
        "segments": len(sums),
        "macro_accuracy": _with_interval(macro[0], macro[1]),
        "accuracy": {key: overall[name] for key, name in zip(_KEYS, ("accuracy", "accuracy_low", "accuracy_high"))},
        "log_loss": {key: overall[name] for key, name in zip(_KEYS, ("log_loss", "log_loss_low", "log_loss_high"))},
        "class_wise": {name: figures[f"class {name}"] for name in CLASSES},
        "device_wise": {name: figures[f"device {name}"] for name in DEVICES},
        "groups": {name: figures[f"group {name}"] for name in DEVICE_GROUPS},
        "confusion": np.histogram2d(target, predictions, bins=[range(len(CLASSES) + 1)] * 2)[0].astype(int).tolist(),
    }


_KEYS = ("value", "low", "high")


def _parts(target: Array, recording_devices: Array) -> dict[str, Array]:
    """Which clips each figure is about; the classes come right after all clips."""
    parts = {"all": np.ones(len(target), dtype=bool)}
    parts |= {f"class {name}": target == number for number, name in enumerate(CLASSES)}
    parts |= {f"device {name}": recording_devices == name for name in DEVICES}
    return parts | {f"group {name}": np.isin(recording_devices, members) for name, members in DEVICE_GROUPS.items()}


def _accuracies(sums: Array, num_parts: int) -> Array:
    """Accuracy of each part (..., parts), NaN where it has no clip; sums (..., 3 * parts)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., num_parts : 2 * num_parts] / sums[..., :num_parts]


def _macro(accuracies: Array) -> Array:
    return np.nanmean(accuracies[..., 1 : 1 + len(CLASSES)], axis=-1)


def _figures(whole: Array, drawn: Array, number: int, num_parts: int) -> dict[str, float | int | None]:
    figures: dict[str, float | int | None] = {}
    for name, offset in (("accuracy", num_parts), ("log_loss", 2 * num_parts)):
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = [table[..., offset + number] / table[..., number] for table in (whole, drawn)]
        interval = _with_interval(*ratios)
        figures |= {name: interval["value"], f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
    return figures | {"clips": int(whole[number])}


def _with_interval(value: Array, drawn: Array) -> dict[str, float | None]:
    if not np.isfinite(value):
        return dict.fromkeys(_KEYS)
    return dict(zip(_KEYS, (float(value), *percentile_limits(drawn)), strict=True))


def _loss_per_clip(logits: Array, target: Array) -> Array:
    # In double precision: softmax in half precision gives zeros, whose logarithm is infinite.
    return -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(target)), target]
