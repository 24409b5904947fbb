"""Downloads of moments from a server of this test: checksums, resuming, pieces of an archive, refusals."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pytest

from common.data.download import CHUNK
from common.errors import UserError
from retrieval.moments import download
from retrieval.moments.annotations import Query
from retrieval.moments.download import download_data
from retrieval.moments.features import FeatureReader
from retrieval.moments.settings import Features
from tests.support.download_server import running_server

ANNOTATIONS = b'{"qid": "a_1", "query": "A dog barks", "duration": 3, "vid": "a", "relevant_windows": [[0, 2]]}\n'
NAME = "castella_train_release.jsonl"
QUERY = Query("a_1", "A dog barks", "a", 3.0, np.array([[0.0, 2.0]]))


def archive(folder, name, **arrays):
    """A tar.gz with one npz file."""
    content, packed = io.BytesIO(), io.BytesIO()
    np.savez(content, **arrays)
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo(f"{folder}/{name}.npz")
        member.size = len(content.getvalue())
        tar.addfile(member, io.BytesIO(content.getvalue()))
    return packed.getvalue()


def publish(server, files, record=7):
    """A Zenodo record of files by name."""
    entries = []
    for name, content in files.items():
        server.texts[f"/files/{name}"] = content
        checksum = f"md5:{hashlib.md5(content).hexdigest()}"
        entries.append({"key": name, "links": {"self": f"{server.address}/files/{name}"}, "checksum": checksum})
    server.texts[f"/api/records/{record}"] = json.dumps({"files": entries}).encode()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setitem(download.MD5, "castella", {NAME: hashlib.md5(ANNOTATIONS).hexdigest()})
    audio = np.random.default_rng(0).normal(size=(3, 100_000))
    with running_server() as running:
        running.texts[f"/data/castella/{NAME}"] = ANNOTATIONS
        words = archive("clap_text", "qida_1", last_hidden_state=np.ones((2, 4)))
        publish(running, {"clap.tar.gz": archive("clap", "a", features=audio), "clap_text.tar.gz": words})
        yield running


def fetch(server, root, part="castella"):
    return download_data(root, part, 7, server.address, server.address)


def test_annotations_and_features_are_fetched_once_and_read(server, tmp_path):
    fetch(server, tmp_path)
    assert (tmp_path / NAME).read_bytes() == ANNOTATIONS
    reader = FeatureReader(Features(), tmp_path)
    assert reader.audio(QUERY).shape == (3, 100_000) and reader.text(QUERY).shape == (2, 4)
    asked = len(server.asked)
    fetch(server, tmp_path)
    assert len(server.asked) == asked


def test_an_interrupted_archive_resumes(server, tmp_path):
    sizes = [len(server.texts[path]) for path in (f"/data/castella/{NAME}", "/api/records/7")]
    server.break_after = [*sizes, 2 * CHUNK, 0, 0]
    with pytest.raises(UserError, match=r"what was received is kept"):
        fetch(server, tmp_path)
    assert (tmp_path / "archives" / "clap.tar.gz.part").stat().st_size == 2 * CHUNK
    fetch(server, tmp_path)
    assert f"bytes={2 * CHUNK}-" in server.asked
    assert FeatureReader(Features(), tmp_path).audio(QUERY).shape == (3, 100_000)


@pytest.mark.parametrize("path", [f"/data/castella/{NAME}", "/files/clap.tar.gz"])
def test_other_content_than_published_is_refused(server, tmp_path, path):
    server.texts[path] = server.texts[path][:-1] + b"?"
    with pytest.raises(UserError, match="has not the published checksum md5"):
        fetch(server, tmp_path)
    assert not (tmp_path / "features").exists()


def test_pieces_of_an_archive_are_joined(server, tmp_path, monkeypatch):
    monkeypatch.setitem(download.MD5, "evaluation", {})
    whole = archive("clap", "a", features=np.ones((3, 4)))
    pieces = {"x.tar.gz.ab": whole[100:], "x.tar.gz.aa": whole[:100], "dcase2026_evaluation.jsonl": ANNOTATIONS}
    publish(server, pieces)
    fetch(server, tmp_path, "evaluation")
    assert (tmp_path / "dcase2026_evaluation.jsonl").read_bytes() == ANNOTATIONS
    assert FeatureReader(Features(), tmp_path).audio(QUERY).shape == (3, 4)


def test_another_record_and_a_silent_server_are_told(server, tmp_path):
    with pytest.raises(UserError, match="did not answer with a list of files; is 8 a Zenodo record"):
        server.texts["/api/records/8"] = b"<html>"
        download_data(tmp_path, "castella", 8, server.address, server.address)
    server.status = 503
    with pytest.raises(UserError, match=rf"put {NAME} into"):
        fetch(server, tmp_path / "other")
