"""Reading, resampling and writing audio."""

import math

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from common.data import audio
from common.data.audio import AudioError, audio_info, list_audio, read_audio, read_blocks, resample, write_wav
from common.errors import UserError


def tone(hertz: float, rate: int, seconds: float = 1.0, peak: float = 0.5) -> np.ndarray:
    return (peak * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "subtype", "largest_error"),
    [
        ("a.wav", "PCM_U8", 2**-7),
        ("a.wav", "PCM_16", 2**-15),
        ("a.wav", "PCM_24", 2**-23),
        ("a.wav", "PCM_32", 2**-23),  # float32 holds 24 bits
        ("a.wav", "FLOAT", 0),
        ("a.flac", "PCM_24", 2**-23),
        ("a.aiff", "PCM_16", 2**-15),
        ("a.w64", "PCM_16", 2**-15),
    ],
)
def test_what_was_written_is_read_within_a_step_of_its_coding(tmp_path, name, subtype, largest_error):
    waveform = tone(440, 44100)
    soundfile.write(tmp_path / name, waveform, 44100, subtype=subtype)
    read = read_audio(tmp_path / name)
    assert read.dtype == np.float32
    assert np.abs(read - waveform).max() <= largest_error


@pytest.mark.parametrize("name", ["a.ogg", "a.mp3"])
def test_lossy_formats_keep_length_and_pitch(tmp_path, name):
    soundfile.write(tmp_path / name, tone(1000, 44100), 44100)
    read = read_audio(tmp_path / name)
    assert len(read) == audio_info(tmp_path / name).samples == 44100
    assert np.abs(np.fft.rfft(read[:44100])).argmax() == 1000


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (96000, 2), (48000, 6), (44100, 16)])
def test_any_rate_and_channel_count_becomes_mono_by_the_mean(tmp_path, rate, channels):
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, (rate // 10, channels)).astype(np.float32)
    soundfile.write(tmp_path / "many.wav", waveform, rate, subtype="FLOAT")
    assert read_audio(tmp_path / "many.wav") == pytest.approx(waveform.mean(axis=1), abs=1e-6)
    info = audio_info(tmp_path / "many.wav")
    assert (info.sample_rate, info.channels, info.samples, info.duration) == (rate, channels, rate // 10, 0.1)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_a_part_equals_the_same_part_of_the_whole(tmp_path, name):
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * 16000).astype(np.float32)
    soundfile.write(tmp_path / name, waveform, 16000)
    whole = read_audio(tmp_path / name)
    part = read_audio(tmp_path / name, start=1.25, duration=0.5)
    # The mp3 decoder's last bit depends on where it starts.
    assert part == pytest.approx(whole[20000:28000], abs=1e-6)
    assert read_audio(tmp_path / name, start=2.5) == pytest.approx(whole[40000:], abs=1e-6)
    assert len(read_audio(tmp_path / name, start=2.5, duration=10)) == 8000


def test_a_part_of_an_hour_is_read_without_decoding_the_rest(tmp_path, monkeypatch):
    with soundfile.SoundFile(tmp_path / "hour.wav", "w", 8000, 1, "PCM_16") as file:
        for minute in range(60):
            file.write(np.full(60 * 8000, minute / 100))
    decoded = []
    read = soundfile.SoundFile.read

    def counting_read(self, frames=-1, *args, **kwargs):
        decoded.append(frames)
        return read(self, frames, *args, **kwargs)

    monkeypatch.setattr(soundfile.SoundFile, "read", counting_read)
    part = read_audio(tmp_path / "hour.wav", start=42 * 60 + 30, duration=2)
    assert part == pytest.approx(np.full(16000, 0.42), abs=1e-4)
    assert decoded == [16000]
    decoded.clear()
    lengths = [len(block) for block in read_blocks(tmp_path / "hour.wav", seconds=60)]
    assert lengths == [480000] * 60
    assert max(decoded) == 480000


@pytest.mark.parametrize(
    ("rate", "to_rate"), [(44100, 32000), (16000, 44100), (22050, 8000), (48000, None), (11127, 16000)]
)
def test_blocks_joined_are_the_whole_resampled_file(tmp_path, rate, to_rate):
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, round(2.7 * rate)).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", waveform, rate, subtype="FLOAT")
    blocks = list(read_blocks(tmp_path / "long.wav", 0.3, to_rate))
    whole = read_audio(tmp_path / "long.wav", to_rate)
    assert len(blocks) > 2
    assert np.concatenate(blocks) == pytest.approx(whole, abs=1e-6)


