"""Lengths of audio: what decoding gives, whatever a header says; damaged files are refused, never shortened."""

import io
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.data.audio import AudioError, audio_info, read_audio, read_blocks
from common.data.audio_length import _flac_frame_end
from tests.support.audio_mutations import KINDS, RATE, encode, mutate, noise


def wav_with_lengths(riff: int, data: int) -> bytes:
    content = encode("wav", noise())
    return content[:4] + struct.pack("<I", riff) + content[8:40] + struct.pack("<I", data) + content[44:]


def flac_with_length(samples: int) -> bytes:
    content = encode("flac", noise())
    return (
        content[:21]
        + (content[21] & 0xF0 | samples >> 32).to_bytes()
        + struct.pack(">I", samples % 2**32)
        + content[26:]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_refused_or_read_at_its_full_length(tmp_path, kind, request):
    path, content, random = tmp_path / "damaged.bin", encode(kind, noise()), np.random.default_rng(1)
    length = len(read_audio(path, content=content))
    for number in range(25):
        path.write_bytes(mutate(content, random))
        try:
            waveform = read_audio(path)
        except AudioError as error:
            assert str(error).startswith(str(path)), number
            with pytest.raises(AudioError):
                list(read_blocks(path, 0.7))
        else:
            assert len(waveform) >= length, number
            np.testing.assert_array_equal(np.concatenate(list(read_blocks(path, 0.7))), waveform)


@pytest.mark.parametrize(
    "lengths",
    [(0x7FFFF024, 0x7FFFF000), (0x7FFFFFFF, 0x7FFFFFFF), (0x80000024, 0x80000000), (0xFFFFFFFF, 0xFFFFFFFF),
     (0xFFFFFFFF, 0xFFFFFFDB), (0, 0), (36, 0), (8, 0), (64036, 0)],
    ids=lambda lengths: f"{lengths[0]:x} {lengths[1]:x}",
)  # fmt: skip
def test_a_wav_that_was_written_into_a_pipe_is_whole(tmp_path, lengths):
    path = tmp_path / "pipe.wav"
    path.write_bytes(wav_with_lengths(*lengths))
    assert audio_info(path).samples == 2 * RATE
    np.testing.assert_array_equal(read_audio(path), read_audio("a.wav", content=encode("wav", noise())))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (wav_with_lengths(64036, 64100), "is cut off: its header says 32050 samples, the file holds 32000"),
        (wav_with_lengths(64036, 32000), "holds 32000 bytes of unknown content behind the 16000 samples"),
        (flac_with_length(32001), "is cut off: its header says 32001 samples, the file holds 32000"),
        (flac_with_length(2**36 - 1), "is cut off"),
        (2 * encode("flac", noise()), "holds several streams"),
        (2 * encode("ogg", noise()), "holds several streams"),
        (encode("mp3", noise())[:-300], "is cut off"),
    ],
)
def test_a_header_that_does_not_fit_is_named(content, sentence):
    with pytest.raises(AudioError, match=sentence):
        read_audio("clip", content=content)


@pytest.mark.parametrize("samples", [0, 1000, 31999])
def test_a_flac_with_a_smaller_or_unknown_length_is_read_to_its_end(samples):
    assert len(read_audio("clip", content=flac_with_length(samples))) == 2 * RATE


def test_joined_mp3s_are_read_to_their_end():
    one = encode("mp3", noise())
    assert len(read_audio("clip", content=2 * one)) >= 2 * len(read_audio("clip", content=one))


@pytest.mark.parametrize(
    "tail",
    [b"TAG" + bytes(125), bytes(500), b"LIST\x14\0\0\0INFOISFT\x08\0\0\0Lavf60\0\0"],
    ids=["TAG", "zeros", "LIST"],
)
def test_what_programs_write_behind_the_samples_is_no_fault(tail):
    for kind in ("wav", "mp3") if tail[:1] in (b"T", b"\0") else ("wav",):
        content = encode(kind, noise())
        assert len(read_audio("clip", content=content + tail)) == len(read_audio("clip", content=content))


