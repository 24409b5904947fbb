"""The winner's recipe: what student and teacher hear, the loss against its formula, pseudo-labels, stages that stop."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from common.errors import UserError
from common.runs.stages import Run, read_record, run_stages
from common.settings import dump_settings, load_settings
from common.training.checkpoints import read_checkpoint
from common.training.seeds import derive_seed
from task4_sed.augment import Streams, draw_partners
from task4_sed.data.clips import BatchPlan, GroupedBatches, GroupSampler
from task4_sed.iterations.data import (
    STORES,
    DistilledClips,
    PseudoLabels,
    SharedBatches,
    WavmixedBatches,
    training_loader,
    training_sets,
)
from task4_sed.iterations.memory import estimate_training
from task4_sed.iterations.network import decay_groups, make_network, parameter_groups
from task4_sed.iterations.recipe import make_stages, system_names
from task4_sed.iterations.settings import StageSettings, TwoIterations
from task4_sed.iterations.train import StageTraining
from task4_sed.iterations.views import Rows
from task4_sed.labels import CLASSES, DESED_CLASSES
from task4_sed.losses import agreement_loss, linear_ramp
from task4_sed.reports.report import figure_rows, stage_rows
from task4_sed.scores.store import ScoreStore, ScoreWriter
from task4_sed.settings import WavmixSettings
from task4_sed.systems import AnySystem, complexity_figures, load_recipe, predict, result_row
from tests.support.allocations import allocations
from tests.support.places import ROOT

SMALL = ROOT / "task4_sed" / "configs" / "two_iterations_small.yaml"
BATCH = {"maestro": 2, "strong": 2, "synthetic": 1, "weak": 2, "unlabeled": 2}
TINY = {"dim": 24, "depth": 2, "num_heads": 2}
QUICK = {
    "front_end.n_mels": 16,
    "crnn.filters": [2, 4],
    "crnn.pooling": [[4, 4], [1, 4]],
    "crnn.fusion_dim": 8,
    "crnn.rnn_dim": 4,
    "transformers.atst.options": TINY,
    "transformers.fpasst.options": {**TINY, "num_mels": 64},
    "transformers.beats.options": {**TINY, "dim": 48, "hidden_dim": 16, "patch_dim": 8},
    "stage1.batch": BATCH,
    "stage2.batch": BATCH,
    "stage1.epochs": 1,
    "stage2.epochs": 1,
    "postprocessing.boxes": None,
    "trainer.validate_every": 1,
    "trainer.accelerator": "cpu",
    "trainer.measure_energy": False,
}


@pytest.fixture
def quick(tiny_task4, tmp_path):
    """Makes settings of a quick run; overrides win."""

    def make(**overrides) -> TwoIterations:
        places = {"data.root": str(tiny_task4), "runs": str(tmp_path), "name": "quick"}
        overrides = {name.replace("__", "."): value for name, value in overrides.items()}
        return load_settings(AnySystem, SMALL, {**QUICK, **places, **overrides})

    return make


def batch_of(settings: TwoIterations, pseudo: bool = False, stage: StageSettings | None = None) -> dict:
    sets, _ = training_sets(settings, settings.stage1.batch)
    loader = training_loader(settings, stage or settings.stage2, sets, None, 0, pin_memory=False)
    batch = next(iter(loader))
    if pseudo:
        batch["pseudo"] = torch.rand(batch["strong"].shape, generator=torch.Generator().manual_seed(5))
    return batch


def everything_on(**differs) -> dict:
    """Every augmentation in every step."""
    return {
        "wavmix": {"probability": 1.0},
        "time_mask": {"pseudo_labels": "masked"},
        "mixup": {"probability": 1.0},
        "mixstyle": {"probability": 1.0},
        "filter": {"probability": 1.0, "on_log_mels": "add"},
        "frequency_warp": {"probability": 1.0},
        **differs,
    }


def test_batches_hold_their_kinds_in_the_published_order(quick):
    settings = quick()
    batch = batch_of(settings)
    rows = Rows(settings.stage1.batch)
    assert [(part.start, part.stop) for part in rows.kinds.values()] == [(0, 2), (2, 4), (4, 5), (5, 7), (7, 9)]
    assert (rows.labelled, rows.strong, rows.desed) == (slice(0, 5), slice(2, 5), slice(2, 9))
    maestro = batch["valid"][rows.kinds["maestro"]]
    assert maestro[:, len(DESED_CLASSES) :].all() and not maestro[:, CLASSES.index("Dog")].any()
    # Of DESED clips: its ten classes, and the two of MAESTRO that Dishes and Speech also teach.
    assert batch["valid"][rows.desed].sum(dim=1).tolist() == [12] * 7
    assert batch["weak"][rows.kinds["unlabeled"]].sum() == 0


def test_a_clean_teacher_hears_the_unmixed_clip_and_only_time_masks(quick):
    settings = quick(stage2__augment=everything_on())
    module = StageTraining(settings, "atst", 1, 2)
    rows, mixed = module.rows, batch_of(settings)
    views = module.views(mixed, Streams(3))
    assert views.mixture is not None
    for name in ("magnitude", "log_mel"):
        assert not torch.equal(getattr(views.student, name), getattr(views.teacher, name))
    # Masked in time: one stretch of the strong and synthetic clips, in features and labels.
    silent = (views.teacher.magnitude == 0).all(dim=2).squeeze(1)
    frames = silent[rows.strong].sum(dim=1)
    assert len(set(frames.tolist())) == 1 and 4 * 7 <= frames[0] <= 4 * 45
    assert not silent[:2].any() and not silent[5:].any()
    torch.testing.assert_close(views.teacher.magnitude[:2], module.front_end.magnitude(mixed["waveform"])[:2])


def test_an_augmented_teacher_hears_what_the_student_hears_through_a_filter_of_its_own(quick):
    settings = quick(stage1__augment=everything_on(frequency_warp=None, time_mask=None))
    views = StageTraining(settings, "atst", 1, 1).views(batch_of(settings), Streams(3))
    ratio = views.student.magnitude / views.teacher.magnitude.clamp(min=1e-9)
    loud = views.teacher.magnitude > 1e-6
    assert not torch.allclose(ratio[loud], torch.ones_like(ratio[loud]), atol=1e-2)
    for clip in range(9):  # two filters differ by one gain per mel, the same in all frames
        for mel in range(0, 16, 5):
            values = ratio[clip, 0, mel][loud[clip, 0, mel]]
            if len(values):
                torch.testing.assert_close(values, values[:1].expand_as(values), rtol=1e-3, atol=1e-4)
    plain = StageTraining(quick(stage1__augment={"mixup": {"probability": 1.0}}), "atst", 1, 1)
    views = plain.views(batch_of(settings), Streams(3))
    assert views.student is views.teacher


def test_each_augmentation_has_a_random_stream_of_its_own(quick):
    whole = StageTraining(quick(stage2__augment=everything_on()), "atst", 1, 2)
    without = everything_on(mixstyle=None, frequency_warp=None)
    part = StageTraining(quick(stage2__augment=without), "atst", 1, 2)
    features = whole.augmenter.features(batch_of(quick())["waveform"], Streams(1))
    drawn, fewer = (module.augmenter.draw(features, Streams(1, 2)) for module in (whole, part))
    assert drawn.styles and drawn.crops and not fewer.styles and not fewer.crops
    assert drawn.stretch == fewer.stretch
    for one, other in ((drawn.mixture, fewer.mixture), (drawn.filters.values(), fewer.filters.values())):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_every_step_is_decided_once_for_the_whole_batch(quick):
    often = {name: {"probability": 0.5} for name in ("mixup", "mixstyle", "frequency_warp")}
    module = StageTraining(quick(stage2__augment=everything_on(**often)), "atst", 1, 2)
    features = module.augmenter.features(batch_of(quick())["waveform"], Streams(1))
    draws = [module.augmenter.draw(features, Streams(seed)) for seed in range(60)]
    assert {len(draw.crops) for draw in draws} == {0, 3} and {len(draw.styles) for draw in draws} == {0, 2}
    groups = {str([str(rows) for rows, _, _ in draw.crops]) for draw in draws if draw.crops}
    assert groups == {str([str(rows) for rows in (slice(5, 7), slice(2, 5), slice(7, 9))])}
    partners = torch.stack([draw.mixture.partner for draw in draws if draw.mixture])
    for low, high in ((0, 5), (5, 7), (7, 9)):
        assert set(partners[:, low:high].unique().tolist()) == set(range(low, high))
    styles = torch.stack([draw.styles["log_mel"].partner for draw in draws if draw.styles])
    assert set(styles[:, :2].unique().tolist()) == set(range(5)), "MAESTRO clips take the style of strong ones"
    assert min(draw.mixture.weight.min() for draw in draws if draw.mixture) >= 0.5


def test_a_batch_stays_as_it_is(quick):
    settings = quick(stage2__augment=everything_on())
    batch = batch_of(settings, pseudo=True)
    before = {name: value.clone() for name, value in batch.items() if isinstance(value, torch.Tensor)}
    StageTraining(settings, "atst", 1, 2).views(batch, Streams(0))
    assert all(torch.equal(batch[name], value) for name, value in before.items())


def test_pseudo_labels_are_masked_with_the_labels_or_as_published_kept(quick):
    for choice in ("masked", "kept"):
        settings = quick(stage2__augment={"time_mask": {"pseudo_labels": choice}})
        batch = batch_of(settings, pseudo=True)
        pseudo = StageTraining(settings, "atst", 1, 2).views(batch, Streams(1)).targets.pseudo
        known = batch["pseudo"] * batch["valid"][..., None]
        assert torch.equal(pseudo, known) == (choice == "kept")
        assert torch.equal(pseudo[5:], known[5:]) and torch.equal(pseudo[:2], known[:2])


def test_a_filter_of_stage_1_may_leave_the_frozen_transformers_features_as_they_are(quick):
    augment = {"filter": {"probability": 1.0, "on_log_mels": "kept"}}
    views = StageTraining(quick(stage1__augment=augment), "atst", 1, 1).views(batch_of(quick()), Streams(1))
    assert views.student.log_mel is views.teacher.log_mel
    assert not torch.equal(views.student.magnitude, views.teacher.magnitude)


def test_a_filter_multiplies_the_transformers_features_or_adds_decibels(quick):
    gains = {}
    for choice in ("multiply", "add"):
        augment = {"filter": {"probability": 1.0, "on_log_mels": choice}}
        views = StageTraining(quick(stage2__augment=augment), "atst", 1, 2).views(batch_of(quick()), Streams(1))
        student, clean = (part.log_mel[0, 0, :, 100] for part in (views.student, views.teacher))
        gains[choice] = (student / clean).log10() * 20 if choice == "multiply" else (student - clean) * 65.1662
    assert gains["add"].abs().max() <= 6 + 1e-3
    torch.testing.assert_close(gains["add"], gains["multiply"], atol=1e-3, rtol=1e-3)


def test_partners_of_wavmix_are_any_clips_of_the_whole_set_and_stay_with_their_row(quick):
    settings = quick()
    sets, _ = training_sets(settings, settings.stage1.batch)
    clips = DistilledClips(sets["strong"], settings)
    groups = WavmixedBatches([[clips, clips]], [WavmixSettings(probability=1.0)])
    plain = GroupedBatches([[clips, clips]])
    size, partners = len(clips), set()
    for number in range(12):
        plan = BatchPlan((np.array([1, size, 0]),), (7, number))  # two of the first set, one of the second
        mixed, own = groups[plan], plain[plan]
        partner, weight = draw_partners(3, 2 * size, 1.0, 0.2, np.random.default_rng((7, number, 1)))
        partners |= set(partner.tolist())
        for row in range(3):
            other = clips.gather([partner[row] % size])["strong"][0]
            expected = weight[row] * own["strong"][row] + (1 - weight[row]) * other
            torch.testing.assert_close(mixed["strong"][row], expected, atol=1e-6, rtol=1e-5)
    assert len(partners) > size


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


def test_memory_grows_with_the_clips_and_shrinks_with_checkpointing_and_half_precision(quick):
    deep = {"dim": 96, "depth": 8, "num_heads": 2}
    whole = estimate_training(StageTraining(quick(transformers__atst__options=deep), "atst", 1, 2), "32-true")
    saved = quick(transformers__atst__options=deep, transformers__atst__checkpointing=True)
    less = estimate_training(StageTraining(saved, "atst", 1, 2), "32-true")
    half = estimate_training(StageTraining(quick(transformers__atst__options=deep), "atst", 1, 2), "16-mixed")
    assert less.activations < 0.6 * whole.activations
    assert half.activations < 0.7 * whole.activations
    frozen = estimate_training(StageTraining(quick(transformers__atst__options=deep), "atst", 1, 1), "32-true")
    assert frozen.activations < whole.activations
    assert frozen.optimiser < 0.1 * whole.optimiser
    module = StageTraining(quick(transformers__atst__options=deep), "atst", 1, 2)
    parameters = sum(p.numel() for p in module.student.parameters())
    assert whole.weights == 2 * 4 * parameters
    doubled = {kind: 2 * count for kind, count in BATCH.items()}
    more = quick(transformers__atst__options=deep, stage2__batch=doubled)
    assert estimate_training(StageTraining(more, "atst", 1, 2), "32-true").activations == pytest.approx(
        2 * whole.activations, rel=0.1
    )


@pytest.mark.parametrize("name", ["atst", "fpasst", "beats"])
def test_the_estimate_of_memory_is_what_the_tensors_of_a_step_take(quick, name):
    module = StageTraining(quick(stage2__augment=everything_on()), name, 1, 2).train()
    batch = batch_of(module.settings)
    views, most, left = allocations(lambda: module.views(batch, Streams(1)))
    loss, in_losses, kept = allocations(lambda: torch.stack(list(module.losses(views, 100).values())).sum())
    loss.backward()
    memory = estimate_training(module, "32-true")
    assert memory.activations == pytest.approx(kept, rel=0.15)
    peak = max(most, left + in_losses)
    assert 0.9 * peak < memory.activations + memory.batch < 1.5 * peak  # nearer where networks are wider


# Pseudo-labels


def write_store(path: Path, names: list[str], classes=CLASSES, frames: int = 156, frame_seconds: float = 0.064) -> Path:
    values = np.random.default_rng(0).normal(size=(len(names), frames, len(classes)))
    path.parent.mkdir(parents=True, exist_ok=True)
    with ScoreWriter(path, classes, frame_seconds=frame_seconds, dtype="float32") as writer:
        writer.write(names, values)
    return path


def test_pseudo_labels_are_found_by_name_and_are_the_sigmoid_of_the_logits(tmp_path):
    names = [f"{number}.wav" for number in range(5)]
    path = write_store(tmp_path / "a.h5", names)
    labels = PseudoLabels(path, ["3.wav", "0.wav"], CLASSES).gather(np.array([1, 0]))
    store = ScoreStore(path)
    expected = torch.from_numpy(np.stack([store["0"], store["3"]])).sigmoid().mT
    torch.testing.assert_close(labels, expected, atol=2e-3, rtol=2e-3)
    assert labels.shape == (2, 27, 156)


def test_pseudo_labels_that_do_not_fit_are_refused_in_one_sentence(tmp_path):
    names = [f"{number}.wav" for number in range(5)]
    path = write_store(tmp_path / "a.h5", names)
    with pytest.raises(UserError, match=r"has no pseudo-labels of 2 of 4 clips \(first x.wav\)"):
        PseudoLabels(path, ["1.wav", "x.wav", "y.wav", "2.wav"], CLASSES)
    other = write_store(tmp_path / "b.h5", names, classes=(*CLASSES[:26], "siren"))
    with pytest.raises(UserError, match="has other classes: column 27 is siren, expected birds_singing"):
        PseudoLabels(other, names, CLASSES)
    with pytest.raises(UserError, match="has frames of 40 ms, expected 64 ms"):
        PseudoLabels(write_store(tmp_path / "c.h5", names, frame_seconds=0.04), names, CLASSES)
    with pytest.raises(UserError, match="has 250 frames per clip, expected 156"):
        PseudoLabels(write_store(tmp_path / "d.h5", names, frames=250), names, CLASSES)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(UserError, match="cut off"):
        PseudoLabels(path, names, CLASSES)
    with pytest.raises(UserError, match="There is no file"):
        PseudoLabels(tmp_path / "e.h5", names, CLASSES)


def test_stores_of_another_system_take_the_place_of_the_first_iteration(quick, tmp_path):
    given = tmp_path / "given"
    settings = quick(members=["atst"], pseudo_labels__folder=str(given))
    sets, _ = training_sets(settings, settings.stage1.batch)
    for name, clips in sets.items():
        path = write_store(given / f"{STORES[name]}.h5", list(clips.filenames))
        with h5py.File(path, "r+") as file:  # the published files name neither classes nor frames
            for key in list(file.attrs):
                del file.attrs[key]
            del file["ends"]
    run = Run(tmp_path / "run", settings)
    stages = make_stages(settings)
    assert [stage.name for stage in stages] == [
        "pseudo_labels", "iteration2_stage1_atst", "iteration2_stage2_atst", "test",
    ]  # fmt: skip
    run_stages(run, stages[:2])
    record = read_record(run.folder, "iteration2_stage1_atst")
    assert set(record["pseudo_labels"]) == set(sets)
    assert "train_pseudo_loss" in (run.folder / "iteration2_stage1_atst" / "metrics.csv").read_text()
    (given / "weak_train.h5").unlink()
    with pytest.raises(UserError, match=r"There is no file .*weak_train.h5"):
        run_stages(Run(tmp_path / "other", settings), stages[:1])


def test_clips_with_pseudo_labels_are_not_cropped_at_random(quick, tmp_path):
    settings = quick()
    sets, _ = training_sets(settings, settings.stage1.batch)
    clips = sets["weak"]
    path = write_store(tmp_path / "weak.h5", list(clips.filenames))
    opened = DistilledClips(clips, settings, PseudoLabels(path, clips.filenames, CLASSES))
    opened.durations = opened.durations + 3  # as if they were longer than 10 s
    batch = opened.gather([0, 1], np.random.default_rng(0))
    assert torch.equal(batch["waveform"], opened.gather([0, 1])["waveform"])
    assert batch["pseudo"].shape == (2, 27, 156)


# Several processes


def test_processes_share_the_batches_of_one_process_and_no_other(monkeypatch):
    alone = [plan.seed for plan in GroupSampler([20, 14], [3, 2], seed=4)]
    assert len(alone) == 6
    found = {}
    for rank in range(4):
        monkeypatch.setattr("task4_sed.iterations.data.rank_and_count", lambda rank=rank: (rank, 4))
        shared = SharedBatches(GroupSampler([20, 14], [3, 2], seed=4))
        found[rank] = [plan.seed for plan in shared]
        assert len(shared) == len(found[rank]) == 1
        shared.set_epoch(1)
        assert [plan.seed for plan in shared] != found[rank]
    assert [found[rank][0] for rank in range(4)] == alone[:4]


PROGRAM = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from common.settings import load_settings
from common.runs.stages import Run
from task4_sed.iterations.recipe import train_stage
from task4_sed.baseline.settings import Task4Settings
from task4_sed.systems import AnySystem
settings = load_settings(AnySystem, Path(sys.argv[1]))
for number in (1, 2):
    run = Run(Path(sys.argv[2]), settings)
    (run.folder / f"iteration1_stage{number}_atst").mkdir(parents=True, exist_ok=True)
    train_stage(run, settings, 1, number, "atst")
"""


