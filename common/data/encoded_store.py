"""Large compressed data sets in HDF5: encoded files, decoded when they are read.

    audio_name   (clips,) bytes such as b"Y--4gqARaEJE.mp3"; the unbalanced files of AudioSet put a folder in front
    mp3          (clips,) variable-length uint8, each a whole encoded file (mp3, or another format of libsndfile)
    target       (clips, bytes) uint8, optional: numpy.packbits of the labels

The layout of PaSST, EfficientAT and PretrainedSED (kkoutini/PaSST, audioset/prepare_scripts): their files are read
here, and they read ours. For outputs of teachers see keyed_outputs.py.
"""

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import soundfile
from numpy.typing import NDArray
from torch.utils.data import Dataset

from common.data.audio import Waveform, read_audio
from common.data.files import atomic_path, human_size
from common.data.keyed_outputs import KeyIndex, open_hdf5, read_names, require_room
from common.data.loading import empty_batch
from common.errors import UserError
from common.output import Progress


@dataclass
class EncodedReport:
    """Result of `pack_encoded`."""

    path: Path
    num_clips: int = 0
    num_bytes: int = 0
    missing: list[str] = field(default_factory=list)
    """Files that do not exist."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Files that cannot be decoded, with the reason in a sentence."""

    def __str__(self) -> str:
        parts = [f"{self.path}: {self.num_clips:,} clips, {human_size(self.num_bytes)}"]
        if self.missing:
            parts.append(f"{len(self.missing):,} files are missing (first {self.missing[0]})")
        if self.unreadable:
            parts.append(f"{len(self.unreadable):,} files cannot be read (first: {_first(self).rstrip('.')})")
        return "; ".join(parts) + "."


def pack_encoded(
    files: Iterable[Path],
    out: Path,
    targets: NDArray | None = None,
    names: Sequence[str] | None = None,
    *,
    encode_rate: int | None = None,
    encode_format: Literal["mp3", "flac"] = "mp3",
    strict: bool = False,
    quiet: bool = False,
) -> EncodedReport:
    """Put encoded files into one HDF5 file, whole or not at all. Broken and missing files are left out.

    Args:
        files: in the order of the rows. Each is decoded once as a check.
        targets: (files, classes) of 0 and 1, stored as packed bits.
        names: of the clips; None takes the names of the files.
        encode_rate: Hz; encodes each file anew, mono, at this rate. None stores the files byte for byte.
        encode_format: of files that are encoded anew: mp3, or flac, six times as large and lossless but for 16 bits.
        strict: refuse missing and broken files instead.

    Raises:
        UserError: if no file can be read (`strict`: if one cannot), or two clips have the same name.
    """
    files = [Path(path) for path in files]
    called = [path.name for path in files] if names is None else list(names)
    if len(called) != len(files) or (targets is not None and len(targets) != len(files)):
        counts = f"{len(files)} files, {len(called)} names, {len(files) if targets is None else len(targets)} targets"
        raise ValueError(f"names and targets are one for each file, not {counts}")
    KeyIndex(called, "The list of files to pack")
    report = EncodedReport(Path(out))
    kept: list[int] = []
    with atomic_path(Path(out)) as temporary, h5py.File(temporary, "w") as file:
        rows = file.create_dataset("mp3", (len(files),), maxshape=(None,), dtype=h5py.vlen_dtype(np.dtype("uint8")))
        with Progress("Packing", len(files), quiet=quiet) as progress:
            for index, path in enumerate(files):
                encoded = _encoded(path, encode_rate, encode_format, report)
                if encoded is None and strict:
                    raise UserError(_first(report))
                if encoded is not None:
                    require_room(temporary, len(encoded))
                    rows[len(kept)] = np.frombuffer(encoded, dtype=np.uint8)
                    kept.append(index)
                    report.num_bytes += len(encoded)
                progress.advance()
        if not kept:
            raise UserError(f"None of the {len(files)} files can be read, so {out} was not written. {_first(report)}")
        rows.resize(len(kept), axis=0)
        file.create_dataset("audio_name", data=np.array([called[index].encode() for index in kept]))
        if targets is not None:
            file.create_dataset("target", data=np.packbits(np.asarray(targets, dtype=bool)[kept], axis=1))
    report.num_clips = len(kept)
    return report


