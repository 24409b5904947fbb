"""Checks of Task 1, acoustic scene classification."""

from collections.abc import Iterator

import numpy as np

from submissions.checks.meta import number
from submissions.checks.registry import Finding, check, row_findings
from submissions.checks.tables import as_numbers, bad_cells, score_columns
from submissions.reading import System, Unreadable


@check("probabilities")
def probabilities_are_within_bounds(system: System) -> Iterator[Finding]:
    """Every probability is from 0 to 1."""
    for name, table in system.tables():
        scores = score_columns(table)
        values = as_numbers(scores)
        outside = np.isfinite(values) & ((values < 0) | (values > 1))
        yield from bad_cells(system, name, scores, outside, "not from 0 to 1")


@check("sum")
def probabilities_sum_to_one(system: System, *, tolerance: float) -> Iterator[Finding]:
    """The probabilities of a file sum to 1."""
    for name, table in system.tables():
        sums = as_numbers(score_columns(table)).sum(axis=1)
        rows = np.flatnonzero(np.abs(sums - 1) > tolerance)
        sentences = ((row, f"probabilities sum to {sums[row]:.4g}, expected 1") for row in rows)
        yield from row_findings(system, name, sentences)


@check("argmax")
def label_is_the_most_probable(system: System, *, column: str) -> Iterator[Finding]:
    """The label is the class with the highest probability."""
    for name, table in system.tables():
        scores, labels = score_columns(table), table[column]
        values = np.nan_to_num(as_numbers(scores), nan=-np.inf)
        chosen = scores.columns.get_indexer(labels)
        own = np.where(chosen >= 0, values[np.arange(len(values)), np.maximum(chosen, 0)], np.inf)
        best = scores.columns[values.argmax(axis=1)]
        rows = np.flatnonzero(own < values.max(axis=1))
        sentences = ((row, f"{column} is {labels.iat[row]}, but {best[row]} is more probable") for row in rows)
        yield from row_findings(system, name, sentences)


@check("figures_consistent")
def figures_agree(system: System, *, splits: list[str], rounding: float) -> Iterator[Finding]:
    """Development figures agree: overall is the mean over classes and lies within the devices."""
    for split in splits:
        base = ("results", "development_dataset", split)
        overall = number(system, *base, "overall", "accuracy")
        mean = group(system, *base, "class_wise", figure="accuracy").mean()
        place = system.meta_place(*base, "overall", "accuracy")
        if abs(overall - mean) > rounding:
            yield Finding(place, f"{split} overall accuracy is {overall:g}, but the mean of its classes is {mean:.4g}")
        # Devices are pooled over clips, not over classes: where classes are uneven, the mean may lie a little outside.
        devices = group(system, *base, "device_wise", figure="accuracy")
        low, high = devices.min(), devices.max()
        if not low - 2 <= overall <= high + 2:
            yield Finding(place, f"{split} overall accuracy is {overall:g}, outside its devices' {low:g} to {high:g}")
        if system.meta.get(*base, "overall", "logloss") is None:
            continue
        loss = number(system, *base, "overall", "logloss")
        losses = group(system, *base, "class_wise", figure="logloss")
        low, high = losses.min(initial=np.inf), losses.max(initial=-np.inf)
        if losses.size and not low - 0.1 <= loss <= high + 0.1:
            place = system.meta_place(*base, "overall", "logloss")
            yield Finding(place, f"{split} overall log loss is {loss:g}, outside its classes' {low:g} to {high:g}")


@check("figures_plausible")
def figures_are_plausible(system: System, *, splits: list[str]) -> Iterator[Finding]:
    """Development figures are per cent, were measured, and differ between splits."""
    seen: dict[str, np.ndarray] = {}
    for split in splits:
        base = ("results", "development_dataset", split)
        classes = group(system, *base, "class_wise", figure="accuracy")
        losses = group(system, *base, "class_wise", figure="logloss")
        place = system.meta_place(*base)
        if classes.max() <= 1:
            yield Finding(place, f"every accuracy of {split} is {classes.max():g} or less: give per cent, 0 to 100")
        elif len(set(classes)) == 1 and len(set(losses)) <= 1:
            yield Finding(place, f"every class of {split} has the accuracy {classes[0]:g} and one log loss")
        figures = np.concatenate([classes, losses])
        for other, others in seen.items():
            if figures.shape == others.shape and np.allclose(figures, others, rtol=0, atol=0.01):
                yield Finding(place, f"{split} has the same figures as {other}")
        seen[split] = figures


def group(system: System, *address: str, figure: str) -> np.ndarray:
    """One figure for each class or device of a split, (names,), without log losses that are not given."""
    names = system.meta.get(*address)
    if not isinstance(names, dict):
        raise Unreadable(f"{'.'.join(address)} is missing")
    given = [name for name in names if figure != "logloss" or system.meta.get(*address, name, figure) is not None]
    return np.array([number(system, *address, name, figure) for name in given])
