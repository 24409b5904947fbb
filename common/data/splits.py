"""A split of recordings into training, validation and test, for data that come without one."""

from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np

from common.errors import UserError

SHARES = {"test": 0.2, "validation": 0.1, "train": 0.7}
"""Share of the recordings in each part; where two parts miss equally much of a class, the first gets it."""


def split_recordings(labels: Mapping[str, Collection[str]], source: object) -> dict[str, str]:
    """The part of each recording: train, validation or test; always the same for the same names and labels.

    Recordings of rare classes are placed first, each in the part that misses most of its class (iterative
    stratification), so that a class with two recordings is in training and test.

    Args:
        labels: classes of each recording.
        source: of the recordings, for the message.

    Raises:
        UserError: for fewer than three recordings.
    """
    if len(labels) < 3:
        raise UserError(
            f"{source} has {len(labels)} recordings; a split needs at least three. Add recordings, or a column split "
            "(train, validation, test)."
        )
    classes = {recording: tuple(sorted(set(names))) or ("",) for recording, names in labels.items()}
    counts = Counter(name for own in classes.values() for name in own)
    wanted = {(part, name): share * count for name, count in counts.items() for part, share in SHARES.items()}
    names = sorted(classes)
    shuffled = [names[index] for index in np.random.default_rng(0).permutation(len(names))]
    parts: dict[str, str] = {}
    for recording in sorted(shuffled, key=lambda each: min(counts[name] for name in classes[each])):
        rarest = min(classes[recording], key=lambda name: counts[name])
        parts[recording] = max(SHARES, key=lambda part: round(wanted[part, rarest], 6))
        for name in classes[recording]:
            wanted[parts[recording], name] -= 1
    for part in SHARES:  # few recordings of one class may leave a part empty
        if part not in parts.values():
            parts[[name for name, own in parts.items() if own == "train"][-1]] = part
    return parts


def describe_split(parts: Mapping[str, str], source: object) -> str:
    """The sentence that tells that a split was made."""
    counts = Counter(parts.values())
    shown = ", ".join(f"{counts[part]:,} {part}" for part in ("train", "validation", "test"))
    return f"{source} names no split: its {len(parts):,} recordings were split by recording ({shown})."