class EncodedClips(Dataset):
    """Clips of such files, decoded when they are read. Each process opens the files itself, after fork or spawn.

    Items are dicts: ``waveform`` float32 (samples,), mono, cut to `seconds` or padded with zeros; ``filename``;
    ``index`` (position in this data set). The key of an item is its index, for the beginning of a longer clip, or
    (index, seed), for a part that the seed chooses.

    Args:
        seconds: of every waveform; None keeps each clip's length, in batches of one.
        names: the clips and their order, with or without ".mp3"; None takes all.

    Raises:
        UserError: if a file is missing, cut off or of another layout, a clip is doubled, or one of `names` is missing.
    """

    def __init__(
        self, paths: Sequence[Path], sample_rate: int, seconds: float | None = 10.0, names: Sequence[str] | None = None
    ):
        self.paths = [Path(path) for path in paths]
        self.sample_rate = sample_rate
        self.num_samples = None if seconds is None else round(seconds * sample_rate)
        stored = [read_clip_names(path) for path in self.paths]
        starts = np.cumsum([0, *map(len, stored)])
        where = str(self.paths[0]) if len(self.paths) == 1 else f"{self.paths[0]} with {len(self.paths) - 1} more"
        self._keys = KeyIndex((name for part in stored for name in part), where)
        rows = np.arange(starts[-1]) if names is None else self._keys.rows(names)
        self._file_of = np.searchsorted(starts, rows, side="right") - 1
        self._row_in_file = rows - starts[self._file_of]
        self._rows = rows
        self._open: dict[int, h5py.Dataset] = {}  # which keep their files open
        self._process = os.getpid()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def filenames(self) -> list[str]:
        """Names of the items as stored, without folder and ending."""
        return [self._keys.key(row) for row in self._rows]

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        batch = self.gather([index])
        return {"waveform": batch["waveform"][0], "filename": batch["filename"][0], "index": int(batch["index"][0])}

    def gather(self, indices: Sequence[int | tuple[int, int]]) -> dict[str, Any]:
        """A batch: ``waveform`` float32 (batch, samples), ``filename`` (list), ``index`` int64 (batch,)."""
        import torch

        pairs = [index if isinstance(index, tuple) else (index, None) for index in indices]
        if self.num_samples is None:
            if len(pairs) > 1:
                raise ValueError("clips of their own length come in batches of one")
            waveforms = torch.from_numpy(self._read(int(pairs[0][0]), None))[None]
        else:
            waveforms = empty_batch(len(pairs), self.num_samples)
            for row, (place, seed) in enumerate(pairs):
                waveforms[row] = torch.from_numpy(self._read(int(place), seed))
        return {
            "waveform": waveforms,
            "filename": [self._keys.key(self._rows[place]) for place, _ in pairs],
            "index": torch.tensor([place for place, _ in pairs], dtype=torch.int64),
        }

    def packed_targets(self, num_classes: int) -> NDArray[np.uint8]:
        """(clips, bytes) of `numpy.packbits` over classes.

        Raises:
            UserError: if a file has no targets, or targets of another number of classes.
        """
        parts = []
        for path in self.paths:
            with open_hdf5(path) as file:
                if "target" not in file:
                    raise UserError(f"{path} has no targets; pack it with a table of labels.")
                packed = file["target"][:]
            # The bits after the last class must be 0: 520 classes fit into as many bytes as 513.
            fits = packed.dtype == np.uint8 and packed.shape[1] == -(-num_classes // 8)
            if not fits or np.unpackbits(packed, axis=1)[:, num_classes:].any():
                raise UserError(
                    f"{path}: targets of shape {packed.shape} are not packed bits of {num_classes} classes; "
                    "take the table of classes that it was packed with."
                )
            parts.append(packed)
        return np.concatenate(parts)[self._rows]

    def _read(self, index: int, seed: int | None) -> Waveform:
        name = f"{self._keys.key(self._rows[index])} in {self.paths[self._file_of[index]]}"
        seconds = None if self.num_samples is None or seed is not None else self.num_samples / self.sample_rate
        waveform = read_audio(name, self.sample_rate, duration=seconds, content=self.encoded(index).tobytes())
        if self.num_samples is None:
            return waveform
        longer = len(waveform) - self.num_samples
        if longer > 0:
            start = 0 if seed is None else int(np.random.default_rng(seed).integers(longer + 1))
            return waveform[start : start + self.num_samples]
        return waveform if longer == 0 else np.pad(waveform, (0, -longer))

    def encoded(self, index: int) -> NDArray[np.uint8]:
        """Bytes of the encoded file of an item."""
        number = int(self._file_of[index])
        if self._process != os.getpid():  # the parent's handles must be neither used nor closed
            self._open, self._process = {}, os.getpid()
        if number not in self._open:
            self._open[number] = open_hdf5(self.paths[number])["mp3"]
        try:
            return self._open[number][int(self._row_in_file[index])]
        except OSError as error:
            name = self._keys.key(self._rows[index])
            raise UserError(f"{self.paths[number]} is damaged where {name} lies; download or pack it again.") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}


def encode_audio(waveform: Waveform, sample_rate: int, encode_format: str = "mp3") -> bytes:
    """A mono mp3 or flac file of a waveform (samples,)."""
    subtype = {"mp3": "MPEG_LAYER_III", "flac": "PCM_16"}[encode_format]
    if (peak := float(np.abs(waveform).max())) > 1:  # resampling may overshoot, and 16 bits clip
        waveform = waveform / peak
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, sample_rate, format=encode_format.upper(), subtype=subtype)
    return buffer.getvalue()


def _encoded(path: Path, encode_rate: int | None, encode_format: str, report: EncodedReport) -> bytes | None:
    if not path.is_file():
        report.missing.append(str(path))
        return None
    try:
        if encode_rate is not None:
            return encode_audio(read_audio(path, encode_rate), encode_rate, encode_format)
        encoded = path.read_bytes()
        read_audio(path, content=encoded)
        return encoded
    except UserError as error:
        report.unreadable[str(path)] = str(error)
        return None


def read_clip_names(path: Path) -> list[str]:
    """Names of the clips of a file.

    Raises:
        UserError: if it is no file of encoded clips.
    """
    with open_hdf5(path) as file:
        if "audio_name" not in file or "mp3" not in file:
            raise UserError(
                f"{path} is no file of encoded clips: it needs audio_name and mp3, it has {', '.join(file)}."
            )
        names = read_names(file, "audio_name")
        if len(names) != len(file["mp3"]):
            raise UserError(f"{path} names {len(names)} clips but holds {len(file['mp3'])}; pack it again.")
    return names


def _first(report: EncodedReport) -> str:
    if report.unreadable:
        return next(iter(report.unreadable.values()))
    return f"{report.missing[0]} does not exist." if report.missing else "There are none."
