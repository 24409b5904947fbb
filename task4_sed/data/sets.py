"""The DESED and MAESTRO Real tree of DCASE 2024 Task 4: where each set lies, what it holds, and what is missing.

ROOT is the folder that the official recipe calls data/dcase/dataset. A set's audio may lie in the folder of the table
below, at any rate, or in one beside it with the ending `_16k`, as the official recipe makes it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from common.data.audio import ENDINGS, Waveform, audio_info, read_audio
from common.data.loading import PackReport, pack
from common.data.made_up import MARKER, is_made_up, read_marker
from common.data.tables import read_tsv
from common.errors import UserError, unknown
from task4_sed.data.annotations import Annotations, clip_name, read_durations, read_events
from task4_sed.data.maestro import recording_of
from task4_sed.labels import CLASSES, CLIP_SAMPLES, SAMPLE_RATE, Domain, refuse_unknown_labels

Kind = Literal["strong", "soft", "weak", "unlabeled"]


@dataclass(frozen=True)
class SetLayout:
    """Where a set lies below the root, and how many clips were published.

    audio: folders, the first that exists counts. labels: table of strong, soft or weak labels, or a list of clips.
    durations: table of seconds. clips: published number; None where it is not known.
    """

    audio: tuple[str, ...]
    kind: Kind
    domain: Domain = "desed"
    labels: str | None = None
    durations: str | None = None
    clips: int | None = None
    optional: bool = False


_SYNTH_TRAIN = "train/synthetic21_train/soundscapes"
_SYNTH_VALIDATION = "validation/synthetic21_validation/soundscapes"

SETS = {
    "weak": SetLayout(("audio/train/weak",), "weak", labels="metadata/train/weak.tsv", clips=1578),
    "unlabeled": SetLayout(
        ("audio/train/unlabel_in_domain",), "unlabeled", labels="metadata/train/unlabel_in_domain.tsv", clips=14412
    ),
    "synthetic_train": SetLayout(
        (f"dcase_synth/audio/{_SYNTH_TRAIN}",), "strong", labels=f"dcase_synth/metadata/{_SYNTH_TRAIN}.tsv", clips=10000
    ),
    "synthetic_validation": SetLayout(
        (f"dcase_synth/audio/{_SYNTH_VALIDATION}", f"audio/{_SYNTH_VALIDATION}"),
        "strong",
        labels=f"dcase_synth/metadata/{_SYNTH_VALIDATION}.tsv",
        durations="dcase_synth/metadata/validation/synthetic21_validation/durations.tsv",
        clips=2500,
    ),
    "strong": SetLayout(
        ("audio/train/strong_label_real",), "strong", labels="metadata/train/audioset_strong.tsv", clips=3470
    ),
    "external_strong": SetLayout(  # more of AudioSet strong, chosen and parted by the winner of 2024
        ("audio/external_strong",),
        "strong",
        labels="metadata/train/external_audioset_strong_train.tsv",
        optional=True,
    ),
    "external_strong_validation": SetLayout(
        ("audio/external_strong",),
        "strong",
        labels="metadata/validation/external_audioset_strong_eval.tsv",
        durations="metadata/validation/external_audioset_strong_dur.tsv",
        optional=True,
    ),
    "validation": SetLayout(
        ("audio/validation/validation",),
        "strong",
        labels="metadata/validation/validation.tsv",
        durations="metadata/validation/validation_durations.tsv",
        clips=1168,
    ),
    "maestro_train": SetLayout(
        ("audio/maestro_real_train",), "soft", "maestro", labels="metadata/maestro_real_train.tsv", clips=7503
    ),
    "maestro_validation": SetLayout(
        ("audio/maestro_real_validation",),
        "soft",
        "maestro",
        labels="metadata/maestro_real_validation.tsv",
        durations="metadata/maestro_real_durations.tsv",
        clips=718,
    ),
    "public_evaluation": SetLayout(
        ("eval/desed_public_eval/audio/eval/public",),
        "strong",
        labels="eval/desed_public_eval/metadata/eval/public.tsv",
        durations="eval/desed_public_eval/metadata/eval/public_durations.tsv",
        clips=692,
        optional=True,
    ),
    "eval24": SetLayout(("audio/eval24",), "unlabeled", optional=True),
}
NAMES_SHOWN = 5


@dataclass(frozen=True)
class ClipSet:
    """One set as it lies on disk.

    name: key of `SETS`. folder: of the audio. filenames: clips whose audio is there, sorted.
    events: columns clip (index into filenames), onset, offset, event_label and for soft labels confidence; of weak
        labels onset and offset are NaN.
    missing: clips that the table names and whose audio is not there.
    """

    name: str
    folder: Path
    filenames: tuple[str, ...]
    events: pd.DataFrame
    missing: tuple[str, ...] = ()

    @property
    def layout(self) -> SetLayout:
        """Where it lies, and of which kind its labels are."""
        return SETS[self.name]

    def __len__(self) -> int:
        return len(self.filenames)

    def select(self, indices: Sequence[int] | np.ndarray) -> "ClipSet":
        """Only these clips, with their events, in this order."""
        indices = np.asarray(indices, dtype=np.int64)
        place = np.full(len(self), -1)
        place[indices] = np.arange(len(indices))
        new = place[self.events["clip"].to_numpy(dtype=np.int64)]
        events = self.events[new >= 0].assign(clip=new[new >= 0]).reset_index(drop=True)
        names = tuple(self.filenames[index] for index in indices)
        return ClipSet(self.name, self.folder, names, events, self.missing)


def set_layout(name: str) -> SetLayout:
    """The layout of a set.

    Raises:
        UserError: for an unknown name, with the nearest ones.
    """
    if name not in SETS:
        raise unknown("set", name, SETS)
    return SETS[name]


def audio_folder(root: Path, name: str) -> Path:
    """The folder of a set's audio: the 16 kHz copy where there is one.

    Raises:
        UserError: if there is none.
    """
    places = [Path(root) / audio for audio in set_layout(name).audio]
    for place in places:
        for folder in (place.with_name(place.name + "_16k"), place):
            if folder.is_dir() and any(folder.iterdir()):
                return folder
    raise UserError(
        f"The audio of the set {name} is missing: there is no {places[0]}. `python -m task4_sed data download` says "
        f"how to get it, `python -m common synthesize task4_sed --root {root}` makes data up."
    )


def label_file(root: Path, name: str) -> Path | None:
    """The table of a set's labels or clips; None for a set that is a folder only."""
    labels = set_layout(name).labels
    return None if labels is None else Path(root) / labels


