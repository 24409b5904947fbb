"""NaN in weights, embeddings and indexes is refused where they are read, with the place."""

import json

import h5py
import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from common.data.keyed_outputs import KeyedOutputs
from common.errors import UserError
from common.inference.embedding import embed_files
from common.inference.tagging import tag_files
from common.registry import create_audio_model, load_audio_model
from common.training.checkpoints import load_weights
from retrieval.search.index import Index, build_index
from retrieval.search.ranking import top_k
from retrieval.search.searcher import Searcher
from task4_sed.data.embeddings import EmbeddingStore
from tests.support.verbs import verb


def weights_with(value, tmp_path, name="classifier.5.bias"):
    torch.manual_seed(0)
    state = create_audio_model("mn04").network.state_dict()
    state[name].view(-1)[3] = value
    torch.save(state, tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["classifier.5.bias", "features.0.0.weight"])
def test_weights_that_are_not_finite_are_refused_with_their_name(tmp_path, value, name):
    path = weights_with(value, tmp_path, name)
    with pytest.raises(UserError, match=rf"weights\.pt: 1 of [\d,]+ values of {name} are NaN or infinite"):
        load_audio_model("mn04", path)


def test_a_running_statistic_that_is_nan_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"1 of 8 values of features\.0\.1\.running_var are NaN"):
        load_audio_model("mn04", weights_with(float("nan"), tmp_path, "features.0.1.running_var"))


def test_a_checkpoint_of_a_run_with_nan_is_refused(tmp_path):
    module = nn.Linear(2, 2)
    torch.save({"state_dict": {"net.weight": torch.tensor([[1.0, torch.nan]] * 2), "net.bias": torch.zeros(2)}},
               tmp_path / "best.ckpt")  # fmt: skip
    with pytest.raises(UserError, match=r"best\.ckpt: 2 of 4 values of weight are NaN"):
        load_weights(module, tmp_path / "best.ckpt", "net.")


@pytest.mark.parametrize("state", [[1, 2], "weights", 3])
def test_a_checkpoint_with_a_state_that_is_no_dict_is_refused(tmp_path, state):
    torch.save({"state_dict": state}, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=rf"best\.ckpt holds a {type(state).__name__} in place of weights"):
        load_weights(nn.Linear(2, 2), tmp_path / "best.ckpt")
    with pytest.raises(UserError, match="holds no tensors"):
        load_audio_model("mn04", tmp_path / "best.ckpt")


@pytest.mark.parametrize("state", [{1: torch.zeros(2, 2)}, {"weight": "none", "bias": 3}])
def test_a_state_with_other_keys_or_values_is_refused(tmp_path, state):
    torch.save(state, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=r"best\.ckpt"):
        load_weights(nn.Linear(2, 2), tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=r"best\.ckpt"):
        load_audio_model("mn04", tmp_path / "best.ckpt")


def test_tagging_and_embedding_refuse_weights_with_nan(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", np.zeros(32000), 32000)
    path = weights_with(float("nan"), tmp_path)
    assert verb("tag", tmp_path / "a.wav", "--model", "mn04", "--weights", path) == 2
    assert verb("embed", tmp_path, "--model", "mn04", "--weights", path, "--out", tmp_path / "e.npz") == 2
    assert capsys.readouterr().err.count("classifier.5.bias are NaN or infinite") == 2
    assert not (tmp_path / "e.npz").exists()


def test_scores_that_are_nan_are_no_tags(tmp_path, monkeypatch, capsys):
    soundfile.write(tmp_path / "a.wav", np.zeros(32000), 32000)
    model = create_audio_model("mn04").eval()
    nn.init.constant_(model.network.classifier[5].bias, torch.nan)
    monkeypatch.setattr("common.inference.tagging.load_tagger", lambda *_: model)
    with pytest.raises(UserError, match="Nothing was tagged"):
        tag_files([tmp_path / "a.wav"], "mn04")
    assert f"mn04 gives NaN for {tmp_path / 'a.wav'}" in capsys.readouterr().err


def test_an_embedding_that_is_nan_is_refused_with_its_file(tmp_path):
    vectors = {"a.wav": np.zeros(3), "b.wav": np.array([0, np.nan, 0])}
    with pytest.raises(UserError, match=r"The embedding of b\.wav holds NaN"):
        embed_files(list(vectors), lambda path, progress: vectors[path])


MADE_BY = {"model": "beats", "weights": "untrained", "options": {}}


def store_with(folder, values, attributes=None, names=("a.wav", "b.wav"), kind="frames"):
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / "embeddings.h5", "w") as file:
        file["filenames"] = names
        file[kind] = values
        file.attrs.update({"made_by": json.dumps(MADE_BY)} if attributes is None else attributes)
    return folder


