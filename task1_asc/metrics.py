"""Figures of acoustic scene classification, as the DCASE 2024 Task 1 baseline reports them, with intervals.

Also as rows of tables, beside the published figures. No torch here.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.reports.statistics import percentile_limits, resample_sums, sums_by_group, with_interval
from common.runs.run import Run
from common.settings.yaml_file import read_yaml
from task1_asc.data.tau2022 import CLASSES, DEVICE_GROUPS, DEVICES, SUBSETS
from task1_asc.settings import Task1Settings

Array = NDArray[Any]
PRECISIONS = ("float32", "float16", "int8")


def macro_accuracy(predictions: ArrayLike, target: ArrayLike) -> float:
    """Mean of the accuracies within each class: the ranking figure of the challenge (`macro_avg_acc` of the baseline).

    Args:
        predictions: (clips,) class numbers, or (clips, classes) logits or probabilities.
        target: (clips,) class numbers.

    Returns:
        0..1, over the classes that occur in `target`.

    Raises:
        ValueError: if there are no clips, or the lengths differ.

    Example:
        >>> macro_accuracy([0, 0, 0, 1], [0, 0, 0, 2])  # 3 of 3 of class 0, none of class 2
        0.5
    """
    predicted, expected = np.asarray(predictions), np.asarray(target)
    if predicted.ndim == 2:
        predicted = predicted.argmax(axis=1)
    if predicted.shape != expected.shape or expected.size == 0:
        raise ValueError(f"{predicted.shape} predictions for {expected.shape} targets")
    correct = predicted == expected
    return float(np.mean([correct[expected == label].mean() for label in np.unique(expected)]))


def log_loss(logits: ArrayLike, target: ArrayLike) -> float:
    """Mean over clips of -ln(probability of the right class); logits (clips, classes), target (clips,).

    Not the baseline's mean of batch means, in which the clips of the short last batch count more.

    Example:
        >>> round(log_loss(np.zeros((3, 10)), [4, 0, 9]), 4)  # ln(10): ten classes are equally probable
        2.3026
    """
    return float(_loss_per_clip(np.asarray(logits), np.asarray(target)).mean())


def rank_score(macro_accuracies: Mapping[int, float]) -> float:
    """Mean of the macro accuracies of the five subsets, the challenge's rank score.

    Raises:
        ValueError: if a subset is missing.

    Example:
        >>> rank_score({5: 0.4, 10: 0.5, 25: 0.6, 50: 0.5, 100: 0.5})
        0.5
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
        clips, segments, macro_accuracy, accuracy, log_loss (the last three {value, low, high}); class_wise, device_wise
        and groups (real, seen, unseen), each name with accuracy, accuracy_low, accuracy_high, log_loss, log_loss_low,
        log_loss_high, clips; confusion (true class x predicted class, clips). Accuracies are 0..1. The accuracy of a
        device is over all its clips, not the mean over classes. A class or device without clips has null figures.
    """
    scores, expected = np.asarray(logits), np.asarray(target)
    predicted = scores.argmax(axis=1)
    parts = _parts(expected, np.asarray(recording_devices))
    # One column of clips, correct ones and losses for each part: every figure is a ratio of resampled sums.
    masks = np.stack(list(parts.values()), axis=1)
    correct, loss = (predicted == expected)[:, None], _loss_per_clip(scores, expected)[:, None]
    sums = sums_by_group(np.concatenate([masks, masks * correct, masks * loss], axis=1), segments)
    drawn = resample_sums(sums, generator, resamples)
    accuracy, macro, log_losses = _intervals(np.vstack([sums.sum(axis=0), drawn]))
    figures = {
        name: {
            **dict(zip(("accuracy", "accuracy_low", "accuracy_high"), accuracy[number])),
            **dict(zip(("log_loss", "log_loss_low", "log_loss_high"), log_losses[number])),
            "clips": int(masks[:, number].sum()),
        }
        for number, name in enumerate(parts)
    }
    return {
        "clips": len(expected),
        "segments": len(sums),
        "macro_accuracy": dict(zip(_KEYS, macro)),
        "accuracy": dict(zip(_KEYS, accuracy[0])),
        "log_loss": dict(zip(_KEYS, log_losses[0])),
        "class_wise": {name: figures[f"class {name}"] for name in CLASSES},
        "device_wise": {name: figures[f"device {name}"] for name in DEVICES},
        "groups": {name: figures[f"group {name}"] for name in DEVICE_GROUPS},
        "confusion": np.histogram2d(expected, predicted, bins=[range(len(CLASSES) + 1)] * 2)[0].astype(int).tolist(),
    }


def accuracy_draws(
    predicted: ArrayLike, target: ArrayLike, recording_devices: Sequence[str], segments: Sequence[str]
) -> dict[str, Array]:
    """Accuracies of all clips, then of resampled recordings, the same ones for each network: (1 + resamples,) each.

    Arguments as for `score_scenes`; `predicted` (clips,). Names: "macro accuracy" and its parts, such as "class bus".
    """
    expected = np.asarray(target)
    masks = np.stack(list((parts := _parts(expected, np.asarray(recording_devices))).values()), axis=1)
    correct = (np.asarray(predicted) == expected)[:, None]
    sums = sums_by_group(np.concatenate([masks, masks * correct], axis=1), segments)
    drawn = resample_sums(sums, np.random.default_rng(0), 1000)
    clips, hits = np.split(np.vstack([sums.sum(axis=0), drawn]), 2, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = hits / clips
    macro = np.nanmean(accuracy[:, 1 : 1 + len(CLASSES)], axis=1)
    return {"macro accuracy": macro, **dict(zip(parts, accuracy.T))}


@cache
def read_published() -> dict[str, Any]:
    """Figures of the published baseline, see published.yaml."""
    return read_yaml(Path(__file__).parent / "published.yaml").data


def summary_rows(run: Run[Task1Settings]) -> list[dict[str, Any]]:
    """The rows of `figure_rows` beside the published baseline."""
    published, subset = read_published(), run.settings.subset
    macro = f"{published['macro_accuracy'][subset]:.1f} ± {published['macro_accuracy_spread'][subset]:.1f}"
    return [*figure_rows(run.read_evaluation()), {"precision": "published", "macro accuracy in %": macro}]


def figure_rows(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """Macro accuracy, accuracy of device groups and log loss, in each precision."""
    rows = []
    for name, figures in by_network(scores).items():
        row = {"precision": name, "macro accuracy in %": percent(figures["macro_accuracy"])}
        row |= {name: percent(_interval_of(part)) for name, part in figures["groups"].items()}
        rows.append(row | {"log loss": f"{figures['log_loss']['value']:.3f}", "clips": figures["clips"]})
    return rows


def by_network(scores: dict[str, Any]) -> dict[str, Any]:
    """Figures of each network: each precision and, in a device-aware run, the general network."""
    found = {name: scores[name] for name in PRECISIONS if name in scores}
    return found | {f"{name}, general": own for name, own in scores.get("general", {}).items()}


def class_rows(run: Run[Task1Settings]) -> list[dict[str, Any]]:
    """Accuracy of each class."""
    return _part_rows(run, "class_wise", CLASSES, "class")


def device_rows(run: Run[Task1Settings]) -> list[dict[str, Any]]:
    """Accuracy of each recording device."""
    return _part_rows(run, "device_wise", DEVICES, "device")


def percent(interval: dict[str, float | None]) -> str:
    """{value, low, high} to "42.4 [41.0, 43.8]"; empty without a value."""
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    return "" if value is None else with_interval(value, low, high, scale=100)


_KEYS = ("value", "low", "high")
_Interval = tuple[float | None, float | None, float | None]


def _parts(target: Array, recording_devices: Array) -> dict[str, Array]:
    """Mask of the clips of each figure: all, classes, devices, groups of devices."""
    parts = {"all": np.ones(len(target), dtype=bool)}
    parts |= {f"class {name}": target == number for number, name in enumerate(CLASSES)}
    parts |= {f"device {name}": recording_devices == name for name in DEVICES}
    return parts | {f"group {name}": np.isin(recording_devices, members) for name, members in DEVICE_GROUPS.items()}


def _intervals(sums: Array) -> tuple[list[_Interval], _Interval, list[_Interval]]:
    """Intervals of the accuracy of each part, of the mean over classes, and of each part's loss.

    sums: (1 + resamples, 3 * parts): clips, correct ones and losses of each part; the first row is the whole split.
    """
    clips, correct, losses = np.split(sums, 3, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy, loss = correct / clips, losses / clips
    macro = np.nanmean(accuracy[:, 1 : 1 + len(CLASSES)], axis=1, keepdims=True)
    values = np.hstack([accuracy, macro, loss])
    found: list[_Interval] = [
        (float(value), float(low), float(high)) if np.isfinite(value) else (None, None, None)
        for value, low, high in zip(values[0], *percentile_limits(values[1:]))
    ]
    parts = clips.shape[1]
    return found[:parts], found[parts], found[parts + 1 :]


def _loss_per_clip(logits: Array, target: Array) -> Array:
    from scipy.special import log_softmax

    # In double precision: softmax in half precision gives zeros, and infinite logarithms.
    return -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(target)), target]


def _part_rows(run: Run[Task1Settings], group: str, names: tuple[str, ...], title: str) -> list[dict[str, Any]]:
    scores, published = run.read_evaluation(), read_published()[group][run.settings.subset]
    return [
        {
            title: name,
            **{own: percent(_interval_of(figures[group][name])) for own, figures in by_network(scores).items()},
            "published": f"{published[number]:.1f}",
            "clips": scores["float32"][group][name]["clips"],
        }
        for number, name in enumerate(names)
    ]


def _interval_of(part: dict[str, Any]) -> dict[str, float | None]:
    return {"value": part["accuracy"], "low": part["accuracy_low"], "high": part["accuracy_high"]}