def read_set(root: Path, name: str, allow_missing: bool = False, classes: Collection[str] = CLASSES) -> ClipSet:
    """Clips and labels of a set.

    Args:
        root: see above.
        name: key of `SETS`.
        allow_missing: go on without clips whose audio is missing; the result names them.
        classes: labels that may occur besides those of DESED and MAESTRO.

    Raises:
        UserError: for a table that cannot be read (with file and line), labels that do not exist, soft labels outside
            0..1, and missing clips unless they are allowed.
    """
    layout, folder = set_layout(name), audio_folder(root, name)
    present = {path.name for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.name[0] != "."}
    path = label_file(root, name)
    if layout.kind == "unlabeled":
        listed = read_tsv(path, ["filename"])["filename"].tolist() if path and path.is_file() else sorted(present)
        events = no_events()
    elif layout.kind == "weak":
        listed, events = _read_weak(path, classes)
    else:
        listed, events = _read_strong(path, layout.kind, present, classes)
    names, missing = _with_audio(listed, present)
    if missing and not allow_missing:
        raise UserError(f"{missing_sentence(name, len(missing), len(listed), missing)} {HOW_TO_GO_ON}")
    if not names:
        raise UserError(f"{folder} holds none of the {len(listed)} clips of the set {name}.")
    order = {clip_name(filename): index for index, filename in enumerate(names)}
    index = events["clip"].map(order)
    events = events[index.notna()].assign(clip=index.dropna().astype(int)).reset_index(drop=True)
    return ClipSet(name, folder, tuple(names), events, tuple(missing))


