"""An index of windows serves both `search` and the system without training."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from common.data.audio import write_wav
from common.errors import UserError
from common.models.audio_model import AudioModel, WindowPolicy
from retrieval.model import DualEncoder
from retrieval.moments.recipe import RECIPE
from retrieval.moments.settings import MomentSettings
from retrieval.search.answer import search
from retrieval.search.index import Index, Windows, build_index
from retrieval.search.searcher import Searcher
from tests.retrieval.search.conftest import HERTZ, RATE, Bands, Shares, tone

KINDS = list(HERTZ)


class Words(nn.Module):
    """The kind of tone that a text names."""

    dim = len(KINDS)

    def encode(self, captions, batch_size):
        return torch.tensor([[float(kind in caption) for kind in KINDS] for caption in captions])


@pytest.fixture
def dual(monkeypatch):
    audio = AudioModel(Bands(), Shares(), (), WindowPolicy(window=10.0), name="tones")
    model = DualEncoder(audio, Words(), audio_dim=3, dim=3).eval().requires_grad_(False)
    for side in (model.project_audio, model.project_text):
        linear = next(layer for layer in side.modules() if isinstance(layer, nn.Linear))
        linear.weight.copy_(torch.eye(3))
        linear.bias.zero_()
    found = Searcher(model, 10.0, "weights of tones")
    monkeypatch.setattr("retrieval.search.searcher.load_searcher", lambda _: found)
    return found


@pytest.fixture
def root(tmp_path):
    """Minutes of a middle tone in which another one sounds for a while."""
    lines = []
    for number, (kind, start, end) in enumerate([("low", 20, 35), ("high", 5, 14), ("low", 40, 52)]):
        parts = [tone(HERTZ[name], seconds) for name, seconds in (("middle", start), (kind, end - start))]
        waveform = np.concatenate([*parts, tone(HERTZ["middle"], 60 - end)])
        write_wav(tmp_path / "audio" / f"r{number}.wav", waveform, RATE)
        line = {"qid": f"r{number}_1", "query": f"a {kind} tone", "duration": 60, "vid": f"r{number}"}
        lines.append(json.dumps(line | {"relevant_windows": [[start, end]]}) + "\n")
    (tmp_path / "all.jsonl").write_text("".join(lines))
    return tmp_path


def similarity(root, index):
    source = {"root": root, "annotations": "all.jsonl"}
    data = {"training": source, "validation": source, "evaluation": source}
    system = {"kind": "similarity", "index": index, "spans": "threshold"}
    return MomentSettings.model_validate({"runs": root / "runs", "data": data, "system": system})


def test_search_and_the_system_without_training_find_the_times_in_one_index(dual, root):
    build_index(dual, root / "run", root / "audio", root / "index", windows=Windows(4, 1))
    found = search(Index.read(root / "index"), text="a high tone", top=1)[0]
    assert found["file"] == "r1.wav" and 3 <= found["onset"] <= 7 and 12 <= found["offset"] <= 16
    figures = RECIPE.run(similarity(root, root / "index")).read_evaluation()["figures"]["similarity"]
    assert figures["R1@0.7"]["value"] == 1


def test_an_index_of_whole_files_or_without_a_recording_is_refused(dual, root):
    build_index(dual, root / "run", root / "audio", root / "whole")
    with pytest.raises(UserError, match="index with --windows 10 --hop 5"):
        RECIPE.run(similarity(root, root / "whole"))
    (root / "audio" / "r0.wav").unlink()
    build_index(dual, root / "run", root / "audio", root / "index", windows=Windows(10, 5))
    with pytest.raises(UserError, match="lacks the recording r0"):
        RECIPE.run(similarity(root, root / "index"))
