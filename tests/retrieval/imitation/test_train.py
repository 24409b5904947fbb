"""Loss and learning rate of the training on vocal imitations."""

import math

import pytest
import torch
from torch import nn

from retrieval.imitation.settings import AdamRamps, AdamWCosine, ImitationSettings, ImitationTraining
from retrieval.imitation.train import ImitationModule, contrast


@pytest.mark.parametrize(("masked", "expected"), [(True, 0.0), (False, math.log(3))])
def test_pairs_of_the_same_sound_count_against_each_other_only_where_they_are_not_masked(masked, expected):
    equal, label = torch.ones(3, 2), torch.tensor([7, 7, 7])
    assert contrast(equal, equal, label, ImitationTraining(mask_same_label=masked)).item() == pytest.approx(expected)


class FourEpochs:
    """What the optimiser asks the trainer."""

    max_epochs = 4
    estimated_stepping_batches = 40


def scheduled(optim) -> tuple[list[float], str]:
    """Learning rate of each step or epoch, and which of the two."""
    data = {"layout": "vimsketch", "root": "."}
    settings = ImitationSettings.model_validate(
        {"kind": "imitation", "data": data, "training": {"optim": optim.model_dump()}}
    )
    module, trainer = ImitationModule(nn.Linear(1, 1), settings, None), FourEpochs()
    module._trainer = trainer
    found = module.configure_optimizers()
    schedule = found["lr_scheduler"]
    rates = []
    for _ in range(40):
        rates.append(found["optimizer"].param_groups[0]["lr"])
        found["optimizer"].step()
        schedule["scheduler"].step()
    return rates, schedule["interval"]


def test_warm_up_and_decay_are_counted_in_epochs_also_where_the_rate_changes_in_each_step():
    rates, interval = scheduled(AdamWCosine(kind="adamw_cosine", lr=1e-3, min_lr=1e-4, warmup_epochs=1, down_epochs=2))
    assert interval == "step"
    assert rates[0] == pytest.approx(1e-4) and rates[10] == pytest.approx(1e-3)  # ten steps an epoch
    assert rates[20] == pytest.approx(5.5e-4) and rates[30:] == pytest.approx([1e-4] * 10)


def test_ramps_change_the_rate_once_an_epoch():
    assert scheduled(AdamRamps())[1] == "epoch"
