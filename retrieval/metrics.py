"""Ranking metrics of language-based audio retrieval and query by vocal imitation.

One tie rule everywhere: among items of equal similarity, irrelevant ones come first. Any other order favours a model
that gives the same similarity to everything (in one published program it reaches an MRR of 1). Without ties, the values
equal the official programs'.
"""

import torch
from torch import Tensor


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
    ranked = ranked_relevance(similarity, relevant)
    hits = ranked[:, :k].double()
    ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    return (hits * hits.cumsum(dim=1) / ranks).sum(dim=1) / ranked.sum(dim=1)


def recall(similarity: Tensor, relevant: Tensor, k: int) -> Tensor:
    """R@k of each query: (queries,) float64. See `recall_at_k`."""
    ranked = ranked_relevance(similarity, relevant).double()
    return ranked[:, :k].sum(dim=1) / ranked.sum(dim=1)


def reciprocal_rank(similarity: Tensor, relevant: Tensor) -> Tensor:
    """1 / rank of the first relevant item of each query: (queries,) float64."""
    return 1.0 / first_rank(similarity, relevant).double()


def first_rank(similarity: Tensor, relevant: Tensor) -> Tensor:
    """Rank of the first relevant item of each query, from 1: (queries,) int64."""
    return ranked_relevance(similarity, relevant).int().argmax(dim=1) + 1


def normalized_gain(similarity: Tensor, relevant: Tensor, k: int | None = None) -> Tensor:
    """NDCG of each query: (queries,) float64. See `ndcg`."""
    ranked = ranked_relevance(similarity, relevant)
    hits = ranked[:, :k].double()
    discounts = 1.0 / torch.log2(torch.arange(2, hits.shape[1] + 2, device=hits.device, dtype=torch.float64))
    ideal = ranked.sort(dim=1, descending=True).values[:, :k].double()
    return (hits * discounts).sum(dim=1) / (ideal * discounts).sum(dim=1)


def ranked_relevance(similarity: Tensor, relevant: Tensor) -> Tensor:
    """Relevance of each query's items, most similar first, ties against the query: (queries, items) bool.

    Raises:
        ValueError: if shapes differ, a query has no relevant item, or a similarity is not a number.
    """
    similarity, relevant = torch.as_tensor(similarity), torch.as_tensor(relevant).bool()
    if similarity.ndim != 2 or similarity.shape != relevant.shape:
        raise ValueError(
            f"similarity {tuple(similarity.shape)} and relevant {tuple(relevant.shape)} must both be (queries, items)"
        )
    if torch.isnan(similarity).any():
        query = int(torch.isnan(similarity).any(dim=1).int().argmax())
        raise ValueError(f"similarity of query {query} is not a number")
    if not relevant.any(dim=1).all():
        query = int((~relevant.any(dim=1)).int().argmax())
        raise ValueError(f"query {query} has no relevant item")
    # Two stable sorts: by relevance (not relevant first), then by similarity; equal similarities keep the first order.
    by_relevance = relevant.int().argsort(dim=1, stable=True)
    by_similarity = similarity.gather(1, by_relevance).argsort(dim=1, descending=True, stable=True)
    return relevant.gather(1, by_relevance.gather(1, by_similarity))
