"""Exact search in pieces, teachers told by name, and the challenge's csv files."""

import csv
import io

import numpy as np
import pytest
import torch
from torch.nn import functional

from common.errors import UserError
from retrieval.correspondences import EstimatedCorrespondences, Teacher
from retrieval.losses import estimated_correspondences
from retrieval.search import top_k
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


def teacher(name="t", clips=("a", "b", "c"), captions=("one", "two", "three", "four"), rule="none", seed=0):
    generator = torch.Generator().manual_seed(seed)
    audio = torch.randn(len(clips), 6, generator=generator)
    return Teacher(name, rule, list(clips), audio, list(captions), torch.randn(len(captions), 6, generator=generator))


def test_correspondences_are_found_by_name_whatever_the_teachers_order(tmp_path):
    first = teacher()
    shuffled = Teacher("s", "none", first.clips[::-1], first.audio.flip(0), first.captions[::-1], first.text.flip(0))
    clips, captions = ["b", "a", "c"], ["four", "one", "two", "three"]
    expected = EstimatedCorrespondences([first], clips, captions, "none")
    same = EstimatedCorrespondences([shuffled], clips, captions, "none")
    asked = (torch.tensor([2, 0]), ["two", "two", "one"])
    assert torch.allclose(same(*asked), expected(*asked))
    direct = estimated_correspondences(first.audio[[2, 1]], first.text[[1, 1, 0]])
    assert torch.allclose(expected(*asked), direct, atol=1e-6)
    first.write(tmp_path / "t.npz")
    assert Teacher.read(tmp_path / "t.npz").clips == first.clips


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (teacher(clips=("a", "b")), "lacks 1 of 3, the first is 'c'"),
        (teacher(captions=("one", "two", "three", "three")), "1 captions twice"),
        (teacher(rule="dcase2024"), "by the rule dcase2024"),
    ],
)
def test_a_teacher_of_other_clips_captions_or_text_rules_is_refused(made, message):
    with pytest.raises(UserError, match=message):
        EstimatedCorrespondences([made], ["a", "b", "c"], ["one", "two", "three"], "none")


def test_a_damaged_teacher_is_refused(tmp_path):
    path = tmp_path / "t.npz"
    broken = teacher()
    broken.audio[0, 0] = float("nan")
    broken.write(path)
    with pytest.raises(UserError, match="not finite"):
        Teacher.read(path)
    teacher().write(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="teacher embeddings"):
        Teacher.read(path)
    with pytest.raises(UserError, match="run the stage"):
        Teacher.read(tmp_path / "absent.npz")


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
