"""Audio of which a part was left out without a word, and whole audio that was refused."""

import io
import struct

import numpy as np
import pytest
import soundfile

from common.data.audio import AudioError, audio_info, read_audio, read_blocks
from tests.support.audio_mutations import RATE, encode, noise


def mp3_frames(content: bytes) -> list[bytes]:
    """Frames of an mp3 at 16 kHz, mono; the first one is of information."""
    kbps = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    frames = []
    while content:
        length = 72000 * kbps[(content[2] >> 4) - 1] // RATE + (content[2] >> 1 & 1)
        frames.append(content[:length])
        content = content[length:]
    return frames


def test_an_mp3_of_variable_rate_without_a_frame_of_information_is_read_whole(tmp_path):
    loud, silent = (mp3_frames(write_mp3(waveform)) for waveform in (noise(5), np.zeros(5 * RATE, np.float32)))
    path = tmp_path / "variable.mp3"
    path.write_bytes(b"".join(silent[1:] + loud[1:]))
    frames = len(silent) + len(loud) - 2
    assert abs(soundfile.info(path).frames - 576 * frames) > RATE  # libsndfile guesses by the first frame
    waveform = read_audio(path)
    assert abs(len(waveform) - 576 * frames) <= 2 * 576
    assert audio_info(path).duration == pytest.approx(10, abs=0.2)
    assert np.abs(waveform[-4 * RATE :]).mean() > 100 * np.abs(waveform[: 4 * RATE]).mean()
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(path, 1.0))), waveform)


def write_mp3(waveform: np.ndarray) -> bytes:
    content = io.BytesIO()
    with soundfile.SoundFile(
        content, "w", RATE, 1, "MPEG_LAYER_III", format="MP3", bitrate_mode="VARIABLE", compression_level=0.3
    ) as file:
        file.write(waveform)
    return content.getvalue()


@pytest.mark.parametrize("kind", ["ogg", "opus"])
def test_an_ogg_that_lost_a_page_is_refused(kind):
    content = encode(kind, noise(6))
    starts = [place for place in range(len(content)) if content.startswith(b"OggS", place)]
    lost = content[: starts[-2]] + content[starts[-1] :]
    with pytest.raises(AudioError, match=r"is damaged: a page before byte \d+ is missing"):
        read_audio("clip.ogg", content=lost)


def test_a_wav_of_gsm_is_read_in_parts_and_whole(tmp_path):
    path = tmp_path / "telephone.wav"
    soundfile.write(path, noise(3), 8000, subtype="GSM610")
    waveform = read_audio(path)
    assert len(waveform) == audio_info(path).samples == 3 * RATE
    np.testing.assert_array_equal(read_audio(path, start=1.0, duration=0.5), waveform[8000:12000])
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(path, 1.0))), waveform)


def test_a_wav_from_a_pipe_is_read(tmp_path):
    content = encode("wav", noise())
    path = tmp_path / "pipe.wav"
    path.write_bytes(
        content[:4] + struct.pack("<I", 0x7FFFF024) + content[8:40] + struct.pack("<I", 0x7FFFF000) + content[44:]
    )
    assert len(read_audio(path)) == 2 * RATE


@pytest.mark.parametrize("file_format", ["WAV", "AIFF", "W64"])
def test_whole_numbers_written_as_float_are_refused(tmp_path, file_format):
    path = tmp_path / "loud.bin"
    soundfile.write(path, noise() * 32768, RATE, subtype="FLOAT", format=file_format)
    for read in (read_audio, lambda path: list(read_blocks(path))):
        with pytest.raises(AudioError, match=r"loud.bin reaches .*, full scale is 1; .* divide them by 32768"):
            read(path)


@pytest.mark.parametrize(
    ("case", "seconds"), [("5_sox_pipe_header/pipe.wav", 1), ("7_vbr_mp3_without_length/clip.mp3", 10)]
)
def test_the_reported_files_are_read_whole(shared, case, seconds):
    assert audio_info(shared / "cases" / case).duration == pytest.approx(seconds, abs=0.1)


@pytest.mark.parametrize(
    "case",
    ["9_float_wav_beyond_one/loud.wav", "hostile/flac_claims.flac",
     "hostile/ogg_page_lost_reads_7296_of_22050.ogg"],
)  # fmt: skip
def test_the_reported_files_are_refused(shared, case):
    with pytest.raises(AudioError):
        read_audio(shared / "cases" / case)
