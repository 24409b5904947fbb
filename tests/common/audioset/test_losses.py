"""Loss, schedule, sampler weights and draws of AudioSet training, number by number against the published recipe."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.audioset import data
from common.audioset.data import DrawSampler, PackedTargets, class_balance_weights
from common.audioset.losses import tagging_loss, teacher_probabilities, weighted_bce
from common.audioset.settings import OptimSettings
from common.audioset.train import rate_factor
from common.data.loading import EpochDraws
from common.errors import UserError
from common.features import augment
from common.training.schedules import ExponentialWarmupLinearDown


def published_schedule(epoch):
    """rampup(e) * rampdown(e) of EfficientAT's helpers/utils.py with its defaults, written out."""
    rise = math.exp(-5 * (1 - max(epoch, 0.5) / 8) ** 2) if epoch < 8 else 1.0
    if epoch <= 80:
        return rise
    fall = max(0.0, (175 - epoch) / 95)
    return rise * (0.01 + 0.99 * fall)


@pytest.mark.parametrize(
    ("epoch", "factor"),
    [(0, 0.012345), (1, 0.021750), (4, 0.286505), (7, 0.924849), (8, 1.0), (80, 1.0), (81, 0.989579), (127.5, 0.505),
     (175, 0.01), (199, 0.01)],
)  # fmt: skip
def test_the_learning_rate_is_the_published_one(epoch, factor):
    optim = OptimSettings()
    schedule = ExponentialWarmupLinearDown(optim.warmup, optim.down_start, optim.down_length, optim.floor)
    assert optim.lr == 8e-4
    assert schedule(epoch) == pytest.approx(factor, abs=1e-6)
    assert schedule(epoch) == pytest.approx(published_schedule(epoch), rel=1e-9)


def test_distillation_weighs_the_labels_with_a_tenth():
    logits = torch.tensor([[0.0, 2.0]])
    label, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, -1.0]])
    # By hand: BCE(0, 1) = ln 2; BCE(2, 0) = ln(1 + e^2) = 2.126928
    label_loss = weighted_bce(logits, label, torch.ones(1, 1))
    assert label_loss.item() == pytest.approx((math.log(2) + 2.126928) / 2, abs=1e-6)
    soft = teacher_probabilities(teacher, 1.0)
    assert soft[0].tolist() == pytest.approx([0.880797, 0.268941], abs=1e-6)
    # BCE(0, p) = ln 2 whatever p; BCE(2, p) = 2.126928 - 2 p
    taught = weighted_bce(logits, soft, torch.ones(1, 1))
    assert taught.item() == pytest.approx((math.log(2) + 2.126928 - 2 * 0.268941) / 2, abs=1e-6)
    ones = torch.ones(1, 1)
    targets = {"target": label, "weight": ones, "teacher_target": soft, "teacher_weight": ones}
    loss = tagging_loss(logits, targets, label_weight=0.1)["loss"]
    assert loss.item() == pytest.approx(0.1 * label_loss.item() + 0.9 * taught.item(), abs=1e-7)


def test_temperature_divides_the_teachers_logits():
    assert teacher_probabilities(torch.tensor([2.0], dtype=torch.float16), 2.0).item() == pytest.approx(
        0.731059, abs=1e-6
    )


def test_mixed_targets_give_the_published_sum_of_two_losses():
    generator = torch.Generator().manual_seed(0)
    logits, labels, teacher = (torch.randn(6, 5, generator=generator) for _ in range(3))
    labels, teacher = (labels > 0).float(), teacher.sigmoid()
    weight, partner = augment.draw_mixup(6, 0.3, generator, dominant=True)
    assert (weight >= 0.5).all()
    for target in (labels, teacher):
        each = F.binary_cross_entropy_with_logits
        first = each(logits, target, reduction="none").mean(1)
        second = each(logits, target[partner], reduction="none").mean(1)
        published = (first * weight + second * (1 - weight)).mean()
        ours = weighted_bce(logits, augment.mix(target, weight, partner), torch.ones(6, 1))
        assert ours.item() == pytest.approx(published.item(), abs=1e-6)


def test_clips_without_teacher_add_nothing_but_count_in_the_mean():
    logits, teacher = torch.randn(4, 3), torch.rand(4, 3)
    there = torch.tensor([[1.0], [0.0], [1.0], [1.0]])
    loss = weighted_bce(logits, teacher * there, there)
    rows = F.binary_cross_entropy_with_logits(logits, teacher, reduction="none").mean(1)
    assert loss.item() == pytest.approx((rows[[0, 2, 3]].sum() / 4).item(), abs=1e-6)


