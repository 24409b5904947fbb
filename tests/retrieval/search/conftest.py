"""A tagger with known answers: it hears low, middle and high tones."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from common.data.audio import write_wav
from common.models.audio_model import AudioModel, WindowPolicy
from common.models.network import ModelOutput
from retrieval.search.searcher import Searcher

RATE = 4000
HERTZ = {"low": 200.0, "middle": 700.0, "high": 1500.0}
LABELS = ("Low tone", "Low tone, far away", "Middle tone", "High tone")


class Bands(nn.Module):
    """Share of the energy below 400 Hz, below 1000 Hz and above: (batch, 1, 3, 1)."""

    sample_rate = RATE

    def forward(self, waveform):
        power = torch.fft.rfft(waveform).abs().square()
        edges = [round(hertz / (RATE / 2) * power.shape[1]) for hertz in (0, 400, 1000, 2000)]
        bands = torch.stack([power[:, a:b].sum(dim=1) for a, b in pairwise(edges)], dim=1)
        return (bands / bands.sum(dim=1, keepdim=True).clamp(min=1e-9))[:, None, :, None]


class Shares(nn.Module):
    """Tags by shares above a half."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(20.0))

    def forward(self, bands):
        shares = bands[:, 0, :, 0]
        tags = torch.stack([shares[:, 0], shares[:, 0] - 0.3, shares[:, 1], shares[:, 2]], dim=1)
        return ModelOutput(self.gain * (tags - 0.5), shares, None, None)


@pytest.fixture
def searcher(monkeypatch):
    model = AudioModel(Bands(), Shares().eval(), LABELS, WindowPolicy(window=10.0), name="tones").requires_grad_(False)
    found = Searcher(model, 10.0, "weights of tones", "tones")
    monkeypatch.setattr("retrieval.search.searcher.load_audio_searcher", lambda *_: found)
    return found


def tone(hertz, seconds, seed=0):
    noise = 0.01 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(len(noise)) / RATE) + noise).astype(np.float32)


@pytest.fixture
def sounds(tmp_path):
    """low_0.wav to high_7.wav: 24 files of a second."""
    for kind, hertz in HERTZ.items():
        for number in range(8):
            write_wav(tmp_path / "sounds" / f"{kind}_{number}.wav", tone(hertz, 1, number), RATE)
    return tmp_path / "sounds"