def test_two_processes_have_the_losses_and_weights_of_one_that_does_their_batches(quick, tmp_path):
    """Both stages by two processes (gloo) with one batch a step each, and by one process with two batches a step."""
    losses, weights = {}, {}
    shared = {"stage1__accumulate": 2, "stage2__accumulate": 2, "stage1__epochs": 2, "stage2__epochs": 2}
    validation = {"weak": False, "synthetic": False, "external": False, "maestro": False}
    small = dict.fromkeys(BATCH, 1)
    jobs = []
    for devices in (1, 2):
        settings = quick(
            **shared, trainer__devices=devices, validation=validation, stage1__batch=small, stage2__batch=small
        )
        folder = tmp_path / f"by{devices}"
        folder.mkdir()
        path = folder / "settings.yaml"
        path.write_text(dump_settings(settings))
        program = tmp_path / "program.py"
        program.write_text(PROGRAM)
        environment = {**os.environ, "PYTHONPATH": str(SMALL.parents[2]), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(program), str(path), str(folder)]
        jobs.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for devices, job in zip((1, 2), jobs):
        _, errors = job.communicate(timeout=300)
        assert job.returncode == 0, errors[-2000:]
        for number in (1, 2):
            folder = tmp_path / f"by{devices}" / f"iteration1_stage{number}_atst"
            rows = [line.split(",") for line in (folder / "metrics.csv").read_text().split()]
            kept = [place for place, name in enumerate(rows[0]) if name != "seconds"]
            losses[devices, number] = np.array([[float(row[place]) for place in kept] for row in rows[1:]])
            weights[devices, number] = read_checkpoint(folder / "last.ckpt")["state_dict"]
    for number in (1, 2):
        np.testing.assert_allclose(losses[1, number], losses[2, number], rtol=2e-4, atol=1e-6)
        for name, value in weights[1, number].items():
            if "running" in name or "num_batches" in name:
                continue  # of two batches at a time, not of one after the other
            torch.testing.assert_close(value, weights[2, number][name], rtol=1e-3, atol=2e-5)


