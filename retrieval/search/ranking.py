"""The most similar of many vectors, exactly, at about the cost of the matrix product."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from common.errors import UserError

PIECE = 16384
"""Vectors that are compared at once."""
CONVERTED = 256
"""Vectors of half precision that are converted at once for one query, so that their copy in float32 stays in the second
cache; four times as many for several queries: larger products are quicker."""
BLOCK = 64
"""Similarities of which only the largest is looked at first."""
TOO_MANY = 4


def top_k(queries: Tensor, vectors: np.ndarray, k: int, chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """The `k` most similar vectors of each query; memory is bounded by (queries + dim) x chunk.

    Args:
        queries: (queries, dim), unit length.
        vectors: (vectors, dim) float32 or float16, may be memory-mapped; `chunk` of them are compared at once.

    Returns:
        Similarities and rows, both (queries, k), best first; equal similarities in the order of the rows.

    Raises:
        UserError: if a vector holds NaN or infinity.
    """
    if queries.ndim != 2 or queries.shape[1] != vectors.shape[1]:
        raise ValueError(f"queries {tuple(queries.shape)} do not fit vectors {vectors.shape}")
    k, count = min(k, len(vectors)), len(queries)
    owner, rows = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    best, limit = torch.empty(0), torch.full((count, 1), -torch.inf)
    for start, similarity in similarities(queries, vectors, chunk):
        full = len(owner) == count * k
        query, column, value = _at_least(similarity, limit, k, tighten=not full)
        if not len(query):
            continue
        owner, rows, best = torch.cat([owner, query]), torch.cat([rows, column + start]), torch.cat([best, value])
        # Stable, and rows rise: of equal similarities the earlier row stays in front.
        order = best.argsort(descending=True, stable=True)
        order = order[owner[order].argsort(stable=True)]
        held = torch.bincount(owner, minlength=count)
        place = torch.arange(len(order)) - (held.cumsum(0) - held)[owner[order]]
        order = order[place < k]
        owner, rows, best = owner[order], rows[order], best[order]
        if len(owner) == count * k:  # later rows must be more similar than the last one that is kept
            limit = best.view(count, k)[:, -1:].nextafter(torch.tensor(torch.inf))
    return best.view(count, k), rows.view(count, k)


def similarities(queries: Tensor, vectors: np.ndarray, chunk: int | None = None) -> Iterator[tuple[int, Tensor]]:
    """First row and similarities (queries, rows) of each piece; the tensor holds until the next piece.

    Raises:
        UserError: if a vector holds NaN or infinity.
    """
    queries, chunk = queries.float(), chunk or PIECE
    converted = CONVERTED if len(queries) == 1 else 4 * CONVERTED
    buffer = None if vectors.dtype == np.float32 else torch.empty(converted, vectors.shape[1])
    out = torch.empty(len(queries), chunk)
    for start in range(0, len(vectors), chunk):
        piece = torch.from_numpy(vectors[start : start + chunk])
        similarity = out if len(piece) == chunk else torch.empty(len(queries), len(piece))
        if buffer is None:
            torch.mm(queries, piece.mT, out=similarity)
        else:
            _multiply_half(queries, piece, buffer, similarity)
        if not similarity.sum().isfinite():
            row = start + int((~piece.isfinite()).any(dim=1).int().argmax())
            raise UserError(f"Vector {row} of the index holds NaN or infinity. Index again.")
        yield start, similarity


def _multiply_half(queries: Tensor, piece: Tensor, buffer: Tensor, out: Tensor) -> None:
    """queries @ piece.mT in float32, into `out`; `buffer` takes what is converted."""
    for part, similarity in zip(piece.split(len(buffer)), out.split(len(buffer), dim=1), strict=True):
        converted = buffer[: len(part)].copy_(part)
        if len(queries) == 1:
            torch.mv(converted, queries[0], out=similarity[0])
        else:
            torch.mm(queries, converted.mT, out=similarity)


def nearest_of_other_files(vectors: np.ndarray, file: NDArray[np.int32], sample: NDArray[np.int64]) -> Tensor:
    """Similarity of some rows to the nearest row of another file: (sample,).

    `file` holds the number of each row's file; rows below 0 are nobody's neighbours.
    """
    best, of_row = torch.full((len(sample),), -torch.inf), torch.from_numpy(file)
    for start, similarity in similarities(torch.from_numpy(vectors[sample]), vectors):
        others = of_row[start : start + similarity.shape[1]]
        same = (of_row[sample][:, None] == others) | (others < 0)
        best = best.maximum(similarity.masked_fill_(same, -torch.inf).amax(dim=1))
    return best


def _at_least(similarity: Tensor, limit: Tensor, k: int, tighten: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, columns and values from `limit` (queries, 1) on, in rising order.

    Only blocks with such a value are read twice. With `tighten`, or when there are many, the k-th best value of the
    piece is a limit as well, ties included.
    """
    width = similarity.shape[1]
    padded = functional.pad(similarity, (0, -width % BLOCK), value=-torch.inf) if width % BLOCK else similarity
    blocks = padded.view(len(padded), -1, BLOCK)
    peaks = blocks.amax(dim=2)
    hit = (peaks >= limit).nonzero()
    if tighten or len(hit) > TOO_MANY * k * len(similarity):
        limit = limit.maximum(similarity.topk(min(k, width), dim=1).values[:, -1:])
        hit = (peaks >= limit).nonzero()
    query, block = hit.unbind(dim=1)
    found = blocks[query, block]
    which, inner = (found >= limit[query]).nonzero(as_tuple=True)
    return query[which], block[which] * BLOCK + inner, found[which, inner]
