"""kill -9 at ten random places each: a cache of embeddings, `embed` and an index end as if nothing had happened."""

import contextlib
import multiprocessing
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from common.inference import embedding
from retrieval.search import index as search
from retrieval.search.searcher import Searcher
from task4_sed.data import embeddings
from task4_sed.settings import EmbeddingSettings

KILLS = 10
SETTINGS = EmbeddingSettings(model="beats", untrained=True, batch=2, dim=3)
NAMES = [f"{number}.wav" for number in range(40)]


class Frames(nn.Module):
    """(batch, samples) to (batch, 4, 3): a frozen model that takes a moment."""

    def forward(self, waveform):
        time.sleep(0.005)
        return waveform[:, :12].unflatten(1, (4, 3))


def make_cache(out):
    embeddings.embed_set(out, NAMES, lambda rows: torch.as_tensor(rows)[:, None] + torch.arange(16.0) / 16, SETTINGS)


def read_cache(out):
    store = embeddings.EmbeddingStore(out, NAMES, embeddings.identity(SETTINGS))
    return store.gather(np.arange(len(NAMES))).numpy()


def embed_one(path, _progress=None):
    time.sleep(0.003)
    vector = np.random.default_rng(int(Path(path).stem)).normal(size=8).astype(np.float32)
    return vector / np.linalg.norm(vector)


def make_table(out):
    embedding.embed_folder(out.parent / "clips", "any", out / "e.npz")


def read_table(out):
    with np.load(out / "e.npz") as table:
        assert table["filename"].tolist() == NAMES
        return table["embedding"]


def make_index(out):
    searcher = Searcher(None, 1.0, "weights")
    search.build_index(searcher, out.parent / "run", out.parent / "clips", out)


def read_index(out):
    index = search.Index.read(out)
    assert index.files == NAMES
    return np.array(index.vectors)


KINDS = {"cache": (make_cache, read_cache), "embed": (make_table, read_table), "index": (make_index, read_index)}


def run(work, out, limit=None):
    """Exit code of a process that is killed after `limit` seconds."""
    process = multiprocessing.get_context("fork").Process(target=work, args=(out,))
    process.start()
    process.join(limit)
    process.kill()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("kind", ["index", *(pytest.param(one, marks=pytest.mark.slow) for one in ("cache", "embed"))])
def test_work_that_is_killed_resumes_to_the_same_files(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(embeddings, "load_frozen", lambda _: Frames())
    monkeypatch.setattr(embedding, "load_embedder", lambda *_: embed_one)
    monkeypatch.setattr(search, "FILES_PER_BLOCK", 3)
    monkeypatch.setattr(
        Searcher, "embed_files", lambda _, paths: torch.from_numpy(np.stack([embed_one(path) for path in paths]))
    )
    (tmp_path / "clips").mkdir()
    for name in NAMES:
        (tmp_path / "clips" / name).touch()
    make, read = KINDS[kind]
    begin = time.perf_counter()
    assert run(make, tmp_path / "whole") == 0
    seconds = time.perf_counter() - begin
    whole, drawn, killed = read(tmp_path / "whole"), random.Random(0), 0
    for number in range(5 * KILLS):
        out = tmp_path / str(number)
        if run(make, out, drawn.uniform(0.05 * seconds, seconds)) == -signal.SIGKILL:
            killed += 1
            with contextlib.suppress(UserError, FileNotFoundError):
                np.testing.assert_array_equal(read(out), whole)  # there under its name, it is whole
        else:
            seconds *= 0.8  # it had ended before
        assert run(make, out) == 0
        np.testing.assert_array_equal(read(out), whole)
        if killed == KILLS:
            break
    assert killed == KILLS
