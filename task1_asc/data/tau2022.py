"""TAU Urban Acoustic Scenes 2022 Mobile: folders, tables and splits. No torch here.

ROOT/TAU-urban-acoustic-scenes-2022-mobile-development/   audio/ meta.csv evaluation_setup/
ROOT/TAU-urban-acoustic-scenes-2024-mobile-evaluation/    audio/ evaluation_setup/fold1_test.csv
ROOT/split_setup/                                         split5.csv .. split100.csv test.csv
ROOT/packed/                                              made by `data pack`
"""

from functools import lru_cache
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import numpy as np

from common.data.files import is_made_up, read_tsv, refuse_unknown
from common.errors import UserError, unknown

if TYPE_CHECKING:  # a wrong folder is refused without pandas
    import pandas as pd

    from task1_asc.settings import Task1Settings

CLASSES = (
    "airport",
    "bus",
    "metro",
    "metro_station",
    "park",
    "public_square",
    "shopping_mall",
    "street_pedestrian",
    "street_traffic",
    "tram",
)
DEVICE_GROUPS = {"real": ("a", "b", "c"), "seen": ("s1", "s2", "s3"), "unseen": ("s4", "s5", "s6")}
DEVICES = tuple(device for group in DEVICE_GROUPS.values() for device in group)
TRAINING_DEVICES = DEVICE_GROUPS["real"] + DEVICE_GROUPS["seen"]
SUBSETS = (5, 10, 25, 50, 100)
SAMPLE_RATE = 44_100
CLIP_SAMPLES = 44_100
DEVELOPMENT = "TAU-urban-acoustic-scenes-2022-mobile-development"
EVALUATION = "TAU-urban-acoustic-scenes-{year}-mobile-evaluation"
NAME_PATTERN = (
    r"^audio/(?P<scene>[a-z_]+)-(?P<city>[a-z]+)-(?P<location>[^-]+)-(?P<segment>[^-]+)-(?P<piece>\d)-"
    r"(?P<device>[a-z0-9]+)\.wav$"
)


def development_folder(root: Path) -> Path:
    """The development set's folder below `root`; `root` may be that folder itself.

    Raises:
        UserError: if there is no meta.csv in it.
    """
    root = Path(root)
    for folder in (root / DEVELOPMENT, root):
        if (folder / "meta.csv").is_file():
            return folder
    if root.is_file():
        raise UserError(f"{root} is a file; give the folder that holds {DEVELOPMENT}.")
    raise UserError(
        f"{root / DEVELOPMENT} has no meta.csv. Run `python -m task1_asc data download --root {quote(str(root))}`, or "
        f"`python -m common synthesize task1_asc --root data/made_up/task1_asc` for made-up data elsewhere."
    )


def evaluation_folder(root: Path, year: int = 2024) -> Path:
    """The folder of a year's evaluation set below `root`; `root` may be that folder itself.

    Raises:
        UserError: if there is no evaluation_setup/fold1_test.csv in it.
    """
    root = Path(root)
    named = root / EVALUATION.format(year=year)
    for folder in (named, root):
        # The development set has a file of this name too.
        if (folder / "evaluation_setup" / "fold1_test.csv").is_file() and folder.name != DEVELOPMENT:
            return folder
    raise UserError(
        f"{named} has no evaluation_setup/fold1_test.csv. "
        f"Run `python -m task1_asc data download --root {quote(str(root))} --evaluation {year}`, or give its folder "
        "with --root."
    )


def is_made_up_data(root: Path) -> bool:
    """Whether the development set, or the evaluation set, below `root` is made up."""
    root = Path(root)
    return any(is_made_up(folder) for folder in (root, root / DEVELOPMENT, root / EVALUATION.format(year=2024)))


def read_clips(root: Path) -> "pd.DataFrame":
    """All development clips, in the order of meta.csv; an unchanged file is read once in a process.

    Returns:
        Columns filename, scene_label, identifier, source_label (recording device), city, location, segment (its
        name without piece, device and ending), piece (0..9).

    Raises:
        UserError: with file and line, for a missing column, an empty or doubled row, a name that is not of the official
            form or contradicts the row, and an unknown scene or device.
    """
    path = development_folder(root) / "meta.csv"
    return _read_meta(path, _stamp(path))


