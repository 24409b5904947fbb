"""Batches of strongly labelled clips: in evaluation none is mixed, in training any clip may be a partner."""

import numpy as np
import pytest
import torch

from common.data.keyed_outputs import OutputWriter
from common.errors import UserError
from task4_sed.pretraining.clips import CLASSES, FRAMES, KIND, BatchPlan, OrderedBatches, PlannedClips, TeacherTargets


class Counting(PlannedClips):
    """Clip `n` has the waveform [n, -n] and the target n / 10."""

    def gather(self, rows, seeds):
        numbers = torch.from_numpy(rows).float()
        return {"waveform": torch.stack([numbers, -numbers], dim=1), "target": numbers[:, None, None] / 10}


def test_clips_in_order_are_each_there_once_and_unmixed():
    plans = list(OrderedBatches(5, 2))
    assert np.concatenate([plan.rows for plan in plans]).tolist() == [0, 1, 2, 3, 4] and len(plans) == 3
    for plan in plans:
        assert (plan.partner == -1).all() and (plan.partner_weight == 1).all()
        batch = Counting()[plan]
        assert batch["waveform"][:, 0].tolist() == plan.rows.tolist() == batch["row"].tolist()


def test_teachers_are_found_by_whole_names_and_by_those_that_the_official_code_shortens(tmp_path):
    """Its `rstrip(".mp3")` takes each of these characters off the end of a name."""
    values = np.arange(3.0)[:, None, None] + np.zeros((1, len(CLASSES), FRAMES))
    with OutputWriter(tmp_path / "t.h5", ["Yab3", "Yc", "Yd"], values.shape[1:], kind=KIND) as writer:
        writer.write(["Yab3", "Yc", "Yd"], values)
    found = TeacherTargets(tmp_path / "t.h5", ["Yd.mp3", "Yab3.mp3", "Yc3.mp3"])
    assert found.rows.tolist() == [2, 0, 1]
    np.testing.assert_allclose(found.gather(np.array([1, 2]))[:, 0, 0], 1 / (1 + np.exp([0.0, -1.0])), rtol=1e-3)
    with pytest.raises(UserError, match="lacks 1 of 1 clips"):
        TeacherTargets(tmp_path / "t.h5", ["Ye"])


def test_the_first_clip_is_a_partner_like_any_other():
    rows, partner = np.array([3, 4, 5]), np.array([0, -1, 1])
    weight = np.array([0.75, 1.0, 0.5], dtype=np.float32)
    batch = Counting()[BatchPlan(rows, 3, 0, partner, weight, np.zeros(3, int))]
    torch.testing.assert_close(batch["waveform"][:, 0], torch.tensor([0.75 * 3, 4.0, 0.5 * 5 + 0.5 * 1]))
    torch.testing.assert_close(batch["target"].flatten(), torch.tensor([0.75 * 0.3, 0.4, 0.5 * 0.5 + 0.5 * 0.1]))
