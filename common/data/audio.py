"""Reading, resampling and writing audio files; every error names the clip.

soundfile decodes (wav, flac, ogg, mp3, aiff and the other formats of libsndfile), torchaudio's windowed sinc resamples.
torch is imported for resampling only, so that processes that only decode start quickly.
"""

import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import soundfile
from numpy.typing import NDArray

from common.data.audio_length import LengthError, repaired
from common.data.files import atomic_path, walk_files
from common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Waveform = NDArray[np.float32]

ENDINGS = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64"}
# torchaudio's defaults, and the kernel of the DCASE 2024 Task 1 baseline.
LOWPASS_FILTER_WIDTH = 6
ROLLOFF = 0.99
# Above this many taps (a rate such as 11,127 Hz shares no factor with 32,000 Hz) the kernel of all phases is not built.
MAX_KERNEL_TAPS = 20_000_000
# Encoders round the length in an mp3 header to whole frames of 1,152 samples.
MP3_SLACK = 2 * 1152
BLOCK = 2**22  # samples decoded at once: memory is for what there is, not for what a header says
LOUDEST = 8.0  # of a file of floats; decoders go beyond 1 a little


class AudioError(UserError):
    """A clip that cannot be used; names the file, the fault and the remedy."""


@dataclass(frozen=True)
class AudioInfo:
    """Header of a file: Hz, samples per channel, channels, and the coding (soundfile's names)."""

    sample_rate: int
    samples: int
    channels: int
    format: str
    subtype: str

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples / self.sample_rate


class Decoder(soundfile.SoundFile):
    """A file that is read on without the seek of soundfile after each block: decoders of mp3 lose their state by it."""

    def seekable(self) -> bool:
        """What decides about that seek."""
        return False


def audio_info(path: Path | str) -> AudioInfo:
    """Read the header of a file.

    Raises:
        AudioError: if the file is missing, is not audio, holds no sample, or is shorter than its header says.
    """
    with _open(Path(path)) as file:
        return AudioInfo(file.samplerate, file.frames, file.channels, file.format, file.subtype)


def read_audio(
    path: Path | str,
    sample_rate: int | None = None,
    *,
    start: float = 0.0,
    duration: float | None = None,
    expected_rate: int | None = None,
    expected_channels: int | None = None,
    content: bytes | None = None,
) -> Waveform:
    """Decode a file, or a part of it without decoding the rest.

    Args:
        path: any format that soundfile knows.
        sample_rate: Hz to resample to; None keeps the file's rate.
        start: seconds from the beginning of the file.
        duration: seconds at most; None reads to the end. The part ends where the file ends.
        expected_rate: Hz of the file; another rate or, with `expected_channels`, number of channels is refused.
        content: bytes of a file that is not on the disk; `path` is its name in messages.

    Returns:
        (samples,), float32, the mean over channels; -1..1 for integer codings.

    Raises:
        AudioError: as `audio_info`; also for a wrong rate or channel count, a NaN or infinite sample, one beyond 8, a
            damaged stream, or a start after the end.
    """
    path = Path(path)
    with _open(path, content, to_the_end=duration is None) as file:
        _refuse_other(path, file, expected_rate, expected_channels)
        rate = file.samplerate
        first = round(start * rate)
        if first < 0 or first >= file.frames:
            raise AudioError(f"{path} lasts {file.frames / rate:.3f} s; a part cannot start at {start:.3f} s.")
        count = file.frames - first
        if duration is not None:
            count = min(count, round(duration * rate))
        if count <= 0:
            raise AudioError(f"{path}: a part of {duration} s holds no sample; ask for a longer one.")
        blocks = list(_decode(path, file, first, count))
    waveform = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    return resample(waveform, rate, sample_rate or rate)


def read_fixed(path: Path | str, num_samples: int, sample_rate: int, start: float = 0.0) -> Waveform:
    """`num_samples` of a file as mono at `sample_rate`, from `start` seconds on; zeros after the end of the file."""
    waveform = read_audio(path, sample_rate, start=start, duration=num_samples / sample_rate)[:num_samples]
    return np.pad(waveform, (0, num_samples - len(waveform)))