@lru_cache(maxsize=2)
def _read_meta(path: Path, stamp: tuple[int, int]) -> "pd.DataFrame":
    table = read_tsv(path, ["filename", "scene_label"], key="filename")
    parts = table["filename"].str.extract(NAME_PATTERN)
    malformed = parts.index[parts["scene"].isna()]
    if len(malformed):
        raise UserError(
            f"{path}:{malformed[0] + 2} has the file name {table['filename'][malformed[0]]}, expected "
            "audio/<scene>-<city>-<location>-<segment>-<piece>-<device>.wav."
        )
    refuse_unknown(path, table, "scene_label", "scene", CLASSES)
    parts["identifier"] = parts["city"] + "-" + parts["location"]
    for column, part in (("scene_label", "scene"), ("identifier", "identifier"), ("source_label", "device")):
        if column not in table.columns:
            table[column] = parts[part]
        wrong = table.index[table[column] != parts[part]]
        if column == "source_label":
            refuse_unknown(path, table, "source_label", "recording device", DEVICES)
        if len(wrong):
            raise UserError(
                f"{path}:{wrong[0] + 2} has the {column} {table[column][wrong[0]]}, but the file is named "
                f"{table['filename'][wrong[0]]}."
            )
    table["city"], table["location"] = parts["city"], parts["location"]
    table["segment"] = table["filename"].str.replace(r"^audio/|-\d-[a-z0-9]+\.wav$", "", regex=True)
    table["piece"] = parts["piece"].astype(int)
    columns = ["filename", "scene_label", "identifier", "source_label", "city", "location", "segment", "piece"]
    return table[columns]


def split_list(root: Path, split: int | str) -> Path:
    """The file that lists a split: a subset (5, 10, 25, 50, 100) or "test".

    Raises:
        UserError: if there is no such split, or its list is not found.
    """
    root, name = Path(root), str(split)
    if name not in (*map(str, SUBSETS), "test"):
        raise unknown("split", name, [*map(str, SUBSETS), "test"])
    folder = development_folder(root)
    file_name = "test.csv" if name == "test" else f"split{name}.csv"
    places = [
        base / file_name for base in (root / "split_setup", folder.parent / "split_setup", folder / "split_setup")
    ]
    places.append(folder / "evaluation_setup" / file_name)
    if name == "100":
        places.append(folder / "evaluation_setup" / "fold1_train.csv")
    if name == "test":
        places.append(folder / "evaluation_setup" / "fold1_evaluate.csv")
    for path in places:
        if path.is_file():
            return path
    raise UserError(f"There is no list of the split {name}: {places[0]} does not exist. Run `data download` again.")


def read_split(root: Path, split: int | str) -> "pd.DataFrame":
    """The clips of an official split, in the order of meta.csv; an unchanged list is read once in a process.

    Args:
        root: of the data.
        split: 5, 10, 25, 50, 100 or "test".

    Raises:
        UserError: with file and line, if the list names a clip that meta.csv lacks, gives it another scene, or a
            training list holds a clip of the test split or of a recording device that occurs in the test split only.
    """
    path, meta = split_list(root, split), development_folder(root) / "meta.csv"
    selected = _select(meta, _stamp(meta), path, _stamp(path))
    if str(split) == "test":
        return selected
    _refuse_outside(path, selected, read_split(root, "test"), "is a clip of the test split")
    unseen = selected[selected["source_label"].isin(DEVICE_GROUPS["unseen"])]
    _refuse_outside(path, selected, unseen, "is a recording of a device that occurs in the test split only")
    return selected


def read_named_clips(folder: Path) -> "pd.DataFrame":
    """All clips below a folder, with the columns of `read_clips` that the official names of files give.

    Raises:
        UserError: if there is no clip, or a file has another name.
    """
    import pandas as pd

    from common.data.audio import list_audio

    names = pd.Series([path.relative_to(folder).as_posix() for path in list_audio(folder)])
    parts = ("audio/" + names.str.rpartition("/")[2]).str.extract(NAME_PATTERN)
    known = parts["scene"].isin(CLASSES) & parts["device"].isin(DEVICES)
    if not known.all():
        raise UserError(
            f"{folder / names[~known].iloc[0]} is not named <scene>-<city>-<location>-<segment>-<piece>-<device>.wav, "
            "so its scene and recording device are not known."
        )
    segment = parts["scene"] + "-" + parts["city"] + "-" + parts["location"] + "-" + parts["segment"]
    columns = {"filename": names, "scene_label": parts["scene"], "source_label": parts["device"], "segment": segment}
    return pd.DataFrame(columns)


def read_training_list(root: Path, path: Path, subset: int) -> "pd.DataFrame":
    """The clips of an own training list, which must lie within the declared subset.

    Raises:
        UserError: with file and line, for a clip outside the subset: the challenge allows only the subset's clips.
    """
    path, meta = Path(path), development_folder(root) / "meta.csv"
    allowed = read_split(root, subset)
    selected = _select(meta, _stamp(meta), path, _stamp(path))
    outside = selected[~selected["filename"].isin(allowed["filename"])]
    _refuse_outside(path, selected, outside, f"is not in the split {subset} that is declared")
    return selected


