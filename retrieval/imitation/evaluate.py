"""Figures of searches by vocal imitation."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.reports.statistics import Interval
from retrieval.evaluate import mean_interval_over
from retrieval.imitation.data import Search
from retrieval.metrics import Ranks, normalized_gain


def score_search(similarity: Tensor, search: Search, seed: int = 0) -> dict[str, Interval]:
    """Figures of a search, with 95 % intervals by bootstrap over the imitated items.

    Returns:
        "MRR", "R@1", "R@2" over queries; "NDCG" where every item of the target's class counts; with several groups
        also "MRR per concept": the mean over the groups of each group's mean (QBV's fine-grained protocol).
    """
    values = query_values(similarity, search)
    return {name: mean_interval_over(found, groups, seed) for name, (found, groups) in values.items()}


def query_values(similarity: Tensor, search: Search) -> dict[str, tuple[Tensor, Tensor]]:
    """Figures of each query (of each group for "MRR per concept") and the item it imitates."""
    candidates, relevant = separate_groups(similarity, search)
    ranking, target = Ranks.of(candidates, relevant), torch.tensor(search.target)
    ranks = ranking.reciprocal_rank()
    found = {"MRR": (ranks, target)} | {f"R@{k}": (ranking.recall(k), target) for k in (1, 2)}
    if len(set(search.item_group)) == 1:
        labels = np.array(search.label)
        same_class = torch.from_numpy(labels[search.target][:, None] == labels[None])
        found["NDCG"] = normalized_gain(similarity, same_class), target
    else:
        means = torch.tensor(pd.Series(ranks.numpy()).groupby(search.group).mean().to_numpy())
        found["MRR per concept"] = means, torch.arange(len(means))
    return found


def separate_groups(similarity: Tensor, search: Search) -> tuple[Tensor, Tensor]:
    """Similarities with items of other groups behind all candidates, and the target of each query as bool."""
    groups = {name: i for i, name in enumerate(dict.fromkeys(search.item_group))}
    item_group = torch.tensor([groups[name] for name in search.item_group])
    query_group = torch.tensor([groups[name] for name in search.group])
    relevant = torch.tensor(search.target)[:, None] == torch.arange(len(search.items))
    return similarity.masked_fill(query_group[:, None] != item_group[None], -torch.inf), relevant