def read_blocks(path: Path | str, seconds: float = 10.0, sample_rate: int | None = None) -> Iterator[Waveform]:
    """Decode a long file block by block in constant memory.

    Args:
        seconds: about how long each block is (the last is shorter).
        sample_rate: Hz to resample to. The blocks join to the result of `read_audio` for the whole file: the kernel
            sees the neighbouring blocks.

    Yields:
        (samples,), float32, the mean over channels.
    """
    path = Path(path)
    with _open(path, to_the_end=True) as file:
        rate = file.samplerate
        to_rate = sample_rate or rate
        step_in, step_out = _steps(rate, to_rate)
        margin_steps = 0 if rate == to_rate else math.ceil((_kernel_half_width(step_in, step_out) + 1) / step_in)
        # Whole steps, so that every block begins at a sample of both rates; the margin holds half a kernel.
        margin, block = step_in * margin_steps, step_in * max(margin_steps, math.ceil(seconds * rate / step_in), 1)
        blocks = _decode(path, file, 0, file.frames, block)
        before, waveform = np.empty(0, np.float32), next(blocks)
        while len(waveform):
            after = next(blocks, waveform[:0])
            left = before[len(before) - margin :] if margin else before[:0]
            heard = resample(np.concatenate([left, waveform, after[:margin]]), rate, to_rate)
            skipped = len(left) // step_in * step_out
            yield heard[skipped : skipped + math.ceil(len(waveform) * step_out / step_in)]
            before, waveform = waveform, after


@overload
def resample(waveform: Waveform, from_rate: int, to_rate: int) -> Waveform: ...
@overload
def resample(waveform: "Tensor", from_rate: int, to_rate: int) -> "Tensor": ...
def resample(waveform: Any, from_rate: int, to_rate: int) -> Any:
    """Resample over the last dimension with torchaudio's windowed sinc (Hann, width 6, rolloff 0.99).

    A tensor is resampled on its device.

    Returns:
        (..., ceil(samples * to_rate / from_rate)), array or tensor as the input. Equal rates return the input itself.

    Raises:
        UserError: if a rate is not positive.
    """
    if from_rate <= 0 or to_rate <= 0:
        raise UserError(f"Cannot resample from {from_rate} Hz to {to_rate} Hz: rates are positive numbers of Hz.")
    if from_rate == to_rate:
        return waveform
    if isinstance(waveform, np.ndarray):
        step_in, step_out = _steps(from_rate, to_rate)
        if step_out * (step_in + 2 * _kernel_half_width(step_in, step_out)) > MAX_KERNEL_TAPS:
            return _resample_odd_rates(waveform, step_in, step_out)
        import torch

        with torch.inference_mode():
            return resample(torch.from_numpy(np.ascontiguousarray(waveform)), from_rate, to_rate).numpy()
    import torch

    with torch.autocast(waveform.device.type, enabled=False):
        return _resampler(from_rate, to_rate, str(waveform.device))(waveform)


