"""Stores of embeddings: those of earlier versions are read, those of another precision are not taken for one's own."""

import json
from unittest.mock import MagicMock, call

import numpy as np
import pytest
import torch

from common.data.files import compute_sha256
from common.data.keyed_outputs import OutputWriter
from common.errors import UserError
from common.features.front_ends import KaldiLogMel
from common.models.audio_model import AudioModel
from common.models.network import ModelOutput
from common.output import Progress
from task4_sed.data import embeddings
from task4_sed.data.embeddings import EmbeddingStore, FrozenFrames, embed_set, identity, is_embedded, load_frozen
from task4_sed.settings import EmbeddingSettings

MODEL = {"model": "beats", "weights": "untrained", "options": {}}
OPTIONS = {"dim": 32, "depth": 1, "num_heads": 2, "hidden_dim": 16, "patch_dim": 8, "head_type": None}
SMALL = EmbeddingSettings(untrained=True, options=OPTIONS, dim=32)


def test_a_store_of_an_earlier_version_gives_the_same_frames(tmp_path):
    names, frames = ["a.wav", "b.wav", "c.wav"], np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float16)
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    np.save(old / "embeddings.npy", frames)
    (old / "clips.tsv").write_text("\n".join(["filename", *names, ""]))
    (old / "store.json").write_text(json.dumps({"made_by": MODEL, "shape": [3, 4, 2]}))
    assert not is_embedded(new)
    with OutputWriter(new / "embeddings.h5", names, kind="frames", attributes={"made_by": MODEL}) as writer:
        writer.write(names, frames)
    for folder in (old, new):
        store = EmbeddingStore(folder, ["c.wav", "a.wav"], MODEL)
        assert (store.gather(np.array([1, 0, 0])).numpy() == frames[[0, 2, 2]]).all()
        with pytest.raises(UserError, match=r"of another model \(weights: untrained, asked is registered"):
            EmbeddingStore(folder, names, {**MODEL, "weights": "registered"})
        with pytest.raises(UserError, match=r"lacks 1 of 2 clips \(first d.wav\)"):
            EmbeddingStore(folder, ["a.wav", "d.wav"], MODEL)
    with (old / "embeddings.npy").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(UserError, match="is cut off"):
        EmbeddingStore(old, names, MODEL)


def test_embeddings_in_bfloat16_are_close_and_not_taken_for_those_in_float32(tmp_path):
    settings = EmbeddingSettings(untrained=True, options={**OPTIONS, "dim": 48}, dim=48)
    waveforms = 0.1 * torch.randn(2, 160_000, generator=torch.Generator().manual_seed(0))
    names, frames = ["a.wav", "b.wav"], {}
    for precision in ("float32", "bf16"):
        embed_set(tmp_path / precision, names, lambda rows: waveforms[rows], settings, precision=precision)
        store = EmbeddingStore(tmp_path / precision, names, identity(settings, precision))
        frames[precision] = store.gather(np.array([0, 1]))
        assert frames[precision].dtype == torch.float16
    error = (frames["bf16"] - frames["float32"]).float().norm() / frames["float32"].float().norm()
    assert 1e-4 < error < 2e-2  # bfloat16 keeps 8 bits
    with pytest.raises(UserError, match=r"of another model \(precision: bf16, asked is None"):
        EmbeddingStore(tmp_path / "bf16", names, identity(settings))


def test_a_finished_store_is_not_made_again_and_one_of_another_model_is_refused(tmp_path, monkeypatch):
    waveforms = torch.zeros(4, 160_000)
    embed_set(tmp_path, ["a.wav", "b.wav", "c.wav", "\u00fc.wav"], lambda rows: waveforms[rows], SMALL)
    monkeypatch.setattr(embeddings, "load_frozen", None)
    embed_set(tmp_path, ["a.flac", "c.mp3"], None, SMALL)  # other endings of the same clips
    assert EmbeddingStore(tmp_path, ["u\u0308.wav"], identity(SMALL)).rows.tolist() == [3]  # as a Mac writes it
    with pytest.raises(UserError, match=r"of another model \(options: "):
        embed_set(tmp_path, ["a.wav"], None, SMALL.model_copy(update={"options": {**OPTIONS, "depth": 2}}))


def test_what_an_interrupted_call_embedded_counts_as_done(tmp_path, monkeypatch):
    progress = MagicMock(wraps=Progress)
    monkeypatch.setattr(embeddings, "Progress", progress)
    waveforms = torch.zeros(20, 160_000)
    settings = SMALL.model_copy(update={"batch": 8})

    def interrupted(rows):
        if rows[0] >= 16:
            raise KeyboardInterrupt
        return waveforms[rows]

    names = [f"{number}.wav" for number in range(20)]
    with pytest.raises(KeyboardInterrupt):
        embed_set(tmp_path, names, interrupted, settings)
    asked = []
    embed_set(tmp_path, names, lambda rows: asked.append(list(rows)) or waveforms[rows], settings)
    assert asked == [[16, 17, 18, 19]]
    assert progress.call_args == call("Embedding", 20, done=16)


def test_frames_of_another_width_are_refused():
    with pytest.raises(UserError, match=r"embedding\.dim is 48, but the frames of beats have 32 values"):
        load_frozen(SMALL.model_copy(update={"dim": 48}))


class Columns(torch.nn.Module):
    """The columns of a spectrogram as frames."""

    def forward(self, spectrogram):
        return ModelOutput(None, None, frames=spectrogram[:, 0].mT)


@pytest.mark.parametrize(("rate", "columns"), [(16_000, 100), (8_000, 50)])
def test_a_model_hears_clips_at_its_own_rate(rate, columns):
    front_end = KaldiLogMel(sample_rate=rate, n_fft=512, win_length=400, hop_length=160, n_mels=16, f_max=3_500.0)
    frames = FrozenFrames(AudioModel(front_end, Columns(), name="columns"))(torch.randn(1, 16_000))
    assert abs(frames.shape[1] - columns) <= 1 and frames.shape[2] == 16


def test_weights_of_a_file_are_known_by_their_digest(tmp_path):
    settings = EmbeddingSettings(weights=tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"embedding\.weights: there is no file .*w\.pt"):
        identity(settings)
    settings.weights.write_bytes(b"x")
    assert identity(settings)["weights"] == compute_sha256(settings.weights)
    assert identity(EmbeddingSettings())["weights"] == "registered"
    assert identity(settings.model_copy(update={"untrained": True}))["weights"] == "untrained"
