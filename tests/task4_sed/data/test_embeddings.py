"""Stores of embeddings: those of earlier versions are read, those of another precision are not taken for one's own."""

import json

import numpy as np
import pytest
import torch

from common.data.keyed_outputs import OutputWriter
from common.errors import UserError
from task4_sed.data.embeddings import EmbeddingStore, embed_set, identity, is_embedded
from task4_sed.settings import EmbeddingSettings

MODEL = {"model": "beats", "weights": "untrained", "options": {}}


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
    options = {"dim": 48, "depth": 1, "num_heads": 2, "hidden_dim": 16, "patch_dim": 8, "head_type": None}
    settings = EmbeddingSettings(untrained=True, options=options, dim=48)
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
