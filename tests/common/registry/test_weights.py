"""Weights: the authors' files load strictly, others are refused with what is wrong, and downloads are kept."""

import errno
import http.server
import logging
import os
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.data.labels import label_set
from common.errors import UserError
from common.models.audio_model import AudioModel
from common.registry import load_audio_model, load_released_state_dict
from common.registry import weights as released_weights
from common.registry.models import create_model, read_table
from tests.support.golden_case import GOLDEN, GoldenCase

CASES = {path.stem: path.stem for path in sorted(GOLDEN.glob("*.json"))} | {"mn40_ext_like": "mn40"}
CASES["hear_mn10_all_b_mel_avgs"] = "mn10"


def empty_model(name: str, **options: object) -> AudioModel:
    """A model whose weights take no memory: for names and shapes."""
    with torch.device("meta"):
        network = create_model(name, **options)
    return AudioModel(nn.Identity(), network, range(options.get("num_classes", 527)), name=name)


def layout(case: str, fixed: bool = True) -> dict[str, Tensor]:
    """The official state dict of a case: names and shapes."""
    return {
        key: torch.empty(entry["shape"], device="meta")
        for key, entry in GoldenCase(case).info["state_dict"].items()
        if fixed or entry["kind"] != "fixed"
    }


@pytest.mark.parametrize("case", CASES)
def test_the_official_state_dict_loads_strictly_and_is_used_whole(case):
    name = CASES[case]
    model = empty_model(name)
    load_released_state_dict(model, layout(case))
    load_released_state_dict(model, layout(case, fixed=False))
    official = layout(case, fixed=False)
    tied = sum("tied_to" in entry for entry in GoldenCase(case).info["state_dict"].values())
    ours = {key for key in model.network.state_dict() if not key.endswith((".lambdas", ".init_v", "norm_stats"))}
    assert len(ours) == len(official) - tied
    if case != "hear_mn10_all_b_mel_avgs":
        shapes = sorted(tuple(tensor.shape) for tensor in official.values())
        read = sorted(tuple(value.shape) for key, value in model.network.state_dict().items() if key in ours)
        assert tied or shapes == read


@pytest.mark.parametrize("case", ["mn04", "dymn10", "fpasst", "beats", "desed_crnn_2024", "task1_baseline"])
def test_an_unknown_a_missing_and_a_misshapen_tensor_are_named(case):
    model, official = empty_model(CASES[case]), layout(case)
    key = next(key for key in official if key.endswith("weight") and official[key].ndim > 1)
    with pytest.raises(UserError, match=r"no tensor for surplus\.weight"):
        load_released_state_dict(model, {**official, "surplus.weight": torch.empty(2)})
    with pytest.raises(UserError, match="missing"):
        load_released_state_dict(model, {other: value for other, value in official.items() if other != key})
    with pytest.raises(UserError, match="3x7x9 instead of"):
        load_released_state_dict(model, {**official, key: torch.empty(3, 7, 9)})


def test_a_part_that_neither_belongs_to_the_network_nor_may_be_skipped_is_named():
    model, official = empty_model("atst_frame"), layout("atst_frame")
    with pytest.raises(UserError, match=r"no tensor for model\.student\.projector\.weight"):
        load_released_state_dict(model, {**official, "model.student.projector.weight": torch.empty(2)})


def renamed(official: dict[str, Tensor], *pairs: tuple[str, str]) -> dict[str, Tensor]:
    """Keys with the first prefix that fits replaced."""
    changed = {}
    for key, value in official.items():
        old, new = next((pair for pair in pairs if key.startswith(pair[0])), ("", ""))
        changed[new + key.removeprefix(old)] = value
    return changed


@pytest.mark.parametrize(
    ("case", "pairs"),
    [
        ("fpasst", [("model.fpasst.", "model.")]),
        ("asit", [("model.asit.", "model.")]),
        ("m2d", [("model.m2d.", "model.")]),
        ("beats", [("model.beats.", "model.model.")]),
        ("frame_mn06", [("model.frame_mn.", "net.model."), ("", "net.")]),
        ("mn04", [("", "module.")]),
    ],
)
def test_the_key_layouts_of_released_files_are_known_by_their_content(case, pairs):
    load_released_state_dict(empty_model(CASES[case]), renamed(layout(case), *pairs))