def test_sampler_weights_are_the_published_ones():
    targets = np.zeros((200, 3), dtype=np.uint8)
    targets[:, 0] = 1  # 200 clips
    targets[:100, 1] = 1  # 100 clips
    targets[0, 2] = 1  # 1 clip
    weights = class_balance_weights(targets)
    # 1000 / (100 + 200) = 3.3333, 1000 / (100 + 100) = 5, 1000 / (100 + 1) = 9.90099
    assert weights[0] == pytest.approx(3.333333 + 5 + 9.900990, abs=1e-5)
    assert weights[1] == pytest.approx(3.333333 + 5, abs=1e-5)
    assert weights[150] == pytest.approx(3.333333, abs=1e-5)
    packed = PackedTargets(np.packbits(targets, axis=1), 3)
    assert class_balance_weights(packed).tolist() == weights.tolist()
    assert class_balance_weights(targets, offset=0.0)[0] == pytest.approx(5 + 10 + 1000)


def test_an_epoch_draws_no_clip_twice_and_heavy_clips_more_often():
    weights = np.array([100.0] * 10 + [1.0] * 990)
    counts = np.zeros(1000)
    sampler = DrawSampler(EpochDraws(1000, 100, weights), 0)
    for epoch in range(50):
        sampler.set_epoch(epoch)
        drawn = [index for index, _ in sampler]
        assert len(drawn) == len(set(drawn)) == 100
        counts[drawn] += 1
    assert counts[:10].min() >= 45
    assert counts[10:].mean() == pytest.approx(100 * 50 / 1000 * 0.92, abs=0.4)


def test_the_first_draw_follows_the_weights():
    weights = np.array([1.0, 2.0, 5.0, 0.0])
    sampler = DrawSampler(EpochDraws(4, 2, weights), 3, shuffled=False)
    first, second = np.zeros(4), np.zeros(4)
    for epoch in range(4000):
        sampler.set_epoch(epoch)
        (one, _), (two, _) = list(sampler)
        first[one] += 1
        second[two] += 1
    assert first / 4000 == pytest.approx([0.125, 0.25, 0.625, 0], abs=0.03)
    # P(second is 0) = P(1 first) 1/6 + P(2 first) 1/3 = 0.25 / 6 + 0.625 / 3
    assert second[0] / 4000 == pytest.approx(0.25 / 6 + 0.625 / 3, abs=0.03)
    assert first[3] == second[3] == 0


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("weighted", [True, False])
def test_processes_share_the_draws_of_one(monkeypatch, world, weighted):
    weights = np.linspace(1, 5, 40) if weighted else None
    sampler = DrawSampler(EpochDraws(40, 30, weights), 7)
    sampler.set_epoch(3)
    alone = list(sampler)
    shares = []
    for rank in range(world):
        monkeypatch.setattr(data, "rank_and_count", lambda rank=rank: (rank, world))
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler) == 30 // world
    together = [draw for step in zip(*shares) for draw in step]
    assert together == alone[: 30 // world * world]


def test_every_clip_once_comes_in_another_order_in_each_epoch():
    sampler, orders = DrawSampler(EpochDraws(50, 50), 1), []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        orders.append([index for index, _ in sampler])
        assert sorted(orders[-1]) == list(range(50)) != orders[-1]
    assert orders[0] != orders[1]


def test_heavy_clips_come_anywhere_in_an_epoch():
    weights = np.array([1e6] + [1.0] * 99)
    sampler, places = DrawSampler(EpochDraws(100, 50, weights), 1), []
    for epoch in range(20):
        sampler.set_epoch(epoch)
        places.append([index for index, _ in sampler].index(0))
    assert max(places) > 25


def test_draws_depend_on_seed_and_epoch_alone():
    def drawn(seed, epoch):
        sampler = DrawSampler(EpochDraws(50, 20, np.ones(50)), seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert drawn(1, 2) == drawn(1, 2)
    assert drawn(1, 2) != drawn(1, 3) != drawn(2, 3)


def test_more_clips_than_there_are_cannot_be_drawn_without_replacement():
    with pytest.raises(UserError, match="An epoch of 100 clips cannot be drawn without replacement from 10"):
        EpochDraws(10, 100, np.ones(10))
    assert len(EpochDraws(10, 100, np.ones(10), replacement=True).order(0, 0)) == 100
    assert set(EpochDraws(10, 50, np.eye(10)[3], replacement=True).order(0, 0)) == {3}


def test_the_schedule_follows_the_epochs():
    optim = OptimSettings(warmup=10, down_start=10, down_length=65, schedule_epochs=80)
    assert rate_factor(optim, 80) == rate_factor(optim) == ExponentialWarmupLinearDown(10, 10, 65, 0.01)
    assert rate_factor(optim, 16) == ExponentialWarmupLinearDown(2, 2, 13, 0.01)
    assert rate_factor(optim.model_copy(update={"schedule_epochs": None}), 16) == rate_factor(optim)
