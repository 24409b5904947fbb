import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from scipy import signal

from common.data.audio import read_audio
from common.errors import UserError
from common.features import augment
from common.features.impulse_responses import DeviceImpulseResponses


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def spectrogram():
    return torch.randn(6, 1, 20, 15, generator=seeded(99)) * 2 - 5


@pytest.fixture
def waveform():
    return torch.randn(7, 500, generator=seeded(98))


@pytest.fixture
def responses(tmp_path):
    """Three responses with different lengths, one of them at another rate."""
    folder = tmp_path / "responses"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for name, length, rate in (("a", 60, 8000), ("b", 90, 8000), ("c", 160, 16000)):
        response = noise.normal(size=length) * np.exp(-np.arange(length) / 15)
        response[5] = 3.0
        soundfile.write(folder / f"{name}.wav", response / 4, rate, subtype="PCM_24")
    return folder


def test_freq_mixstyle_is_the_formula_clip_by_clip(spectrogram):
    mixed = augment.freq_mixstyle(spectrogram, 1.0, 0.3, seeded(5))
    generator = seeded(5)
    torch.rand(1, generator=generator)
    weights = augment.draw_beta(6, 0.3, generator)
    partners = torch.randperm(6, generator=generator)
    for clip, (weight, partner) in enumerate(zip(weights, partners)):
        for band in range(20):
            own, other = spectrogram[clip, 0, band].numpy(), spectrogram[partner, 0, band].numpy()
            own_sigma = np.sqrt(own.var(ddof=1) + 1e-6)
            other_sigma = np.sqrt(other.var(ddof=1) + 1e-6)
            weight = float(weight)
            sigma = weight * own_sigma + (1 - weight) * other_sigma
            expected = (own - own.mean()) / own_sigma * sigma + weight * own.mean() + (1 - weight) * other.mean()
            np.testing.assert_allclose(mixed[clip, 0, band].numpy(), expected, atol=2e-5)


def test_freq_mixstyle_takes_its_statistics_over_channels_too(spectrogram):
    two_channels = torch.cat([spectrogram, spectrogram + 3], dim=1)
    mixed = augment.freq_mixstyle(two_channels, 1.0, 0.3, seeded(5))
    # Statistics of each channel alone would make both channels equal.
    assert (mixed[:, 1] - mixed[:, 0]).abs().min() > 0.1


def test_freq_mixstyle_lets_no_gradient_through_its_statistics(spectrogram):
    spectrogram.requires_grad_()
    augment.freq_mixstyle(spectrogram, 1.0, 0.3, seeded(5)).sum().backward()
    generator = seeded(5)
    torch.rand(1, generator=generator)
    weight, partner = augment.draw_beta(6, 0.3, generator), torch.randperm(6, generator=generator)
    sigma = (spectrogram.detach().var(dim=(1, 3)) + 1e-6).sqrt()
    scale = (weight[:, None] * sigma + (1 - weight[:, None]) * sigma[partner]) / sigma
    torch.testing.assert_close(spectrogram.grad, scale[:, None, :, None].expand_as(spectrogram))


def test_freq_mixstyle_decides_once_per_batch(spectrogram):
    generator = seeded(0)
    changed = []
    for _ in range(400):
        clips = (augment.freq_mixstyle(spectrogram, 0.4, 0.3, generator) != spectrogram).flatten(1).any(dim=1)
        changed.append(bool(clips.any()))
    # 400 decisions with p 0.4: standard deviation 0.0245.
    assert np.mean(changed) == pytest.approx(0.4, abs=0.08)
    assert augment.freq_mixstyle(spectrogram, 0.0, 0.3, generator) is spectrogram


def test_weights_follow_the_beta_distribution():
    weights = augment.draw_beta(20000, 0.3, seeded(1)).double().numpy()
    from scipy import stats

    assert stats.kstest(weights, stats.beta(0.3, 0.3).cdf).pvalue > 0.01


def test_weights_are_numbers_even_for_a_tiny_alpha():
    weights = augment.draw_beta(5000, 0.02, seeded(1))
    assert ((weights >= 0) & (weights <= 1)).all()


def test_a_rolled_clip_is_torch_roll_of_it(waveform):
    rolled = augment.time_roll(waveform, 40, seeded(3))
    shifts = torch.randint(-40, 41, (7,), generator=seeded(3))
    expected = torch.stack([torch.roll(clip, int(shift)) for clip, shift in zip(waveform, shifts)])
    assert torch.equal(rolled, expected)


