"""Figures of a similarity matrix: both directions, one or several relevant clips, intervals by bootstrap over clips."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.errors import UserError
from common.reports.statistics import Interval, bootstrap_mean
from retrieval.metrics import Ranks, average_precision

TIE_RULE = "of equal similarities, those that are not relevant come first"


def score(
    similarity: Tensor,
    owner: Tensor,
    captions: Sequence[str],
    file_names: Sequence[str],
    relevance: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> dict[str, Interval]:
    """All figures with 95 % intervals.

    Args:
        similarity: (captions, clips), float32 or better: half precision makes ties.
        owner: (captions,), clip of each caption.
        captions: text of each row.
        file_names: of each column.
        relevance: caption to its relevant file names; the "multiple" figures take its captions only (DCASE 2025).
        seed: of the bootstrap.

    Returns:
        Name to interval: "mAP@10", "R@1", "R@5", "R@10", "MRR" of captions as queries for their own clip; "audio to
        text ..." of clips as queries for their captions; "multiple mAP@10", "multiple mAP@16" with `relevance`.
    """
    values = query_values(similarity, owner, captions, file_names, relevance)
    return {name: mean_interval_over(found, groups, seed) for name, (found, groups) in values.items()}


def query_values(
    similarity: Tensor,
    owner: Tensor,
    captions: Sequence[str],
    file_names: Sequence[str],
    relevance: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Figures of each query, and the clip that it belongs to: (queries,) each; arguments and names as of `score`."""
    relevant = owner[:, None] == torch.arange(similarity.shape[1])
    to_clips, to_captions = Ranks.of(similarity, relevant), Ranks.of(similarity.mT, relevant.mT)
    clips = torch.arange(similarity.shape[1])
    found = {"mAP@10": (to_clips.average_precision(10), owner)}
    found |= {f"R@{k}": (to_clips.recall(k), owner) for k in (1, 5, 10)}
    found["MRR"] = to_clips.reciprocal_rank(), owner
    found["audio to text mAP@10"] = to_captions.average_precision(10), clips
    found |= {f"audio to text R@{k}": (to_captions.recall(k), clips) for k in (1, 5, 10)}
    if relevance is not None:
        rows, several = several_relevant(captions, file_names, relevance)
        for k in (10, 16):
            found[f"multiple mAP@{k}"] = average_precision(similarity[rows], several, k), owner[rows]
    return found


def several_relevant(
    captions: Sequence[str], file_names: Sequence[str], relevance: Mapping[str, Sequence[str]]
) -> tuple[Tensor, Tensor]:
    """Rows of the annotated captions, and their relevant clips: (queries,), (queries, clips) bool.

    Raises:
        UserError: if the annotation names captions or clips that are not in the evaluation set.
    """
    row = {caption: i for i, caption in enumerate(captions)}
    column = {name: i for i, name in enumerate(file_names)}
    absent = [caption for caption in relevance if caption not in row]
    absent += [name for names in relevance.values() for name in names if name not in column]
    if absent:
        raise UserError(
            f"The relevance table names {len(absent)} captions or clips that the evaluation set lacks, the first is "
            f"{absent[0]!r}; use the table that belongs to it."
        )
    several = torch.zeros(len(relevance), len(column), dtype=torch.bool)
    for query, names in enumerate(relevance.values()):
        several[query, [column[name] for name in names]] = True
    return torch.tensor([row[caption] for caption in relevance]), several


def per_query(similarity: Tensor, owner: Tensor, captions: Sequence[str], file_names: Sequence[str]) -> pd.DataFrame:
    """One row per caption: caption, file_name, rank of its clip (ties against it), similarity, found_first."""
    relevant = owner[:, None] == torch.arange(similarity.shape[1])
    best = similarity.argmax(dim=1)
    return pd.DataFrame(
        {
            "caption": list(captions),
            "file_name": [file_names[i] for i in owner.tolist()],
            "rank": Ranks.of(similarity, relevant).first().numpy(),
            "similarity": similarity.gather(1, owner[:, None])[:, 0].numpy(),
            "found_first": [file_names[i] for i in best.tolist()],
        }
    )


def rank_histogram(ranks: pd.Series) -> dict[str, int]:
    """Number of captions with their clip at rank 1, 2-5, 6-10, 11-50, later."""
    bins, names = [0, 1, 5, 10, 50, np.inf], ["1", "2-5", "6-10", "11-50", "later"]
    return pd.cut(ranks, bins, labels=names).value_counts(sort=False).to_dict()


def as_json(figures: Mapping[str, Interval]) -> dict[str, Any]:
    """For files and `--json`."""
    return {name: {"value": f.value, "interval": [f.low, f.high]} for name, f in figures.items()}


def mean_interval_over(values: Tensor, groups: Tensor | np.ndarray, seed: int) -> Interval:
    """Mean of values (queries,) with a 95 % interval; queries of one group (clip, sound) are drawn together."""
    return bootstrap_mean(values, groups, np.random.default_rng(seed))
