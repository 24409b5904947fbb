"""Ranking metrics of language-based audio retrieval and query by vocal imitation.

One tie rule everywhere: among items of equal similarity, irrelevant ones come first. Any other order favours a model
that gives the same similarity to everything (in one published program it reaches an MRR of 1). Without ties, the values
equal the official programs'.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FEW = 64
"""Relevant items of a query up to which counting is quicker than sorting."""
BLOCK = 2**17


def mean_average_precision(similarity: Tensor, relevant: Tensor, k: int | None = 10) -> Tensor:
    """mAP@k: how early, among the first `k`, each query finds its relevant items.

    >>> similarity = torch.tensor([[0.9, 0.1, 0.5]])
    >>> relevant = torch.tensor([[True, True, False]])  # ranks 1 and 3
    >>> round(mean_average_precision(similarity, relevant, k=3).item(), 4)  # (1/1 + 2/3) / 2
    0.8333
    >>> mean_average_precision(similarity, relevant, k=2).item()  # the missed one still counts in the divisor
    0.5

    Args:
        similarity: (queries, items), higher is closer; any range, also negative.
        relevant: (queries, items), bool.
        k: length of the ranked list that is submitted; None for the whole list.

    Returns:
        Scalar in 0..1, mean over queries. A query's precisions are divided by all its relevant items, found or
        not, as in the DCASE baselines of 2022 to 2025 (not torchmetrics' RetrievalMAP, which divides by those
        found in the top k and drops relevant items whose similarity is <= 0).

    Raises:
        ValueError: if shapes differ, a query has no relevant item, or a similarity is not a number.
    """
    return average_precision(similarity, relevant, k).mean()


def recall_at_k(similarity: Tensor, relevant: Tensor, k: int) -> Tensor:
    """R@k: share of a query's relevant items among its first `k`, mean over queries, 0..1.

    >>> recall_at_k(torch.tensor([[0.9, 0.1], [0.2, 0.3]]), torch.tensor([[True, False], [True, False]]), k=1).item()
    0.5

    Arguments and errors as in `mean_average_precision`. With one relevant item it is the share of queries that find it.
    """
    return recall(similarity, relevant, k).mean()


def mean_reciprocal_rank(similarity: Tensor, relevant: Tensor) -> Tensor:
    """MRR: mean over queries of 1 / rank of the first relevant item, 0..1.

    >>> mean_reciprocal_rank(torch.tensor([[0.2, 0.3], [0.0, 0.0]]), torch.tensor([[True, False]] * 2)).item()
    0.5

    Equal similarities count against the query (second row). Arguments as in `mean_average_precision`.
    """
    return reciprocal_rank(similarity, relevant).mean()


def ndcg(similarity: Tensor, relevant: Tensor, k: int | None = None) -> Tensor:
    """NDCG with binary relevance: gain 1, discount log2(rank + 1), ideal order all relevant first; mean over queries.

    >>> round(ndcg(torch.tensor([[0.9, 0.5]]), torch.tensor([[False, True]])).item(), 4)  # log2(2) / log2(3)
    0.6309

    Arguments as in `mean_average_precision`; `k` None ranks every item, as QVIM 2025 does.
    """
    return normalized_gain(similarity, relevant, k).mean()


def average_precision(similarity: Tensor, relevant: Tensor, k: int | None = 10) -> Tensor:
    """AP@k of each query: (queries,) float64. See `mean_average_precision`."""
    return Ranks.of(similarity, relevant).average_precision(k)


def recall(similarity: Tensor, relevant: Tensor, k: int) -> Tensor:
    """R@k of each query: (queries,) float64. See `recall_at_k`."""
    return Ranks.of(similarity, relevant).recall(k)


def reciprocal_rank(similarity: Tensor, relevant: Tensor) -> Tensor:
    """1 / rank of the first relevant item of each query: (queries,) float64."""
    return Ranks.of(similarity, relevant).reciprocal_rank()


def normalized_gain(similarity: Tensor, relevant: Tensor, k: int | None = None) -> Tensor:
    """NDCG of each query: (queries,) float64. See `ndcg`."""
    return Ranks.of(similarity, relevant).normalized_gain(k)


@dataclass(frozen=True)
class Ranks:
    """Ranks of the relevant items, from which every figure follows: several figures need one ranking.

    ranks: (queries, most relevant items of a query) int64, rising from 1; beyond `items` where a query has fewer.
    count: (queries,) relevant items of each query.
    items: number of items.
    """

    ranks: Tensor
    count: Tensor
    items: int

    @classmethod
    def of(cls, similarity: Tensor, relevant: Tensor) -> "Ranks":
        """Rank the relevant items among all, ties against the query.

        The j-th relevant item of a query comes after j - 1 others and after every item that is not relevant and at
        least as similar. Counting these takes no sort.

        Raises:
            ValueError: if shapes differ, a query has no relevant item, or a similarity is not a number.
        """
        similarity, relevant = torch.as_tensor(similarity), torch.as_tensor(relevant).bool()
        if similarity.ndim != 2 or similarity.shape != relevant.shape:
            shapes = f"similarity {tuple(similarity.shape)} and relevant {tuple(relevant.shape)}"
            raise ValueError(f"{shapes} must both be (queries, items)")
        if similarity.numel() and similarity.amax().isnan():  # the largest is NaN where any is
            first = int(torch.isnan(similarity).any(dim=1).int().argmax())
            raise ValueError(f"similarity of query {first} is not a number")
        similarity = similarity.contiguous()
        # NumPy finds the true ones twice as fast.
        flat = torch.from_numpy(np.flatnonzero(relevant.cpu().numpy())).to(similarity.device)
        query = flat // max(1, similarity.shape[1])
        count = torch.bincount(query, minlength=len(relevant))
        if not (count > 0).all():
            raise ValueError(f"query {int((count == 0).int().argmax())} has no relevant item")
        place = torch.arange(len(query), device=query.device) - (count.cumsum(0) - count)[query]
        own = torch.full((len(count), int(place.max()) + 1 if len(place) else 0), -torch.inf, device=query.device)
        own = own.to(torch.promote_types(similarity.dtype, own.dtype))
        own[query, place] = similarity.flatten()[flat].to(own)
        own = own.sort(dim=1, descending=True).values
        relevant_above = torch.searchsorted(-own, -own, right=True).minimum(count[:, None])
        order = torch.arange(1, own.shape[1] + 1, device=query.device)
        ranks = count_at_least(similarity, own) - relevant_above + order
        beyond = order > count[:, None]
        return cls(ranks.masked_fill(beyond, similarity.shape[1] + 1), count, similarity.shape[1])

    def average_precision(self, k: int | None = 10) -> Tensor:
        """AP@k of each query: (queries,) float64."""
        hits = self._hits(k)
        ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device)
        return (hits * hits.cumsum(dim=1) / ranks).sum(dim=1) / self.count

    def recall(self, k: int) -> Tensor:
        """R@k of each query: (queries,) float64."""
        return (self.ranks <= min(k, self.items)).sum(dim=1).double() / self.count

    def first(self) -> Tensor:
        """Rank of the first relevant item of each query, from 1: (queries,) int64."""
        return self.ranks[:, 0]

    def reciprocal_rank(self) -> Tensor:
        """1 / rank of the first relevant item of each query: (queries,) float64."""
        return 1.0 / self.first().double()

    def normalized_gain(self, k: int | None = None) -> Tensor:
        """NDCG of each query: (queries,) float64."""
        hits = self._hits(k)
        places = torch.arange(hits.shape[1], device=hits.device)
        discounts = 1.0 / torch.log2(places.double() + 2)
        ideal = (places < self.count[:, None]).double()
        return (hits * discounts).sum(dim=1) / (ideal * discounts).sum(dim=1)

    def _hits(self, k: int | None) -> Tensor:
        """(queries, k) float64: 1 where the item of this rank is relevant."""
        width = self.items if k is None else min(k, self.items)
        hits = torch.zeros(len(self.count), width + 1, dtype=torch.float64, device=self.ranks.device)
        return hits.scatter_(1, (self.ranks - 1).clamp(max=width), 1.0)[:, :width]


def count_at_least(similarity: Tensor, limits: Tensor) -> Tensor:
    """How many items of each query are at least as similar as each of its limits: (queries, limits) int64."""
    if limits.shape[1] > FEW:
        return torch.searchsorted(-similarity.to(limits).sort(dim=1, descending=True).values, -limits, right=True)
    found = torch.empty(limits.shape, dtype=torch.int64, device=limits.device)
    # Counts as products with ones, block by block in the cache: ten times as fast as sums of booleans.
    ones = torch.ones(similarity.shape[1], device=limits.device)
    at_once = max(1, BLOCK // len(ones))
    for rows, own, counts in zip(similarity.split(at_once), limits.split(at_once), found.split(at_once)):
        block = torch.empty(rows.shape, device=ones.device)
        for column in range(limits.shape[1]):
            counts[:, column] = torch.ge(rows, own[:, column, None], out=block) @ ones
    return found