HOW_TO_GO_ON = (
    "Ask the organisers for the files, or go on without them with `--data.allow_missing true`; scores then say so."
)


def missing_sentence(name: str, missing: int, listed: int, names: Sequence[str]) -> str:
    """What is missing of a set, with the first names."""
    more = f" and {missing - NAMES_SHOWN} more" if missing > NAMES_SHOWN else ""
    return f"{missing} of {listed} clips of the set {name} are missing: {', '.join(names[:NAMES_SHOWN])}{more}."


def published_clips(root: Path, name: str) -> int | None:
    """How many clips the whole set has: as published, or for made-up data as it was made; None where not known."""
    if is_made_up(root):
        return read_marker(Path(root)).get("numbers", {}).get(name)
    return set_layout(name).clips


def set_durations(root: Path, name: str) -> dict[str, float]:
    """Seconds by clip, or by recording for MAESTRO: of the set's table, or of its files where it has none."""
    table = set_layout(name).durations
    if table is not None and (Path(root) / table).is_file():
        return read_durations(Path(root) / table)
    folder = audio_folder(root, name)
    return {clip_name(file): seconds for file, seconds in file_durations(folder, sorted(_audio_names(folder))).items()}


def file_durations(folder: Path, filenames: Sequence[str]) -> dict[str, float]:
    """Seconds of each file, from its header.

    Raises:
        UserError: naming a file that is damaged.
    """
    return {name: audio_info(folder / name).duration for name in filenames}


def split_weak(clips: ClipSet, root: Path) -> tuple[ClipSet, ClipSet]:
    """Weak clips to train on and to validate on, as the baseline splits them.

    The draw is over the rows of the table, so missing clips do not change it.
    """
    path = label_file(root, "weak")
    assert path is not None
    chosen = split_filenames(read_tsv(path, ["filename"])["filename"])
    training = np.array([name in chosen for name in clips.filenames], dtype=bool)
    return clips.select(np.flatnonzero(training)), clips.select(np.flatnonzero(~training))


def split_filenames(filenames: Sequence[str], share: float = 0.9, seed: int = 42) -> set[str]:
    """The share of a table's file names to train on, by pandas' sample."""
    return set(pd.Series(filenames).sample(frac=share, random_state=seed))


def pack_set(
    root: Path, name: str, workers: int = 1, allow_missing: bool = False, classes: Collection[str] = CLASSES
) -> PackReport:
    """Pack a set at 16 kHz into `store_folder`; every clip is padded to the longest of the set, at least 10 s.

    Raises:
        UserError: as `read_set` and `common.data.packing.pack`.
    """
    clips = read_set(root, name, allow_missing, classes)
    seconds = file_durations(clips.folder, clips.filenames)
    check_lengths(clips, seconds)
    longest = max(CLIP_SAMPLES, *(round(value * SAMPLE_RATE) for value in seconds.values()))
    table = pd.DataFrame({"filename": clips.filenames, "duration": [seconds[file] for file in clips.filenames]})
    read = ReadPadded(clips.folder, min(longest, LONGEST_SAMPLES))
    store = store_folder(root, name)
    return pack(
        table, read, store, sample_rate=SAMPLE_RATE, num_samples=read.num_samples, root=clips.folder, workers=workers
    )


LONGEST_SAMPLES = 15 * SAMPLE_RATE
"""Of a packed clip; a set holds clips of about 10 s, and one file by mistake must not make the store huge."""


