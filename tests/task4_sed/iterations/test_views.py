"""What student and teacher hear: batches, augmentation, masks."""

import numpy as np
import torch

from task4_sed.augment import Streams, draw_partners
from task4_sed.data.clips import BatchPlan, GroupedBatches
from task4_sed.iterations.data import DistilledClips, WavmixedBatches, training_sets
from task4_sed.iterations.train import StageTraining
from task4_sed.iterations.views import Rows
from task4_sed.labels import CLASSES, DESED_CLASSES
from task4_sed.settings import WavmixSettings
from tests.support.quick_iterations import batch_of, everything_on


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
