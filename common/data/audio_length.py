"""Whether a file holds more or fewer samples than its header says; libsndfile believes the header without a word.

The parts of each container are counted: chunks of WAV and AIFF, pages of Ogg, frames of FLAC and MP3. A whole file with
a wrong or unknown length in its header is read with the right one (`repaired`); a damaged one is refused.
"""

import io
import re
import struct
import zlib
from typing import BinaryIO

import soundfile

# Lengths that programs write into a pipe, where they cannot go back: 2^31 and 2^32, less a header.
UNKNOWN = (range(0x7FFF0000, 0x80000001), range(0xFFFF0000, 0x100000000))
LOGGED = r"^ *(data|SSND|BODY|Data Size +|riff|Riff size) : (\d+) \(should be (\d+)\)"
TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICS")

OGG_HEADER = struct.Struct("<4sBBqIIIB")
OGG_FIRST, OGG_LAST = 2, 4  # flags of a page of a stream
REVERSED_BITS = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))

MP3_RATES = (44100, 48000, 32000)
MP3_KBPS = {
    1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MP3_TAG = re.compile(rb".{13,38}(?:Xing|Info)...(.)(....)", flags=re.DOTALL)
FLAC_START = b"fLaC\0\0\0\x22"
FLAC_SYNC = re.compile(rb"\xff[\xf8\xf9]")
FLAC_TAIL = 2**18  # bytes to look for the last frame in, if the header does not give the size of the largest


class LengthError(ValueError):
    """What is wrong with a file, to be put behind its name."""


def repaired(stream: BinaryIO, file: soundfile.SoundFile, to_the_end: bool) -> io.BytesIO | None:
    """The content of a whole file, open as `stream`, with the right length in its header; None if the header is right.

    With `to_the_end` files are also refused for what follows their last sample, which may take reading all of them.

    Raises:
        LengthError: if samples are missing.
    """
    kind = file.format
    if kind == "MP3" and file.subtype == "MPEG_LAYER_III":
        return _repaired_mp3(stream.read(), file.frames)
    if kind == "FLAC":
        return _repaired_flac(stream, file.frames, to_the_end)
    if kind == "OGG":
        _check_ogg(stream)
        return None
    counted = re.search(r"Frame count read from 'COMM' chunk \((\d+)\)", file.extra_info)
    if counted and int(counted[1]) > file.frames:
        raise LengthError(f"is cut off: its header says {counted[1]} samples, the file holds {file.frames}")
    found = re.search(LOGGED, file.extra_info, flags=re.MULTILINE)
    if found:
        claimed, actual = int(found[2]), int(found[3])
        if claimed > actual and not any(claimed in lengths for lengths in UNKNOWN):
            samples = max(file.frames + 1, round(file.frames * claimed / max(1, actual)))
            raise LengthError(f"is cut off: its header says {samples} samples, the file holds {file.frames}")
        if claimed < actual and kind == "AU":
            raise LengthError(f"holds {actual - claimed} bytes behind the {file.frames} samples of its header")
    elif kind in ("WAV", "WAVEX", "AIFF"):
        return _repaired_chunks(stream, file.frames)
    return None


def _repaired_chunks(stream: BinaryIO, frames: int) -> io.BytesIO | None:
    """WAV and AIFF: only chunks and tags follow the samples; a length of 0 means all that follows."""
    content = stream.read() if frames == 0 else b""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    order = ">" if stream.read(12).startswith(b"FORM") else "<"
    place, data = 12, 0
    while place + 8 <= size:
        stream.seek(place)
        name, length = struct.unpack(f"{order}4sI", stream.read(8))
        if data and not _is_name(name):
            break
        if name == b"fmt " and length >= 16:
            coding, channels, _, _, align, bits = struct.unpack("<HHIIHH", stream.read(16))
            if coding in (1, 3, 0xFFFE) and align < channels * bits // 8:
                raise LengthError(f"is damaged: {channels} channels of {bits} bits do not fit in {align} bytes")
        if name in (b"data", b"SSND"):
            data = place
            if length == 0:
                rest = struct.pack(f"{order}I", size - place - 8) + content[place + 8 :]
                return None if frames else io.BytesIO(content[: place + 4] + rest)
        place += 8 + length + length % 2
    stream.seek(place - 1)
    rest = stream.read(2**16)  # some programs forget the byte that makes a length even
    if not data or not rest[1:].strip(b"\0") or _is_name(rest[:4]) or _is_name(rest[1:5]):
        return None
    raise LengthError(f"holds {size - place} bytes of unknown content behind the {frames} samples of its header")


def _is_name(name: bytes) -> bool:
    return name.replace(b" ", b"").isalnum() or name.startswith(TAGS)


def _check_ogg(stream: BinaryIO) -> None:
    """Pages follow each other without a gap, each whole, in one stream with an end."""
    numbers: dict[int, int] = {}
    ended = False
    while (header := stream.read(OGG_HEADER.size)) and not header.startswith(TAGS):
        place = stream.tell() - len(header)
        if len(header) < OGG_HEADER.size or not header.startswith(b"OggS"):
            raise LengthError(f"is damaged: no page starts at byte {place}")
        _, _, flags, _, serial, number, checksum, count = OGG_HEADER.unpack(header)
        lengths = stream.read(count)
        content = stream.read(sum(lengths))
        if len(lengths) < count or len(content) < sum(lengths):
            raise LengthError("is cut off: its last page is missing")
        if _ogg_checksum(header[:22] + bytes(4) + header[26:] + lengths + content) != checksum:
            raise LengthError(f"is damaged: the page at byte {place} has another checksum")
        if flags & OGG_FIRST and ended:
            raise LengthError("holds several streams one after another (joined files); make one of them")
        if number != numbers.get(serial, number - 1 if flags & OGG_FIRST else -1) + 1:
            raise LengthError(f"is damaged: a page before byte {place} is missing")
        numbers[serial], ended = number, bool(flags & OGG_LAST)
    if not ended:
        raise LengthError("is cut off: its last page is missing")


def _ogg_checksum(page: bytes) -> int:
    """Ogg's CRC (0x04c11db7, from the highest bit, no inversion) by zlib's, which counts bits from the lowest."""
    crc = zlib.crc32(page.translate(REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)


def _repaired_flac(stream: BinaryIO, claimed: int, to_the_end: bool) -> io.BytesIO | None:
    """The last frame says where it ends."""
    start = stream.read(2**16).find(FLAC_START) + 8
    stream.seek(start)
    while to_the_end and (piece := stream.read(2**20)):
        if FLAC_START in piece:
            raise LengthError("holds several streams one after another (joined files); make one of them")
        if len(piece) == 2**20:
            stream.seek(-len(FLAC_START), io.SEEK_CUR)
    stream.seek(start)
    info = stream.read(18)
    fixed_size, largest = int.from_bytes(info[:2], "big"), int.from_bytes(info[7:10], "big")
    stream.seek(max(start, stream.seek(0, io.SEEK_END) - (2 * largest or FLAC_TAIL)))
    tail = stream.read()
    for found in reversed(list(FLAC_SYNC.finditer(tail))):
        end = _flac_frame_end(tail[found.start() : found.start() + 16], fixed_size)
        if end == claimed:
            return None
        if end is not None and _remainder(tail[found.start() :], 16, 0x8005) == 0:
            if end < claimed < 2**36:
                raise LengthError(f"is cut off: its header says {claimed} samples, the file holds {end}")
            stream.seek(0)
            length = (info[13] & 0xF0 | end >> 32).to_bytes() + struct.pack(">I", end & 0xFFFFFFFF)
            return io.BytesIO(stream.read(start + 13) + length + stream.read()[5:])
    if claimed >= 2**36:
        raise LengthError("is cut off or damaged: its header gives no length, and its last frame is not whole")
    return None


def _flac_frame_end(header: bytes, fixed_size: int) -> int | None:
    """Number of the sample behind a frame; None if the bytes are no frame's header."""
    header = header.ljust(16, b"\0")  # a last frame of silence is shorter
    if header[2] >> 4 == 0 or header[3] & 1:
        return None
    ones = 8 - (header[4] ^ 0xFF).bit_length()  # as in UTF-8: bytes of the number
    if ones in (1, 8):
        return None
    place = 4 + max(1, ones)
    number = header[4] & (0xFF >> (ones + 1)) if ones else header[4]
    for byte in header[5:place]:
        number = number << 6 | byte & 0x3F
    code = header[2] >> 4
    size = 192 if code == 1 else 576 << (code - 2) if code < 6 else 256 << (code - 8) if code > 7 else 0
    if code in (6, 7):
        size = int.from_bytes(header[place : place + code - 5], "big") + 1
        place += code - 5
    place += {12: 1, 13: 2, 14: 2}.get(header[2] & 15, 0)
    if place > 15 or _remainder(header[: place + 1], 8, 0x07):
        return None
    return number + size if header[1] & 1 else number * fixed_size + size


def _remainder(content: bytes, bits: int, polynomial: int) -> int:
    """CRC from the highest bit on; 0 for content with its own CRC behind it."""
    crc = 0
    for byte in content:
        crc ^= byte << (bits - 8)
        for _ in range(8):
            crc = (crc << 1 ^ (polynomial if crc >> (bits - 1) else 0)) & ((1 << bits) - 1)
    return crc


def _repaired_mp3(content: bytes, claimed: int) -> io.BytesIO | None:
    """Frames are counted; a file without a frame of information (Xing, Info), or with a wrong one, gets one."""
    frames: list[int] = []
    place, informed = 0, None
    while place < len(content):
        length = _mp3_frame_length(content[place : place + 4])
        following = content[place + length : place + length + 4]
        if length and (frames or _mp3_frame_length(following) or MP3_TAG.match(content, place)):
            frames.append(place)
            place += length
        elif content.startswith(b"ID3", place):
            place += 10 + int("0" + "".join(f"{byte & 127:07b}" for byte in content[place + 6 : place + 10]), 2)
        elif content.startswith(b"TAG", place):
            place += 128
        elif content.startswith(TAGS, place) or not content[place:].strip(b"\0"):
            break
        elif frames:
            raise LengthError(f"is damaged: no frame starts at byte {place}")
        else:
            place += 1
    if not frames:
        return None
    if length and place > len(content):
        raise LengthError("is cut off: its last frame is not whole")
    if tag := MP3_TAG.match(content, frames[0]):
        frames = frames[1:]
        informed = int.from_bytes(tag[2], "big") if tag[1][0] & 1 else None
    if not frames:
        return None
    header = content[frames[0] : frames[0] + 4]
    samples = len(frames) * (1152 if header[1] & 8 else 576)
    # Some programs count the frame of information, too; libsndfile takes away up to twice 4,095 samples of padding.
    if informed in (len(frames), len(frames) + 1) and claimed >= samples - 2 * 4095:
        return None
    if informed is not None and informed > len(frames) + 1:
        raise LengthError(f"is cut off: its header says {informed} frames, the file holds {len(frames)}")
    return io.BytesIO(_mp3_information(header, len(frames)) + content[frames[0] :])


def _mp3_frame_length(header: bytes) -> int:
    """Bytes of a frame of layer III; 0 if the four bytes are no header."""
    value = int.from_bytes(header, "big")
    version, kbps, rate = value >> 19 & 3, value >> 12 & 15, value >> 10 & 3
    if len(header) < 4 or value >> 21 != 0x7FF or version == 1 or value >> 17 & 3 != 1 or kbps in (0, 15) or rate == 3:
        return 0
    bits_per_second = 1000 * MP3_KBPS[1 if version == 3 else 2][kbps - 1]
    hertz = MP3_RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]
    return (144 if version == 3 else 72) * bits_per_second // hertz + (value >> 9 & 1)


def _mp3_information(header: bytes, count: int) -> bytes:
    """A silent frame like that of `header` that says how many frames follow."""
    value = int.from_bytes(header, "big") & ~0xF200 | 0x19000  # long enough, not padded, without a checksum
    frame = bytearray(_mp3_frame_length(value.to_bytes(4, "big")))
    mono, version_1 = value >> 6 & 3 == 3, value >> 19 & 3 == 3
    place = 4 + ((17 if mono else 32) if version_1 else (9 if mono else 17))
    frame[:4] = value.to_bytes(4, "big")
    frame[place : place + 12] = b"Xing" + struct.pack(">II", 1, count)
    return bytes(frame)
