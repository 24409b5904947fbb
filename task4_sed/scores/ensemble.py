"""Ensembles: the mean of several systems' logits, clip by clip name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import UserError
from task4_sed.scores.store import ScoreStore, ScoreWriter


def mean_logits(members: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over systems before the sigmoid, as in the winner's pseudo-labels; float64."""
    if not len(members):
        raise UserError("An ensemble needs at least one member.")
    return np.asarray(np.mean(members, axis=0, dtype=np.float64))


def ensemble_stores(paths: Sequence[Path], out: Path) -> None:
    """Mean of score stores as a float32 store of logits; one clip in memory at a time.

    Args:
        paths: stores of the same clips, classes and frames; the order of clips may differ.
        out: store to write.
    """
    first = ScoreStore(paths[0])
    members = [first, *(ScoreStore(path, first.classes, first.frame_seconds) for path in paths[1:])]
    for member in members[1:]:
        if other := sorted(set(member.filenames) ^ set(first.filenames)):
            raise UserError(
                f"{member.path} differs from the first member of the ensemble in {len(other)} clips, as {other[0]}."
            )
        if member.num_frames != first.num_frames:
            raise UserError(f"{member.path} has {member.num_frames} frames per clip, {first.path} {first.num_frames}.")
    with ScoreWriter(out, first.classes, frame_seconds=first.frame_seconds, dtype="float32") as writer:
        for name in first.filenames:
            mean = mean_logits([member.read_as("logits", name) for member in members])
            writer.write([name], mean[None], [first.end_of(name)])
