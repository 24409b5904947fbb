"""Front ends: what the official ones compute, clip by clip, and what a known sound must give."""

import pytest
import torch
import torchaudio
from torch import Tensor, nn
from torchaudio.compliance.kaldi import fbank, get_mel_banks

from common.features.front_ends import AtstMel, DesedMel, KaldiFbank, KaldiLogMel, M2dMel, ResampledMel
from common.features.mel import MelBank, Resampler, in_pieces, kaldi_mel_bank, triangular_mel_bank
from common.registry.models import create_front_end
from tests.support.golden_case import GoldenCase, drawn_waveform

TOLERANCE = 1e-3  # absolute, on the log scale
NAMES = (
    "task1_baseline", "cp_resnet", "cp_mobile", "mn10", "fpasst", "frame_mn10", "atst_frame", "beats", "asit", "m2d",
    "desed_crnn_2024",
)  # fmt: skip


@torch.inference_mode()
def features_of(front_end: nn.Module, waveform: Tensor) -> Tensor:
    return front_end.eval()(waveform)


def noise(seconds: float, sample_rate: int, batch: int = 2) -> Tensor:
    return 0.1 * torch.randn(batch, round(seconds * sample_rate), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["task1_baseline", "mn10", "mn04", "dymn10", "passt_s_swa", "cp_resnet"])
def test_the_log_mel_is_the_official_one(name):
    case = GoldenCase(name)
    features = features_of(create_front_end(name), case.waveform())
    if case.expected("mel").ndim == 3:
        features = features[:, 0]
    assert (case.thinned("mel", features) - case.expected("mel")).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["fpasst", "atst_frame", "beats"])
def test_the_features_of_frame_models_are_the_official_ones(name):
    case = GoldenCase(name)
    features = features_of(create_front_end(name), case.waveform())
    assert (case.thinned("features", features) - case.expected("features")).abs().max() < TOLERANCE


def test_the_steps_of_the_desed_front_end_are_the_official_ones():
    case, front_end = GoldenCase("desed_crnn_2024"), DesedMel()
    decibel = front_end.decibel(front_end.magnitude(case.waveform()))
    assert (decibel[:, 0, ::4, ::4] - case.expected("log_mel")).abs().max() < TOLERANCE
    assert (front_end.scale(decibel)[:, 0, ::4, ::4] - case.expected("scaled")).abs().max() < TOLERANCE
    assert torch.equal(front_end(case.waveform()), front_end.scale(decibel))


def test_atst_takes_its_floor_from_the_clip_or_as_its_authors_from_the_batch():
    case = GoldenCase("atst_frame")
    waveform = case.waveform()
    waveform[1] *= 0.01
    for batch_floor, official in ((True, "features_quiet_in_batch"), (False, "features_quiet_alone")):
        quiet = features_of(AtstMel(batch_floor), waveform)[1:]
        assert (case.thinned(official, quiet) - case.expected(official)).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("beats", {"window_type": "povey", "frame_length": 25, "frame_shift": 10}),
        ("asit", {"window_type": "hanning", "htk_compat": True, "use_energy": False, "dither": 0.0}),
    ],
)
def test_kaldi_features_equal_torchaudios_clip_by_clip(name, options, monkeypatch):
    # Both with the Fourier transform in float64: in float32 nearly empty bins differ by up to 2e-3 between machines.
    rfft = torch.fft.rfft
    monkeypatch.setattr(torch.fft, "rfft", lambda frames, n=None: rfft(frames.double(), n).to(torch.complex64))
    waveform = torch.cat([GoldenCase(name).waveform(), noise(10, 16000)])
    front_end = create_front_end(name)
    clips = []
    for clip in waveform:
        clip = clip * 2**15 if name == "beats" else clip - clip.mean()
        clips.append(fbank(clip[None], num_mel_bins=128, sample_frequency=16000, **options).T)
    expected = (torch.stack(clips) - front_end.mean) / (2 * front_end.std)
    assert (features_of(front_end, waveform)[:, 0] - expected).abs().max() < 1e-4