def test_the_memory_is_for_what_there_is_and_not_for_a_claim():
    content = flac_with_length(2**36 - 1)[:-9]  # without its last frame's end, nothing contradicts the header
    tracemalloc.start()
    with pytest.raises(AudioError):
        read_audio("clip", content=content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def test_a_flac_of_silence_is_whole(tmp_path):
    """Its frames are shorter than the longest header of a frame."""
    (tmp_path / "silent.flac").write_bytes(encode("flac", np.zeros(16000, np.float32)))
    assert len(read_audio(tmp_path / "silent.flac")) == 16000


@pytest.mark.parametrize(("hertz", "rates"), [(44100, 14), (22050, 14), (8000, 8)])
def test_frames_of_every_bit_rate_of_mp3_are_counted(hertz, rates):
    seen = set()
    for level in np.linspace(0, 0.999, 32):
        stream = io.BytesIO()
        options = {"format": "MP3", "compression_level": float(level), "bitrate_mode": "CONSTANT"}
        with soundfile.SoundFile(stream, "w", hertz, 1, "MPEG_LAYER_III", **options) as file:
            file.write(0.1 * np.random.default_rng(0).normal(size=4000))
        content = stream.getvalue()
        start = next(place for place in range(len(content)) if content[place] == 0xFF and content[place + 1] >= 0xE0)
        seen.add(content[start + 2] >> 4)
        assert (
            4000 <= len(read_audio(Path("clip.mp3"), content=content)) < 4000 + 3 * 1152
        )  # whole frames, with a delay
        with pytest.raises(AudioError, match="is cut off"):
            read_audio(Path("clip.mp3"), content=content[:-1])
    assert seen == set(range(1, rates + 1))


@pytest.mark.parametrize("hertz", [8000, 12000, 12345, 44100, 96000, 384000, 655350])
def test_flacs_of_every_rate_and_length_of_the_last_frame_are_read_whole(hertz):
    for samples in (1, 191, 192, 255, 256, 257, 576, 1152, 4095, 4096, 4097, 9000, 131 * 4096 + 300):
        stream = io.BytesIO()
        soundfile.write(stream, np.arange(samples) % 64 / 128, hertz, format="FLAC", subtype="PCM_16")
        content = bytearray(stream.getvalue())
        for claim in (samples, 0):  # as it is, and as a program writes it that does not know the length before
            content[21] = content[21] & 0xF0 | claim >> 32
            content[22:26] = struct.pack(">I", claim)
            found = read_audio(Path("clip.flac"), content=bytes(content))
            assert len(found) == samples, (samples, claim)


def crc8(content: bytes) -> int:
    """x^8 + x^2 + x + 1, as FLAC protects the headers of its frames."""
    value = int.from_bytes(content + b"\0", "big")
    for bit in range(8 * len(content) + 7, 7, -1):
        value ^= (0x107 << bit - 8) * (value >> bit & 1)
    return value


@pytest.mark.parametrize(
    ("size_code", "last_bit", "samples"),
    [(1, 0, 192), (2, 0, 576), (5, 0, 4608), (8, 0, 256), (15, 0, 32768), (0, 0, None), (1, 1, None)],
)
def test_a_header_with_a_reserved_value_is_no_frame(size_code, last_bit, samples):
    """FLAC's format: block size 0000 and a set last bit of the fourth byte are reserved."""
    header = bytes([0xFF, 0xF9, size_code << 4 | 9, last_bit, 0])  # of variable size, 44.1 kHz, from sample 0 on
    whole = header + bytes([crc8(header)])
    assert _flac_frame_end(whole, 0) == samples
    assert _flac_frame_end(header + bytes([crc8(header) ^ 1]), 0) is None


def test_frames_are_numbered_by_themselves_or_by_their_first_sample():
    """A set last bit of the second byte means blocks of various sizes, numbered by samples."""
    for second, number, end in ((0xF8, 3, 3 * 4096 + 256), (0xF9, 100, 100 + 256)):
        header = bytes([0xFF, second, 0x89, 0, number])
        assert _flac_frame_end(header + bytes([crc8(header)]), 4096) == end
