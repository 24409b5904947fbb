"""Ensembles: the mean of several systems' scores, clip by clip name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import UserError
from task4_sed.scores.store import ScoreStore, ScoreWriter, logit, sigmoid
from task4_sed.scores.tables import ScoreTables, empty_values, only_classes

AVERAGES = ("logits", "probabilities")


def ensemble(
    members: Sequence[ScoreTables], how: str = "logits", weights: Sequence[float] | None = None
) -> ScoreTables:
    """Weighted mean of score tables.

    Args:
        members: probabilities of the same clips, classes and frames; the order of clips and classes may differ.
        how: "logits" (mean before the sigmoid, as the winner's pseudo-labels) or "probabilities".
        weights: one per member; equal when None.
    """
    shares = _shares(len(members), how, weights)
    first = members[0]
    aligned = [_aligned(member, first, number) for number, member in enumerate(members, start=1)]
    values = empty_values(len(first.classes), int(first.starts[-1]))
    for index in range(len(first.classes)):
        columns = [np.asarray(member.values[index], dtype=np.float64) for member in aligned]
        if how == "logits":
            values[index] = sigmoid(sum(share * logit(column) for share, column in zip(shares, columns)))
        else:
            values[index] = sum(share * column for share, column in zip(shares, columns))
    return first.with_values(values)


def ensemble_stores(
    paths: Sequence[Path],
    out: Path,
    how: str = "logits",
    weights: Sequence[float] | None = None,
    dtype: str = "float16",
) -> None:
    """Weighted mean of score stores as another store; one clip in memory at a time.

    Args:
        paths: stores of the same clips, classes and frames; the order of clips may differ.
        out: store to write; it holds logits for the mean of logits, otherwise probabilities.
        how, weights: as for `ensemble`.
        dtype: float16 or float32.
    """
    shares = _shares(len(paths), how, weights)
    first = ScoreStore(paths[0])
    members = [first, *(ScoreStore(path, first.classes, first.frame_seconds) for path in paths[1:])]
    for member in members[1:]:
        _refuse_other_clips(set(member.filenames), set(first.filenames), str(member.path))
        if member.num_frames != first.num_frames:
            raise UserError(f"{member.path} has {member.num_frames} frames per clip, {first.path} {first.num_frames}.")
    kind = "logits" if how == "logits" else "scores"
    with ScoreWriter(out, first.classes, frame_seconds=first.frame_seconds, kind=kind, dtype=dtype) as writer:
        for name in first.filenames:
            mean = sum(share * member.read_as(kind, name) for share, member in zip(shares, members))
            writer.write([name], np.asarray(mean)[None], [first.end_of(name)])


def _shares(number: int, how: str, weights: Sequence[float] | None) -> np.ndarray:
    if how not in AVERAGES:
        raise UserError(f"Scores are averaged as {' or '.join(AVERAGES)}, not as {how}.")
    if number == 0:
        raise UserError("An ensemble needs at least one member.")
    if weights is None:
        return np.full(number, 1 / number)
    if len(weights) != number or min(weights) < 0 or sum(weights) <= 0:
        raise UserError(f"An ensemble of {number} needs as many weights, none negative; got {list(weights)}.")
    return np.asarray(weights, dtype=float) / sum(weights)


def _refuse_other_clips(clips: set[str], expected: set[str], who: str) -> None:
    other = sorted(clips ^ expected)
    if other:
        raise UserError(f"{who} differs from the first member of the ensemble in {len(other)} clips, as {other[0]}.")


def _aligned(member: ScoreTables, first: ScoreTables, number: int) -> ScoreTables:
    """The member's clips and classes in the order of the first; refuses another set or other frames."""
    if member is first:
        return member
    _refuse_other_clips(set(member.clips), set(first.clips), f"Member {number}")
    if set(member.classes) != set(first.classes):
        name = min(set(member.classes) ^ set(first.classes))
        raise UserError(f"Member {number} of the ensemble has other classes than the first, as {name}.")
    member = only_classes(member.select(first.clips), first.classes)
    if len(member.borders) != len(first.borders) or np.abs(member.borders - first.borders).max() > 1e-4:
        raise UserError(f"Member {number} of the ensemble has other frames than the first; use one frame rate.")
    return member