PREFIXES = ["model.", "net.", "module.", "multi_device_model.base_model."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("case", ["task1_baseline", "mn04", "beats"])
def test_a_lightning_checkpoint_is_read_below_the_prefix_where_the_shapes_fit(case, prefix, tmp_path, caplog):
    state = {prefix + key: value for key, value in layout(case, fixed=False).items()}
    state |= {"mel.1.mel_scale.fb": torch.empty(7, 3), f"copies.a.{prefix}bias": torch.empty(2)}
    torch.save(filled({"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 0.1}}), tmp_path / "last.ckpt")
    with caplog.at_level(logging.WARNING):
        network = load_audio_model(CASES[case], tmp_path / "last.ckpt").network
    assert f"weights below {prefix} are read; 2 other tensors are not" in caplog.text
    assert all((parameter == 0.5).all() for parameter in network.parameters() if parameter.requires_grad)


def without_heads(case: str) -> dict[str, Tensor]:
    return {key: value for key, value in layout(case, fixed=False).items() if "_head." not in key}


def upstream_beats() -> dict:
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = renamed(without_heads("beats"), ("model.beats.", ""))
    for ours, theirs in names.items():
        state = {key.replace(ours, theirs): value for key, value in state.items()}
    return {"cfg": {"predictor_class": 527}, "model": {**state, "predictor.weight": torch.empty(527, 768)}}


def upstream_atst() -> dict:
    state = renamed(without_heads("atst_frame"), ("model.atst.norm_frame.", "model.teacher.encoder.norm."),
                    ("model.atst.", "model.teacher.encoder."))  # fmt: skip
    return {"state_dict": {**state, "model.teacher.encoder.cls_token": torch.empty(1, 1, 768)}, "epoch": 3}


def upstream_m2d() -> dict:
    state = renamed(without_heads("m2d"), ("model.m2d.backbone.", "module.ar.runtime.backbone."))
    return {"model": {**state, "module.head.weight": torch.empty(527, 3840), "decoder_pos_embed": torch.empty(1)}}


@pytest.mark.parametrize(
    ("name", "make"), [("beats", upstream_beats), ("atst_frame", upstream_atst), ("m2d", upstream_m2d)]
)
def test_files_of_the_original_authors_give_the_backbone_and_a_new_classifier(name, make, tmp_path, caplog):
    torch.save(filled(make()), tmp_path / "file.pt")
    with pytest.raises(UserError, match="no classifier"):
        load_audio_model(name, tmp_path / "file.pt")
    with caplog.at_level(logging.WARNING):
        model = load_audio_model(name, tmp_path / "file.pt", num_classes=10)
    assert "new, untrained classifier of 10 classes" in caplog.text
    assert model.network.strong_head.weight.shape[0] == 10
    assert next(iter(model.network.model.blocks[0].parameters() if name != "beats" else
                     model.network.model.encoder.layers[0].parameters())).flatten()[0] == 0.5  # fmt: skip


def winners_file(case: str, wrapped: bool, *pairs: tuple[str, str]) -> dict:
    """As atst_as_strong.ckpt and passt_as_strong.ckpt of CPJKU/cpjku_dcase24 are laid out."""
    place = "net_strong.model.model." if wrapped else "net_strong.model."
    state = {place + key.removeprefix("model."): v for key, v in renamed(without_heads(case), *pairs).items()}
    others = {"net_strong.rnn.weight_ih_l0": torch.empty(3, 2), "teacher.head.bias": torch.empty(4)}
    if wrapped:
        others["net_strong.model.head_linear_layer.weight"] = torch.empty(527, 768)
    return {"state_dict": {**state, **others}, "epoch": 3}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("case", "pairs"), [("atst_frame", []), ("fpasst", [("model.fpasst.", "model.")])])
def test_transformers_come_out_of_the_winners_files(case, pairs, wrapped, tmp_path):
    torch.save(filled(winners_file(case, wrapped, *pairs)), tmp_path / "file.ckpt")
    network = load_audio_model(case, tmp_path / "file.ckpt", num_classes=10).network
    assert next(iter(network.model.blocks[-1].parameters())).flatten()[0] == 0.5
    assert network.strong_head.weight.unique().numel() > 1  # new


def filled(value: object) -> object:
    """Empty tensors made real: every entry 0.5, stored once."""
    if isinstance(value, Tensor):
        return torch.tensor(0.5).expand(value.shape)
    return {key: filled(item) for key, item in value.items()} if isinstance(value, dict) else value


# Files


@pytest.fixture
def mn01_file(tmp_path) -> Path:
    network = create_model("mn01")
    torch.save(network.state_dict(), tmp_path / "mn01.pt")
    return tmp_path / "mn01.pt"


def test_weights_from_a_file_are_loaded_for_evaluation(mn01_file):
    model = load_audio_model("mn01.as", mn01_file)
    assert not model.training
    assert model.labels == label_set("audioset")
    state = torch.load(mn01_file, weights_only=True)
    assert all(torch.equal(value, state[key]) for key, value in model.network.state_dict().items())


def test_a_new_classifier_is_said_and_the_rest_is_kept(mn01_file, caplog):
    with caplog.at_level(logging.WARNING):
        model = load_audio_model("mn01_as", mn01_file, labels=["dog", "cat"])
    assert "classifier of 2 classes (classifier.5.bias, classifier.5.weight)" in caplog.text
    assert model.labels == ("dog", "cat")
    state = torch.load(mn01_file, weights_only=True)
    kept = model.network.state_dict()
    assert torch.equal(kept["classifier.2.weight"], state["classifier.2.weight"])


def test_a_fine_tuned_file_is_read_with_its_number_of_classes(tmp_path, caplog):
    torch.save(create_model("mn01", num_classes=7).state_dict(), tmp_path / "own.pt")
    with pytest.raises(UserError, match="give num_classes"):
        load_audio_model("mn01", tmp_path / "own.pt")
    with caplog.at_level(logging.WARNING):
        assert len(load_audio_model("mn01", tmp_path / "own.pt", num_classes=7).labels) == 7
    assert not caplog.text


@pytest.mark.parametrize("num_classes", [None, 5])
def test_weights_of_another_width_are_refused_with_what_differs(tmp_path, num_classes):
    torch.save(create_model("mn05").state_dict(), tmp_path / "mn05.pt")
    with pytest.raises(UserError, match=r"is 8x1x3x3 instead of 16x1x3x3.*looks like mn05"):
        load_audio_model("mn10.as", tmp_path / "mn05.pt", num_classes)


def test_weights_of_another_family_are_refused(mn01_file):
    with pytest.raises(UserError, match=r"task1_baseline has no tensor for features.*looks like mn01"):
        load_audio_model("task1_baseline", mn01_file)


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_file_that_holds_code_is_refused_and_the_code_not_run(tmp_path):
    torch.save({"weight": Harmful(tmp_path / "made")}, tmp_path / "code.pt")
    with pytest.raises(UserError, match="code or objects"):
        load_audio_model("mn01", tmp_path / "code.pt")
    assert not (tmp_path / "made").exists()


def test_files_that_are_no_weights_get_one_sentence(tmp_path, mn01_file):
    whole = mn01_file.read_bytes()
    contents = {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"not found\n" * 50, "page": b"<!DOCTYPE html>"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="is cut off or is no checkpoint"):
            load_audio_model("mn01", tmp_path / name)
    torch.save([1, 2], tmp_path / "list")
    torch.save({"epoch": 3}, tmp_path / "numbers")
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name, message in (("list", "holds a list"), ("numbers", "no tensors"), ("array.npy", "is no checkpoint"),
                          ("absent", "There is no checkpoint")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            load_audio_model("mn01", tmp_path / name)


def test_an_architecture_without_a_file_names_its_weights():
    with pytest.raises(UserError, match=r"mn04\.as"):
        load_audio_model("mn04")
    with pytest.raises(UserError, match="No weights of task1_baseline"):
        load_audio_model("task1_baseline")


# Downloads


@pytest.fixture
def server(tmp_path):
    """A web server on this machine, its folder, and its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(released_weights.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def released(url: str, **changes: object):
    return replace(read_table().released["mn01.as"], url=url, **changes)


@pytest.mark.network
def test_a_download_is_kept_in_the_cache_and_not_repeated(server, cache):
    folder, address = server
    (folder / "file.pt").write_bytes(b"weights")
    entry = released(f"{address}/file.pt", sha256="9cce4bba1d3b3c8d4fd4b8e9dd5f0c1d6b1b2ed0f6c1b5c1b5c1b5c1b5c1b5c1")
    with pytest.raises(UserError, match="has not the published checksum sha256:9cce"):
        released_weights.fetch(entry)
    assert not (cache / entry.file).exists()
    path = released_weights.fetch(replace(entry, sha256=None))
    assert path == cache / entry.file and path.read_bytes() == b"weights"
    (folder / "file.pt").unlink()
    assert released_weights.fetch(entry) == path


@pytest.mark.network
def test_without_network_the_file_and_its_place_are_named(server, cache):
    _, address = server
    for url in (f"{address}/absent.pt", "http://127.0.0.1:9/file.pt"):
        with pytest.raises(UserError, match=rf"{url}.*put {released(url).file} into {cache} by hand.*--weights"):
            released_weights.fetch(released(url))
    assert not list(cache.glob("*"))


def test_weights_are_kept_below_home_or_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DCASE_KIT_CACHE", raising=False)
    assert released_weights.cache_folder() == tmp_path / ".cache" / "dcase_kit"
    monkeypatch.setenv("DCASE_KIT_CACHE", "")
    assert released_weights.cache_folder() == tmp_path / ".cache" / "dcase_kit"
    monkeypatch.setenv("DCASE_KIT_CACHE", str(tmp_path / "own"))
    assert released_weights.cache_folder() == tmp_path / "own"


def test_a_full_disk_is_told(cache, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pooch.retrieve", full)
    with pytest.raises(UserError, match=r"No space left.*DCASE_KIT_CACHE"):
        released_weights.fetch(released("http://127.0.0.1:9/file.pt"))


# Released weights at hand


def test_the_released_mn04_fits_and_knows_silence_from_speech_like_noise(shared):
    model = load_audio_model("mn04.as", shared / "data" / "weights" / "mn04_as_mAP_432.pt")
    with torch.inference_mode():
        output = model(torch.zeros(1, 320000))
    assert output.embedding.shape == (1, 384)
    best = [model.labels[index] for index in output.logits[0].topk(3).indices]
    assert "Silence" in best