def test_a_store_of_embeddings_with_nan_is_refused_with_the_clip(tmp_path):
    values = np.zeros((2, 4, 3), np.float16)
    values[1, 2, 0] = np.nan
    store = EmbeddingStore(store_with(tmp_path, values), ["a.wav", "b.wav"], MADE_BY)
    assert store.gather([0]).shape == (1, 4, 3)
    with pytest.raises(UserError, match="the frames of b hold NaN"):
        store.gather([0, 1])


def test_a_store_of_an_earlier_version_with_nan_is_refused(tmp_path):
    np.save(tmp_path / "embeddings.npy", np.full((1, 4, 3), np.nan, np.float16))
    (tmp_path / "clips.tsv").write_text("filename\na.wav\n")
    (tmp_path / "store.json").write_text(json.dumps({"made_by": MADE_BY}))
    with pytest.raises(UserError, match=r"embeddings\.npy holds NaN"):
        EmbeddingStore(tmp_path, ["a.wav"], MADE_BY)


@pytest.mark.parametrize("attributes", [{}, {"made_by": "beats"}, {"made_by": 3}, {"made_by": h5py.Empty("f")}])
def test_a_store_that_does_not_say_its_model_is_refused(tmp_path, attributes):
    folder = store_with(tmp_path, np.zeros((2, 4, 3), np.float16), attributes)
    with pytest.raises(UserError, match="does not say which model"):
        EmbeddingStore(folder, ["a.wav"], MADE_BY)


@pytest.mark.parametrize("record", ["[]", "3", "{", "null", '{"made_by": []}'])
def test_an_earlier_store_with_a_damaged_record_is_refused(tmp_path, record):
    np.save(tmp_path / "embeddings.npy", np.zeros((1, 4, 3), np.float16))
    (tmp_path / "clips.tsv").write_text("filename\na.wav\n")
    (tmp_path / "store.json").write_text(record)
    with pytest.raises(UserError, match=r"store\.json is damaged|does not say which model"):
        EmbeddingStore(tmp_path, ["a.wav"], MADE_BY)


@pytest.mark.parametrize("values", [np.zeros((2, 3), int), np.array([[b"x"], [b"y"]]), np.zeros((2, 3), bool)])
def test_outputs_of_another_type_are_refused(tmp_path, values):
    with pytest.raises(UserError, match="not floating-point numbers"):
        KeyedOutputs(store_with(tmp_path, values, kind="logits") / "embeddings.h5", "logits")


@pytest.mark.parametrize("names", [np.zeros(2), np.array([[b"a"], [b"b"]]), np.array([b"a\xff", b"b"])])
def test_names_that_are_no_texts_are_refused(tmp_path, names):
    with pytest.raises(UserError, match=r"filenames is no list of texts|no UTF-8"):
        KeyedOutputs(store_with(tmp_path, np.zeros((2, 3)), names=names) / "embeddings.h5")


def index_with(folder, vectors, **more):
    np.save(folder / "vectors.npy", vectors)
    (folder / "index.json").write_text(json.dumps({"files": ["a", "b"], "model": "x", "run": "../run", **more}))
    return folder


def test_an_index_with_nan_is_not_searched(tmp_path):
    vectors = np.eye(2, 3, dtype=np.float32)
    assert top_k(torch.eye(1, 3), Index.read(index_with(tmp_path, vectors)).vectors, 1)[1].tolist() == [[0]]
    vectors[1, 1] = np.nan
    with pytest.raises(UserError, match="Vector 1 of the index holds NaN"):
        top_k(torch.eye(1, 3), Index.read(index_with(tmp_path, vectors)).vectors, 1)


@pytest.mark.parametrize(
    ("vectors", "more"),
    [(np.zeros((1, 3)), {}), (np.zeros(2), {}), (np.zeros((2, 3), int), {}), (np.zeros((2, 0)), {}),
     (np.zeros((2, 3)), {"files": 3}), (np.zeros((2, 3)), {"run": None})],
)  # fmt: skip
def test_a_damaged_index_is_refused(tmp_path, vectors, more):
    with pytest.raises(UserError, match=r"is damaged.*index again"):
        Index.read(index_with(tmp_path, vectors, **more))


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '{"files": []}'])
def test_a_damaged_record_of_an_index_is_refused(tmp_path, content):
    index_with(tmp_path, np.zeros((2, 3)))
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(UserError, match=r"index\.json is damaged.*index again"):
        Index.read(tmp_path)


@pytest.mark.parametrize("name", ["plan.json", "files.jsonl"])
def test_a_damaged_record_of_an_unfinished_index_is_refused(tmp_path, name):
    (tmp_path / "a.wav").touch()
    plan = {"model": "x", "folder": str(tmp_path), "half": False, "windows": None}
    out = tmp_path / "index"
    out.mkdir()
    (out / "plan.json").write_text(json.dumps(plan))
    (out / name).write_text("[\n")
    with pytest.raises(UserError, match=rf"{name} is damaged in line [12] .*; delete {out} and index again"):
        build_index(Searcher(None, 1.0, "x"), tmp_path / "run", tmp_path, out)
