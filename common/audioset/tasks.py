"""The labelled sets that networks are fine-tuned on: ESC-50, FSD50K, OpenMIC as they are published, and own tables."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.audioset.settings import FineTuneDataSettings, Objective, TableSettings
from common.data.audio import list_audio
from common.data.files import read_tsv
from common.data.splits import describe_split, split_recordings
from common.errors import UserError, unknown

TRAIN, VALIDATION, TEST = "train", "validation", "test"
PARTS = {TRAIN: TRAIN, "training": TRAIN, VALIDATION: VALIDATION, "valid": VALIDATION, "val": VALIDATION, TEST: TEST}
FILENAMES = ("filename", "file", "fname", "path")
LABELS = ("label", "category", "class", "scene_label", "labels")
SPLITS = ("fold", "split")
"""Names of columns that are known without being named."""


@dataclass(frozen=True)
class LabelledClips:
    """The clips of a labelled set.

    targets: (clips, classes), 0 or 1. weights: (clips, classes), 0 where a label is not known; None for all known.
    note: what the user should know of the reading.
    parts: train, validation or test of each clip, or else its fold. recordings: clips of one recording belong together.
    """

    labels: tuple[str, ...]
    objective: Objective
    paths: list[Path]
    targets: NDArray[np.float32]
    parts: NDArray[np.str_]
    recordings: list[str]
    weights: NDArray[np.float32] | None = None
    note: str = ""

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def folds(self) -> list[str]:
        """Parts that are tested in turn; empty where the set has one split."""
        parts = sorted(set(self.parts.tolist()), key=lambda part: (len(part), part))
        return [] if TEST in parts else parts

    def rows(self, split: str, fold: str | None = None) -> NDArray[np.int64]:
        """Clips of train, validation or test; a `fold` is the test, the other folds are train, none is validation."""
        if fold is None:
            return np.flatnonzero(self.parts == split)
        return np.flatnonzero({TRAIN: self.parts != fold, TEST: self.parts == fold}.get(split, False))


def read_task(settings: FineTuneDataSettings) -> LabelledClips:
    """Read the tables of a labelled set; all their clips must be there."""
    if settings.table is not None:  # if and only if the task is "table"
        clips = read_table(settings.root, settings.table)
    elif settings.task == "folder":
        clips = read_folders(settings.root)
    else:
        clips = {"esc50": read_esc50, "fsd50k": read_fsd50k, "openmic": read_openmic}[settings.task](settings.root)
    absent = [path for path in clips.paths if not path.is_file()]
    if absent:
        raise UserError(
            f"{len(absent):,} of {len(clips):,} clips of {settings.root} do not exist (first {absent[0]}); complete "
            "the audio, or take their rows out of the table."
        )
    return clips


def read_esc50(root: Path) -> LabelledClips:
    """ESC-50: meta/esc50.csv and audio/; five folds, 50 classes by their number."""
    table = TableSettings(
        file=Path("meta/esc50.csv"),
        audio=Path("audio"),
        filename="filename",
        label="category",
        split="fold",
        recording="src_file",
    )
    rows = _read_rows(root / table.file, ("filename", "fold", "target", "category", "src_file"))
    names = {int(row["target"]): row["category"] for row in rows}
    return read_table(root, table, tuple(names[number] for number in sorted(names)))


def read_fsd50k(root: Path) -> LabelledClips:
    """FSD50K: FSD50K.ground_truth/{vocabulary,dev,eval}.csv and FSD50K.{dev,eval}_audio/; 200 classes."""
    tables = Path(root) / "FSD50K.ground_truth"
    vocabulary = _lines(tables / "vocabulary.csv")
    labels = tuple(row[1] for row in vocabulary)
    paths, parts, texts = [], [], []
    for name, folder in (("dev.csv", "FSD50K.dev_audio"), ("eval.csv", "FSD50K.eval_audio")):
        for row in _read_rows(tables / name, ("fname", "labels")):
            paths.append(Path(root) / folder / f"{row['fname']}.wav")
            parts.append({"train": TRAIN, "val": VALIDATION}[row["split"]] if name == "dev.csv" else TEST)
            texts.append(row["labels"].split(","))
    targets = _targets(texts, labels, tables / "dev.csv")
    return LabelledClips(labels, "several_labels", paths, targets, np.array(parts), [path.stem for path in paths])


def read_openmic(root: Path) -> LabelledClips:
    """OpenMIC-2018: its aggregated labels, class-map.json, partitions and audio/; 20 instruments, most not annotated.

    A label is present where its relevance is above 0.5, and known where annotators were asked.
    """
    root = Path(root)
    path = root / "class-map.json"
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged; take it from OpenMIC-2018.") from error
    labels = tuple(sorted(numbers, key=numbers.__getitem__))
    part_of: dict[str, str] = {}
    for part, name in ((TRAIN, "split01_train.csv"), (TEST, "split01_test.csv")):
        part_of |= {row[0]: part for row in _lines(root / "partitions" / name)}
    place = {key: row for row, key in enumerate(part_of)}
    targets, weights = np.zeros((2, len(place), len(labels)), dtype=np.float32)
    table = root / "openmic-2018-aggregated-labels.csv"
    for row in _read_rows(table, ("sample_key", "instrument", "relevance")):
        if row["instrument"] not in numbers:
            raise unknown(f"instrument of {table}", row["instrument"], labels)
        if row["sample_key"] in place:
            cell = place[row["sample_key"]], numbers[row["instrument"]]
            targets[cell], weights[cell] = float(row["relevance"]) > 0.5, 1.0
    keys = list(part_of)
    paths = [root / "audio" / key[:3] / f"{key}.ogg" for key in keys]
    return LabelledClips(labels, "several_labels", paths, targets, np.array(list(part_of.values())), keys, weights)


def read_table(root: Path, settings: TableSettings, labels: tuple[str, ...] | None = None) -> LabelledClips:
    """Any folder with a table; classes in alphabetical order where `labels` does not name them.

    A table without a column of splits is split by recording.
    """
    path = Path(root) / settings.file
    names = _header(path)
    filename = settings.filename or next((name for name in FILENAMES if name in names), FILENAMES[0])
    label = settings.label or next((name for name in LABELS if name in names), LABELS[0])
    split = settings.split or next((name for name in SPLITS if name in names), None)
    recording = settings.recording or ("recording" if "recording" in names else None)
    rows = _read_rows(path, [name for name in (filename, label, split, recording) if name], filename)
    separator = settings.separator
    texts = [[row[label]] if separator is None else row[label].split(separator) for row in rows]
    texts = [[name.strip() for name in some if name.strip()] for some in texts]
    labels = labels or tuple(sorted({name for some in texts for name in some}))
    recordings = [row[recording or filename] for row in rows]
    note = ""
    if split is None:
        parts, note = _split(recordings, texts, path)
    else:
        parts = np.array([row[split].strip() for row in rows])
        _refuse_parts(parts, path, split)
    beside = (Path(root) / rows[0][filename]).exists() or not (Path(root) / "audio").is_dir()
    audio = settings.audio or (Path() if beside else Path("audio"))
    return LabelledClips(
        labels,
        "one_label" if separator is None else "several_labels",
        [Path(root) / audio / row[filename] for row in rows],
        _targets(texts, labels, path),
        parts,
        recordings,
        note=note,
    )


def read_folders(root: Path) -> LabelledClips:
    """A folder with a folder of clips for each class, at any depth; a folder inside a class is a recording.

    With folders train and test (and validation) above the classes these are the split, else it is made by recording.
    """
    refuse_no_clips(root)
    places = [path.relative_to(root) for path in list_audio(root)]
    first = {place.parts[0].lower() for place in places}
    given = first <= set(PARTS) and {TRAIN, TEST} <= {PARTS.get(name) for name in first}
    depth = 1 if given else 0
    loose = [place for place in places if len(place.parts) < depth + 2]
    if loose:
        raise UserError(
            f"{root / loose[0]} is in no folder of a class. {root} needs a folder of clips for each class, or a table "
            "with the columns filename and label."
        )
    texts = [[place.parts[depth]] for place in places]
    deep = [len(place.parts) > depth + 2 for place in places]
    recordings = [str(place.parent if inside else place.with_suffix("")) for place, inside in zip(places, deep)]
    labels = tuple(sorted({name for some in texts for name in some}))
    if len(labels) < 2:
        raise UserError(f"{root} has clips of one class only ({labels[0]}); a second folder of clips is needed.")
    if given:
        parts, note = np.array([PARTS[place.parts[0].lower()] for place in places]), ""
    else:
        parts, note = _split(recordings, texts, root)
    paths, targets = [root / place for place in places], _targets(texts, labels, root)
    return LabelledClips(labels, "one_label", paths, targets, parts, recordings, note=note)


def refuse_no_clips(path: Path) -> None:
    """Refuse what is neither a folder nor a table."""
    if not path.is_dir() and not (path.suffix in (".csv", ".tsv") and path.is_file()):
        found = "is neither a folder of clips nor a table of them" if path.exists() else "does not exist"
        raise UserError(f"{path} {found}; give a folder of class folders, or a table (.csv, .tsv).")


def find_table(folder: Path) -> Path | None:
    """The only table of a folder with a column of file names and one of labels; None without."""
    tables = [path for path in sorted(folder.iterdir()) if path.suffix in (".csv", ".tsv") and path.is_file()]
    fitting = [path for path in tables if all(set(_header(path)) & set(names) for names in (FILENAMES, LABELS))]
    if len(fitting) > 1:
        raise UserError(f"{folder} has {len(fitting)} tables of clips; name one of them, such as {fitting[0]}.")
    return fitting[0] if fitting else None


def _header(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return next(csv.reader([file.readline()], delimiter=_separator(path)), [])


def _separator(path: Path) -> str:
    """Tabs where the header has any, whatever the file is called."""
    if not path.is_file():
        return ","
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return "\t" if "\t" in file.readline() else ","


def _split(recordings: Sequence[str], texts: Sequence[Sequence[str]], source: Path) -> tuple[NDArray[np.str_], str]:
    """The part of each clip by its recording, and the sentence that tells it."""
    labels: dict[str, set[str]] = {name: set() for name in recordings}
    for name, some in zip(recordings, texts):
        labels[name].update(some)
    part_of = split_recordings(labels, source)
    own = "" if len(labels) < len(recordings) else " Each file counts as a recording of its own."
    return np.array([part_of[name] for name in recordings]), describe_split(part_of, source) + own


def _refuse_parts(parts: NDArray[np.str_], path: Path, split: str) -> None:
    given, known = set(parts.tolist()), {TRAIN, VALIDATION, TEST}
    if given & known and (given - known or not {TRAIN, TEST} <= given):
        raise UserError(
            f"{path}: column {split} holds {', '.join(sorted(given))}; it needs train and test (and validation), or "
            "folds."
        )
    if len(given) < 2:
        raise UserError(f"{path}: column {split} holds only {min(given)}; at least two folds are needed.")


def _targets(texts: Sequence[Sequence[str]], labels: Sequence[str], path: Path) -> NDArray[np.float32]:
    number_of = {label: number for number, label in enumerate(labels)}
    targets = np.zeros((len(texts), len(labels)), dtype=np.float32)
    for row, some in enumerate(texts):
        for label in some:
            if label not in number_of:
                raise unknown(f"label of {path}", label, labels)
            targets[row, number_of[label]] = 1
    return targets


def _read_rows(path: Path, columns: Sequence[str], key: str | None = None) -> list[dict[str, str]]:
    return read_tsv(path, columns, key, _separator(path)).to_dict("records")


def _lines(path: Path) -> list[list[str]]:
    """Rows of a table without header."""
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.reader(file) if row]
