"""The head on the similarity curve: it learns a shape that the cut alone cannot see, and its best epoch is kept."""

import numpy as np
import pandas as pd
import pytest
import torch

from retrieval.moments.annotations import Query
from retrieval.moments.head import CurveHead, sharpen, train_head
from retrieval.moments.settings import Head, MomentSettings

SOURCE = {"root": "data", "annotations": "queries.jsonl"}


def settings(**head):
    system = {"kind": "similarity", "spans": "threshold", "head": {"width": 8, "epochs": 8, **head}}
    data = {"training": SOURCE, "validation": SOURCE, "evaluation": SOURCE}
    return MomentSettings.model_validate({"data": data, "system": system})


def inverted(number, seed):
    """Curves that are low inside of the window, and their queries: the cut alone takes the outside."""
    rng, curves, queries = np.random.default_rng(seed), [], []
    for row in range(number):
        start, length = int(rng.integers(5, 25)), int(rng.integers(6, 12))
        curve = rng.normal(0, 0.05, 40)
        curve[start : start + length] -= 1
        curves.append(curve)
        queries.append(Query(f"q{row}", "x", f"v{row}", 40.0, np.array([[start, start + length]], dtype=float)))
    return curves, queries


def test_the_head_learns_what_the_cut_alone_cannot_see():
    training, validation = inverted(20, 0), inverted(10, 1)
    head, rows = train_head(training, validation, settings(), seed=0, epochs=8)
    assert [row["epoch"] for row in rows] == [4, 8]
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["R1@0.7"] > 0.8
    for curve, query in zip(sharpen(head, validation[0]), validation[1], strict=True):
        start, end = query.windows[0].astype(int)
        outside = np.delete(curve, slice(start - 1, end + 1))
        assert curve[start + 1 : end - 1].mean() > 0.5 > outside.mean()


def test_the_scale_of_a_curve_does_not_matter():
    torch.manual_seed(0)
    head, (curve,) = CurveHead(Head()), inverted(1, 2)[0]
    assert np.allclose(sharpen(head, [curve]), sharpen(head, [3 * curve + 7]), atol=1e-5)
    assert len(sharpen(head, [np.zeros(3)])[0]) == 3


@torch.no_grad()
def test_curves_of_a_batch_are_scaled_each_by_itself():
    """By the standard deviation of all of its seconds, not of a sample of them."""
    torch.manual_seed(0)
    head, curves = CurveHead(Head()).eval(), torch.tensor([[0.0, 2.0, 4.0, 2.0], [10.0, 70.0, 10.0, 70.0]])
    plain = torch.stack([(curve - curve.mean()) / curve.std(correction=0) for curve in curves])
    np.testing.assert_allclose(head(curves), head(plain), atol=1e-5)
    seen = []
    head.layers.register_forward_pre_hook(lambda _layers, inputs: seen.append(inputs[0]))
    head(curves)
    np.testing.assert_allclose(seen[0][:, 0], plain, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_best_epoch_is_kept_and_a_seed_repeats(seed):
    training, validation = inverted(6, 3), inverted(6, 4)
    options = settings(validate_every=1, lr=0.05)
    head, rows = train_head(training, validation, options, seed, epochs=6)
    again, repeated = train_head(training, validation, options, seed, epochs=6)
    assert pd.DataFrame(rows).equals(pd.DataFrame(repeated))
    best = max(range(6), key=lambda row: (rows[row]["selection"], -row))
    stopped, _ = train_head(training, validation, options, seed, epochs=best + 1)
    for one, other, third in zip(head.parameters(), again.parameters(), stopped.parameters(), strict=True):
        assert torch.equal(one, other) and torch.equal(one, third)
