"""The DESED and MAESTRO Real tree of DCASE 2024 Task 4: folders, tables and clips of each set.

ROOT is the folder that the official recipe calls data/dcase/dataset. The audio of a set may lie in the folder of the
table below, at any sample rate, or beside it in a folder ending in `_16k`, as the official recipe makes it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.data.audio import ENDINGS, Waveform, audio_info, read_fixed
from common.data.files import is_made_up, read_marker, read_tsv
from common.data.packing import PackReport, pack
from common.errors import UserError, unknown
from common.output import say
from common.settings.yaml_file import read_yaml
from task4_sed.data.annotations import clip_name, read_durations, read_events
from task4_sed.data.maestro import split_training_windows
from task4_sed.data.targets import refuse_unknown_labels
from task4_sed.labels import CLASSES, CLIP_SAMPLES, MAESTRO_EVALUATED, SAMPLE_RATE, Domain
from task4_sed.settings import SystemSettings, ValidationSettings

Kind = Literal["strong", "soft", "weak", "unlabeled"]


@dataclass(frozen=True)
class SetLayout:
    """Places of a set below the root, and its published number of clips.

    audio: folders, of which the first that exists is used. labels: table of strong, soft or weak labels, or a list of
    clips. durations: table of seconds. clips: published number; None if unknown.
    """

    audio: Sequence[str]
    kind: Kind
    domain: Domain = "desed"
    labels: str | None = None
    durations: str | None = None
    clips: int | None = None
    optional: bool = False


OWN_SETS = {
    "own_train": SetLayout(["audio/own_train"], "strong", "own", "metadata/own_train.tsv"),
    "own_validation": SetLayout(["audio/own_validation"], "strong", "own", "metadata/own_validation.tsv"),
    "own_test": SetLayout(
        ["audio/own_test"], "strong", "own", "metadata/own_test.tsv", "metadata/own_test_durations.tsv"
    ),
    "own_test_windows": SetLayout(["audio/own_test_windows"], "unlabeled", "own"),
}
"""Sets of own recordings, see own.py: windows, but for the whole recordings of own_test."""
WINDOWS = {"own_test": "own_test_windows"}
"""The windows that are scored for a set of whole recordings."""
SETS = {name: SetLayout(**row) for name, row in read_yaml(Path(__file__).with_name("sets.yaml")).data.items()}
NAMES_SHOWN = 5


@dataclass(frozen=True)
class ClipSet:
    """One set as it lies on disk.

    name: key of `SETS`. folder: of the audio. filenames: clips with audio, sorted.
    events: columns clip (index into filenames), onset, offset, event_label and for soft labels confidence; onset and
        offset of weak labels are NaN.
    missing: clips of the table without audio.
    """

    name: str
    folder: Path
    filenames: tuple[str, ...]
    events: pd.DataFrame
    missing: tuple[str, ...] = ()

    @property
    def layout(self) -> SetLayout:
        """Places and kind of labels."""
        return set_layout(self.name)

    def __len__(self) -> int:
        return len(self.filenames)

    def select(self, indices: Sequence[int] | NDArray) -> "ClipSet":
        """Only these clips, with their events, in this order."""
        indices = np.asarray(indices, dtype=np.int64)
        place = np.full(len(self), -1)
        place[indices] = np.arange(len(indices))
        new = place[self.events["clip"].to_numpy(dtype=np.int64)]
        events = self.events[new >= 0].assign(clip=new[new >= 0]).reset_index(drop=True)
        names = tuple(self.filenames[index] for index in indices)
        return ClipSet(self.name, self.folder, names, events, self.missing)

    def with_events(self) -> "ClipSet":
        """Only clips that have events, where labels are strong or soft: the official recipes train on these alone.

        Own recordings keep all.
        """
        if self.layout.kind not in ("strong", "soft") or self.layout.domain == "own":
            return self
        return self.select(np.unique(self.events["clip"].to_numpy(dtype=np.int64)))


def set_layout(name: str) -> SetLayout:
    """The layout of a set; refuses an unknown name."""
    layout = (SETS | OWN_SETS).get(name)
    if layout is None:
        raise unknown("set", name, SETS)
    return layout


def audio_folder(root: Path, name: str) -> Path:
    """The audio folder of a set, the 16 kHz copy if there is one; refuses a set without."""
    places = [Path(root) / audio for audio in set_layout(name).audio]
    for place in places:
        for folder in (place.with_name(place.name + "_16k"), place):
            if folder.is_dir() and any(folder.iterdir()):
                return folder
    if name in OWN_SETS:
        raise UserError(f"The windows of the own recordings are missing: there is no {places[0]}. `train` cuts them.")
    raise UserError(
        f"The audio of the set {name} is missing: there is no {places[0]}. `python -m task4_sed data download` says "
        "how to get it; `python -m common synthesize task4_sed --root data/made_up/task4_sed` makes data up elsewhere."
    )


def label_file(root: Path, name: str) -> Path:
    """The table of a set's labels or clips; refuses a set that is a folder only."""
    labels = set_layout(name).labels
    if labels is None:
        raise UserError(f"The set {name} has no table.")
    return Path(root) / labels


