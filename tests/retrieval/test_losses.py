"""Retrieval losses and their gradients against what the official code computed in float64."""

import json

import numpy as np
import pytest
import torch

from retrieval.losses import contrastive_loss, distillation_loss, estimated_correspondences, imitation_loss
from tests.support.places import GOLDEN

FIXTURES = GOLDEN / "retrieval"
EXPECTED = json.loads((FIXTURES / "losses.json").read_text())["losses"]
ARRAYS = dict(np.load(FIXTURES / "losses.npz").items())


def inputs():
    names = ("audio", "text", "teacher_audio", "teacher_text")
    values = {name: torch.from_numpy(ARRAYS[name]).double() for name in names}
    values["audio"].requires_grad_()
    values["text"].requires_grad_()
    return values, torch.from_numpy(ARRAYS["group"])


def stage1(values, group, tau):
    return contrastive_loss(values["audio"], values["text"], group, tau)


def stage2(values, group, tau, teachers=3):
    sides = (values[side][:, :teachers].unbind(dim=1) for side in ("teacher_audio", "teacher_text"))
    return distillation_loss(values["audio"], values["text"], estimated_correspondences(*sides), tau)


def stage2_single(values, group, tau):
    return stage2(values, group, tau, teachers=1)


def both(values, group, tau):
    return stage1(values, group, tau) + stage2(values, group, tau)


def both_as_published(values, group, tau):
    return 0.5**2 * stage1(values, group, tau) + stage2(values, group, tau)


def imitation(values, group, tau):
    return imitation_loss(values["audio"], values["text"], group, tau)


def imitation_without_labels(values, group, tau):
    return imitation_loss(values["audio"], values["text"], torch.arange(len(group)), tau)


CASES = {
    "salsa_stage1": stage1,
    "salsa_stage2_ensemble": stage2,
    "salsa_stage2_single_teacher": stage2_single,
    "salsa_stage2_sum": both,
    "salsa_stage2_half_supervised": both_as_published,
    "qbv_ntxent": imitation,
    "qvim_one_direction": imitation_without_labels,
}


@pytest.mark.parametrize(("name", "tau"), [(name, tau) for name in CASES for tau in EXPECTED[name]["values"]])
def test_loss_and_gradients_equal_the_official_code(name, tau):
    values, group = inputs()
    loss = CASES[name](values, group, float(tau))
    loss.backward()
    assert loss.item() == pytest.approx(EXPECTED[name]["values"][tau]["loss"], abs=1e-9)
    compared = 0
    for key, expected in ARRAYS.items():
        if key.startswith(f"gradients/{name}/tau{tau}/") or key.startswith(f"{name}/tau{tau}/"):
            side = {"imitation": "audio", "recording": "text"}.get(key.rsplit("/", 1)[1], key.rsplit("/", 1)[1])
            if side in ("audio", "text"):
                assert np.abs(values[side].grad.numpy() - expected).max() < 1e-9
                compared += 1
    assert compared == (0 if name == "qvim_one_direction" else 2)


def test_teachers_of_different_sizes_are_averaged():
    values, _ = inputs()
    narrow = [values["teacher_audio"][:, 0], values["teacher_audio"][:, 1, :8]]
    texts = [values["teacher_text"][:, 0], values["teacher_text"][:, 1, :8]]
    mean = (estimated_correspondences(narrow[:1], texts[:1]) + estimated_correspondences(narrow[1:], texts[1:])) / 2
    torch.testing.assert_close(estimated_correspondences(narrow, texts), mean)


def test_every_teacher_needs_clips_and_captions():
    one = torch.ones(2, 3)
    for audio, text in (([one, one], [one]), ([one], [one, one])):
        with pytest.raises(ValueError, match=r"shorter|longer"):
            estimated_correspondences(audio, text)
    with pytest.raises(ValueError, match=r"correspondences \(2, 3\) do not fit 2 clips, 2 captions"):
        distillation_loss(one, one, torch.zeros(2, 3), 0.05)


def test_losses_stay_on_the_device_of_the_embeddings():
    one, group = torch.ones(2, 3, device="meta"), torch.zeros(2, device="meta")
    losses = [
        distillation_loss(one, one, estimated_correspondences([one], [one]), 0.05),
        imitation_loss(one, one, group, 0.05),
    ]
    assert {loss.device.type for loss in losses} == {"meta"}


def test_recordings_of_the_same_label_leave_the_denominator():
    imitation, recording = torch.eye(3), torch.eye(3)
    alone = imitation_loss(imitation[:1], recording[:1], torch.tensor([0]), 0.07)
    assert imitation_loss(imitation, recording, torch.tensor([0, 0, 0]), 0.07) == pytest.approx(alone.item())


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="of one dim"):
        contrastive_loss(torch.ones(2, 3), torch.ones(2, 4), torch.arange(2), 0.05)
    with pytest.raises(ValueError, match="group"):
        contrastive_loss(torch.ones(2, 3), torch.ones(2, 3), torch.arange(3), 0.05)
