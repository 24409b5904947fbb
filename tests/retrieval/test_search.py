"""Exact search in pieces, teachers told by name, and the challenge's csv files."""

import csv
import io
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from common.errors import UserError
from retrieval.correspondences import EstimatedCorrespondences, embed_by_text, write_teacher
from retrieval.losses import estimated_correspondences
from retrieval.search.ranking import top_k
from retrieval.submission import matrix_csv, ranking_csv


def test_search_in_pieces_equals_sorting_everything():
    generator = torch.Generator().manual_seed(0)
    vectors = functional.normalize(torch.randn(1000, 16, generator=generator), dim=1)
    queries = functional.normalize(torch.randn(7, 16, generator=generator), dim=1)
    values, rows = top_k(queries, vectors.numpy(), 5, chunk=64)
    order = (queries @ vectors.mT).argsort(dim=1, descending=True)[:, :5]
    assert torch.equal(rows, order)
    assert torch.allclose(values, (queries @ vectors.mT).gather(1, order))


def test_equal_similarities_come_in_the_order_of_the_files():
    vectors = np.ones((300, 4), np.float32) / 2
    _, rows = top_k(torch.ones(1, 4) / 2, vectors, 4, chunk=50)
    assert rows.tolist() == [[0, 1, 2, 3]]


def test_fewer_files_than_asked_for_give_all_files():
    assert top_k(torch.ones(2, 3), np.ones((2, 3), np.float32), 10)[1].shape == (2, 2)


CLIPS, CAPTIONS = ("a", "b", "c"), ("one", "two", "three", "four")


def vectors(count, seed):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def write(folder, clips=CLIPS, captions=CAPTIONS, rule="none"):
    write_teacher(folder, clips, vectors(len(clips), 0), captions, vectors(len(captions), 1), rule)
    return folder


def test_correspondences_are_found_by_name_whatever_the_teachers_order(tmp_path):
    first = EstimatedCorrespondences([write(tmp_path / "first")], CLIPS, CAPTIONS, "none")
    write_teacher(
        tmp_path / "turned", CLIPS[::-1], vectors(3, 0).flip(0), CAPTIONS[::-1], vectors(4, 1).flip(0), "none"
    )
    turned = EstimatedCorrespondences([tmp_path / "turned"], ["b", "a", "c"], ["four", "one", "two", "three"], "none")
    asked = ["two", "two", "one"]
    direct = estimated_correspondences([vectors(3, 0)[[2, 1]]], [vectors(4, 1)[[1, 1, 0]]])
    assert torch.allclose(first(torch.tensor([2, 1]), asked), direct, atol=1e-6)
    assert torch.allclose(turned(torch.tensor([2, 0]), asked), direct, atol=1e-6)


def test_a_text_encoder_is_a_teacher_without_audio(tmp_path):
    words = {"rain": (1.0, 0.0), "drizzle": (0.8, 0.6), "a dog": (0.0, 1.0)}

    class Encoder:
        caption_rule = "dcase2024"

        def encode(self, captions):
            return torch.tensor([words[caption] for caption in captions])

    captions = [("Rain.", "Drizzle!"), ("A dog",)]
    audio, distinct, text = embed_by_text(Encoder(), captions)
    write_teacher(tmp_path, ["wet", "loud"], audio, distinct, text, "dcase2024")
    teacher = EstimatedCorrespondences([tmp_path], ["wet", "loud"], distinct, "dcase2024")
    similarity = teacher(torch.tensor([0, 1]), ["Rain.", "A dog"])
    assert similarity[0, 0] == pytest.approx(0.9 / math.hypot(0.9, 0.3)) and similarity[1].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"clips": ("a", "b")}, r"lacks 1 of 3 clips \(first c\)"),
        ({"captions": ("one", "two", "three")}, r"lacks 1 of 4 clips \(first four\)"),
        ({"rule": "dcase2024"}, "by the rule dcase2024"),
    ],
)
def test_a_teacher_of_other_clips_captions_or_text_rules_is_refused(made, message, tmp_path):
    with pytest.raises(UserError, match=message):
        EstimatedCorrespondences([write(tmp_path, **made)], CLIPS, CAPTIONS, "none")


def test_a_damaged_teacher_is_refused(tmp_path):
    broken = vectors(3, 0)
    broken[0, 0] = float("nan")
    with pytest.raises(UserError, match="NaN or infinity"):
        write_teacher(tmp_path / "nan", CLIPS, broken, CAPTIONS, vectors(4, 1), "none")
    write(tmp_path / "cut")
    path = tmp_path / "cut" / "clips.h5"
    path.write_bytes(path.read_bytes()[:200])
    for name, message in (("cut", "cut off"), ("absent", "There is no file")):
        with pytest.raises(UserError, match=message):
            EstimatedCorrespondences([tmp_path / name], CLIPS, CAPTIONS, "none")


def test_the_csv_of_2024_lists_the_best_files_first_and_survives_commas():
    names = [f"{i}, take.wav" for i in range(12)]
    similarity = np.stack([np.arange(12.0), -np.arange(12.0)])
    rows = list(csv.reader(io.StringIO(ranking_csv(similarity, ['a "dog", barks', "rain"], names))))
    assert rows[0] == ["caption", *(f"file_name_{i}" for i in range(1, 11))]
    assert rows[1] == ['a "dog", barks', *(names[i] for i in range(11, 1, -1))]
    assert rows[2][1:] == names[:10]


def test_the_csv_of_2025_keeps_repeated_queries():
    text = matrix_csv(np.array([[0.5, -0.25], [1.0, 0.0]]), ["rain", "rain"], ["a.wav", "b.wav"])
    assert text == "index,a.wav,b.wav\nrain,0.5,-0.25\nrain,1,0\n"
