"""Retrieval metrics against what the official programs computed, and by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from retrieval.imitation.data import Search
from retrieval.imitation.evaluate import score_search
from retrieval.metrics import (
    Ranks,
    average_precision,
    mean_average_precision,
    mean_reciprocal_rank,
    ndcg,
    recall_at_k,
)
from tests.support.places import GOLDEN

FIXTURES = GOLDEN / "retrieval"
CASES = json.loads((FIXTURES / "expected.json").read_text())["cases"]


def arrays(name):
    return {key: torch.from_numpy(value) for key, value in np.load(FIXTURES / f"{name}.npz").items()}


def own_item(target, items):
    return torch.nn.functional.one_hot(target, items).bool()


def cosine(left, right):
    return torch.nn.functional.normalize(left, dim=1) @ torch.nn.functional.normalize(right, dim=1).mT


def check(similarity, relevant, expected):
    for name, value in expected.items():
        measured = {
            "mAP": lambda k: mean_average_precision(similarity, relevant, k),
            "R": lambda k: recall_at_k(similarity, relevant, k),
            "MRR": lambda k: mean_reciprocal_rank(similarity, relevant),
            "NDCG": lambda k: ndcg(similarity, relevant, k),
        }
        metric, _, k = name.partition("@")
        if metric in measured:
            assert measured[metric](int(k) if k else None).item() == pytest.approx(value, abs=1e-6), name


def test_one_relevant_clip_per_caption_as_the_official_programs():
    data = arrays("single")
    check(data["similarity"], own_item(data["target"], data["similarity"].shape[1]), CASES["single"]["expected"])


def test_audio_to_text_divides_by_all_captions_of_a_clip():
    data = arrays("single")
    relevant = own_item(data["target"], data["similarity"].shape[1]).mT
    asked = relevant.any(dim=1)
    check(data["similarity"].mT[asked], relevant[asked], CASES["single_audio_to_text"]["expected"])


def test_several_relevant_clips_as_the_official_programs():
    data = arrays("multi")
    expected = {k: v for k, v in CASES["multi"]["expected"].items() if not k.endswith("definition")}
    check(data["similarity"], data["relevance"].bool(), expected)


def test_ties_count_against_the_query():
    data = arrays("ties")
    relevant = own_item(data["target"], data["similarity"].shape[1])
    check(data["similarity"], relevant, CASES["ties"]["tie_rules"]["pessimistic"])


def test_vocal_imitation_as_the_official_programs():
    data = arrays("vocal")
    similarity = cosine(data["query_embedding"], data["item_embedding"])
    relevant = own_item(data["query_item"], len(data["item_embedding"]))
    expected = dict(CASES["vocal"]["expected"])
    same_class = data["item_class"][data["query_item"]][:, None] == data["item_class"][None]
    assert ndcg(similarity, same_class).item() == pytest.approx(expected.pop("NDCG_class"), abs=1e-6)
    check(similarity, relevant, expected)


def test_a_collapsed_model_scores_badly():
    relevant = own_item(torch.arange(50) % 20, 20)
    assert mean_reciprocal_rank(torch.zeros(50, 20), relevant) == pytest.approx(1 / 20)
    assert mean_average_precision(torch.ones(50, 20), relevant, 10) == 0


def test_a_missed_recording_lowers_the_score():
    relevant = torch.tensor([[True, True, False]])
    assert mean_average_precision(torch.tensor([[0.9, 0.1, 0.5]]), relevant, k=2) == pytest.approx(1 / 2)


def test_a_list_of_ten_is_scored_unless_another_length_is_given():
    similarity = torch.arange(12.0, 0, -1)[None]
    tenth, eleventh = own_item(torch.tensor([9]), 12), own_item(torch.tensor([10]), 12)
    for metric in (mean_average_precision, average_precision):
        assert metric(similarity, tenth).item() == pytest.approx(1 / 10)
        assert metric(similarity, eleventh).item() == 0
    assert mean_average_precision(similarity, eleventh, None) == pytest.approx(1 / 11)


def test_negative_similarities_count_like_positive_ones():
    relevant = torch.tensor([[False, True, True], [True, False, False]])
    similarity = torch.tensor([[0.3, 0.2, 0.1], [0.5, 0.9, 0.4]])
    assert torch.equal(average_precision(similarity, relevant, 3), average_precision(similarity - 5, relevant, 3))


@pytest.mark.parametrize(
    ("similarity", "relevant", "message"),
    [
        (torch.zeros(2, 3), torch.ones(3, 2), "must both be"),
        (torch.zeros(2, 3), torch.tensor([[1, 0, 0], [0, 0, 0]]), "query 1 has no relevant"),
        (torch.tensor([[0.0, float("nan")]]), torch.tensor([[1, 0]]), "query 0 is not a number"),
        (torch.tensor([[0.0, 1], [2, 3], [float("nan"), 0]]), torch.tensor([[1, 0]] * 3), "query 2 is not a number"),
        (torch.tensor([0.0, 1]), torch.tensor([1, 0]), "must both be"),
    ],
)
def test_bad_input_is_refused(similarity, relevant, message):
    with pytest.raises(ValueError, match=message):
        mean_average_precision(similarity, relevant, 10)


def test_fine_grained_imitation_searches_within_the_concept():
    data = arrays("fine")
    concepts = [str(concept) for concept in data["item_concept"].tolist()]
    queries = [str(concept) for concept in data["query_concept"].tolist()]
    search = Search(
        queries=[Path(f"query_{i}.wav") for i in range(len(queries))],
        items=[Path(f"item_{i}.wav") for i in range(len(concepts))],
        target=[concepts.index(concept) for concept in queries],
        label=concepts,
        group=queries,
        item_group=concepts,
    )
    figures = score_search(cosine(data["query_embedding"], data["item_embedding"]), search)
    expected = CASES["fine"]["expected"]
    assert figures["MRR per concept"].value == pytest.approx(expected["MRR"], abs=1e-6)
    assert figures["R@1"].value == pytest.approx(expected["R@1"], abs=1e-6)
    assert figures["R@2"].value == pytest.approx(expected["R@2"], abs=1e-6)
    constant = score_search(torch.ones(len(queries), len(concepts)), search)
    assert constant["MRR per concept"].value < 0.2  # the official sort gives 1.0 here


@pytest.mark.parametrize("few", [0, 64])
def test_counting_gives_the_ranks_of_sorting(few, monkeypatch):
    monkeypatch.setattr("retrieval.metrics.FEW", few)
    generator = torch.Generator().manual_seed(0)
    for share in (0.02, 0.3, 0.9):
        similarity = (2 * torch.randn(20, 50, generator=generator)).round()  # many ties
        relevant = torch.rand(20, 50, generator=generator) < share
        relevant[:, 7] = True
        for query, found in enumerate(Ranks.of(similarity, relevant).ranks.tolist()):
            # By similarity, those that are not relevant first: what the tie rule says, item by item.
            order = sorted(range(50), key=lambda item: (-similarity[query, item], relevant[query, item]))
            expected = [rank for rank, item in enumerate(order, start=1) if relevant[query, item]]
            assert [rank for rank in found if rank <= 50] == expected
