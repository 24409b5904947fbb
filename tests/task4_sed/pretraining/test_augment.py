"""Augmentation of the pre-training: the order of the steps, and batches that several processes share."""

import pytest
import torch

from common.features.front_ends import AtstMel, KaldiFbank, KaldiLogMel, M2dMel
from task4_sed.augment import Mixture, Streams
from task4_sed.pretraining.augment import Draws, Share, augment, draw, label_shift, mixstyle, shift_frames
from task4_sed.pretraining.networks import rise_per_decibel
from task4_sed.settings import (
    AugmentSettings,
    FilterAugmentSettings,
    FrequencyWarpSettings,
    MixStyleSettings,
    MixupSettings,
    TimeMaskSettings,
)

CLIPS, MELS, FRAMES = 6, 32, 40
WHOLE = Share(0, CLIPS, CLIPS)
EVERYTHING = AugmentSettings(
    frame_shift=0.125,
    mixup=MixupSettings(probability=1.0),
    mixstyle=MixStyleSettings(probability=1.0, alpha=0.4),
    time_mask=TimeMaskSettings(smallest=0.1, largest=0.6, pseudo_labels="kept"),
    filter=FilterAugmentSettings(probability=1.0, on_log_mels="multiply"),
    frequency_warp=FrequencyWarpSettings(probability=1.0),
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(CLIPS, 1, MELS, FRAMES, generator=seeded(1))


@pytest.fixture
def targets() -> list[torch.Tensor]:
    labels = (torch.rand(CLIPS, 5, FRAMES // 4, generator=seeded(2)) < 0.3).float()
    return [labels, torch.rand(CLIPS, 5, FRAMES // 4, generator=seeded(3))]


def only(settings: AugmentSettings = EVERYTHING, **draws):
    """`augment` with these draws and nothing else."""
    return lambda features, targets: augment(features, targets, settings, Draws(**draws), WHOLE, 0.5)


def test_labels_roll_by_a_fourth_of_the_shift(features, targets):
    shift = torch.tensor([0, 1, 2, 6, -10, 40])
    assert label_shift(shift).tolist() == [0, 0, 0, 2, -2, 10]  # half to even
    moved, (labels, distilled) = only(shift=shift)(features, targets)
    for clip in range(CLIPS):
        assert torch.equal(moved[clip], torch.roll(features[clip], int(shift[clip]), -1))
        steps = round(int(shift[clip]) / 4)
        assert torch.equal(labels[clip], torch.roll(targets[0][clip], steps, -1))
        assert torch.equal(distilled[clip], torch.roll(targets[1][clip], steps, -1))


def test_the_deviation_of_the_shift_is_an_eighth_of_the_frames():
    shift = shift_frames(torch.randn(4000, dtype=torch.float64, generator=seeded()), 1000, 0.125).double()
    assert float(shift.std()) == pytest.approx(125, rel=0.05)
    assert float(shift.mean()) == pytest.approx(0, abs=6)  # 3 standard errors


def test_mixup_mixes_features_and_all_targets_with_one_weight(features, targets):
    weight, partner = torch.tensor([1.0, 0.5, 0.75, 0.9, 0.6, 0.8]), torch.tensor([1, 2, 3, 4, 5, 0])
    mixed, (labels, distilled) = only(mixture=Mixture(weight, partner))(features, targets)
    for clip in range(CLIPS):
        share, other = weight[clip], partner[clip]
        for got, before in ((mixed, features), (labels, targets[0]), (distilled, targets[1])):
            torch.testing.assert_close(got[clip], share * before[clip] + (1 - share) * before[other])


def test_mixed_targets_stay_between_0_and_1(features):
    above = [torch.full((CLIPS, 5, 10), 1.2)]
    mixture = Mixture(torch.full((CLIPS,), 0.5), torch.arange(CLIPS))
    assert torch.equal(only(mixture=mixture)(features, above)[1][0], torch.ones(CLIPS, 5, 10))


def test_mixstyle_gives_each_band_statistics_between_those_of_two_clips(features, targets):
    weight, partner = torch.tensor([0.9, 0.5, 0.75, 1.0, 0.6, 0.8]), torch.tensor([1, 2, 3, 4, 5, 0])
    mixed, _ = only(style=Mixture(weight, partner))(features, targets)
    for clip in range(CLIPS):
        for mel in range(MELS):
            own, theirs, share = features[clip, 0, mel], features[partner[clip], 0, mel], weight[clip]
            mean = share * own.mean() + (1 - share) * theirs.mean()
            deviation = share * (own.var() + 1e-6).sqrt() + (1 - share) * (theirs.var() + 1e-6).sqrt()
            expected = (own - own.mean()) / (own.var() + 1e-6).sqrt() * deviation + mean
            torch.testing.assert_close(mixed[clip, 0, mel], expected, rtol=1e-4, atol=1e-5)


def test_mixstyle_adds_a_millionth_to_the_variance_so_that_a_constant_band_stays_finite():
    quiet = torch.tensor([1e-3, -1e-3] * 8)
    features = torch.stack([quiet, torch.full((16,), 3.0)]).view(2, 1, 1, 16)
    style = Mixture(torch.tensor([0.75, 0.75]), torch.tensor([1, 0]))
    deviation = (quiet.var() + 1e-6).sqrt()
    expected = quiet / deviation * torch.lerp(torch.tensor(1e-3), deviation, 0.75) + 0.25 * 3
    mixed = mixstyle(features, style, Share(0, 2, 2))
    torch.testing.assert_close(mixed[0, 0, 0], expected)
    assert (mixed[1] == 0.75 * 3).all()


@pytest.mark.parametrize("choice", ["kept", "masked"])
def test_one_stretch_of_the_batch_is_masked_in_features_and_labels(features, targets, choice):
    settings = AugmentSettings(time_mask=TimeMaskSettings(pseudo_labels=choice))
    masked, (labels, probabilities) = only(settings, stretch=(3, 7))(features, targets)
    covered = torch.zeros(FRAMES // 4, dtype=torch.bool)
    covered[3:7] = True
    wide = covered.repeat_interleave(4)
    assert (masked[..., wide] == 0).all() and torch.equal(masked[..., ~wide], features[..., ~wide])
    assert (labels[..., covered] == 0).all() and torch.equal(labels[..., ~covered], targets[0][..., ~covered])
    assert torch.equal(probabilities, targets[1] if choice == "kept" else targets[1] * ~covered)


def test_the_published_time_mask_masks_nothing():
    settings = AugmentSettings(time_mask=TimeMaskSettings(largest=0.0, pseudo_labels="kept"))
    assert draw(settings, Streams(1), CLIPS, MELS, FRAMES) == Draws()


def test_a_filter_multiplies_as_published_or_adds_decibels(features, targets):
    curve = torch.rand(CLIPS, MELS, generator=seeded(4)) * 12 - 6
    decibels = curve[:, None, :, None]
    torch.testing.assert_close(only(curve=curve)(features, targets)[0], features * 10 ** (decibels / 20))
    added = AugmentSettings(filter=FilterAugmentSettings(on_log_mels="add"))
    torch.testing.assert_close(only(added, curve=curve)(features, targets)[0], features + 0.5 * decibels)


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
    step = rise_per_decibel(front_end)
    front_end.eval()
    louder = front_end(waveform * 10 ** (3 / 20)) - front_end(waveform)
    assert float(louder.median()) == pytest.approx(3 * step, rel=1e-3)
    assert step > 0.01


@pytest.mark.parametrize(("group", "drawn"), [("mixup", "mixture"), ("mixstyle", "style"), ("filter", "curve"),
                                              ("frequency_warp", "crop")])  # fmt: skip
def test_a_step_is_done_as_often_as_its_probability_says(group, drawn):
    often = getattr(EVERYTHING, group).model_copy(update={"probability": 0.3})
    settings = AugmentSettings().model_copy(update={group: often})
    done = sum(getattr(draw(settings, Streams(seed), 2, MELS, 4), drawn) is not None for seed in range(600))
    assert done / 600 == pytest.approx(0.3, abs=0.06)  # 3 standard deviations


def test_a_step_that_is_left_out_changes_no_other_draw():
    whole = draw(EVERYTHING, Streams(3, 14), CLIPS, MELS, FRAMES)
    without = EVERYTHING.model_copy(update={"mixup": None, "frame_shift": 0.0})
    part = draw(without, Streams(3, 14), CLIPS, MELS, FRAMES)
    assert part.mixture is None and part.shift is None
    assert whole.style is not None and part.style is not None
    assert torch.equal(whole.style.weight, part.style.weight) and torch.equal(whole.curve, part.curve)
    assert (whole.stretch, whole.crop) == (part.stretch, part.crop)


def test_the_parts_of_two_processes_are_those_of_the_whole_batch(features, targets, monkeypatch):
    draws = draw(EVERYTHING, Streams(1), CLIPS, MELS, FRAMES)
    sent: list[torch.Tensor] = []

    def keep(values, share):
        sent.append(values)
        return values

    monkeypatch.setattr("task4_sed.pretraining.augment.joined", keep)
    whole, (labels, distilled) = augment(features, targets, EVERYTHING, draws, WHOLE, 0.1)
    for first in (0, 3):
        waiting = list(sent)
        monkeypatch.setattr("task4_sed.pretraining.augment.joined", lambda values, share, left=waiting: left.pop(0))
        own = slice(first, first + 3)
        part, moved = augment(
            features[own], [t[own] for t in targets], EVERYTHING, draws, Share(first, 3, CLIPS), 0.1
        )  # fmt: skip
        torch.testing.assert_close(part, whole[own])
        torch.testing.assert_close(moved[0], labels[own])
        torch.testing.assert_close(moved[1], distilled[own])