def read_set(root: Path, name: str, allow_missing: bool = False, classes: Collection[str] = CLASSES) -> ClipSet:
    """Clips and labels of a set of `SETS`; `classes` may occur besides those of DESED and MAESTRO.

    Raises:
        UserError: for a table that cannot be read (with file and line), unknown labels, soft labels outside 0..1, and
            missing clips unless they are allowed.
    """
    layout, folder = set_layout(name), audio_folder(root, name)
    present = _audio_names(folder)
    events = no_events()
    if layout.kind == "unlabeled":
        path = None if layout.labels is None else label_file(root, name)
        listed = read_tsv(path, ["filename"])["filename"].tolist() if path and path.is_file() else sorted(present)
    elif layout.kind == "weak":
        listed, events = _read_weak(label_file(root, name), classes)
    else:
        listed, events = _read_strong(label_file(root, name), layout, classes)
    by_clip = {clip_name(filename): filename for filename in present}  # the audio ending may differ from the table's
    clips = dict.fromkeys(clip_name(filename) for filename in listed)
    names = sorted(by_clip[clip] for clip in clips if clip in by_clip)
    missing = sorted(clip for clip in clips if clip not in by_clip)
    if missing and not allow_missing:
        raise UserError(f"{missing_sentence(name, len(missing), len(listed), missing)} {HOW_TO_CONTINUE}")
    if not names:
        raise UserError(f"{folder} holds none of the {len(listed)} clips of the set {name}.")
    order = {clip_name(filename): index for index, filename in enumerate(names)}
    index = events["clip"].map(order)
    events = events[index.notna()].assign(clip=index.dropna().astype(int)).reset_index(drop=True)
    return ClipSet(name, folder, tuple(names), events, tuple(missing))


def folder_clips(root: Path, name: str) -> ClipSet:
    """The files in the folder of a set as clips without labels; none if there is no folder."""
    try:
        folder = audio_folder(root, name)
    except UserError:
        return ClipSet(name, Path(root), (), no_events())
    return ClipSet(name, folder, tuple(sorted(_audio_names(folder))), no_events())


def read_clips(settings: SystemSettings, name: str) -> ClipSet:
    """A set as the settings of a run ask for it; reports missing clips."""
    clips = read_set(settings.data.root, name, settings.data.allow_missing, settings.labels.classes)
    if clips.missing:
        say(missing_sentence(name, len(clips.missing), len(clips) + len(clips.missing), clips.missing))
    return clips


def check_sets(settings: SystemSettings, training: Iterable[str], synthetic: bool) -> None:
    """Read the sets of a run before anything is made: training, and of the challenge's data validation and test.

    Raises:
        UserError: for the first that is missing or wrong.
    """
    names = list(training)
    if not settings.own_data:
        names += ["synthetic_validation"] * synthetic + ["validation"]
        names += ["maestro_validation"] * bool(set(MAESTRO_EVALUATED) & set(settings.labels.classes))
    for name in dict.fromkeys(names):
        read_set(settings.data.root, name, settings.data.allow_missing, settings.labels.classes)


def hold_out(
    training: Mapping[str, ClipSet], choice: ValidationSettings, root: Path
) -> tuple[dict[str, ClipSet], dict[str, ClipSet]]:
    """Training sets by name, and the parts of them that are held out; without clips that have no events."""
    kept = {name: clips.with_events() for name, clips in training.items()}
    held_out = {}
    if choice.weak and "weak" in kept:
        kept["weak"], held_out["weak"] = split_weak(kept["weak"], root)
    if choice.maestro and "maestro_train" in kept:
        windows = kept["maestro_train"]
        chosen = split_training_windows(windows.filenames)
        kept["maestro_train"] = windows.select(np.flatnonzero(chosen))
        held_out["maestro_train"] = windows.select(np.flatnonzero(~chosen))
    return kept, held_out


HOW_TO_CONTINUE = (
    "Ask the organisers for the files, or continue without them with `--data.allow_missing true` (`data pack`: "
    "--allow_missing); scores then say so."
)


def missing_sentence(name: str, missing: int, listed: int, names: Sequence[str]) -> str:
    """The number of missing clips of a set, with the first names."""
    more = f" and {missing - NAMES_SHOWN} more" if missing > NAMES_SHOWN else ""
    return f"{missing} of {listed} clips of the set {name} are missing: {', '.join(names[:NAMES_SHOWN])}{more}."


