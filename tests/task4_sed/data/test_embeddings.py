"""Stores of embeddings: those of earlier versions are read."""

import json

import numpy as np
import pytest

from common.data.keyed_outputs import OutputWriter
from common.errors import UserError
from task4_sed.data.embeddings import EmbeddingStore, is_embedded

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
