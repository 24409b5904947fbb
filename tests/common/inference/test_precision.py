"""--precision of the verbs that run networks."""

import numpy as np
import pytest
import torch

from common.data.audio import write_wav
from common.inference import prepare
from common.inference.embedding import embed_folder
from common.inference.prepare import computing_in
from common.registry.models import create_audio_model
from tests.support.verbs import verb


def test_front_ends_and_scores_stay_in_float32_in_bf16():
    model = prepare.prepare_for_inference(create_audio_model("mn04"))
    waveform = 0.1 * torch.randn(2, 32000)
    with torch.inference_mode(), computing_in("bf16"):
        output = model(waveform)
    with torch.inference_mode():
        exact = model(waveform)
    assert output.embedding.dtype == output.logits.dtype == torch.float32
    assert 0 < (output.logits - exact.logits).abs().max() < 0.05 * exact.logits.std() + 0.05


@pytest.mark.parametrize(
    ("quick", "model", "half"), [(True, "mn10.as", True), (True, "dymn10.as", False), (False, "mn10.as", False)]
)
def test_auto_takes_bf16_only_where_it_is_quicker(monkeypatch, quick, model, half):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: quick)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with computing_in("auto", model):
        assert torch.is_autocast_enabled("cpu") == half
    assert not torch.is_autocast_enabled("cpu")


def test_float32_is_the_default_and_another_precision_is_refused(tmp_path, capsys):
    (tmp_path / "clips").mkdir()
    write_wav(tmp_path / "clips" / "a.wav", 0.1 * np.random.default_rng(0).normal(size=44100), 44100)  # is resampled
    weights = tmp_path / "mn04.pt"
    torch.save(create_audio_model("mn04").network.state_dict(), weights)
    arguments = ("embed", tmp_path / "clips", "--model", "mn04", "--weights", weights)
    found = {}
    for precision in ("float32", "bf16"):
        assert verb(*arguments, "--out", tmp_path / "e.npz", "--precision", precision) == 0
        found[precision] = np.load(tmp_path / "e.npz")["embedding"]
    embed_folder(tmp_path / "clips", "mn04", tmp_path / "d.npz", weights)
    assert (np.load(tmp_path / "d.npz")["embedding"] == found["float32"]).all()
    assert 0 < np.abs(found["bf16"] - found["float32"]).max() < 0.05 * np.abs(found["float32"]).max()
    assert verb(*arguments, "--out", tmp_path / "e.npz", "--precision", "half") == 2
    assert "auto" in capsys.readouterr().err