def list_audio(folder: Path | str) -> list[Path]:
    """All audio files below a folder but hidden ones, in natural order (clip2 before clip10); see `walk_files`.

    Raises:
        UserError: if the folder does not exist or holds no audio file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = f"{folder} is a file" if folder.exists() else f"There is no folder {folder}"
        raise UserError(f"{found}; give a folder that holds audio files.")
    paths = [path for path in walk_files(folder) if path.suffix.lower() in ENDINGS]
    if not paths:
        raise UserError(
            f"{folder} holds no audio file (looked for {', '.join(sorted(ENDINGS))}, also in its subfolders)."
        )
    return sorted(paths, key=natural_key)


def refuse_no_audio(folder: Path, setting: str, advice: str = "") -> None:
    """Refuse the folder of a setting if it is missing or holds no audio file."""
    try:
        list_audio(folder)
    except UserError as error:
        raise UserError(f"{setting}: {error} {advice}".rstrip()) from None


def write_wav(path: Path | str, waveform: Waveform, sample_rate: int, subtype: str = "PCM_24") -> None:
    """Write a wav file, whole or not at all.

    The waveform is (samples,) or (channels, samples); the subtype "PCM_16", "PCM_24" or "FLOAT".

    Raises:
        ValueError: if a sample is not finite, or beyond -1..1 with an integer subtype, which would clip it.
    """
    if not np.isfinite(waveform).all():
        raise ValueError(f"{path}: the waveform holds a sample that is not a finite number")
    peak = float(np.abs(waveform).max(initial=0))
    if subtype.startswith("PCM") and peak > 1:
        raise ValueError(f"{path}: the waveform reaches {peak:.3f}, {subtype} ends at 1; scale it first")
    with atomic_path(Path(path)) as temporary:
        soundfile.write(temporary, np.asarray(waveform).T, sample_rate, subtype=subtype, format="WAV")


def _open(path: Path, content: bytes | None = None, to_the_end: bool = False) -> soundfile.SoundFile:
    if content is None and not path.is_file():
        what = "is a folder, not an audio file" if path.is_dir() else "does not exist"
        if path.is_symlink() and not path.exists():
            what = f"is a link to {path.readlink()}, which does not exist"
        raise AudioError(f"{path} {what}.")
    if (path.stat().st_size if content is None else len(content)) == 0:
        raise AudioError(f"{path} is empty (0 bytes); copy or download it again.")
    try:
        file = Decoder(path if content is None else io.BytesIO(content))
    except PermissionError as error:
        raise AudioError(f"{path} may not be read: {error.strerror}.") from error
    except UnicodeEncodeError as error:
        raise AudioError(f"The name of {path} is no UTF-8; rename the file.") from error
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a .raw file, which has no header
        raise AudioError(f"{path} cannot be read as audio ({_reason(error)}); copy or download it again.") from error
    try:
        with path.open("rb") if content is None else io.BytesIO(content) as stream:
            whole = repaired(stream, file, to_the_end)
        if whole is not None:
            file.close()
            file = Decoder(whole)
        if file.frames == 0:
            raise AudioError(f"{path} holds no sample; copy or download it again, or leave it out of the table.")
    except LengthError as error:
        file.close()
        raise AudioError(f"{path} {error}; copy or download it again.") from error
    except BaseException:
        file.close()
        raise
    return file


def _refuse_other(path: Path, file: soundfile.SoundFile, rate: int | None, channels: int | None) -> None:
    if rate is not None and file.samplerate != rate:
        raise AudioError(
            f"{path} is sampled at {file.samplerate} Hz, expected {rate} Hz; restore the original file, "
            "or resample it first."
        )
    if channels is not None and file.channels != channels:
        raise AudioError(f"{path} has {file.channels} channels, expected {channels}; restore the original file.")


def _decode(path: Path, file: soundfile.SoundFile, first: int, count: int, block: int = BLOCK) -> Iterator[Waveform]:
    """`count` samples from `first` on as mono blocks, the last one shorter; whole and finite."""
    try:
        if first and soundfile.SoundFile.seekable(file):
            file.seek(first)
        elif first:
            file.read(first)
        end = first + count
        for place in range(first, end, block):
            wanted = min(block, end - place)
            samples = file.read(wanted, dtype="float32", always_2d=True)
            _refuse_values(path, file, samples, place)
            if len(samples):
                yield as_mono(samples)
            if len(samples) < wanted:
                missing = end - place - len(samples)
                if missing > (MP3_SLACK if file.format == "MP3" else 0) or place + len(samples) == first:
                    raise AudioError(
                        f"{path} is cut off: decoding ended {missing} samples early, at "
                        f"{(place + len(samples)) / file.samplerate:.3f} s; copy or download it again."
                    )
                return
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path} is damaged ({_reason(error)}); copy or download it again.") from error


def _refuse_values(path: Path, file: soundfile.SoundFile, samples: Waveform, first: int) -> None:
    """Refuse samples that are no numbers, and whole numbers written as float."""
    peak = max(samples.max(initial=0), -samples.min(initial=0))
    if peak <= LOUDEST:
        return
    time = (first + int(np.flatnonzero(~(np.abs(samples) <= LOUDEST).all(axis=1))[0])) / file.samplerate
    if not np.isfinite(peak):
        raise AudioError(
            f"{path} holds a sample that is not a finite number (NaN or infinite) at {time:.3f} s; make the file again."
        )
    raise AudioError(
        f"{path} reaches {peak:g} at {time:.3f} s, full scale is 1; if it holds whole numbers written as float, divide "
        "them by 32768 (16 bit) and make the file again."
    )


def as_mono(waveform: Waveform) -> Waveform:
    """The mean over channels (samples,) of a waveform (samples, channels)."""
    return waveform[:, 0].copy() if waveform.shape[1] == 1 else waveform.mean(axis=1, dtype=np.float32)


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None) or str(error)
    return text.removeprefix("Error : ").strip().rstrip(".")


def _steps(from_rate: int, to_rate: int) -> tuple[int, int]:
    divisor = math.gcd(from_rate, to_rate)
    return from_rate // divisor, to_rate // divisor


def _kernel_half_width(step_in: int, step_out: int) -> int:
    """Input samples on each side that contribute to an output sample."""
    return math.ceil(LOWPASS_FILTER_WIDTH * step_in / (min(step_in, step_out) * ROLLOFF))


@lru_cache(maxsize=16)
def _resampler(from_rate: int, to_rate: int, device: str) -> Any:
    import torchaudio

    transform = torchaudio.transforms.Resample(
        from_rate, to_rate, lowpass_filter_width=LOWPASS_FILTER_WIDTH, rolloff=ROLLOFF
    )
    return transform.to(device)


def _resample_odd_rates(waveform: Waveform, step_in: int, step_out: int) -> Waveform:
    """The same windowed sinc for rates with a small common divisor: one filter at the rate step_in * step_out."""
    from scipy.signal import resample_poly

    cutoff = min(step_in, step_out) * ROLLOFF
    reach = math.ceil(LOWPASS_FILTER_WIDTH * step_in * step_out / cutoff)
    position = np.arange(-reach, reach + 1) / (step_in * step_out) * cutoff
    position = np.clip(position, -LOWPASS_FILTER_WIDTH, LOWPASS_FILTER_WIDTH)
    kernel = np.sinc(position) * np.cos(position * np.pi / LOWPASS_FILTER_WIDTH / 2) ** 2 * cutoff / step_in
    # resample_poly multiplies the kernel by step_out.
    filtered = resample_poly(waveform.astype(np.float64), step_out, step_in, axis=-1, window=kernel / step_out)
    return filtered.astype(np.float32)


def natural_key(name: Path | str) -> list[tuple[int, str]]:
    """Sorts clip2 before clip10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(name)) if part]


@dataclass(frozen=True)
class ReadClip:
    """Reads the clip of a table row; refuses another length, and another rate or number of channels.

    The column ``filename`` is relative to `root`. `sample_rate` and `num_samples` are of the result; None in
    `expected_rate` and `expected_channels` allows any.
    """

    root: Path
    sample_rate: int
    num_samples: int
    expected_rate: int | None = None
    expected_channels: int | None = None

    def __call__(self, row: dict) -> Waveform:
        """(num_samples,)."""
        path = Path(self.root) / row["filename"]
        waveform = read_audio(
            path, self.sample_rate, expected_rate=self.expected_rate, expected_channels=self.expected_channels
        )
        if len(waveform) != self.num_samples:
            raise AudioError(
                f"{path} lasts {len(waveform) / self.sample_rate:.4f} s, "
                f"expected {self.num_samples / self.sample_rate:.4f} s; copy or download it again."
            )
        return waveform