def check_lengths(clips: ClipSet, seconds: dict[str, float]) -> None:
    """Refuse labels that lie after the end of their file: one of the two belongs to another clip.

    Raises:
        UserError: naming the first clip.
    """
    events = clips.events
    duration = np.array([seconds[name] for name in clips.filenames])[events["clip"].to_numpy(dtype=np.int64)]
    late = np.flatnonzero(events["onset"].to_numpy(dtype=float) >= duration + 0.05)
    if len(late):
        event = events.iloc[late[0]]
        name = clips.filenames[int(event["clip"])]
        raise UserError(
            f"{clips.folder / name} lasts {seconds[name]:.2f} s, but {event['event_label']} is labelled from "
            f"{event['onset']:g} s on; the file is cut off, or the row is another clip's."
        )


def store_folder(root: Path, name: str) -> Path:
    """Where `pack_set` puts a set."""
    return Path(root) / "packed" / f"{name}_{SAMPLE_RATE}_int16"


@dataclass(frozen=True)
class ReadPadded:
    """Reads a clip as mono at 16 kHz, with zeros behind it up to `num_samples`; what is beyond is cut."""

    folder: Path
    num_samples: int

    def __call__(self, row: dict) -> Waveform:
        seconds = self.num_samples / SAMPLE_RATE
        waveform = read_audio(self.folder / row["filename"], SAMPLE_RATE, duration=seconds)[: self.num_samples]
        padded = np.zeros(self.num_samples, dtype=np.float32)
        padded[: len(waveform)] = waveform
        return padded


def is_made_up_data(root: Path) -> bool:
    """Whether the tree was made up."""
    return (Path(root) / MARKER).is_file()


def _with_audio(listed: Sequence[str], present: set[str]) -> tuple[list[str], list[str]]:
    """Files of the listed clips, sorted, and the clips without file; the audio ending may differ."""
    by_clip = {clip_name(name): name for name in present}
    names = dict.fromkeys(clip_name(name) for name in listed)
    found = sorted(by_clip[clip] for clip in names if clip in by_clip)
    return found, sorted(clip for clip in names if clip not in by_clip)


def _read_weak(path: Path | None, classes: Collection[str]) -> tuple[list[str], pd.DataFrame]:
    assert path is not None
    table = read_tsv(path, ["filename", "event_labels"], key="filename")
    labels = table["event_labels"].str.split(",").explode().str.strip()
    for row, name in labels.items():
        try:
            refuse_unknown_labels([name], classes)
        except UserError as error:
            raise UserError(f"{path}:{int(row) + 2}: {error}") from None
    names = table["filename"].map(clip_name)
    events = pd.DataFrame({"clip": names.loc[labels.index].to_numpy(), "event_label": labels.to_numpy()})
    return table["filename"].tolist(), events.assign(onset=np.nan, offset=np.nan)


def _read_strong(
    path: Path | None, kind: Kind, present: set[str], classes: Collection[str]
) -> tuple[list[str], pd.DataFrame]:
    assert path is not None
    annotations = read_events(path)
    events = annotations.events
    if kind == "soft" and "confidence" not in events:
        raise UserError(f"{path}:1 has no column confidence, which soft labels need.")
    _refuse_unknown_labels(annotations, classes)
    listed = list(annotations.clips)
    if kind == "soft":
        # The table of MAESTRO windows has no row for a window in which nobody heard anything.
        recordings = {recording_of(clip) for clip in listed}
        silent = {clip_name(name) for name in present} - set(listed)
        listed += sorted(clip for clip in silent if recording_of(clip) in recordings)
    columns = ["clip", "onset", "offset", "event_label"] + ["confidence"] * (kind == "soft")
    return listed, events[columns]


def _refuse_unknown_labels(annotations: Annotations, classes: Collection[str]) -> None:
    for row, name in enumerate(annotations.events["event_label"]):
        try:
            refuse_unknown_labels([name], classes)
        except UserError as error:
            raise UserError(f"{annotations.where(row)}: {error}") from None


def _audio_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.name[0] != "."]


def no_events() -> pd.DataFrame:
    """The events of clips without labels."""
    return pd.DataFrame({"clip": [], "onset": [], "offset": [], "event_label": []}).astype({"event_label": object})
