"""`data check_strong` and `data pack_strong`: AudioSet strong checked for missing clips, and packed into HDF5 files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.data.audio import AudioError, list_audio
from common.data.check_report import CheckReport
from common.data.encoded_store import EncodedClips, EncodedReport, pack_encoded
from common.data.files import is_made_up, read_marker
from common.data.keyed_outputs import clip_key
from common.errors import UserError
from common.output import Progress, print_table
from task4_sed.labels import CLIP_SECONDS, SAMPLE_RATE
from task4_sed.pretraining.clips import audio_files, names_in, read_evaluation_durations
from task4_sed.pretraining.settings import StrongDataSettings
from task4_sed.pretraining.tables import StrongEvents, read_strong_table

PUBLISHED = {"training": 103_463, "evaluation": 16_996}
SHOWN_CLASSES = 15


@dataclass
class StrongReport(CheckReport):
    """Result of `check_strong`.

    classes: with the largest share of missing clips. missing: names, by part. missing_by_class: missing and listed
    clips, by part and class.
    """

    classes: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, list[str]] = field(default_factory=dict)
    missing_by_class: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)

    def print_tables(self) -> None:
        """Print the counts, and the classes that miss most."""
        super().print_tables()
        if self.classes:
            print_table(self.classes, title="Classes with the largest share of missing clips")


def check_strong(root: Path, decode: bool = False) -> StrongReport:
    """Compare the clips with the tables, and the tables with the published (or made-up) numbers; may decode all."""
    data = StrongDataSettings(root=Path(root))
    report = StrongReport(Path(root), is_made_up(root))
    parts = {"training": (data.train_table, data.train_audio), "evaluation": (data.eval_table, data.eval_audio)}
    for name, (table, pattern) in parts.items():
        try:
            events = read_strong_table(data.root / table)
        except UserError as error:
            report.problems.append(str(error))
            continue
        found = _check_part(report, name, events, data.root, pattern)
        if decode:
            report.problems += _undecodable(audio_files(data.root, pattern), [events.clips[row] for row in found])
        if name == "evaluation":
            try:
                read_evaluation_durations(data, [events.clips[row] for row in found])
            except UserError as error:
                report.problems.append(str(error))
    report.classes.sort(key=lambda row: (-row["missing"] / row["listed"], row["class"]))
    report.classes = report.classes[:SHOWN_CLASSES]
    return report


def pack_strong(audio: Path, root: Path, encode_rate: int | None = None) -> list[EncodedReport]:
    """Pack the clips of a folder that the tables list into train_segments_mp3.hdf and eval_segments_mp3.hdf.

    Names may lack the "Y" in front. `root` has the tables and receives the HDF5 files. `encode_rate`: sample rate in Hz
    to encode mp3 at; None stores the files unchanged.
    """
    data = StrongDataSettings(root=Path(root))
    paths = {}
    for path in list_audio(audio):
        key = clip_key(path.name)
        paths[key if key.startswith("Y") and len(key) == 12 else f"Y{key}"] = path
    reports = []
    for table, name in ((data.train_table, "train_segments_mp3.hdf"), (data.eval_table, "eval_segments_mp3.hdf")):
        events = read_strong_table(data.root / table)
        there = [clip for clip in events.clips if clip in paths]
        if not there:
            raise UserError(f"{audio} has none of the {len(events):,} clips of {table}, such as {events.clips[0]}.mp3.")
        names = [f"{clip}.mp3" for clip in there]
        files = [paths[clip] for clip in there]
        reports.append(pack_encoded(files, data.root / name, names=names, encode_rate=encode_rate))
    return reports


def _check_part(report: StrongReport, name: str, events: StrongEvents, root: Path, pattern: str) -> np.ndarray:
    try:
        found = names_in(audio_files(root, pattern)).rows(events.clips, allow_missing=True) >= 0
    except UserError as error:
        report.problems.append(str(error))
        found = np.zeros(len(events), dtype=bool)
    absent = [events.clips[row] for row in np.flatnonzero(~found)]
    published = PUBLISHED[name]
    if report.made_up:
        numbers = read_marker(report.root)["numbers"]
        published = sum(count for part, count in numbers.items() if ("eval" in part) == (name == "evaluation"))
    row = {"part": name, "published": published, "listed": len(events), "there": int(found.sum())}
    report.rows.append(row | {"missing": len(absent), "events": len(events.label)})
    report.missing[name] = absent
    listed = _clips_of_classes(events, np.ones(len(events), dtype=bool))
    missing = _clips_of_classes(events, ~found)
    counts = {events.classes[index]: (int(missing[index]), int(listed[index])) for index in np.flatnonzero(missing)}
    report.missing_by_class[name] = counts
    report.classes += [
        {"part": name, "class": label, "missing": lost, "listed": whole} for label, (lost, whole) in counts.items()
    ]
    if absent:
        report.problems.append(
            f"{len(absent):,} of {len(events):,} {name} clips have no audio (first {absent[0]}); --json names all. "
            "Trainings continue without them with --data.allow_missing true."
        )
    if len(events) != published:
        report.problems.append(f"The {name} table lists {len(events):,} clips, published are {published:,}.")
    return np.flatnonzero(found)


def _clips_of_classes(events: StrongEvents, chosen: np.ndarray) -> np.ndarray:
    """(classes,) number of the chosen clips that have an event of the class."""
    clip = events.clip_of_event()
    pairs = np.unique(np.stack([clip, events.label])[:, chosen[clip]], axis=1)
    return np.bincount(pairs[1], minlength=len(events.classes))


def _undecodable(paths: Sequence[Path], names: Sequence[str]) -> list[str]:
    clips = EncodedClips(paths, SAMPLE_RATE, CLIP_SECONDS, names)
    damaged = []
    with Progress("Decoding", len(clips)) as progress:
        for index in range(len(clips)):
            try:
                clips.gather([index])
            except AudioError as error:
                damaged.append(str(error))
            progress.advance()
    return [f"{damaged[0]} {len(damaged)} of {len(clips)} clips are like this."] if damaged else []