def test_the_teacher_follows_once_in_a_step_however_many_batches_it_has(quick, monkeypatch):
    settings = quick(stage1__accumulate=3)
    module = StageTraining(settings, "atst", 1, 1)
    decays = []
    monkeypatch.setattr(
        "task4_sed.mean_teacher.training.update_teacher", lambda t, s, decay, statistics: decays.append(decay)
    )
    monkeypatch.setattr(StageTraining, "global_step", 0)
    module.on_train_start()
    steps = iter([0, 0, 1, 1, 1, 2])
    for _ in range(6):
        monkeypatch.setattr(StageTraining, "global_step", next(steps))
        module.on_before_zero_grad(None)
        module.on_train_batch_end(None, {}, 0)
    assert decays == pytest.approx([0, 1 / 2, 2 / 3])  # the first update overwrites the teacher


# Whole runs


@pytest.fixture(scope="module")
def finished(tiny_task4, tmp_path_factory) -> Run:
    """A whole run with two transformers."""
    places = {"data.root": str(tiny_task4), "runs": str(tmp_path_factory.mktemp("runs")), "name": "whole"}
    settings = load_settings(AnySystem, SMALL, {**QUICK, **places, "members": ["atst", "beats"]})
    return load_recipe().run(settings)


def test_the_whole_recipe_is_scored_stage_by_stage_with_ensembles(finished, tiny_task4):
    scores = finished.read_evaluation()
    names = system_names(finished.settings)
    assert names == [
        f"iteration{i}_stage{n}_{member}" for i in (1, 2) for n in (1, 2) for member in ("atst", "beats", "ensemble")
    ]
    assert list(scores["networks"]) == names
    assert scores["network"] == "iteration2_stage2_ensemble"
    handed_in = scores["networks"]["iteration2_stage2_ensemble"]["postprocessed"]
    assert set(handed_in) == {"validation", "maestro_validation", "public_evaluation"}
    assert handed_in["validation"]["psds1"]["interval"] is not None
    assert len(stage_rows(finished)) == 12
    assert figure_rows([finished])[0]["set"] == "DESED validation"
    assert result_row(finished)["train_seconds"] > 0
    folder = predict(finished, tiny_task4)
    stores = [ScoreStore(folder / f"logits{suffix}.h5") for suffix in ("", "_atst", "_beats")]
    clip = stores[0].filenames[0]
    torch.testing.assert_close(
        torch.from_numpy(stores[0][clip]),
        torch.from_numpy((stores[1][clip] + stores[2][clip]) / 2),
        atol=1e-4,
        rtol=1e-4,
    )
    assert (folder / "postprocessed" / f"{clip}.tsv").is_file()


