"""Augmentation of the pre-training: the exact behaviour of each step, beside a plain computation clip by clip."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from common.features.augment import draw_beta
from common.features.front_ends import AtstMel, KaldiFbank, KaldiLogMel, M2dMel
from task4_sed.augment import Streams, band_gains, draw_borders, roll
from task4_sed.pretraining.augment import (
    Share,
    augment,
    filter_augment,
    frame_shift,
    frequency_warp,
    mixstyle,
    mixup,
    time_mask,
)
from task4_sed.pretraining.networks import level_of_a_decibel
from task4_sed.pretraining.settings import (
    AugmentationSettings,
    FilterAugmentSettings,
    FrequencyWarpSettings,
    MixStyleSettings,
    MixupSettings,
    TimeMaskSettings,
)

CLIPS, MELS, FRAMES = 6, 32, 40
WHOLE = Share(0, CLIPS, CLIPS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def features():
    return torch.randn(CLIPS, 1, MELS, FRAMES, generator=seeded(1))


@pytest.fixture
def targets():
    labels = (torch.rand(CLIPS, 5, FRAMES // 4, generator=seeded(2)) < 0.3).float()
    return [labels, torch.rand(CLIPS, 5, FRAMES // 4, generator=seeded(3))]


def test_each_clip_is_rolled_by_its_own_shift(features):
    shift = torch.tensor([0, 1, -1, 7, -39, 80])
    expected = torch.stack([torch.roll(clip, int(by), -1) for clip, by in zip(features, shift)])
    assert torch.equal(roll(features, shift), expected)


def test_a_frame_shift_is_a_truncated_normal_number_and_labels_follow_by_a_fourth(features, targets):
    moved, (labels, distilled) = frame_shift(features, targets, 0.3, seeded(4), WHOLE)
    drawn = torch.randn(CLIPS, dtype=torch.float64, generator=seeded(4)) * int(FRAMES * 0.3)
    for clip in range(CLIPS):
        shift = int(drawn[clip])  # int cuts towards 0, as in the official code
        assert torch.equal(moved[clip], torch.roll(features[clip], shift, -1))
        steps = round(shift / 4)
        assert torch.equal(labels[clip], torch.roll(targets[0][clip], steps, -1))
        assert torch.equal(distilled[clip], torch.roll(targets[1][clip], steps, -1))
    assert len({int(value) for value in drawn}) > 3


def test_the_deviation_of_the_shift_is_an_eighth_of_the_frames():
    position = torch.zeros(4000, 1, 1, 1000)
    position[..., 500] = 1
    moved, _ = frame_shift(position, [], 0.125, seeded(), Share(0, 4000, 4000))
    shift = moved.argmax(dim=-1).flatten().double() - 500
    assert float(shift.std()) == pytest.approx(125, rel=0.05)
    assert float(shift.mean()) == pytest.approx(0, abs=6)  # 3 standard errors


def test_mixup_keeps_the_larger_weight_and_mixes_all_targets_alike(features, targets):
    settings = MixupSettings(probability=1.0, alpha=0.2)
    mixed, (labels, distilled) = mixup(features, targets, settings, seeded(5), WHOLE)
    generator = seeded(5)
    torch.rand((), generator=generator)  # the decision
    drawn = draw_beta(CLIPS, 0.2, generator)
    partner = torch.randperm(CLIPS, generator=generator)
    for clip in range(CLIPS):
        weight, other = max(float(drawn[clip]), 1 - float(drawn[clip])), int(partner[clip])
        for got, before in ((mixed, features), (labels, targets[0]), (distilled, targets[1])):
            torch.testing.assert_close(got[clip], weight * before[clip] + (1 - weight) * before[other])
    assert labels.max() <= 1 and labels.min() >= 0


def test_mixed_targets_stay_between_0_and_1(features):
    above = [torch.full((CLIPS, 5, 10), 1.2)]
    _, (labels,) = mixup(features, above, MixupSettings(probability=1.0), seeded(), WHOLE)
    assert torch.equal(labels, torch.ones(CLIPS, 5, 10))


def test_mixstyle_gives_each_band_statistics_between_those_of_two_clips(features):
    mixed = mixstyle(features, MixStyleSettings(probability=1.0, alpha=0.4), seeded(6), WHOLE)
    generator = seeded(6)
    torch.rand((), generator=generator)
    drawn = draw_beta(CLIPS, 0.4, generator)
    partner = torch.randperm(CLIPS, generator=generator)
    for clip in range(CLIPS):
        weight, other = max(float(drawn[clip]), 1 - float(drawn[clip])), int(partner[clip])
        for mel in range(MELS):
            own, theirs = features[clip, 0, mel], features[other, 0, mel]
            mean = weight * own.mean() + (1 - weight) * theirs.mean()
            deviation = weight * (own.var() + 1e-6).sqrt() + (1 - weight) * (theirs.var() + 1e-6).sqrt()
            expected = (own - own.mean()) / (own.var() + 1e-6).sqrt() * deviation + mean
            torch.testing.assert_close(mixed[clip, 0, mel], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("distilled", ["kept", "masked"])
def test_one_stretch_of_the_batch_is_masked_in_features_and_labels(features, targets, distilled):
    settings = TimeMaskSettings(min_share=0.1, max_share=0.6, distilled=distilled)
    masked, (labels, probabilities) = time_mask(features, targets, settings, seeded(7))
    generator = seeded(7)
    width = int(torch.randint(1, 6, (), generator=generator))
    first = int(torch.randint(0, 10 - width, (), generator=generator))
    covered = torch.zeros(FRAMES // 4, dtype=torch.bool)
    covered[first : first + width] = True
    wide = covered.repeat_interleave(4)
    assert (masked[..., wide] == 0).all() and torch.equal(masked[..., ~wide], features[..., ~wide])
    assert (labels[..., covered] == 0).all() and torch.equal(labels[..., ~covered], targets[0][..., ~covered])
    expected = targets[1] if distilled == "kept" else targets[1] * ~covered
    assert torch.equal(probabilities, expected)
    assert not torch.equal(features, masked) and targets[0][..., covered].any()  # the batch itself stays


def test_the_published_time_mask_masks_nothing(features, targets):
    masked, moved = time_mask(features, targets, TimeMaskSettings(max_share=0.0), seeded())
    assert masked is features and moved[0] is targets[0]


def test_gains_run_evenly_between_borders_as_linspace_does():
    generator = np.random.default_rng(0)
    for seed in range(30):
        borders = draw_borders(MELS, (3, 5), 6, seeded(seed))
        widths = borders.diff()
        assert borders[0] == 0 and borders[-1] == MELS and len(widths) in (3, 4, 5) and widths.min() >= 6
        gains = torch.tensor(generator.normal(size=(2, len(borders))), dtype=torch.float32)
        plain = torch.cat([torch.stack([torch.linspace(float(g[b]), float(g[b + 1]), int(width)) for g in gains])
                           for b, width in enumerate(widths)], dim=1)  # fmt: skip
        torch.testing.assert_close(band_gains(gains, borders), plain, rtol=1e-5, atol=1e-6)


def test_bands_are_narrower_where_there_are_too_few_mels():
    borders = draw_borders(12, (5, 5), 6, seeded())
    assert len(borders) == 6 and borders.diff().min() >= 2


def test_a_filter_multiplies_as_published_or_adds_decibels(features):
    published = FilterAugmentSettings(probability=1.0, scale="multiply")
    got = filter_augment(features, published, seeded(8), WHOLE, per_decibel=0.5)
    generator = seeded(8)
    torch.rand((), generator=generator)
    borders = draw_borders(MELS, (published.min_bands, published.max_bands), published.min_width, generator)
    gains = (2 * torch.rand(CLIPS, len(borders), generator=generator) - 1) * 6
    decibel = band_gains(gains, borders)[:, None, :, None]
    assert decibel.abs().max() <= 6
    torch.testing.assert_close(got, features * 10 ** (decibel / 20))
    right = published.model_copy(update={"scale": "decibel"})
    added = filter_augment(features, right, seeded(8), WHOLE, per_decibel=0.5)
    torch.testing.assert_close(added, features + 0.5 * decibel)


@pytest.mark.parametrize(
    "front_end",
    [
        AtstMel(),
        KaldiLogMel(16_000, 512, 400, 160, f_max=7000.0, f_max_jitter=2000, log_offset=0, log_floor=1e-7),
        KaldiFbank(15.41663, 6.55582, gain=32768.0),
        KaldiFbank(-4.2677393, 4.5689974, window="hanning", remove_mean=True),
        M2dMel(),
    ],
    ids=["atst", "fpasst", "beats", "asit", "m2d"],
)
def test_a_decibel_is_what_the_front_end_makes_of_it(front_end):
    waveform = 0.1 * torch.randn(1, 16_000, generator=seeded())
    step = level_of_a_decibel(front_end)
    front_end.eval()
    louder = front_end(waveform * 10 ** (3 / 20)) - front_end(waveform)
    assert float(louder.median()) == pytest.approx(3 * step, rel=1e-3)
    assert step > 0.01


def test_a_crop_of_the_mel_axis_is_stretched_to_its_full_height(features):
    warped = frequency_warp(features, FrequencyWarpSettings(probability=1.0, smallest=0.6), seeded(9))
    generator = seeded(9)
    torch.rand((), generator=generator)
    height = int((0.6 + 0.4 * float(torch.rand((), generator=generator))) * MELS)
    first = int(torch.randint(0, MELS - height + 1, (), generator=generator))
    assert 19 <= height <= MELS
    for clip in range(CLIPS):
        crop = features[clip : clip + 1, :, first : first + height]
        plain = F.interpolate(crop, size=(MELS, FRAMES), mode="bicubic", align_corners=True)[0]
        torch.testing.assert_close(warped[clip], plain)
    # Ends lie on ends.
    torch.testing.assert_close(warped[:, :, 0], features[:, :, first])
    torch.testing.assert_close(warped[:, :, -1], features[:, :, first + height - 1])


@pytest.mark.parametrize("step", [mixstyle, filter_augment, frequency_warp, mixup])
def test_a_step_is_done_as_often_as_its_probability_says(step, features):
    kinds = {
        mixstyle: MixStyleSettings, filter_augment: FilterAugmentSettings,
        frequency_warp: FrequencyWarpSettings, mixup: MixupSettings,
    }  # fmt: skip
    settings = kinds[step](probability=0.3)
    few = features[:2, :, :, :4]
    extra = {mixstyle: (Share(0, 2, 2),), filter_augment: (Share(0, 2, 2), 1.0), frequency_warp: ()}
    done = 0
    for seed in range(600):
        if step is mixup:
            changed, _ = mixup(few, [], settings, seeded(seed), Share(0, 2, 2))
        else:
            arguments = extra[step]
            changed = step(few, settings, seeded(seed), *arguments)
        done += changed is not few
    assert done / 600 == pytest.approx(0.3, abs=0.06)  # 3 standard deviations


class NotingStreams(Streams):
    """Keeps the seeds of the streams that were asked for."""

    def __init__(self, *numbers):
        super().__init__(*numbers)
        self.noted = {}

    def __getitem__(self, name):
        generator = super().__getitem__(name)
        assert name not in self.noted
        self.noted[name] = generator.initial_seed()
        return generator


def test_what_one_step_draws_does_not_move_the_others(features):
    everything = AugmentationSettings(time_mask=None)
    without = everything.model_copy(update={"mixup": None, "frame_shift": 0.0})
    seeds = []
    for settings in (everything, without):
        streams = NotingStreams(3, 14, 15)
        augment(features, [torch.zeros(CLIPS, 2, 10)], settings, streams, WHOLE, 1.0)
        seeds.append(streams.noted)
    assert seeds[1].items() < seeds[0].items() and "mixup" not in seeds[1]
    assert len(set(seeds[0].values())) == len(seeds[0]) == 5
    assert Streams(3, 14, 16)["mixup"].initial_seed() != seeds[0]["mixup"]


def test_the_parts_of_two_processes_are_those_of_the_whole_batch(features, targets, monkeypatch):
    settings = AugmentationSettings(
        mixup=MixupSettings(probability=1.0), mixstyle=MixStyleSettings(probability=1.0),
        filter_augment=FilterAugmentSettings(probability=1.0), frequency_warp=FrequencyWarpSettings(probability=1.0),
    )  # fmt: skip
    whole, (labels, distilled) = augment(features, targets, settings, Streams(1), WHOLE, 0.1)
    # What the other process would send is taken from a run with the whole batch.
    sent: list[torch.Tensor] = []
    monkeypatch.setattr("task4_sed.pretraining.augment.joined", lambda values, share: _kept(values, share, sent))
    augment(features, targets, settings, Streams(1), WHOLE, 0.1)
    for first in (0, 3):
        waiting = list(sent)
        monkeypatch.setattr(
            "task4_sed.pretraining.augment.joined", lambda values, share, waiting=waiting: waiting.pop(0)
        )
        share = Share(first, 3, CLIPS)
        own = slice(first, first + 3)
        part, moved = augment(features[own], [t[own] for t in targets], settings, Streams(1), share, 0.1)
        torch.testing.assert_close(part, whole[own])
        torch.testing.assert_close(moved[0], labels[own])
        torch.testing.assert_close(moved[1], distilled[own])


def _kept(values, share, sent):
    sent.append(values)
    return values
