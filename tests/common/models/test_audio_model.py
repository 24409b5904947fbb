"""Audio models at any length: windows, their joining, and the settings for inference."""

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from common.inference.prepare import prepare_for_inference
from common.models.audio_model import AudioModel, ClipScores, FrameJoiner, WindowPolicy, cut_windows
from common.models.network import ModelOutput
from common.registry.models import create_audio_model, find_architecture

RATE = 1000


class Samples(nn.Module):
    """A front end that shows the waveform as it is."""

    sample_rate = RATE

    def forward(self, waveform: Tensor) -> Tensor:
        assert waveform.dtype == torch.float32
        return waveform[:, None, None]


class FrameMeans(nn.Module):
    """Frames of 40 samples: their means, times a weight of 1; the clip's logit is the mean."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.largest_batch = 0

    def forward(self, spectrogram: Tensor) -> ModelOutput:
        self.largest_batch = max(self.largest_batch, len(spectrogram))
        clip = spectrogram.flatten(1)
        frames = clip[:, : clip.shape[1] // 40 * 40].unflatten(1, (-1, 40)).mean(dim=2)[..., None] * self.weight
        return ModelOutput(frames.mean(dim=1), frames.mean(dim=1), frames, 2 * frames)


def frame_model(**policy: float) -> AudioModel:
    settings = {"window": 1.0, "overlap": 0.2, "shortest": 1.0, "frame": 0.04, **policy}
    return AudioModel(Samples(), FrameMeans(), ["loud"], WindowPolicy(**settings))


def waveform(seconds: float, batch: int = 1) -> Tensor:
    return torch.rand(batch, round(seconds * RATE), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("total", "starts"),
    [(100, [0]), (250, [0, 80, 150]), (260, [0, 80, 160]), (180, [0, 80]), (181, [0, 80, 81]), (60, [0])],
)
def test_windows_follow_the_hop_and_the_last_one_ends_with_the_recording(total, starts):
    windows = list(cut_windows([torch.arange(total)[None]], window=100, hop=80))
    assert [window.start for window in windows] == starts
    assert windows[-1].end == total
    for window in windows:
        assert window.waveform[0].tolist() == list(range(window.start, min(window.start + 100, total)))


def test_the_last_window_starts_on_the_grid_with_zeros_behind_it():
    last = list(cut_windows([torch.ones(1, 125)], window=100, hop=80, grid=10))[-1]
    assert last.start == 30
    assert last.waveform[0].tolist() == [1.0] * 95 + [0.0] * 5


@pytest.mark.parametrize("block", [1, 7, 100, 333])
def test_windows_do_not_depend_on_the_blocks_they_come_in(block):
    signal = torch.arange(517.0)[None]
    whole = list(cut_windows([signal], 100, 70, 10))
    blocks = list(cut_windows(signal.split(block, dim=1), 100, 70, 10))
    assert [(window.start, window.end) for window in blocks] == [(window.start, window.end) for window in whole]
    assert all(torch.equal(a.waveform, b.waveform) for a, b in zip(whole, blocks, strict=True))


def test_joined_frames_of_agreeing_windows_are_those_of_the_whole():
    frames = torch.rand(2, 47, 3)
    joiner = FrameJoiner(fade=4)
    parts = [joiner.add(frames[:, start : start + 20], start) for start in (0, 16, 27)]
    torch.testing.assert_close(torch.cat([*parts, joiner.finish()], dim=1), frames)


def test_disagreeing_windows_fade_into_each_other_over_the_overlap():
    joiner = FrameJoiner(fade=3)
    first = joiner.add(torch.zeros(1, 8, 1), 0)
    second = joiner.add(torch.ones(1, 8, 1), 5)
    joined = torch.cat([first, second, joiner.finish()], dim=1).flatten()
    assert joined.tolist() == pytest.approx([0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1])


def test_clip_scores_are_the_mean_of_probabilities():
    logits = torch.tensor([[[-3.0, 2.0]], [[1.0, 0.0]], [[40.0, -90.0]]])
    sigmoid, softmax = ClipScores("sigmoid"), ClipScores("softmax")
    for window in logits:
        sigmoid.add(window, torch.zeros(1, 4))
        softmax.add(window, torch.ones(1, 4))
    torch.testing.assert_close(sigmoid.result()[0].sigmoid(), logits.sigmoid().mean(dim=0))
    torch.testing.assert_close(softmax.result()[0].exp(), logits.softmax(dim=-1).mean(dim=0))
    assert softmax.result()[1].tolist() == [[1.0] * 4]


def test_equal_sure_windows_stay_sure():
    scores = ClipScores("sigmoid")
    for _ in range(3):
        scores.add(torch.tensor([[-60.0, 60.0]]), torch.zeros(1, 1))
    assert scores.result()[0].tolist()[0] == pytest.approx([-60.0, 60.0])


@pytest.mark.parametrize("seconds", [0.01, 0.5, 1.0, 1.04, 2.6, 7.33])
def test_frames_keep_their_grid_at_any_length(seconds):
    model, clip = frame_model(), waveform(seconds, batch=2)
    output = model(clip)
    count = -(-clip.shape[1] // 40)
    padded = nn.functional.pad(clip, (0, count * 40 - clip.shape[1]))
    expected = padded.unflatten(1, (-1, 40)).mean(dim=2)
    torch.testing.assert_close(output.frames[..., 0], expected)
    torch.testing.assert_close(output.frame_logits, 2 * output.frames)


def test_streaming_gives_what_the_whole_waveform_gives():
    model, clip = frame_model(), waveform(7.33)
    whole = model(clip)
    passages = list(model.stream(clip[0].split(130)))
    torch.testing.assert_close(torch.cat([part.output.frames for part in passages], dim=1), whole.frames)
    assert [part.start for part in passages][:3] == pytest.approx([0, 0.8, 1.6])
    summary = model.clip_scores(clip[0].split(130))
    torch.testing.assert_close(summary.logits, whole.logits)
    torch.testing.assert_close(summary.embedding, whole.embedding)


def test_a_file_is_resampled_and_streamed(tmp_path):
    clip = waveform(3.0)
    soundfile.write(tmp_path / "clip.wav", clip[0].numpy(), RATE, subtype="FLOAT")
    model = frame_model()
    torch.testing.assert_close(model.clip_scores(tmp_path / "clip.wav").logits, model(clip).logits)
    soundfile.write(tmp_path / "other.wav", np.ones((8000, 2)) * 0.3, 4 * RATE)
    frames = torch.cat([part.output.frames for part in model.stream(tmp_path / "other.wav")], dim=1)
    assert frames.shape == (1, 50, 1)
    assert frames[:, 5:-5].mean() == pytest.approx(0.3, abs=0.01)


def test_memory_does_not_grow_with_the_recording():
    """20 minutes in blocks of 0.1 s: no more than `window_batch` windows run at once, nor is more read for them."""
    model = frame_model()
    read = 0

    def blocks():
        nonlocal read
        for _ in range(12_000):
            read += 1
            yield torch.zeros(100)

    model.window_batch = 4
    for number, passage in enumerate(model.stream(blocks())):
        assert read * 0.1 < passage.end + 4 * 0.8 + 1.1 or number == 0
    assert model.network.largest_batch == 4


def test_a_short_clip_gets_zeros_behind_it_and_loses_their_frames():
    output = frame_model()(torch.ones(1, 100))
    assert output.frames[0, :, 0].tolist() == pytest.approx([1.0, 1.0, 0.5])
    assert output.logits.item() == pytest.approx(0.1)


@pytest.mark.parametrize("shape", [(1, 0), (100,), (1, 1, 100)])
def test_a_waveform_without_samples_or_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="batch, samples"):
        frame_model()(torch.zeros(shape))


def test_an_overlap_that_never_ends_is_refused():
    with pytest.raises(ValueError, match="overlap"):
        WindowPolicy(window=1.0, overlap=1.0)


def test_the_front_end_stays_in_float32_and_scores_come_back_in_it():
    model = prepare_for_inference(frame_model(), dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(waveform(1.0)).logits.dtype == torch.float32


@pytest.mark.parametrize("name", ["task1_baseline", "cp_mobile", "cp_resnet_128k", "frame_mn06"])
def test_prepared_models_give_the_same_scores(name):
    torch.manual_seed(0)
    model = create_audio_model(name).train()
    clip = 0.1 * torch.randn(2, model.sample_rate // 2)
    with torch.no_grad():
        for _ in range(2):  # batch norms get statistics that are worth folding
            model(clip)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        before = model.eval()(clip)
        norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        after = prepare_for_inference(model)(clip)
    assert norms > 0 and not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert (after.logits - before.logits).abs().max() < 1e-4 * before.logits.std()
    torch.testing.assert_close(after.embedding, before.embedding, rtol=1e-3, atol=1e-4)


def test_bfloat16_moves_scores_little():
    torch.manual_seed(0)
    model = create_audio_model("mn04").eval()
    clip = 0.1 * torch.randn(2, 32000)
    with torch.inference_mode():
        before = model(clip).embedding
        after = prepare_for_inference(model, dtype=torch.bfloat16)(clip).embedding
    assert 0 < (after - before).abs().max() < 0.1 * before.abs().max()


def test_clips_as_long_as_those_of_training_run_in_one_window():
    for name, seconds in (("mn04", 10), ("passt_20sec", 20), ("passt_30sec", 30), ("task1_baseline", 1)):
        assert find_architecture(name).windows["window"] == seconds
