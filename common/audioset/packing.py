"""Pack clips of AudioSet into HDF5 files by its segment tables, and check such files."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.audioset.tables import SPLITS, Segment, read_classes, read_segments, segment_targets
from common.data.audio import ENDINGS
from common.data.encoded_store import EncodedClips, EncodedReport, pack_encoded
from common.data.files import atomic_write, walk_files
from common.data.keyed_outputs import clip_key
from common.errors import UserError
from common.output import say

CLIPS_PER_FILE = 50_000
OFFICIAL_CLIPS = {"balanced_train": 22_160, "unbalanced_train": 2_041_789, "eval": 20_371}


@dataclass
class SplitReport:
    """Result of packing a split."""

    split: str
    segments: int
    files: list[EncodedReport] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    """Complete files of an earlier call."""
    not_found: list[str] = field(default_factory=list)
    """Videos without a clip in the folder."""
    list_of_missing: Path = Path()
    """Table of missing and broken clips."""

    @property
    def num_broken(self) -> int:
        """Clips that cannot be decoded."""
        return sum(len(report.unreadable) for report in self.files)

    def __str__(self) -> str:
        clips, broken = sum(report.num_clips for report in self.files), self.num_broken
        text = f"{self.split}: {clips:,} clips packed into {len(self.files)} files"
        text += f", {len(self.kept)} files kept" if self.kept else ""
        return text + f"; of {self.segments:,} segments {len(self.not_found):,} have no clip, {broken:,} are broken."


def pack_split(
    root: Path,
    audio: Path,
    split: str,
    encode_rate: int | None = None,
    clips_per_file: int = CLIPS_PER_FILE,
    quiet: bool = False,
) -> SplitReport:
    """Pack the clips of a split into `root`/SPLIT_segments_mp3.hdf, or into several files, ..._mp3_000.hdf and so on.

    After an interruption the next call starts with the first unfinished file. Missing and broken clips are listed in
    `root`/SPLIT_segments_missing.csv.

    Args:
        root: folder of the tables.
        audio: folder of the clips, also in subfolders: Y<video>.mp3, or <video> with any ending that soundfile reads.
        encode_rate: encode every clip as mp3 of this rate in Hz; None stores the clips' bytes.
    """
    classes = read_classes(root)
    segments = read_segments(root, split, classes)
    report = SplitReport(split, len(segments), list_of_missing=Path(root) / f"{split}_segments_missing.csv")
    clips = _find_clips(audio)
    parts = [segments[first : first + clips_per_file] for first in range(0, len(segments), clips_per_file)]
    for number, part in enumerate(parts):
        part_name = "" if len(parts) == 1 else f"_{number:03d}"
        out = Path(root) / f"{split}_segments_mp3{part_name}.hdf"
        found = [segment for segment in part if segment.name in clips]
        report.not_found += [segment.video for segment in part if segment.name not in clips]
        if not found:
            continue
        if _is_whole(out, found):
            report.kept.append(out)
            continue
        say(f"{out}: {len(found):,} clips")
        files, names = [clips[segment.name] for segment in found], [f"{segment.name}.mp3" for segment in found]
        targets = segment_targets(found, len(classes))
        report.files.append(pack_encoded(files, out, targets, names, encode_rate=encode_rate, quiet=quiet))
    if not report.files and not report.kept:
        raise UserError(f"{audio} holds none of the {len(segments):,} clips of {split}; they are called Y<video>.mp3.")
    videos = {str(clips[segment.name]): segment.video for segment in segments if segment.name in clips}
    with atomic_write(report.list_of_missing) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["clip", "reason"])
        writer.writerows([video, "no file"] for video in report.not_found)
        for packed in report.files:
            writer.writerows([videos[file_name], "no file"] for file_name in packed.missing)
            writer.writerows([videos[file_name], sentence] for file_name, sentence in packed.unreadable.items())
    return report


def check_audioset(root: Path, decode: int = 100, seed: int = 0) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare the HDF5 files with the segment tables, and decode some clips.

    Args:
        decode: how many clips of each split are decoded, drawn at random.

    Returns:
        A row for each split (segments, clips, official number, missing), and one sentence per problem. Missing clips
        are no problem: every copy lacks clips that are no longer on YouTube.
    """
    classes = read_classes(root)
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for split in SPLITS:
        paths = sorted(Path(root).glob(f"{split}_segments_mp3*.hdf"))
        table = Path(root) / f"{split}_segments.csv"
        if not paths and not table.is_file():
            continue
        row: dict[str, Any] = {"split": split, "files": len(paths), "clips": 0}
        try:
            segments = read_segments(root, split, classes) if table.is_file() else []
            row |= {"segments": len(segments), "official": OFFICIAL_CLIPS[split]}
            if paths:
                row |= _compare(paths, segments, len(classes), decode, seed, problems)
                row["missing"] = max(0, len(segments) - row["clips"]) if segments else None
            else:
                problems.append(f"{split}: there is a table but no HDF5 file; make it with `audioset pack`.")
        except UserError as error:
            problems.append(str(error))
        rows.append(row)
    if not rows:
        raise UserError(f"{root} holds neither segment tables nor HDF5 files of AudioSet.")
    return rows, problems


def _compare(
    paths: Sequence[Path], segments: Sequence[Segment], num_classes: int, decode: int, seed: int, problems: list[str]
) -> dict[str, Any]:
    """Clips and decoded clips of a split; adds sentences to `problems`."""
    clips = EncodedClips(paths, 32000)
    packed = clips.packed_targets(num_classes)
    if segments:
        place = {segment.name: row for row, segment in enumerate(segments)}
        rows = np.array([place.get(name, -1) for name in clips.filenames])
        if (strangers := np.flatnonzero(rows < 0)).size:
            name = clips.filenames[strangers[0]]
            problems.append(f"{paths[0].name}: {strangers.size:,} clips are in no segment (first {name}); pack again.")
        known = np.flatnonzero(rows >= 0)
        expected = np.packbits(segment_targets([segments[row] for row in rows[known]], num_classes), axis=1)
        if (other := np.flatnonzero((packed[known] != expected).any(axis=1))).size:
            name = clips.filenames[known[other[0]]]
            problems.append(
                f"{paths[0].name}: {other.size:,} clips have other labels than the table (first {name}); pack again, "
                "or restore the tables that it was packed with."
            )
    drawn = np.random.default_rng(seed).permutation(len(clips))[:decode]
    for index in drawn.tolist():
        try:
            clips[index]
        except UserError as error:
            problems.append(str(error))
    return {"clips": len(clips), "decoded": len(drawn)}


def _find_clips(audio: Path) -> dict[str, Path]:
    """Clips below a folder by name with the Y in front."""
    if not Path(audio).is_dir():
        raise UserError(f"There is no folder {audio}; give the one that holds the clips.")
    found: dict[str, Path] = {}
    for path in walk_files(Path(audio)):
        if path.suffix.lower() in ENDINGS:
            name = clip_key(path.name)
            # A video's name has eleven characters and may itself begin with Y.
            found[name if name.startswith("Y") and len(name) != 11 else f"Y{name}"] = path
    return found


def _is_whole(out: Path, segments: Sequence[Segment]) -> bool:
    """Whether a file holds all the clips; one that lacks broken clips is packed again, they may have been mended."""
    try:
        return EncodedClips([out], 32000).filenames == [segment.name for segment in segments]
    except UserError:
        return False