def test_pseudo_labels_are_the_mean_of_the_logits_of_every_training_clip_in_the_published_layout(finished, tiny_task4):
    folder = finished.folder / "pseudo_labels"
    published = {"synth_train", "strong_train", "weak_train", "weak_val", "unlabeled_train", "maestro_real_train"}
    assert {path.stem for path in folder.glob("*.h5")} == published
    for name in published:
        with h5py.File(folder / f"{name}.h5") as file:
            assert file["strong_logits"].dtype == np.float32
            assert file["strong_logits"].shape[1:] == (156, 27)
    mean = ScoreStore(folder / "weak_train.h5")
    members = [
        ScoreStore(finished.folder / f"iteration1_scores_{name}" / "weak_train.h5") for name in ("atst", "beats")
    ]
    clip = mean.filenames[-1]
    np.testing.assert_allclose(mean[clip], (members[0][clip] + members[1][clip]) / 2, atol=1e-5)


def test_the_record_of_a_stage_says_what_it_used(finished):
    first = read_record(finished.folder, "iteration1_stage1_atst")
    assert first["started_from"] == {"transformer": "untrained"}
    assert first["clips"]["strong"] == 8
    assert first["estimated_bytes"] > 1e6
    assert first["processes"] == 1
    second = read_record(finished.folder, "iteration1_stage2_atst")
    assert second["started_from"]["file"] == "iteration1_stage1_atst/best.ckpt"
    distilled = read_record(finished.folder, "iteration2_stage1_beats")
    labels = read_record(finished.folder, "pseudo_labels")["sha256"]
    assert distilled["pseudo_labels"]["weak"] == labels["weak_train"]
    assert "stage2" not in first["settings"] and "stage2" in second["settings"]


