"""Teachers of a run: names, settings and seeds of their trainings, and weights that would leak."""

from types import SimpleNamespace

import pytest
import torch

from common.errors import UserError
from common.settings import load_settings
from task1_asc.networks import teachers
from task1_asc.networks.teachers import each_teacher, make_teacher, refuse_leaking_weights, teacher_settings
from task1_asc.settings import Task1Settings
from tests.support.places import ROOT


@pytest.fixture(scope="module")
def settings() -> Task1Settings:
    changes = {"distillation.teachers.1.count": 2, "distillation.teachers.1.precision": "bf16-mixed", "seed": 5}
    return load_settings(Task1Settings, ROOT / "task1_asc" / "configs" / "distilled_small.yaml", changes)


def test_every_copy_of_a_teacher_has_a_folder_and_a_number(settings):
    named = [(name, number, teacher.model) for name, number, teacher in each_teacher(settings)]
    assert named == [
        ("cp_resnet_1", 1, "cp_resnet_128k"),
        ("cp_mobile_1", 2, "cp_mobile"),
        ("cp_mobile_2", 3, "cp_mobile"),
    ]
    assert list(each_teacher(settings.model_copy(update={"distillation": None}))) == []


def test_a_teacher_learns_as_the_run_but_for_what_it_says_itself(settings):
    made = [teacher_settings(settings, teacher, number) for _, number, teacher in each_teacher(settings)]
    for own, (_, _, teacher) in zip(made, each_teacher(settings), strict=True):
        assert (own.augment, own.optim, own.distillation) == (teacher.augment, teacher.optim, None)
        assert (own.loader.batch_size, own.trainer.epochs, own.trainer.precision) == (
            teacher.batch_size, teacher.epochs, teacher.precision
        )  # fmt: skip
        assert (own.subset, own.data, own.trainer.accelerator) == (
            settings.subset, settings.data, settings.trainer.accelerator
        )  # fmt: skip
    assert [own.trainer.precision for own in made] == ["32-true", "bf16-mixed", "bf16-mixed"]
    seeds = {own.seed for own in made}
    assert len(seeds | {settings.seed}) == 4 and all(0 <= seed < 2**31 for seed in seeds)
    assert teacher_settings(settings, settings.distillation.teachers[0], 1).seed == made[0].seed


@pytest.mark.parametrize(
    ("weights", "subset", "leak"),
    [("passt_s_swa.tau_dirfms_1", 25, True), ("passt_s_swa.tau_dirfms_1", 100, False), ("passt_s_swa.as", 5, False),
     ("passt_s_swa.tau_dirfms_1", 50, True), (None, 5, False)],
)  # fmt: skip
def test_weights_of_all_scenes_are_refused_for_a_part_of_them(settings, monkeypatch, weights, subset, leak):
    labels = {"passt_s_swa.tau_dirfms_1": "tau_scenes", "passt_s_swa.as": "audioset"}
    monkeypatch.setattr(
        teachers, "find_released", lambda name: SimpleNamespace(architecture=SimpleNamespace(labels=labels[name]))
    )
    teacher = settings.distillation.teachers[0].model_copy(update={"weights": weights})
    if leak:
        with pytest.raises(UserError, match=f"with subset {subset} that is a leak"):
            refuse_leaking_weights(teacher, subset)
        with pytest.raises(UserError, match="that is a leak"):
            make_teacher(teacher, 32000, subset)
    else:
        refuse_leaking_weights(teacher, subset)
    monkeypatch.setattr(teachers, "find_released", lambda _name: None)
    refuse_leaking_weights(teacher, subset)


def test_a_new_teacher_has_its_own_front_end_and_the_weights_that_it_names(settings, monkeypatch):
    small = settings.distillation.teachers[1]
    made = make_teacher(small, 44100, 25)
    assert made.front_end.sample_rate == 44100 and made.labels[0] == "airport" and len(made.labels) == 10
    frames = made.front_end(torch.zeros(1, 44100)).shape[-2:]
    assert frames[0] == 64 and 30 < frames[1] < 40  # mel bands, and a hop of 1000 at 32 kHz
    monkeypatch.setattr(teachers, "load_audio_model", lambda *_given, labels: made)
    monkeypatch.setattr(teachers, "find_released", lambda _name: None)
    taken = make_teacher(small.model_copy(update={"weights": "other"}), 32000, 25)
    for name, value in taken.network.state_dict().items():
        assert torch.equal(value, made.network.state_dict()[name]), name
    other = small.model_copy(update={"weights": "other", "options": {"base_channels": 16}})
    with pytest.raises(UserError, match="do not fit cp_mobile with its options"):
        make_teacher(other, 32000, 25)
