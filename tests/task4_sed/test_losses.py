"""Losses and schedules of the mean teacher, by hand."""

import math

import pytest
import torch
from torch import nn

from task4_sed.losses import (
    consistency_loss,
    strong_loss,
    teacher_decay,
    update_teacher,
    weak_loss,
)

MASKED = -1e4


def test_frames_are_compared_with_their_own_class_and_time():
    logits = torch.full((1, 3, 2), -20.0)
    logits[0, 2, 1] = 20.0  # frame 2, class 1
    target = torch.zeros(1, 2, 3)
    target[0, 1, 2] = 1.0
    assert strong_loss(logits, target) < 1e-6
    assert strong_loss(logits, torch.zeros(1, 2, 3)) == pytest.approx(20 / 6, rel=1e-4)


def test_soft_labels_are_reached_at_their_own_value():
    target = torch.full((1, 1, 1), 0.3)
    at_target = strong_loss(torch.logit(torch.tensor([[[0.3]]])), target)
    assert at_target == pytest.approx(-(0.3 * math.log(0.3) + 0.7 * math.log(0.7)))
    assert strong_loss(torch.tensor([[[0.0]]]), target) > at_target


def test_masked_classes_add_nothing_but_count_in_the_mean():
    logits = torch.tensor([[[0.0, MASKED]]])
    assert strong_loss(logits, torch.zeros(1, 2, 1)) == pytest.approx(math.log(2) / 2)
    assert weak_loss(torch.tensor([[0.0, MASKED, MASKED]]), torch.zeros(1, 3)) == pytest.approx(math.log(2) / 3)


def test_a_batch_without_clips_of_a_kind_costs_nothing():
    assert strong_loss(torch.zeros(0, 156, 27), torch.zeros(0, 27, 156)) == 0
    assert weak_loss(torch.zeros(0, 27), torch.zeros(0, 27)) == 0
    assert consistency_loss(torch.zeros(0, 27), torch.zeros(0, 27)) == 0


def test_consistency_is_the_squared_difference_of_probabilities_and_moves_the_student_only():
    student = torch.zeros(1, 2, requires_grad=True)
    teacher = torch.tensor([[0.0, math.log(3)]], requires_grad=True)  # probabilities 0.5 and 0.75
    loss = consistency_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(0.25**2 / 2)
    assert student.grad is not None
    assert teacher.grad is None


def test_the_teacher_is_first_the_plain_mean_then_a_moving_average():
    assert [teacher_decay(step, 0.999) for step in range(3)] == pytest.approx([1 / 2, 2 / 3, 3 / 4])
    assert [teacher_decay(step, 0.999, counted_from=0) for step in range(3)] == pytest.approx([0, 1 / 2, 2 / 3])
    assert teacher_decay(998, 0.999) == pytest.approx(0.999)
    assert teacher_decay(10**6, 0.999) == 0.999


@pytest.mark.parametrize("statistics", [False, True])
def test_the_teacher_follows_parameters_and_statistics_only_when_asked(statistics):
    teacher, student = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    for values in (student.weight.data, student.running_mean):
        values.fill_(3.0)
    update_teacher(teacher, student, 0.75, statistics)
    assert teacher.weight.item() == pytest.approx(0.75 * 1 + 0.25 * 3)
    assert teacher.running_mean.item() == pytest.approx(0.75 if statistics else 0.0)
    assert teacher.num_batches_tracked == 0