def test_stage_2_begins_with_student_and_teacher_of_stage_1(finished):
    folder = finished.folder
    start = read_checkpoint(folder / "iteration1_stage1_beats" / "best.ckpt")["state_dict"]
    module = StageTraining(finished.settings, "beats", 1, 2, released=False)
    module.load_state_dict(start)
    assert torch.equal(module.teacher.crnn.strong_head.weight, start["teacher.crnn.strong_head.weight"])
    trained = read_checkpoint(folder / "iteration1_stage2_beats" / "best.ckpt")["state_dict"]
    key = "student.transformer.encoder.layers.1.mlp.fc1.weight"
    assert not torch.equal(start[key], trained[key])


def test_complexity_is_the_sum_over_what_is_handed_in(finished):
    figures = complexity_figures(finished.settings)
    counts = []
    for name in ("atst", "beats"):
        stage = finished.settings.stage(name, 2, 2)
        network = make_network(finished.settings, name, stage, released=False)
        counts.append(sum(parameter.numel() for parameter in network.parameters()))
    assert abs(figures["total_parameters"] - sum(counts)) <= TINY["dim"]  # a mask token that is never trained
    assert figures["macs"] > figures["total_parameters"]


def test_a_recipe_that_was_changed_in_the_middle_of_a_run_is_refused_with_what_changed(finished):
    plain = finished.settings
    changed = plain.model_copy(
        update={"stage2": plain.stage2.model_copy(update={"epochs": 2}), "teacher": plain.teacher}
    )
    expected = r"made with other settings: stage2.epochs: 1 -> 2.*--redo iteration1_stage2_atst"
    with pytest.raises(UserError, match=expected):
        load_recipe().run(changed, finished.folder)
    own = plain.transformers["beats"].model_copy(update={"stage1_distilled": {"epochs": 3}})
    changed = plain.model_copy(update={"transformers": {**plain.transformers, "beats": own}})
    with pytest.raises(UserError, match=r"transformers.beats.stage1_distilled.epochs.* -> 3.*iteration2_stage1_beats"):
        load_recipe().run(changed, finished.folder)


