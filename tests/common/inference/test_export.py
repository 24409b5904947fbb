"""ONNX files compute what PyTorch computes, from the waveform on."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.data.files import human_size
from common.errors import CheckFailed, UserError
from common.features.front_ends import KaldiLogMel
from common.features.mel import MelSpectrum, kaldi_mel_bank
from common.inference import export
from common.inference.export import MatrixMelSpectrum, export_model, export_onnx
from common.models.audio_model import AudioModel
from common.models.mobilenet import Block, InvertedResidual
from common.models.network import ModelOutput
from common.registry import load_released_state_dict
from common.registry.models import create_audio_model
from tests.support.golden_case import GoldenCase
from tests.support.verbs import verb


@pytest.mark.parametrize(("n_fft", "win_length", "hop", "power"), [(1024, 800, 320, 2), (512, 512, 160, 1)])
def test_the_convolution_gives_the_spectrum_of_the_transform(n_fft, win_length, hop, power):
    window = torch.hann_window(win_length, periodic=False)
    mel = MelSpectrum(window, n_fft, hop, kaldi_mel_bank(64, n_fft, 32000, 0.0, 15000.0), power)
    waveform = torch.randn(2, 12345, generator=torch.Generator().manual_seed(0))
    expected = mel(waveform)
    torch.testing.assert_close(MatrixMelSpectrum(mel)(waveform), expected, rtol=1e-3, atol=1e-4 * float(expected.std()))


class OneBlock(torch.nn.Module):
    """A network small enough to be exported in a moment."""

    def __init__(self):
        super().__init__()
        self.block = InvertedResidual(Block(3, 1, 8, 4, squeeze=False, hardswish=True))

    def forward(self, spectrogram):
        maps = self.block(spectrogram)
        return ModelOutput(maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3)))


def test_a_file_takes_any_batch_and_agrees_with_pytorch(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = AudioModel(KaldiLogMel(n_mels=16), OneBlock(), name="small").eval()
    model.labels = ("rain", "wind")
    report = export_model(model, tmp_path / "m.onnx", seconds=0.2)
    assert report.pop("largest difference") < 1e-3
    assert report.pop("size") == human_size((tmp_path / "m.onnx").stat().st_size)
    assert report == {
        "file": str(tmp_path / "m.onnx"),
        "input": "waveform (batch, 6400) at 32000 Hz",
        "outputs": "logits, embedding",
    }
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    facts = {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}
    assert facts == {"sample_rate": 32000, "activation": "sigmoid", "labels": ["rain", "wind"]}
    waveform = torch.randn(5, 6400) / 10
    for batch in (1, 5):
        logits, embedding = session.run(None, {"waveform": waveform[:batch].numpy()})
        expected = model(waveform[:batch])
        np.testing.assert_allclose(logits, expected.logits.detach().numpy(), atol=1e-3)
        np.testing.assert_allclose(embedding, expected.embedding.detach().numpy(), atol=1e-3)


def test_a_file_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    compared = []
    monkeypatch.setattr(export, "_difference", lambda _path, clips, _expected: compared.append(clips) or 0.5)
    model = AudioModel(KaldiLogMel(n_mels=16), OneBlock(), name="small")
    with pytest.raises(CheckFailed, match="differs from PyTorch"):
        export_model(model, tmp_path / "m.onnx", seconds=0.2)
    assert not list(tmp_path.iterdir())
    (clips,) = compared
    assert clips.shape == (2, 6400) and clips.std() > 0.01 and clips.abs().max() < 1  # as loud as audio


def test_a_missing_part_is_named(monkeypatch, tmp_path, capsys):
    for part in export.PARTS:
        monkeypatch.setitem(sys.modules, part, None)
    with pytest.raises(UserError, match="Exporting needs onnx, an optional part; install it with `pip install onnx"):
        export_onnx("mn04", tmp_path / "m.onnx")
    assert verb("export", "mn04", "--out", tmp_path / "m.onnx") == 2
    assert "pip install" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dymn04", "task1_baseline", "cp_mobile"])
def test_other_networks_agree_with_pytorch(tmp_path, name):
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = create_audio_model(name)
    for module in model.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():  # statistics of a real batch: with those of a new network the signal dies on its way
        model.train()(torch.randn(4, model.sample_rate) / 10)
        assert model.eval()(torch.randn(1, model.sample_rate) / 10).embedding.std() > 1e-2
    assert export_model(model, tmp_path / "m.onnx", seconds=1.0)["largest difference"] < 1e-3


@pytest.mark.slow
def test_a_frame_model_agrees_with_pytorch(tmp_path):
    pytest.importorskip("onnxscript")
    model = create_audio_model("frame_mn06")
    load_released_state_dict(model, GoldenCase("frame_mn06").state_dict())
    report = export_model(model, tmp_path / "m.onnx", seconds=1.0)
    assert report["outputs"] == "logits, embedding, frames, frame_logits" and report["largest difference"] < 1e-3


@pytest.mark.slow
def test_released_mn04_gives_the_same_tags(tmp_path, shared):
    onnxruntime = pytest.importorskip("onnxruntime")
    from common.data.audio import read_audio
    from common.registry import load_audio_model

    weights = shared / "data" / "weights" / "mn04_as_mAP_432.pt"
    report = export_onnx("mn04.as", tmp_path / "m.onnx", weights, seconds=5.0)
    assert report["largest difference"] < 1e-3
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    model = load_audio_model("mn04.as", weights)
    for path in sorted((shared / "data" / "esc10" / "audio").iterdir())[::20]:
        waveform = read_audio(path, 32000)[:160000][None]
        if waveform.shape[1] < 160000:
            continue
        with torch.inference_mode():
            expected = model(torch.from_numpy(waveform)).logits[0].topk(10).indices
        given = torch.from_numpy(session.run(None, {"waveform": waveform})[0][0]).topk(10).indices
        assert torch.equal(given, expected), path.name


class Doubling:
    """A session of the runtime that doubles its input, with an error for one clip alone."""

    wrong, rows, outputs = None, "batch", 1

    def __init__(self, *_given, **_options):
        self.heard = []

    def get_inputs(self):
        return [SimpleNamespace(shape=[self.rows, 4])]

    def run(self, _names, inputs):
        clips = inputs["waveform"]
        error = 0.5 if len(clips) == 1 and clips[0, 0] == self.wrong else 0.0
        return [2 * clips + error] * self.outputs


@pytest.mark.parametrize("wrong", [None, 0.0, 4.0])
def test_the_difference_is_the_largest_of_the_clips_together_and_each_alone(tmp_path, monkeypatch, wrong):
    runtime = pytest.importorskip("onnxruntime")
    session = type("Session", (Doubling,), {"wrong": wrong})
    monkeypatch.setattr(runtime, "InferenceSession", session)
    (tmp_path / "m.onnx").touch()
    clips = torch.arange(8.0).reshape(2, 4)
    expected = 2 * clips
    found = export._difference(tmp_path / "m.onnx", clips, (expected,))
    assert found == pytest.approx(0 if wrong is None else 0.5 / float(expected.std()))
    session.outputs = 2
    with pytest.raises(ValueError, match="zip"):
        export._difference(tmp_path / "m.onnx", clips, (expected,))
    session.rows = 2
    with pytest.raises(CheckFailed, match="tied the file to batches of 2"):
        export._difference(tmp_path / "m.onnx", clips, (expected,))


def test_a_length_of_nothing_is_refused(tmp_path):
    model = AudioModel(KaldiLogMel(n_mels=16), OneBlock(), name="small")
    with pytest.raises(UserError, match="--seconds is 0; it must be above 0"):
        export_model(model, tmp_path / "m.onnx", seconds=0)
