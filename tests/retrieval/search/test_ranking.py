"""Exact search: equal to sorting everything, whatever the order, the ties and the precision."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from retrieval.search.ranking import nearest_of_other_files, top_k


def sorted_whole(queries, vectors, k):
    similarity = queries @ torch.from_numpy(vectors.astype(np.float32)).mT
    found = similarity.sort(dim=1, descending=True, stable=True)
    return found.values[:, :k], found.indices[:, :k]


def drawn(order):
    rng = np.random.default_rng(0)
    if order == "ties":
        return rng.integers(-2, 3, (1000, 4)).astype(np.float32)
    vectors = rng.standard_normal((1000, 16), dtype=np.float32)
    return vectors[np.argsort(vectors[:, 0])] if order == "ever better" else vectors


@pytest.mark.parametrize("chunk", [None, 37, 64, 200])
@pytest.mark.parametrize("order", ["random", "ties", "ever better"])
def test_pieces_give_the_rows_of_a_stable_sort(order, chunk):
    vectors = drawn(order)
    queries = torch.eye(5, vectors.shape[1])
    for k in (1, 7, 990, 2000):
        values, rows = top_k(queries, vectors, k, chunk)
        expected, order_of_rows = sorted_whole(queries, vectors, k)
        assert torch.equal(rows, order_of_rows) and torch.equal(values, expected)


def test_half_precision_finds_the_same_rows():
    vectors = functional.normalize(torch.from_numpy(drawn("random")), dim=1).numpy()
    queries = torch.from_numpy(vectors[:20])
    half = vectors.astype(np.float16)
    assert torch.equal(top_k(queries, half, 5, 100)[1], sorted_whole(queries, half, 5)[1])
    assert torch.equal(top_k(queries, half, 1)[1][:, 0], torch.arange(20))
    assert torch.allclose(top_k(queries, half, 5)[0], top_k(queries, vectors, 5)[0], atol=1e-3)


def test_the_nearest_row_of_another_file():
    vectors = np.array([[1, 0], [1, 0], [0.6, 0.8], [0, 1]], np.float32)
    nearest = nearest_of_other_files(vectors, np.array([0, 0, 1, -1], np.int32), np.array([0, 1, 2]))
    assert nearest.tolist() == pytest.approx([0.6, 0.6, 0.6])  # row 3 is of a file that is gone
