"""95 % intervals by drawing recordings with replacement.

Nothing is scored again: a draw is the number of times each recording was drawn, and every count of a metric is a sum
over recordings. Column 0 of a weight matrix counts each recording once, so a metric computes value and draws alike.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

DRAWS = 1000
SEED = 20240401

Interval = tuple[float, float]


def recording_weights(num_recordings: int, draws: int, seed: int = SEED) -> np.ndarray:
    """(recordings, 1 + draws) float64: ones, then counts of each recording in each draw; no draws of one recording."""
    draws = draws if num_recordings > 1 else 0
    generator = np.random.default_rng(seed)
    weights = np.ones((num_recordings, 1 + draws))
    if draws:
        probabilities = np.full(num_recordings, 1 / num_recordings)
        weights[:, 1:] = generator.multinomial(num_recordings, probabilities, size=draws).T
    return weights


def interval(values: np.ndarray, highest: float = 1.0) -> Interval | None:
    """95 % interval around `values[0]` from the draws behind it, within 0..highest; None without draws.

    The draws are shifted so that their median is the value. A drawn set has some recordings twice and others never, so
    its classes differ more than in the whole set, and a score with a penalty for their deviation is lower in each draw;
    with 400 classes the plain quantiles would not even contain the score.
    """
    draws = np.asarray(values)[1:]
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return None
    low, high = np.quantile(draws, (0.025, 0.975)) + (values[0] - np.median(draws))
    return max(float(low), 0.0), min(float(high), highest)


def affordable_draws(draws: int, num_events: int, largest_bytes: int = 256 << 20) -> int:
    """Fewer draws where a metric keeps one number per event and draw and that would not fit."""
    return max(min(draws, largest_bytes // (8 * max(num_events, 1))), min(draws, 50))


def plain_figures(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Value, per_class and interval of each score, for JSON."""
    keys = ("value", "per_class", "interval")
    return {name: {key: getattr(score, key) for key in keys} for name, score in found.items()}