def test_the_mel_of_m2d_equals_torchaudios_slaney_mel():
    waveform = noise(2, 16000)
    mel = torchaudio.transforms.MelSpectrogram(
        16000, n_fft=400, hop_length=160, n_mels=80, f_min=50, f_max=8000, norm="slaney", mel_scale="slaney"
    )(waveform)
    expected = ((mel + torch.finfo(torch.float32).eps).log() + 7.1) / 4.2
    assert (features_of(M2dMel(), waveform)[:, 0] - expected).abs().max() < 1e-4


@pytest.mark.parametrize(("mels", "n_fft", "rate", "high"), [(128, 1024, 32000, 15000), (256, 2048, 22050, 11025)])
def test_the_kaldi_filterbank_equals_torchaudios_bit_by_bit(mels, n_fft, rate, high):
    expected, _ = get_mel_banks(mels, n_fft, rate, 0.0, high, 100.0, -500.0, 1.0)
    bank = kaldi_mel_bank(mels, n_fft, rate, 0.0, high)
    assert torch.equal(bank[:-1].T, expected)
    assert not bank[-1].any()


def test_the_usual_filterbank_has_948_weights():
    assert int((kaldi_mel_bank(128, 1024, 32000, 0.0, 15000.0) != 0).sum()) == 948


@pytest.mark.parametrize("bands", [1, 40, 64, 128, 256])
def test_products_in_groups_equal_the_dense_product(bands):
    bank = triangular_mel_bank(bands, 4096, 32000, 0.0, 16000.0)
    power = torch.rand(2, 5, 2049)
    torch.testing.assert_close(MelBank(bank)(power), power @ bank)
    silent = torch.zeros(2049, bands)  # no band has a weight
    assert MelBank(silent)(power).equal(power @ silent)


def test_the_resampling_kernel_is_torchaudios_bit_by_bit():
    official = torchaudio.transforms.Resample(44100, 32000)
    ours = Resampler(44100, 32000)
    assert torch.equal(ours.kernel, official.kernel.squeeze(1).T)
    waveform = noise(0.3, 44100)
    torch.testing.assert_close(ours(waveform), official(waveform), atol=1e-6, rtol=0)


def test_work_in_pieces_equals_work_at_once():
    frames = torch.randn(3, 1000, 700)
    torch.testing.assert_close(in_pieces(frames, lambda part: part.square()), frames.square())


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_has_the_same_features_alone_and_beside_a_louder_one(name):
    front_end = create_front_end(name)
    waveform = noise(1.1, front_end.sample_rate, 6)
    waveform[0] *= 1e-3
    torch.testing.assert_close(
        features_of(front_end, waveform)[:1], features_of(front_end, waveform[:1]), atol=2e-4, rtol=0
    )


@pytest.mark.parametrize("name", NAMES)
def test_no_table_is_in_the_state_dict(name):
    assert not create_front_end(name).state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_every_front_end_gives_finite_images_of_silence_and_noise(name):
    front_end = create_front_end(name)
    waveform = noise(1.0, front_end.sample_rate)
    waveform[0] = 0
    features = features_of(front_end, waveform)
    assert features.ndim == 4 and features.shape[:2] == (2, 1)
    assert features.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_autocast_does_not_reach_a_front_end(name, dtype):
    front_end = create_front_end(name)
    time = torch.arange(front_end.sample_rate) / front_end.sample_rate
    tone = 0.9 * torch.sin(2 * torch.pi * 440 * time)[None]  # its mel power is above 65,504, the end of half precision
    expected = features_of(front_end, tone)
    with torch.autocast("cpu", dtype=dtype):
        features = features_of(front_end, tone)
        if isinstance(front_end, DesedMel):
            steps = front_end.scale(front_end.decibel(front_end.magnitude(tone)))
            assert steps.equal(expected)
    assert features.equal(expected)


