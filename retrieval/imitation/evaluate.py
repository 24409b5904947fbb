"""Figures of searches by vocal imitation."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.reports.statistics import Interval
from retrieval.evaluate import mean_interval_over
from retrieval.imitation.data import Search
from retrieval.metrics import normalized_gain, recall, reciprocal_rank


def score_search(similarity: Tensor, search: Search, seed: int = 0) -> dict[str, Interval]:
    """Figures of a search, with 95 % intervals by bootstrap over the imitated items.

    Returns:
        "MRR", "R@1", "R@2" over queries; "NDCG" where every item of the target's class counts; with several groups
        also "MRR per concept": the mean over the groups of each group's mean (QBV's fine-grained protocol).
    """
    candidates, relevant = separate_groups(similarity, search)
    ranks = reciprocal_rank(candidates, relevant)
    target, labels = np.array(search.target), np.array(search.label)
    figures = {
        "MRR": mean_interval_over(ranks, target, seed),
        "R@1": mean_interval_over(recall(candidates, relevant, 1), target, seed),
        "R@2": mean_interval_over(recall(candidates, relevant, 2), target, seed),
    }
    if len(set(search.item_group)) == 1:
        same_class = torch.from_numpy(labels[target][:, None] == labels[None])
        figures["NDCG"] = mean_interval_over(normalized_gain(similarity, same_class), target, seed)
    else:
        means = pd.Series(ranks.numpy()).groupby(search.group).mean().to_numpy()
        figures["MRR per concept"] = mean_interval_over(torch.tensor(means), np.arange(len(means)), seed)
    return figures


def separate_groups(similarity: Tensor, search: Search) -> tuple[Tensor, Tensor]:
    """Similarities with items of other groups behind all candidates, and the target of each query as bool."""
    groups = {name: i for i, name in enumerate(dict.fromkeys(search.item_group))}
    item_group = torch.tensor([groups[name] for name in search.item_group])
    query_group = torch.tensor([groups[name] for name in search.group])
    relevant = torch.tensor(search.target)[:, None] == torch.arange(len(search.items))
    return similarity.masked_fill(query_group[:, None] != item_group[None], -torch.inf), relevant
