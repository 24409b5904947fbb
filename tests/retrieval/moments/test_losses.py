"""Losses of QD-DETR by hand and against the official ones, and what is drawn for them."""

import json
import math

import numpy as np
import pytest
import torch

from retrieval.moments.data import collate
from retrieval.moments.losses import (
    Draw,
    Targets,
    as_spans,
    draw_targets,
    generalized_iou,
    make_targets,
    match,
    moment_losses,
    saliency_loss,
)
from retrieval.moments.network import QDDETR, MomentOutput
from retrieval.moments.settings import Losses
from tests.support.golden_case import NETWORKS
from tests.support.moments import QD_DETR, vectors

MASK = torch.ones(1, 4, dtype=torch.bool)


def targets(spans=((0.5, 0.5),)):
    salient = torch.tensor([[False, True, True, False]])
    return Targets([torch.tensor(spans)], salient, torch.tensor([[1, 2]]), torch.tensor([[0, 3]]))


def output(spans, logits, saliency=None, other=None):
    return MomentOutput(torch.tensor(spans)[None, None], torch.tensor(logits)[None, None], saliency, other)


def test_generalised_overlap_of_windows_apart_is_negative():
    windows = torch.tensor([[0.0, 1.0], [0.5, 1.5], [3.0, 4.0]])
    assert generalized_iou(windows[:1], windows).tolist() == pytest.approx([1, 1 / 3, -0.5])


def test_each_true_window_gets_the_slot_that_costs_least():
    spans = torch.tensor([[[0.9, 0.1], [0.2, 0.2], [0.5, 0.4]]])
    logits = torch.zeros(1, 3, 2)
    true = torch.tensor([[0.5, 0.5], [0.2, 0.1]])
    assert [part.tolist() for part in match(spans, logits, [true], Losses())] == [[0, 0], [1, 2], [1, 0]]


def test_the_losses_are_those_of_the_formula():
    found = output([[0.5, 0.5], [0.9, 0.1]], [[0.0, 0.0], [0.0, 0.0]], torch.zeros(1, 4))
    losses = moment_losses(found, MASK, targets(), Losses())
    # both slots say one half; the unmatched one counts a tenth; the mean is over slots
    assert losses["span"] == 0 and losses["giou"] == pytest.approx(0)
    assert losses["label"] == pytest.approx(4 * math.log(2) * (1 + 0.1) / 2)
    assert losses["saliency"] == pytest.approx(2 * 0.2)  # the margin, twice


def test_saliency_contrasts_with_other_seconds_and_silences_the_other_query():
    found = output([[0.5, 0.5]], [[0.0, 0.0]], torch.zeros(1, 4), torch.zeros(1, 4))
    loss = saliency_loss(found, MASK, targets(), Losses())
    assert loss == pytest.approx(0.4 + math.log(8) / 12 + 4 * math.log(2), rel=1e-5)


def test_padding_has_no_part_in_the_saliency_loss():
    short = output([[0.5, 0.5]], [[0.0, 0.0]], torch.ones(1, 4), torch.ones(1, 4))
    padding = torch.full((1, 2), 3.0)
    long = short._replace(saliency=torch.cat([short.saliency, padding], 1), other_saliency=torch.ones(1, 6))
    wider = targets()._replace(salient=torch.nn.functional.pad(targets().salient, (0, 2)))
    mask = torch.nn.functional.pad(MASK, (0, 2))
    expected = saliency_loss(short, MASK, targets(), Losses())
    assert saliency_loss(long, mask, wider, Losses()) == pytest.approx(float(expected))


def test_at_most_five_windows_are_drawn_and_the_first_of_them_is_salient():
    windows = np.array([[10.0 * start, 10.0 * start + 2] for start in range(8)])
    draws = [draw_targets(windows, 80, 5, np.random.default_rng(seed)) for seed in range(20)]
    assert {len(draw.windows) for draw in draws} == {5}
    assert len({tuple(draw.windows[0]) for draw in draws}) > 3
    for draw in draws:
        first, last = int(draw.windows[0, 0]), int(draw.windows[0, 1]) - 1
        assert sorted(draw.positive) == [first, last]
        assert not set(draw.negative) & {first, last}
    few = draw_targets(windows[:3], 80, 5, np.random.default_rng(0))
    assert few.windows.tolist() == windows[:3].tolist()


def test_a_window_over_the_whole_recording_stands_in_for_seconds_outside():
    draw = draw_targets(np.array([[0.0, 3.0]]), 3, 5, np.random.default_rng(0))
    assert draw.negative == draw.positive
    late = draw_targets(np.array([[3.0, 4.0]]), 3, 5, np.random.default_rng(0))  # starts where the recording ends
    assert late.positive == [2, 2]


def test_seconds_to_compare_are_different_ones():
    for seed in range(50):
        draw = draw_targets(np.array([[2.0, 4.0]]), 4, 5, np.random.default_rng(seed))
        assert sorted(draw.positive) == [2, 3] and sorted(draw.negative) == [0, 1]


def test_targets_are_shares_of_the_recording():
    assert as_spans(np.array([[5.0, 15.0]]), 20.0).tolist() == [[0.5, 0.5]]
    draw = draw_targets(np.array([[1.0, 3.0]]), 4, 5, np.random.default_rng(0))
    made = make_targets([draw], [4.0], MASK)
    assert made.salient.tolist() == [[False, True, True, False]] and made.spans[0].tolist() == [[0.5, 0.5]]


def test_losses_and_gradients_are_those_of_the_official_training_step():
    # official code in training mode without dropout, with its fault of the mask
    official = json.loads((NETWORKS / "qd_detr_losses.json").read_text())
    model = QDDETR(endpoints="before", input_dropout=0, dropout=0, batch_fault=True)
    model.load_state_dict(QD_DETR.state_dict())
    seconds, words = QD_DETR.info["input"]["seconds"], QD_DETR.info["input"]["words"]
    drawn = zip(official["windows"], official["positive"], official["negative"], strict=True)
    draws = [Draw(np.array(windows, dtype=float), positive, negative) for windows, positive, negative in drawn]
    batch = collate(vectors("audio", seconds), vectors("text", words), [float(n) for n in seconds], draws)
    found = model(batch.audio, batch.audio_mask, batch.text, batch.text_mask)
    wanted = make_targets(batch.draws, batch.durations, batch.audio_mask)
    losses = moment_losses(found, batch.audio_mask, wanted, Losses())
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(official["losses"], rel=1e-4)
    torch.stack([*losses.values()]).sum().backward()
    norms = {name: model.get_parameter(name).grad.norm().item() for name in official["gradient_norms"]}
    assert norms == pytest.approx(official["gradient_norms"], rel=5e-3)
