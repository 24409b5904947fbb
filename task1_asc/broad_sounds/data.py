"""The data sets of broad sounds on the disk, and the folds of their protocol.

ROOT/audio/<sound_id>.wav                    44.1 kHz, mono, 7 ms to 30 s
ROOT/metadata/BSD10k_metadata.csv            or BSD35k-CS_metadata.csv, or BSD2k_metadata.csv (anonymous_id, no class)
ROOT/features/clap_audio_embeddings/<sound_id>.npy, and clap_text_embeddings
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.data.files import is_made_up, paths_in, read_tsv, refuse_unknown, write_text
from common.errors import UserError
from task1_asc.broad_sounds.taxonomy import CODES, OTHERS, as_indices

if TYPE_CHECKING:
    import pandas as pd

METADATA = {"bsd10k": "BSD10k_metadata.csv", "bsd35k-cs": "BSD35k-CS_metadata.csv", "bsd2k": "BSD2k_metadata.csv"}
"""Data set to the name of its table; named as in the meta file of a submission."""
TEXTS = ("title", "tags", "description")
FREE_LICENCES = ("CC0", "CC BY")
FOLDS = 5
SPLITS = "splits.csv"
Array = NDArray[np.int64]


@dataclass(frozen=True)
class SoundSet:
    """A data set; clips in the order of its table, which is part of the protocol.

    kind: see METADATA.
    clips: sound_id, title, tags, description; of labelled sets class, confidence (NaN where empty), uploader, license.
    """

    kind: str
    root: Path
    clips: "pd.DataFrame"

    @property
    def ids(self) -> list[str]:
        """Names of the clips."""
        return self.clips["sound_id"].tolist()

    @property
    def targets(self) -> Array:
        """(clips,) classes in the order of the taxonomy.

        Raises:
            UserError: of the evaluation set, which has none.
        """
        if "class" not in self.clips.columns:
            raise UserError(
                f"{self.root} is {self.kind}, which has no classes; give the folder of BSD10k or BSD35k-CS."
            )
        return as_indices(self.clips["class"], "class")

    @property
    def made_up(self) -> bool:
        """Whether the data are made up."""
        return is_made_up_data(self.root)

    def texts(self, fields: Sequence[str] = TEXTS) -> list[str]:
        """The text of each clip; empty where the uploader gave none."""
        cells = self.clips[list(fields)].to_numpy()
        return [" ".join(" ".join(filter(None, map(str.strip, row))).split()) for row in cells]

    def paths(self) -> list[Path]:
        """The wav file of each clip, which need not exist."""
        return paths_in(self.root / "audio", [f"{name}.wav" for name in self.ids])


def is_made_up_data(root: Path) -> bool:
    """Whether a set, or the folder of several, is made up."""
    return is_made_up(root) or is_made_up(root.parent)


def find_sets(root: Path) -> list[Path]:
    """Folders of the data sets: the folder itself, or those in it.

    Raises:
        UserError: if there is none.
    """
    folders = [root, *sorted(path for path in root.glob("*") if path.is_dir())]
    found = [folder for folder in folders if any((folder / "metadata" / name).is_file() for name in METADATA.values())]
    if not found:
        raise UserError(
            f"{root} has no data set of broad sounds: none of metadata/{', metadata/'.join(METADATA.values())} is in "
            "it. Give the folder of one of them, or run `data download`."
        )
    return found


def read_sounds(root: Path, others: bool = False) -> SoundSet:
    """Read the table of a data set.

    Args:
        root: folder of the set.
        others: keep the clips of the -other classes of BSD35k-CS, which nobody learns or tests.

    Raises:
        UserError: if it is missing, or has an unknown class, a doubled or empty id, or a confidence outside 1..5.
    """
    (root,) = find_sets(root)[:1]
    kind = next(kind for kind, name in METADATA.items() if (root / "metadata" / name).is_file())
    path, labelled = root / "metadata" / METADATA[kind], kind != "bsd2k"
    name = "sound_id" if labelled else "anonymous_id"
    clips = read_tsv(path, [name, *(["class"] if labelled else [])], key=name, separator=",")
    needed = [*TEXTS, *(["uploader", "license"] if labelled else [])]
    if absent := [column for column in needed if column not in clips.columns]:
        raise UserError(f"{path}:1 has no column {absent[0]}; download the file again.")
    clips = clips.rename(columns={name: "sound_id"})
    clips["sound_id"] = clips["sound_id"].str.strip().str.removesuffix(".wav")
    if (doubled := clips["sound_id"].duplicated()).any():
        raise UserError(f"{path} names {clips['sound_id'][doubled].iloc[0]} twice; take one out.")
    if (wrong := clips["sound_id"].str.contains(r"[/\\]|^\.")).any():
        raise UserError(f"{path}: {clips['sound_id'][wrong].iloc[0]!r} is no name of a file; correct it.")
    if labelled:
        refuse_unknown(path, clips, "class", "class", [*CODES, *OTHERS])
        clips["confidence"] = _read_confidence(path, clips)
        if not others:
            clips = clips[~clips["class"].isin(OTHERS)].reset_index(drop=True)
    return SoundSet(kind, root, clips)


def licence(link: str) -> str:
    """CC0, CC BY, CC BY-NC, or other, of a licence's link or name."""
    text = link.lower().replace("attribution", "by").replace("noncommercial", "nc").replace(" ", "-")
    if "zero" in text or "cc0" in text:
        return "CC0"
    if "nc" in text.replace("licenses", "").replace("licence", ""):
        return "CC BY-NC"
    return "CC BY" if "/by/" in text or text.endswith(("by", "cc-by")) else "other"