def test_every_shift_of_the_range_occurs():
    impulse = torch.zeros(4000, 50)
    impulse[:, 25] = 1
    positions = augment.time_roll(impulse, 4, seeded(0)).argmax(dim=1)
    counts = torch.bincount(positions, minlength=50)
    assert counts.nonzero().squeeze(1).tolist() == list(range(21, 30))
    # 4000 draws of nine values: 444 each, standard deviation 20.
    assert ((counts[21:30] - 4000 / 9).abs() < 90).all()


def test_a_roll_by_nothing_changes_nothing_and_one_beyond_the_clip_is_refused(waveform):
    assert augment.time_roll(waveform, 0, seeded()) is waveform
    with pytest.raises(ValueError, match="cannot be rolled"):
        augment.time_roll(waveform, 501, seeded())


def test_a_clip_may_be_rolled_by_its_whole_length(waveform):
    assert sorted(augment.time_roll(waveform, 500, seeded())[0].tolist()) == sorted(waveform[0].tolist())


def test_freq_mixstyle_adds_a_millionth_to_the_variance():
    """A band that never changes has the deviation 0.001, so that its partner's is reached by that factor."""
    quiet, loud = torch.tensor([0.001, -0.001]), torch.tensor([1.0, -1.0])
    spectrogram = torch.stack([quiet, loud])[:, None, None]
    mixed = augment.mix_statistics(spectrogram, torch.zeros(2), torch.tensor([1, 0]))
    # Unbiased variances 2e-6 and 2: with the millionth 3e-6 and 2.000001.
    expected = 0.001 * (2.000001 / 3e-6) ** 0.5
    assert mixed[0].flatten().tolist() == pytest.approx([expected, -expected], rel=1e-4)


@pytest.mark.parametrize("kind", ["frequency", "time"])
def test_a_mask_is_torchaudios_with_one_draw_per_clip(kind, spectrogram):
    masks = {"frequency": (augment.frequency_mask, torchaudio.transforms.FrequencyMasking),
             "time": (augment.time_mask, torchaudio.transforms.TimeMasking)}  # fmt: skip
    ours, theirs = masks[kind]
    for seed in range(20):
        torch.manual_seed(seed)
        expected = theirs(12, iid_masks=True)(spectrogram)
        assert torch.equal(ours(spectrogram, 12, seeded(seed)), expected)


def test_a_mask_draws_its_width_and_its_place_and_no_more():
    drawn = augment.draw_places((3, 1), 8, seeded())
    assert drawn is not None and drawn.shape == (2, 3, 1)
    assert augment.draw_places((3, 1), 0, seeded()) is None


def test_a_mask_covers_whole_bands_and_never_as_many_as_its_limit():
    masked = augment.frequency_mask(torch.ones(3000, 1, 64, 3), 8, seeded(0))
    widths = (masked[:, 0] == 0).all(dim=2).sum(dim=1)
    assert set(widths.tolist()) == set(range(8))
    assert (masked.amin(dim=-1) == masked.amax(dim=-1)).all()


def test_gain_is_uniform_in_decibels():
    louder = augment.gain(torch.ones(5000, 4), 6.0, seeded(0))
    decibels = 20 * louder[:, 0].log10()
    assert float(decibels.abs().max()) <= 6
    assert float(decibels.std()) == pytest.approx(12 / np.sqrt(12), rel=0.03)
    assert (louder == louder[:, :1]).all()


def test_mixup_adds_clips_and_targets_with_the_same_weights(spectrogram):
    target = torch.eye(6)
    mixed, soft = augment.mixup(spectrogram, target, 0.4, seeded(2))
    # With one-hot targets of different classes, the soft target tells which clips were added with which weights.
    torch.testing.assert_close(mixed, torch.einsum("bc,c...->b...", soft, spectrogram))
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(6))


def test_a_dominant_mixup_keeps_each_clip_the_louder_one():
    weight, _ = augment.draw_mixup(1000, 0.3, seeded(2), dominant=True)
    assert float(weight.min()) >= 0.5


def test_the_same_generator_state_gives_the_same_augmentation(waveform):
    assert torch.equal(augment.time_roll(waveform, 40, seeded(3)), augment.time_roll(waveform, 40, seeded(3)))
    assert not torch.equal(augment.time_roll(waveform, 40, seeded(3)), augment.time_roll(waveform, 40, seeded(4)))