def published_clips(root: Path, name: str) -> int | None:
    """Clips of the whole set: as published, or as made up; None if unknown."""
    if is_made_up(root):
        return read_marker(Path(root)).get("numbers", {}).get(name)
    return set_layout(name).clips


def set_durations(root: Path, name: str) -> dict[str, float]:
    """Seconds by clip, or by recording for MAESTRO: of the set's table, else of its files."""
    table = set_layout(name).durations
    if table is not None and (Path(root) / table).is_file():
        return read_durations(Path(root) / table)
    folder = audio_folder(root, name)
    return {clip_name(file): seconds for file, seconds in file_durations(folder, sorted(_audio_names(folder))).items()}


def file_durations(folder: Path, filenames: Sequence[str]) -> dict[str, float]:
    """Seconds of each file, from its header."""
    return {name: audio_info(folder / name).duration for name in filenames}


def split_weak(clips: ClipSet, root: Path) -> tuple[ClipSet, ClipSet]:
    """Weak clips to train on and to validate on, as the baseline splits them.

    The draw is over the rows of the table, so missing clips do not change it.
    """
    chosen = {clip_name(name) for name in split_filenames(read_tsv(label_file(root, "weak"), ["filename"])["filename"])}
    training = np.array([clip_name(name) in chosen for name in clips.filenames], dtype=bool)
    return clips.select(np.flatnonzero(training)), clips.select(np.flatnonzero(~training))


def split_filenames(filenames: Sequence[str] | pd.Series, share: float = 0.9, seed: int = 42) -> set[str]:
    """The share of a table's file names to train on, by pandas' sample."""
    return set(pd.Series(filenames).sample(frac=share, random_state=seed))


def pack_set(
    root: Path, name: str, num_workers: int = 1, allow_missing: bool = False, classes: Collection[str] = CLASSES
) -> PackReport:
    """Pack a set at 16 kHz into `store_folder`; every clip is padded to the longest of the set, at least 10 s."""
    clips = read_set(root, name, allow_missing, classes)
    seconds = file_durations(clips.folder, clips.filenames)
    check_lengths(clips, seconds)
    longest = max(CLIP_SAMPLES, *(round(value * SAMPLE_RATE) for value in seconds.values()))
    num_samples = min(longest, LONGEST_SAMPLES)
    table = pd.DataFrame({"filename": clips.filenames, "duration": [seconds[file] for file in clips.filenames]})
    return pack(
        table, partial(read_row, folder=clips.folder, num_samples=num_samples), store_folder(root, name),
        sample_rate=SAMPLE_RATE, num_samples=num_samples, root=clips.folder, workers=num_workers,
    )  # fmt: skip


LONGEST_SAMPLES = 15 * SAMPLE_RATE
"""Of a packed clip; a set holds clips of about 10 s, and one wrong file must not make the store huge."""


def check_lengths(clips: ClipSet, seconds: Mapping[str, float]) -> None:
    """Refuse labels after the end of their file: one of the two belongs to another clip."""
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
    """Folder of a set's packed store."""
    return Path(root) / "packed" / f"{name}_{SAMPLE_RATE}_int16"


def read_row(row: Mapping[str, Any], folder: Path, num_samples: int) -> Waveform:
    """A clip as mono at 16 kHz, padded with zeros or cut to `num_samples`."""
    return read_fixed(folder / row["filename"], num_samples, SAMPLE_RATE)


def _read_weak(path: Path, classes: Collection[str]) -> tuple[list[str], pd.DataFrame]:
    table = read_tsv(path, ["filename", "event_labels"], key="filename")
    labels = table["event_labels"].str.split(",").explode().str.strip()
    refuse_unknown_labels(labels, classes, lambda row: f"{path}:{int(labels.index[row]) + 2}")
    names = table["filename"].map(clip_name)
    events = pd.DataFrame({"clip": names.loc[labels.index].to_numpy(), "event_label": labels.to_numpy()})
    return table["filename"].tolist(), events.assign(onset=np.nan, offset=np.nan)


def _read_strong(path: Path, layout: SetLayout, classes: Collection[str]) -> tuple[list[str], pd.DataFrame]:
    annotations = read_events(path)
    events, kind = annotations.events, layout.kind
    if layout.domain == "own":  # a run may detect some of the classes
        events = events[events["event_label"].isin(classes)]
    if kind == "soft" and "confidence" not in events:
        raise UserError(f"{path}:1 has no column confidence, which soft labels need.")
    refuse_unknown_labels(events["event_label"], classes, annotations.where)
    columns = ["clip", "onset", "offset", "event_label"] + ["confidence"] * (kind == "soft")
    return list(annotations.clips), events[columns]


def _audio_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.name[0] != "."]


def no_events() -> pd.DataFrame:
    """The events of clips without labels."""
    return pd.DataFrame({"clip": [], "onset": [], "offset": [], "event_label": []}).astype({"event_label": object})
