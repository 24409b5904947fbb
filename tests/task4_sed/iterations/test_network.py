"""The frozen and the trained transformer, its groups of parameters, and the consistency."""

import pytest
import torch

from common.errors import UserError
from common.settings import load_settings
from task4_sed.augment import Streams
from task4_sed.iterations.network import decay_groups, load_transformer, make_network, parameter_groups
from task4_sed.iterations.settings import TransformerSettings
from task4_sed.iterations.train import StageTraining
from task4_sed.losses import agreement_loss, linear_ramp
from task4_sed.systems import AnySystem
from tests.support.quick_iterations import SMALL, batch_of


@pytest.mark.parametrize("name", ["atst", "fpasst", "beats"])
def test_a_decibel_is_what_the_front_end_makes_of_a_louder_waveform(quick, name):
    module = StageTraining(quick(), name, 1, 2)
    module.eval()
    noise = 0.05 * torch.randn(1, 160_000, generator=torch.Generator().manual_seed(0))
    louder = module.transformer_front_end(noise * 10 ** (3 / 20)) - module.transformer_front_end(noise)
    assert louder.median().item() == pytest.approx(3 * module.per_decibel, rel=1e-3)


def test_the_ramp_of_the_consistency_and_its_loss_by_hand():
    assert [linear_ramp(step, 14_000, 2) for step in (0, 7000, 14_000, 28_000, 90_000)] == [0, 0.5, 1, 2, 2]
    assert agreement_loss(torch.zeros(1, 2), torch.tensor([[0.5, 1.0]])).item() == pytest.approx(0.125)
    assert agreement_loss(torch.zeros(0, 3), torch.zeros(0, 3)).item() == 0


def test_a_frozen_transformer_stays_as_it_was_and_belongs_to_both(quick):
    settings = quick(transformers__atst__projection={"dim": 12, "trained": False})
    module = StageTraining(settings, "atst", 1, 1).train()
    assert module.teacher.transformer is module.student.transformer
    assert not module.student.transformer.training and module.student.crnn.training
    assert not any(p.requires_grad for p in module.student.transformer.parameters())
    assert not module.student.projection.weight.requires_grad
    assert module.student.crnn.fusion.in_features == 4 + 12
    second = StageTraining(settings, "atst", 1, 2).train()
    assert second.teacher.transformer is not second.student.transformer
    assert second.student.transformer.training
    assert not second.student.projection.weight.requires_grad, "as published, it is not trained in stage 2 either"
    second.load_state_dict(module.state_dict())


def test_classes_that_are_not_valid_for_a_clip_are_hidden_unless_all_are_asked_for(quick):
    module = StageTraining(quick(), "atst", 1, 1).eval()
    valid = torch.ones(1, module.student.crnn.strong_head.out_features, dtype=torch.bool)
    valid[0, 3] = False
    batch = {"waveform": torch.randn(1, 160_000, generator=torch.Generator().manual_seed(0)), "valid": valid}
    for student in (True, False):
        hidden, every = module.detect(batch, student), module.detect(batch, student, masked=False)
        assert hidden.logits.sigmoid()[0, 3] == 0 < every.logits.sigmoid()[0, 3]
        assert hidden.frame_logits.sigmoid()[..., 3].max() == 0 < every.frame_logits.sigmoid()[..., 3].min()


@pytest.mark.parametrize("model", ["mn04", "desed_crnn_2024"])
def test_a_transformer_is_a_frame_model_at_16_khz(model):
    with pytest.raises(UserError, match=f"transformers.atst.model is {model}, which is no frame model at 16 kHz"):
        load_transformer("atst", TransformerSettings(model=model, untrained=True))


def test_the_transformers_rate_halves_from_group_to_group_and_all_is_trained_once():
    twelve = {"dim": 24, "depth": 12, "num_heads": 2}
    settings = load_settings(AnySystem, SMALL, {"transformers.atst.options": twelve, "data.root": "x"})
    stage = settings.stage("atst", 1, 2)
    optim = stage.optim.model_copy(update={"transformer_lr": 1e-4, "layer_decay": 0.5, "cnn_lr": 1e-5, "rnn_lr": 1e-4})
    network = make_network(settings, "atst", stage)
    assert len(decay_groups(network.transformer)) == 14
    groups = parameter_groups(network, optim)
    assert [group["lr"] for group in groups] == [1e-5, 1e-4, *(1e-4 * 0.5**number for number in range(14))]
    place = {id(p): number for number, group in enumerate(groups) for p in group["params"]}
    named = dict(network.named_parameters())
    assert place[id(named["transformer.norm_frame.weight"])] == 2
    assert place[id(named["transformer.blocks.11.mlp.fc1.weight"])] == 3
    assert place[id(named["transformer.blocks.0.mlp.fc1.weight"])] == 14
    assert place[id(named["transformer.patch_embed.patch_embed.weight"])] == 15
    trained = [p for p in network.parameters() if p.requires_grad]
    assert sum(len(group["params"]) for group in groups) == len(trained) == len(place)


@pytest.mark.parametrize("name", ["atst", "fpasst", "beats"])
def test_stage_2_trains_every_parameter_of_every_transformer(quick, name):
    settings = quick()
    module = StageTraining(settings, name, 1, 2).train()
    module.student.transformer.eval()  # no layer is dropped
    views = module.views(batch_of(settings), Streams(1))
    sum(module.losses(views, 10).values()).backward()
    for key, parameter in module.student.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key
    assert all(parameter.grad is None for parameter in module.teacher.parameters())
