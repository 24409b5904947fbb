"""Small audio files of every kind that the kit can write, and seeded damages of them."""

import io

import numpy as np
import soundfile

RATE = 16000
KINDS = {
    "wav": ("WAV", "PCM_16"),
    "float_wav": ("WAV", "FLOAT"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
}


def encode(kind: str, waveform: np.ndarray, sample_rate: int = RATE) -> bytes:
    content = io.BytesIO()
    file_format, subtype = KINDS[kind]
    soundfile.write(content, waveform, sample_rate, format=file_format, subtype=subtype)
    return content.getvalue()


def noise(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (0.1 * random.standard_normal(round(seconds * RATE))).astype(np.float32)


def mutate(content: bytes, random: np.random.Generator) -> bytes:
    """One damage: bits or bytes changed, a part cut out, doubled or zeroed, the end lost."""
    damaged = bytearray(content)
    first, last = sorted(random.integers(0, len(content), 2).tolist())
    match random.integers(6):
        case 0:
            for place in random.integers(0, 100, random.integers(1, 4)).tolist():
                damaged[place] ^= 1 << int(random.integers(8))
        case 1:
            for place in random.integers(0, len(content), random.integers(1, 9)).tolist():
                damaged[place] = int(random.integers(256))
        case 2:
            last = min(last, first + 3000)
            del damaged[first:last]
        case 3:
            damaged[last:last] = content[first:last]
        case 4:
            damaged[first : min(last, first + 500)] = bytes(min(last, first + 500) - first)
        case _:
            del damaged[max(first, 1) :]
    return bytes(damaged)