def test_resampling_keeps_a_tone_and_removes_what_is_above_half_the_new_rate():
    low, high = resample(tone(1000, 44100), 44100, 32000), resample(tone(21000, 44100), 44100, 32000)
    assert len(low) == len(high) == 32000
    assert low[100:-100] == pytest.approx(tone(1000, 32000)[100:-100], abs=2e-3)
    assert np.abs(high[100:-100]).max() < 0.02


def test_arrays_and_tensors_are_resampled_by_torchaudios_transform():
    waveform = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (2, 3, 5000)).astype(np.float32))
    expected = torchaudio.transforms.Resample(44100, 32000)(waveform)
    assert torch.equal(resample(waveform, 44100, 32000), expected)
    assert np.array_equal(resample(waveform.numpy(), 44100, 32000), expected.numpy())
    assert expected.shape[-1] == math.ceil(5000 * 320 / 441)
    assert resample(waveform, 44100, 44100) is waveform


@pytest.mark.parametrize(("from_rate", "to_rate"), [(44100, 32000), (16000, 44100), (11025, 16000)])
def test_the_filter_for_odd_rates_is_the_same_as_the_usual_one(from_rate, to_rate):
    waveform = np.random.default_rng(0).uniform(-1, 1, 4000).astype(np.float32)
    odd = audio._resample_odd_rates(waveform, *audio._steps(from_rate, to_rate))
    # 1e-4: torchaudio rounds the phase of each tap to float32.
    assert odd == pytest.approx(resample(waveform, from_rate, to_rate), abs=1e-4)


def test_rates_without_a_common_divisor_are_resampled_in_little_memory():
    assert resample(tone(1000, 44101), 44101, 32000)[100:-100] == pytest.approx(tone(1000, 32000)[100:-100], abs=2e-3)
    with pytest.raises(UserError, match="rates are positive"):
        resample(tone(1000, 8000), 0, 32000)


def missing(folder):
    return folder / "gone.wav", "gone.wav does not exist"


def a_folder(folder):
    return folder, "is a folder, not an audio file"


def no_bytes(folder):
    (folder / "clip.wav").write_bytes(b"")
    return folder / "clip.wav", r"clip.wav is empty \(0 bytes\)"


def no_samples(folder):
    soundfile.write(folder / "clip.wav", np.zeros(0), 44100)
    return folder / "clip.wav", "clip.wav holds no sample"


def text(folder):
    (folder / "clip.wav").write_text("This is not audio." * 100)
    return folder / "clip.wav", r"clip.wav cannot be read as audio \(Format not recognised\)"


def raw_samples(folder):
    (folder / "clip.raw").write_bytes(b"\0\1" * 100)
    return folder / "clip.raw", "clip.raw cannot be read as audio"


def cut(name):
    def make(folder):
        soundfile.write(folder / name, tone(440, 44100), 44100)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
        return folder / name, f"{name} (is cut off|is damaged|cannot be read as audio)"

    make.__name__ = f"cut_{name}"
    return make


