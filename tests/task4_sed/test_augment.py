"""Augmentation of sound event clips: the exact behaviour of each step, against a plain loop where there is one."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.features.augment import wavmix
from task4_sed.augment import (
    Streams,
    band_gains,
    blank,
    colour,
    decide,
    draw_borders,
    draw_crop,
    draw_filter,
    draw_mixture,
    draw_partners,
    draw_stretch,
    roll,
    warp_frequency,
    widen_classes,
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


def test_wavmix_adds_partners_and_mixes_labels_alike():
    waveform = torch.randn(3, 50, generator=seeded()) + torch.arange(3.0)[:, None]
    strong, others = torch.rand(3, 4, 5, generator=seeded(1)), torch.randn(2, 50, generator=seeded(2)) + 3
    labels = torch.rand(2, 4, 5, generator=seeded(3))
    batch = {"waveform": waveform.clone(), "strong": strong.clone()}
    weight = torch.tensor([0.7, 0.9])
    wavmix(batch, {"waveform": others, "strong": labels}, torch.tensor([2, 0]), weight)
    assert torch.equal(batch["waveform"][1], waveform[1]) and torch.equal(batch["strong"][1], strong[1])
    for number, row in enumerate((2, 0)):
        w, own, other = weight[number], waveform[row], others[number]
        expected = w * (own - own.mean()) + (1 - w) * (other - other.mean())
        torch.testing.assert_close(batch["waveform"][row], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(batch["strong"][row], w * strong[row] + (1 - w) * labels[number])


def test_partners_are_any_clips_of_the_set_for_a_share_of_the_batch_and_weigh_less():
    partner, weight = draw_partners(4000, 50, 0.3, 0.2, np.random.default_rng(0))
    mixed = partner >= 0
    assert mixed.mean() == pytest.approx(0.3, abs=0.03)
    assert set(partner[mixed]) == set(range(50))
    assert (weight[~mixed] == 1).all() and weight[mixed].min() >= 0.5


def test_weights_of_mixing_are_the_larger_of_a_beta_number_and_its_rest():
    weight, partner = draw_mixture(20_000, 0.2, seeded())
    assert weight.min() >= 0.5 and torch.equal(partner.sort().values, torch.arange(20_000))
    # max(b, 1 - b) of Beta(0.2, 0.2); its mean by numerical integration.
    b = np.random.default_rng(0).beta(0.2, 0.2, 400_000)
    assert weight.mean().item() == pytest.approx(np.maximum(b, 1 - b).mean(), abs=0.005)


def test_a_mixed_clip_is_valid_for_its_own_classes_and_for_those_active_in_its_partner():
    valid = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=torch.bool)
    strong = torch.zeros(2, 4, 5)
    strong[1, 2, 3] = 0.4  # class 2 is active in the MAESTRO clip, class 3 is annotated as absent
    assert widen_classes(valid, strong, torch.tensor([1, 0])).int().tolist() == [[1, 1, 1, 0], [0, 0, 1, 1]]


def plain_curve(gains: torch.Tensor, borders: list[int]) -> torch.Tensor:
    curve = torch.zeros(len(gains), borders[-1])
    for clip, own in enumerate(gains):
        for band, (low, high) in enumerate(pairwise(borders)):
            curve[clip, low:high] = torch.linspace(own[band], own[band + 1], high - low)
    return curve


@pytest.mark.parametrize("seed", range(6))
def test_a_filter_runs_in_lines_between_the_borders_of_three_to_five_bands(seed):
    curve = draw_filter(4, 128, (3, 5), 6, 6.0, seeded(seed))
    generator = seeded(seed)
    borders = draw_borders(128, (3, 5), 6, generator)
    assert borders[0] == 0 and borders[-1] == 128 and borders.diff().min() >= 6
    gains = (2 * torch.rand(4, len(borders), generator=generator) - 1) * 6
    torch.testing.assert_close(curve, plain_curve(gains, borders.tolist()), atol=1e-5, rtol=1e-5)
    assert curve.abs().max() <= 6


def test_every_number_of_bands_occurs_and_few_mels_have_narrow_bands():
    assert {len(draw_borders(128, (3, 5), 6, seeded(seed))) - 1 for seed in range(30)} == {3, 4, 5}
    assert len(draw_borders(12, (5, 5), 6, seeded())) == 6
    assert draw_filter(2, 5, (3, 5), 6, 6.0, seeded()).shape == (2, 5)
    assert band_gains(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([0, 1, 3])).tolist() == [[1, 2, 4]]


def test_a_filter_multiplies_magnitudes_and_raises_logarithms():
    curve = torch.tensor([[6.0, -6.0]])
    ones = torch.ones(1, 1, 2, 3)
    torch.testing.assert_close(colour(ones, curve)[0, 0, :, 0], torch.tensor([10**0.3, 10**-0.3]))
    torch.testing.assert_close(colour(ones, curve, per_decibel=0.1)[0, 0, :, 0], torch.tensor([1.6, 0.4]))


def test_a_time_mask_is_5_to_30_per_cent_of_the_frames_and_spares_the_last_one():
    stretches = [draw_stretch(156, 0.05, 0.3, seeded(seed)) for seed in range(2000)]
    widths = [last - first for first, last in stretches]
    assert (min(widths), max(widths)) == (7, 45)
    assert min(first for first, _ in stretches) == 0
    assert max(last for _, last in stretches) == 155
    assert draw_stretch(156, 0.05, 0.0, seeded()) is None


def test_a_mask_covers_its_rows_only_and_leaves_the_batch_as_it_is():
    values = torch.ones(3, 2, 10)
    blanked = blank(values, 2, 5, slice(1, 3))
    assert blanked.sum(dim=-1).tolist() == [[10, 10], [7, 7], [7, 7]] and (blanked[1:, :, 2:5] == 0).all()
    assert (values == 1).all()


def test_each_clip_rolls_by_its_own_number_of_steps():
    features = torch.randn(6, 1, 4, 40, generator=seeded(1))
    steps = torch.tensor([0, 1, -1, 7, -39, 80])
    expected = torch.stack([torch.roll(clip, int(by), -1) for clip, by in zip(features, steps)])
    assert torch.equal(roll(features, steps), expected)


@pytest.mark.parametrize("kept", [77, 100, 128])
def test_warping_is_a_bicubic_resize_of_some_mels_with_ends_on_ends(kept):
    spectrogram = torch.randn(2, 1, 128, 30, generator=seeded())
    spectrogram = spectrogram.double()
    part = spectrogram[:, :, 10 : 10 + kept] if kept < 118 else spectrogram
    first = 10 if kept < 118 else 0
    expected = F.interpolate(part, size=(128, 30), mode="bicubic", align_corners=True)
    warped = warp_frequency(spectrogram, first, kept)
    torch.testing.assert_close(warped, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(warped[:, :, [0, -1]], spectrogram[:, :, [first, first + kept - 1]])


def test_crops_are_60_to_100_per_cent_of_the_mels_at_any_height():
    crops = [draw_crop(128, 0.6, seeded(seed)) for seed in range(2000)]
    assert (min(kept for _, kept in crops), max(kept for _, kept in crops)) == (76, 127)
    assert min(first for first, _ in crops) == 0 and max(first + kept for first, kept in crops) == 128


def test_a_coin_falls_as_often_as_its_probability_says():
    generator = seeded()
    assert sum(decide(0.3, generator) for _ in range(2000)) / 2000 == pytest.approx(0.3, abs=0.03)