def read_evaluation(root: Path, year: int = 2024) -> "pd.DataFrame":
    """The clips of an evaluation set, in the order of its list: column filename, and device_id in 2025."""
    path = evaluation_folder(root, year) / "evaluation_setup" / "fold1_test.csv"
    return read_tsv(path, ["filename"], key="filename")


def check_inputs(settings: "Task1Settings") -> None:
    """Look for the lists, folders and networks of a run, unless it is finished.

    Raises:
        UserError: for the first that is missing or wrong.
    """
    # These are not part of an inference package.
    from common.data.audio import refuse_no_audio
    from common.registry.models import find_architecture
    from common.runs.run import RECORD

    if (settings.folder / "test" / RECORD).is_file():
        return
    data, taught = settings.data, settings.distillation
    read_split(data.root, settings.subset)
    if data.training_list is not None:
        read_training_list(data.root, data.training_list, settings.subset)
    teachers = taught.teachers if taught else ()
    for name in (settings.model.name, *(teacher.model for teacher in teachers)):
        find_architecture(name)
    for augment in (settings.augment, *(teacher.augment for teacher in teachers)):
        if augment.impulse_responses is not None:
            refuse_no_audio(augment.impulse_responses.folder, "augment.impulse_responses.folder")
    if taught is not None and taught.logits is not None and not taught.logits.is_file():
        raise UserError(f"distillation.logits: there is no file {taught.logits}.")


def hold_out_by_location(clips: "pd.DataFrame", share: float, seed: int) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Split training clips for validation, so that no location (and no recording) is on both sides.

    Args:
        clips: of a training subset.
        share: approximate share of each scene's clips to hold out; whole locations are taken, each scene keeps one.
        seed: of the selection.

    Returns:
        Clips to train on, clips held out; both in the order of `clips`.

    Raises:
        UserError: if no scene has a second location, so that nothing can be held out.
    """
    random = np.random.default_rng(seed)
    held: set[str] = set()
    for _, scene in clips.groupby("scene_label", sort=True):
        counts = scene["identifier"].value_counts().sort_index()
        locations = random.permutation(counts.index.to_numpy())
        wanted, taken = share * len(scene), sum(counts.get(name, 0) for name in held)
        for location in locations[:-1]:
            if taken >= wanted:
                break
            held.add(location)
            taken += counts[location]
    mask = clips["identifier"].isin(held)
    if not mask.any():
        raise UserError("Nothing can be held out for validation: every scene was recorded at one location only.")
    return clips[~mask], clips[mask]


@lru_cache(maxsize=8)
def _select(meta: Path, meta_stamp: tuple[int, int], path: Path, stamp: tuple[int, int]) -> "pd.DataFrame":
    """Clips of meta.csv that a list names, in the order of meta.csv; the stamps say when a file was changed."""
    clips, table = _read_meta(meta, meta_stamp), read_tsv(path, ["filename"], key="filename")
    absent = table.index[~table["filename"].isin(clips["filename"])]
    if len(absent):
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise UserError(
            f"{path}:{absent[0] + 2} names {table['filename'][absent[0]]}{more}, which {meta} does not have."
        )
    if "scene_label" in table.columns:
        refuse_unknown(path, table, "scene_label", "scene", CLASSES)
        scenes = table["filename"].map(clips.set_index("filename")["scene_label"])
        wrong = table.index[scenes != table["scene_label"]]
        if len(wrong):
            raise UserError(
                f"{path}:{wrong[0] + 2} says that {table['filename'][wrong[0]]} is {table['scene_label'][wrong[0]]}, "
                f"{meta} says {scenes[wrong[0]]}."
            )
    return clips[clips["filename"].isin(table["filename"])]


def _stamp(path: Path) -> tuple[int, int]:
    """Time and size of a file, which differ when it was changed; zeros where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


def _refuse_outside(path: Path, listed: "pd.DataFrame", forbidden: "pd.DataFrame", why: str) -> None:
    both = set(listed["filename"]) & set(forbidden["filename"])
    if not both:
        return
    table = read_tsv(path, ["filename"])
    line = table.index[table["filename"].isin(both)][0]
    raise UserError(
        f"{path}:{line + 2}: {table['filename'][line]} {why} ({len(both)} clips in all); it must not be trained on."
    )