@pytest.mark.parametrize(("seconds", "frames"), [(10, 1000), (5, 500), (1, 100), (0.16, 16)])
def test_mn_gets_100_frames_a_second(seconds, frames):
    assert features_of(KaldiLogMel(), noise(seconds, 32000)).shape == (2, 1, 128, frames)


@pytest.mark.parametrize(("hop", "frames"), [(160, 2000), (480, 667), (640, 500), (800, 400)])
def test_other_hops_give_the_documented_frames(hop, frames):
    assert features_of(KaldiLogMel(hop_length=hop), noise(10, 32000, 1)).shape[-1] == frames


def test_silence_of_mn_is_the_documented_constant():
    assert features_of(KaldiLogMel(), torch.zeros(1, 32000)).unique().tolist() == pytest.approx([-1.40259], abs=1e-5)


def test_a_tone_lights_the_band_that_holds_its_frequency():
    rate, tone = 32000, 1000.0
    waveform = torch.sin(2 * torch.pi * tone * torch.arange(rate) / rate)[None]
    loudest = features_of(ResampledMel(input_rate=rate), waveform)[0, 0].mean(dim=1).argmax()
    mel = 2595 * torch.log10(torch.tensor(1 + tone / 700)) / (2595 * torch.log10(torch.tensor(1 + 16000 / 700)))
    assert abs(int(loudest) - (float(mel) * 257 - 1)) <= 1


def test_the_mask_acts_in_training_only_and_on_the_power_of_the_baseline():
    front_end = ResampledMel(input_rate=32000, mask=torch.zeros_like)
    waveform = noise(1, 32000)
    masked = front_end.train()(waveform)
    torch.testing.assert_close(masked, torch.full_like(masked, 1e-5).log())
    assert not torch.allclose(front_end.eval()(waveform), masked)


def test_the_mask_of_mn_acts_on_the_log_before_shift_and_scale():
    masked = KaldiLogMel(mask=torch.zeros_like).train()(noise(1, 32000))
    torch.testing.assert_close(masked, torch.full_like(masked, 0.9))


def test_jitter_follows_its_generator_and_is_off_in_evaluation():
    def jittered(seed: int) -> Tensor:
        front_end = KaldiLogMel(f_min_jitter=10, f_max_jitter=2000, generator=torch.Generator().manual_seed(seed))
        return front_end.train()(noise(0.5, 32000))

    assert torch.equal(jittered(1), jittered(1))
    assert not torch.equal(jittered(1), jittered(2))
    still = KaldiLogMel(f_min_jitter=10, f_max_jitter=2000)
    assert torch.equal(features_of(still, noise(0.5, 32000)), features_of(KaldiLogMel(), noise(0.5, 32000)))


def test_jitter_keeps_to_the_documented_edges():
    front_end = KaldiLogMel(f_min_jitter=10, f_max_jitter=2000, generator=torch.Generator().manual_seed(0))
    low, high = zip(*(front_end.draw_edges() for _ in range(100)), strict=True)
    assert min(low) == 0 and max(low) == 9
    assert 14001 <= min(high) < 14100 and 15900 < max(high) <= 16000


def test_gradients_reach_the_waveform():
    for name in NAMES:
        front_end = create_front_end(name)
        waveform = noise(0.3, front_end.sample_rate, 1).requires_grad_()
        front_end(waveform).sum().backward()
        assert waveform.grad is not None and waveform.grad.isfinite().all() and waveform.grad.any()


def test_too_few_samples_are_told_and_not_computed():
    with pytest.raises(ValueError, match="512"):
        KaldiLogMel()(torch.zeros(1, 400))
    with pytest.raises(ValueError, match="400"):
        KaldiFbank(0.0, 1.0)(torch.zeros(1, 399))


def test_the_drawn_signals_are_the_official_ones():
    samples = drawn_waveform("mn10/0", 320000, 32000)[[1, 1000, 192000]]
    assert samples.tolist() == pytest.approx([0.0080767749, 0.0497572273, 0.7062259316], abs=1e-7)