def is_free(sounds: SoundSet) -> NDArray[np.bool_]:
    """(clips,) whether a clip may be used commercially."""
    return np.array([licence(link) in FREE_LICENCES for link in sounds.clips["license"]], dtype=bool)


def _read_confidence(path: Path, clips: "pd.DataFrame") -> "pd.Series[float]":
    import pandas as pd

    if "confidence" not in clips.columns:
        return pd.Series(np.nan, index=clips.index)
    text = clips["confidence"].str.strip()
    values = pd.to_numeric(text, errors="coerce")
    wrong = (text != "") & ~values.between(1, 5)
    if wrong.any():
        row = clips[wrong].iloc[0]
        raise UserError(
            f"{path}: the confidence of {row['sound_id']} is {row['confidence']!r}; it is 1 to 5, or empty."
        )
    return values


@dataclass(frozen=True)
class Fold:
    """Rows of the clips of one fold, in the published order."""

    train: Array
    validation: Array
    test: Array


def make_folds(classes: Sequence[Any] | Array, seed: int = 1821, uploaders: Sequence[str] | None = None) -> list[Fold]:
    """Five folds of a data set.

    Args:
        classes: of the clips, as codes or as indices in the taxonomy, in the order of the table's rows.
        seed: 1821 is the published one.
        uploaders: of the clips; with them all clips of an uploader are on one side (training, validation or test), at
            about the same shares of the classes. None makes the published folds, which do not separate uploaders.

    Raises:
        UserError: if a class has too few clips, or there are too few uploaders.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, StratifiedShuffleSplit

    target = np.asarray(classes)
    # The order of the classes decides which clips are held out: the taxonomy's, not the alphabet's.
    target = as_indices(target.tolist(), "class") if target.dtype.kind in "UO" else target
    rows, folds = np.zeros((len(target), 1)), []
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class")
            if uploaders is None:
                held_out = StratifiedShuffleSplit(1, test_size=0.2, random_state=seed)
                for rest, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(rows, target):
                    train, validation = next(held_out.split(rows[rest], target[rest]))
                    folds.append(Fold(rest[train], rest[validation], test))
            else:
                groups, splitter = np.asarray(uploaders), StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
                for rest, test in splitter.split(rows, target, groups):
                    train, validation = next(splitter.split(rows[rest], target[rest], groups[rest]))
                    folds.append(Fold(rest[train], rest[validation], test))
    except ValueError as error:
        raise UserError(f"Five folds cannot be made: {error} Add clips, or give folds in a splits.csv.") from error
    if empty := [number for number, fold in enumerate(folds) if not min(map(len, vars(fold).values()))]:
        raise UserError(f"Fold {empty[0]} has an empty part: there are too few uploaders. Take the published protocol.")
    return folds


def folds_by_protocol(sounds: SoundSet, protocol: str, seed: int = 1821) -> dict[int, Fold]:
    """The five folds of a labelled set, "published" or by "uploader"; see `make_folds`."""
    targets = sounds.targets
    uploaders = sounds.clips["uploader"].tolist() if protocol == "uploader" else None
    return dict(enumerate(make_folds(targets, seed, uploaders)))


def write_splits(folder: Path, ids: Sequence[str], folds: Mapping[int, Fold]) -> None:
    """Write fold_<k>/splits.csv as the baseline does: columns index (the sound's id) and split (train, val, test)."""
    for number, fold in folds.items():
        parts = {"train": fold.train, "val": fold.validation, "test": fold.test}
        lines = [f"{ids[row]},{part}" for part, members in parts.items() for row in members]
        write_text(folder / f"fold_{number}" / SPLITS, "\n".join(["index,split", *lines, ""]))


def read_splits(source: Path, ids: Sequence[str], folds: Sequence[int] = range(FOLDS)) -> dict[int, Fold]:
    """Read fold_<k>/splits.csv of some folds; or one such file, which serves the only one of `folds`.

    Raises:
        UserError: if a file is missing, or has other clips than the data set, or an unknown part.
    """
    place = {name: row for row, name in enumerate(ids)}
    found = {}
    if source.is_file() and len(folds) > 1:
        raise UserError(f"{source} is one fold; set data.folds to [0], or give the folder of fold_0 to fold_4.")
    for number in folds:
        path = source if source.is_file() else source / f"fold_{number}" / SPLITS
        table = read_tsv(path, ["index", "split"], key="index", separator=",")
        refuse_unknown(path, table, "split", "part", ["train", "val", "test"])
        listed = table["index"].tolist()
        if foreign := [name for name in listed if name not in place]:
            raise UserError(
                f"{path} has {len(foreign)} clips that the data set lacks, the first is {foreign[0]}; take the folds "
                "of this data set and of its version."
            )
        if len(listed) < len(ids):
            missing = next(name for name in ids if name not in set(listed))
            raise UserError(f"{path} has {len(listed)} of {len(ids)} clips; {missing} is missing. Complete it.")
        rows = {part: np.array([place[name] for name in group["index"]]) for part, group in table.groupby("split")}
        if len(rows) < 3:
            raise UserError(f"{path} has no clip in one of train, val and test; take another fold.")
        found[number] = Fold(rows["train"], rows["val"], rows["test"])
    return found