def test_what_is_done_is_kept_and_what_needs_a_redone_stage_is_done_again(finished, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder, ignore=shutil.ignore_patterns("test"))
    stages = make_stages(finished.settings)[:-1]
    run_stages(Run(folder, finished.settings), stages)
    assert capsys.readouterr().err.count("kept, its settings are the same") == len(stages)
    run_stages(Run(folder, finished.settings), stages, redo=["iteration2_stage2_beats"])
    told = capsys.readouterr().err
    assert "iteration2_stage2_beats: starts again" in told
    assert told.count("kept, its settings are the same") == len(stages) - 1


@pytest.mark.slow
def test_a_run_that_was_killed_within_a_stage_goes_on_and_ends_with_the_same_weights(quick, tmp_path):
    overrides = {"members": ["atst"], "stage1__epochs": 4, "validation": {"external": False}}
    whole = Run(tmp_path / "whole", quick(**overrides))
    stages = make_stages(whole.settings)
    run_stages(whole, stages[:2])
    killed = tmp_path / "killed"
    killed.mkdir()
    (killed / "settings.yaml").write_text((whole.folder / "settings.yaml").read_text())
    command = [sys.executable, "-m", "task4_sed", "train", "--resume", str(killed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=SMALL.parents[2], env=environment, stderr=subprocess.DEVNULL)
    table = killed / "iteration1_stage1_atst" / "metrics.csv"
    while not table.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "iteration1_stage1_atst" / "stage.json").exists()
    run_stages(Run(killed, whole.settings), stages[:2])
    assert json.loads((killed / "iteration1_stage1_atst" / "stage.json").read_text())["interrupted_before"]
    for stage in ("iteration1_stage1_atst", "iteration1_stage2_atst"):
        one, other = (read_checkpoint(folder / stage / "last.ckpt")["state_dict"] for folder in (whole.folder, killed))
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_iterations_and_stages_have_random_numbers_of_their_own(quick):
    seeds = {StageTraining(quick(), "atst", iteration, number).seed for iteration in (1, 2) for number in (1, 2)}
    assert len(seeds) == 4
    assert derive_seed(0, 1, 2) in seeds