def test_convolving_a_batch_is_scipys_convolution_of_each_clip(responses, waveform):
    bank = DeviceImpulseResponses(responses, 8000)
    choice = torch.tensor([0, 1, 2, 2, 1, 0, 2])
    convolved = bank.convolve(waveform, choice)
    for clip, number, result in zip(waveform, choice, convolved):
        response = read_audio(responses / f"{'abc'[number]}.wav", 8000)
        expected = signal.convolve(clip.double().numpy(), response.astype(float))[:500]
        np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)


def test_a_response_of_another_rate_is_resampled_to_the_clips(responses):
    bank = DeviceImpulseResponses(responses, 8000)
    assert [bank.responses.shape[1], len(read_audio(responses / "c.wav", 8000))] == [90, 80]


def test_only_eligible_clips_are_convolved_and_the_others_stay_bit_for_bit(responses, waveform):
    bank = DeviceImpulseResponses(responses, 8000)
    eligible = torch.tensor([True, False, True, False, False, True, True])
    result = bank(waveform, eligible, 1.0, seeded(0))
    assert torch.equal((result != waveform).any(dim=1), eligible)
    assert bank(waveform, eligible, 0.0, seeded(0)) is waveform


def test_the_share_of_convolved_clips_and_of_each_response_is_as_asked(responses):
    bank = DeviceImpulseResponses(responses, 8000)
    impulse = torch.zeros(3000, 100)
    impulse[:, 0] = 1
    result = bank(impulse, torch.ones(3000, dtype=torch.bool), 0.6, seeded(0))
    distance = torch.cdist(result[:, :90], bank.responses)
    chosen, unchanged = distance.argmin(dim=1), (result == impulse).all(dim=1)
    assert float(unchanged.float().mean()) == pytest.approx(0.4, abs=0.04)
    shares = torch.bincount(chosen[~unchanged]) / (~unchanged).sum()
    assert ((shares - 1 / 3).abs() < 0.05).all()


def test_the_peak_can_be_moved_to_the_start(responses, waveform):
    choice = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    late = DeviceImpulseResponses(responses, 8000).convolve(torch.nn.functional.pad(waveform, (0, 20)), choice)
    prompt = DeviceImpulseResponses(responses, 8000, delay="peak_at_start").convolve(waveform, choice)
    for number, lead in ((0, 5), (1, 5)):
        clips = choice == number
        torch.testing.assert_close(prompt[clips], late[clips][:, lead : lead + 500], atol=1e-5, rtol=0)


def test_a_response_can_be_scaled_to_unit_energy_or_the_clip_kept_at_its_level(responses, waveform):
    choice = torch.zeros(7, dtype=torch.long)
    energy = DeviceImpulseResponses(responses, 8000, level="unit_energy").responses.square().sum(dim=1)
    torch.testing.assert_close(energy, torch.ones(3))
    kept = DeviceImpulseResponses(responses, 8000, level="keep_rms").convolve(waveform, choice)
    torch.testing.assert_close(kept.square().mean(dim=1), waveform.square().mean(dim=1))


def test_responses_can_be_cut(responses):
    assert DeviceImpulseResponses(responses, 8000, max_duration=0.005).responses.shape == (3, 40)


def test_a_response_keeps_a_sample_however_short_it_is_cut(responses):
    assert DeviceImpulseResponses(responses, 8000, max_duration=1e-6).responses.shape == (3, 1)


def test_responses_are_no_part_of_the_saved_weights(responses):
    assert DeviceImpulseResponses(responses, 8000).state_dict() == {}


def test_a_folder_without_responses_is_told(tmp_path):
    with pytest.raises(UserError, match="holds no audio file"):
        DeviceImpulseResponses(tmp_path, 8000)


def test_a_file_that_is_no_response_is_told_by_name(responses):
    (responses / "noise.wav").write_bytes(b"this is not audio")
    with pytest.raises(UserError, match=r"noise\.wav"):
        DeviceImpulseResponses(responses, 8000)


@pytest.mark.parametrize(
    ("samples", "complaint"), [(np.zeros(100), "is silent"), (np.ones(8000 * 6) * 0.1, "too long for the response")]
)
def test_a_silent_file_or_a_whole_recording_is_no_response(responses, samples, complaint):
    soundfile.write(responses / "wrong.wav", samples, 8000)
    with pytest.raises(UserError, match=complaint):
        DeviceImpulseResponses(responses, 8000)