def long_cut_ogg(folder):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 20 * 44100)
    soundfile.write(folder / "long.ogg", noise, 44100)
    whole = (folder / "long.ogg").read_bytes()
    (folder / "long.ogg").write_bytes(whole[: len(whole) // 2])
    return folder / "long.ogg", "long.ogg is cut off: its last page is missing"


def only_the_header(folder):
    soundfile.write(folder / "clip.wav", tone(440, 44100), 44100)
    (folder / "clip.wav").write_bytes((folder / "clip.wav").read_bytes()[:44])
    return folder / "clip.wav", "clip.wav is cut off"


def not_a_number(folder):
    waveform = tone(440, 44100)
    waveform[22050] = np.nan
    soundfile.write(folder / "clip.wav", waveform, 44100, subtype="FLOAT")
    return folder / "clip.wav", r"clip.wav holds a sample that is not a finite number .* at 0.500 s"


def infinite(folder):
    waveform = tone(440, 44100)
    waveform[0] = -np.inf
    soundfile.write(folder / "clip.wav", waveform, 44100, subtype="FLOAT")
    return folder / "clip.wav", "not a finite number"


@pytest.mark.parametrize(
    "make",
    [
        missing,
        a_folder,
        no_bytes,
        no_samples,
        text,
        raw_samples,
        cut("a.wav"),
        cut("a.flac"),
        cut("a.ogg"),
        cut("a.mp3"),
        cut("a.aiff"),
        long_cut_ogg,
        only_the_header,
        not_a_number,
        infinite,
    ],
    ids=lambda make: make.__name__,
)
def test_a_bad_file_is_named_in_one_sentence(tmp_path, make):
    path, sentence = make(tmp_path)
    with pytest.raises(AudioError, match=sentence) as error:
        read_audio(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_rate_or_channel_count_is_told_where_it_is_demanded(tmp_path):
    soundfile.write(tmp_path / "clip.wav", np.zeros((4800, 2)), 48000)
    with pytest.raises(AudioError, match=r"clip.wav is sampled at 48000 Hz, expected 44100 Hz"):
        read_audio(tmp_path / "clip.wav", expected_rate=44100)
    with pytest.raises(AudioError, match=r"clip.wav has 2 channels, expected 1"):
        read_audio(tmp_path / "clip.wav", expected_channels=1)
    with pytest.raises(AudioError, match=r"lasts 0.100 s; a part cannot start at 0.200 s"):
        read_audio(tmp_path / "clip.wav", start=0.2)
    with pytest.raises(AudioError, match=r"a part of 0.0 s holds no sample"):
        read_audio(tmp_path / "clip.wav", duration=0.0)


def test_a_wav_written_into_a_pipe_is_read_whole(tmp_path):
    soundfile.write(tmp_path / "clip.wav", tone(440, 44100), 44100)
    content = bytearray((tmp_path / "clip.wav").read_bytes())
    place = content.find(b"data") + 4
    content[place : place + 4] = content[4:8] = b"\xff\xff\xff\xff"  # the length was not known
    (tmp_path / "clip.wav").write_bytes(content)
    assert len(read_audio(tmp_path / "clip.wav")) == 44100


def test_files_are_listed_in_natural_order_also_in_subfolders(tmp_path):
    for name in ("clip10.wav", "clip2.WAV", "b/clip1.flac", "b/note.txt", ".hidden/clip.wav", "._clip.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [path.relative_to(tmp_path).as_posix() for path in list_audio(tmp_path)] == [
        "b/clip1.flac",
        "clip2.WAV",
        "clip10.wav",
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no audio file"):
        list_audio(tmp_path / "empty")
    with pytest.raises(UserError, match=r"There is no folder .*nothing"):
        list_audio(tmp_path / "nothing")


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_wavs_are_written_whole_or_not_at_all(tmp_path, subtype):
    write_wav(tmp_path / "new" / "clip.wav", tone(440, 8000), 8000, subtype)
    assert soundfile.info(tmp_path / "new" / "clip.wav").subtype == subtype
    write_wav(tmp_path / "stereo.wav", np.stack([tone(440, 8000)] * 2), 8000, subtype)
    assert audio_info(tmp_path / "stereo.wav").channels == 2
    before = (tmp_path / "new" / "clip.wav").read_bytes()
    with pytest.raises(ValueError, match="not a finite number"):
        write_wav(tmp_path / "new" / "clip.wav", np.array([np.nan], dtype=np.float32), 8000, subtype)
    if subtype != "FLOAT":
        with pytest.raises(ValueError, match=r"reaches 1.500"):
            write_wav(tmp_path / "new" / "clip.wav", np.array([1.5], dtype=np.float32), 8000, subtype)
    assert (tmp_path / "new" / "clip.wav").read_bytes() == before
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_resampling_is_the_same_under_autocast():
    waveform = torch.from_numpy(tone(440, 16000))
    expected = resample(waveform, 16000, 32000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(resample(waveform, 16000, 32000), expected)
        assert np.array_equal(resample(waveform.numpy(), 16000, 32000), expected.numpy())
