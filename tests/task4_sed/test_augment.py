"""Augmentation of sound event clips: the exact behaviour of each, against a plain loop where there is one."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.features.augment import draw_mixup, freq_mixstyle
from task4_sed.augment import (
    Streams,
    blank,
    colour,
    draw_shifts,
    filter_curve,
    frequency_warp,
    mixed_classes,
    stretch_mels,
    stretch_of_frames,
    turn,
    wavmix,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_stream_is_the_same_for_the_same_numbers_and_name_and_differs_from_all_others():
    drawn = [
        torch.rand(4, generator=Streams(*numbers)[name]).tolist()
        for numbers in ((1, 2, 3), (1, 2, 4))
        for name in ("filter", "warp")
    ]
    assert len({tuple(values) for values in drawn}) == 4
    assert torch.rand(4, generator=Streams(1, 2, 3)["filter"]).tolist() == drawn[0]


def test_wavmix_adds_a_partner_of_the_batch_both_without_their_mean_and_mixes_labels_alike():
    waveform = torch.randn(6, 50, generator=seeded()) + torch.arange(6.0)[:, None]
    strong, pseudo = torch.rand(6, 3, 4, generator=seeded(1)), torch.rand(6, 3, 4, generator=seeded(2))
    before = waveform.clone()
    mixed, (new_strong, new_pseudo) = wavmix(waveform, [strong, pseudo], 0.5, 0.2, seeded(3))
    generator = seeded(3)
    weight, partner = draw_mixup(6, 0.2, generator, dominant=True)
    chosen = torch.rand(6, generator=generator) < 0.5
    assert 0 < chosen.sum() < 6
    for clip in range(6):
        w, other = weight[clip].item(), partner[clip].item()
        if not chosen[clip]:
            assert torch.equal(mixed[clip], waveform[clip])
            assert torch.equal(new_strong[clip], strong[clip])
            continue
        expected = w * (waveform[clip] - waveform[clip].mean()) + (1 - w) * (waveform[other] - waveform[other].mean())
        torch.testing.assert_close(mixed[clip], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(new_strong[clip], w * strong[clip] + (1 - w) * strong[other])
        torch.testing.assert_close(new_pseudo[clip], w * pseudo[clip] + (1 - w) * pseudo[other])
    assert torch.equal(waveform, before), "the batch itself is as it was"


def test_weights_of_mixing_are_the_larger_of_a_beta_number_and_its_rest():
    weight, _ = draw_mixup(20_000, 0.2, seeded(), dominant=True)
    assert weight.min() >= 0.5
    # max(b, 1 - b) of Beta(0.2, 0.2); its mean by numerical integration.
    b = np.random.default_rng(0).beta(0.2, 0.2, 400_000)
    assert weight.mean().item() == pytest.approx(np.maximum(b, 1 - b).mean(), abs=0.005)


def test_wavmix_changes_its_share_of_the_clips():
    waveform = torch.randn(4000, 2, generator=seeded())
    mixed, _ = wavmix(waveform, [], 0.3, 0.2, seeded(1))
    changed = (mixed != waveform).any(dim=1).float().mean().item()
    assert changed == pytest.approx(0.3, abs=0.03)


def test_a_mixed_clip_says_something_of_its_own_classes_and_of_those_active_in_its_partner():
    valid = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=torch.bool)
    strong = torch.zeros(2, 4, 5)
    strong[1, 2, 3] = 0.4  # the MAESTRO clip has class 2, and knows class 3 to be absent
    found = mixed_classes(valid, strong, torch.zeros(2, 4), torch.tensor([1, 0]))
    assert found.int().tolist() == [[1, 1, 1, 0], [0, 0, 1, 1]]
    weak = torch.tensor([[0.0, 1, 0, 0], [0, 0, 0, 0]])
    found = mixed_classes(valid, strong, weak, torch.tensor([0, 0]))
    assert found.int().tolist() == [[1, 1, 0, 0], [0, 1, 1, 1]]


def test_freq_mixstyle_with_a_dominant_weight_keeps_most_of_each_clips_own_statistics():
    spectrogram = torch.rand(5, 1, 3, 40, generator=seeded()) + torch.arange(5.0).view(5, 1, 1, 1)
    mixed = freq_mixstyle(spectrogram, 1.0, 0.3, seeded(4), dominant=True)
    generator = seeded(4)
    torch.rand(1, generator=generator)
    weight, partner = draw_mixup(5, 0.3, generator, dominant=True)
    for clip in range(5):
        for mel in range(3):
            own, other = spectrogram[clip, 0, mel], spectrogram[partner[clip], 0, mel]
            w = weight[clip]
            normal = (own - own.mean()) / (own.var() + 1e-6).sqrt()
            deviation = w * (own.var() + 1e-6).sqrt() + (1 - w) * (other.var() + 1e-6).sqrt()
            expected = normal * deviation + w * own.mean() + (1 - w) * other.mean()
            torch.testing.assert_close(mixed[clip, 0, mel], expected, atol=1e-5, rtol=1e-5)
    assert weight.min() >= 0.5
    assert torch.equal(freq_mixstyle(spectrogram, 0.0, 0.3, seeded(), dominant=True), spectrogram)


def plain_filter(clips, n_mels, count, borders, gains):
    curve = torch.zeros(clips, n_mels)
    for clip in range(clips):
        for band in range(count):
            low, high = borders[band], borders[band + 1]
            curve[clip, low:high] = torch.linspace(gains[clip, band], gains[clip, band + 1], high - low)
    return curve


@pytest.mark.parametrize("seed", range(6))
def test_a_filter_runs_in_lines_between_the_borders_of_three_to_five_bands(seed):
    curve = filter_curve(4, 128, (3, 5), 6, 6.0, seeded(seed))
    generator = seeded(seed)
    count = int(torch.randint(3, 6, (), generator=generator))
    inner = torch.randint(0, 128 - count * 6 + 1, (count - 1,), generator=generator).sort().values
    borders = [0, *(inner + 6 * torch.arange(1, count)).tolist(), 128]
    gains = (2 * torch.rand(4, count + 1, generator=generator) - 1) * 6
    assert all(high - low >= 6 for low, high in pairwise(borders))
    torch.testing.assert_close(curve, plain_filter(4, 128, count, borders, gains), atol=1e-5, rtol=1e-5)
    assert curve.abs().max() <= 6


def test_every_number_of_bands_occurs_and_few_mels_have_narrow_bands():
    counts = {int(torch.randint(3, 6, (), generator=seeded(seed))) for seed in range(30)}
    assert counts == {3, 4, 5}
    assert filter_curve(2, 13, (3, 5), 6, 6.0, seeded()).shape == (2, 13)
    assert filter_curve(2, 5, (3, 5), 6, 6.0, seeded()).abs().max() <= 6


def test_a_filter_multiplies_magnitudes_and_raises_logarithms():
    curve = torch.tensor([[6.0, -6.0]])
    ones = torch.ones(1, 1, 2, 3)
    torch.testing.assert_close(colour(ones, curve)[0, 0, :, 0], torch.tensor([10**0.3, 10**-0.3]))
    torch.testing.assert_close(colour(ones, curve, per_decibel=0.1)[0, 0, :, 0], torch.tensor([1.6, 0.4]))


def test_a_time_mask_is_5_to_30_per_cent_of_the_frames_and_lies_anywhere():
    stretches = [stretch_of_frames(156, 0.05, 0.3, seeded(seed)) for seed in range(2000)]
    widths = [last - first for first, last in stretches]
    assert (min(widths), max(widths)) == (7, 46)  # 5 and 30 % of 156, rounded down
    assert min(first for first, _ in stretches) == 0
    assert max(last for _, last in stretches) == 156


@pytest.mark.parametrize(("frames", "begin", "end"), [(156, 10, 20), (626, 40, 81), (1001, 64, 129)])
def test_a_mask_covers_the_same_time_on_every_grid(frames, begin, end):
    blanked = blank(torch.ones(2, 3, frames), 10, 20, 156)
    zeros = (blanked[0, 0] == 0).nonzero().squeeze(1)
    assert (zeros.min().item(), zeros.max().item() + 1) == (begin, end)
    assert (blanked.sum(dim=-1) == frames - (end - begin)).all()


def test_turning_moves_features_and_labels_in_a_circle_by_the_same_time():
    shifts = torch.tensor([2 / 8, -1 / 8, 0.0])
    labels = torch.arange(8.0).expand(3, 2, 8)
    features = torch.arange(16.0).expand(3, 1, 4, 16)
    turned, features = turn(labels, shifts), turn(features, shifts)
    assert turned[0, 0].tolist() == [6, 7, 0, 1, 2, 3, 4, 5]
    assert turned[1, 1].tolist() == [1, 2, 3, 4, 5, 6, 7, 0]
    assert torch.equal(turned[2], labels[2])
    assert features[0, 0, 0, :5].tolist() == [12, 13, 14, 15, 0]
    for clip in range(3):
        torch.testing.assert_close(features[clip, 0, 0], torch.arange(16.0).roll(int(shifts[clip] * 16)))


def test_shifts_are_whole_frames_with_the_deviation_asked_for():
    shifts = draw_shifts(20_000, 0.075, 156, seeded()) * 156
    torch.testing.assert_close(shifts, shifts.round(), atol=1e-3, rtol=0)
    assert shifts.std().item() == pytest.approx(0.075 * 156, rel=0.03)
    assert shifts.mean().item() == pytest.approx(0, abs=0.3)


@pytest.mark.parametrize("kept", [77, 100, 128])
def test_stretching_mels_is_a_bicubic_resize(kept):
    part = torch.randn(2, 1, kept, 30, generator=seeded())
    expected = F.interpolate(part, size=(128, 30), mode="bicubic", align_corners=False)
    torch.testing.assert_close(stretch_mels(part, 128), expected, atol=1e-5, rtol=1e-5)


def test_frequency_warping_takes_one_part_of_60_to_100_per_cent_at_any_height_for_all_clips():
    mels = torch.linspace(0, 127, 128).view(1, 1, 128, 1).expand(2, 1, 128, 4)
    widths, lows = [], []
    for seed in range(300):
        warped = frequency_warp(mels, 0.6, seeded(seed))
        assert torch.equal(warped[0], warped[1])
        values = warped[0, 0, :, 0]
        widths.append((values[112] - values[16]).item() / 96)  # slope of a linear ramp: kept / 128
        lows.append(values[0].item())
    assert min(widths) == pytest.approx(0.6, abs=0.02)
    assert max(widths) == pytest.approx(1.0, abs=0.02)
    assert min(lows) <= 1 and max(lows) > 30
