"""The labelled sets that networks are fine-tuned on: ESC-50, FSD50K, OpenMIC as they are published, and own tables."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.audioset.losses import Objective
from common.audioset.settings import FineTuneDataSettings, TableSettings
from common.data.files import read_tsv
from common.errors import UserError, unknown

TRAIN, VALIDATION, TEST = "train", "validation", "test"


@dataclass(frozen=True)
class LabelledClips:
    """The clips of a labelled set.

    targets: (clips, classes), 0 or 1. weights: (clips, classes), 0 where a label is not known; None for all known.
    parts: train, validation or test of each clip, or else its fold. recordings: clips of one recording belong together.
    """

    labels: tuple[str, ...]
    objective: Objective
    paths: list[Path]
    targets: NDArray[np.float32]
    parts: NDArray[np.str_]
    recordings: list[str]
    weights: NDArray[np.float32] | None = None

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
        file=Path("meta/esc50.csv"), audio=Path("audio"), label="category", split="fold", recording="src_file"
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
    """Any folder with a table; classes in alphabetical order where `labels` does not name them."""
    path = Path(root) / settings.file
    columns = [settings.filename, settings.label, settings.split]
    rows = _read_rows(path, columns + ([settings.recording] if settings.recording else []), settings.filename)
    separator = settings.separator
    texts = [[row[settings.label]] if separator is None else row[settings.label].split(separator) for row in rows]
    texts = [[label.strip() for label in some if label.strip()] for some in texts]
    labels = labels or tuple(sorted({label for some in texts for label in some}))
    filenames = [row[settings.filename] for row in rows]
    parts = np.array([row[settings.split].strip() for row in rows])
    given, split = set(parts.tolist()), {TRAIN, VALIDATION, TEST}
    if given & split and (given - split or not {TRAIN, TEST} <= given):
        raise UserError(
            f"{path}: column {settings.split} holds {', '.join(sorted(given))}; it needs train and test (and "
            "validation), or folds."
        )
    if len(given) < 2:
        raise UserError(f"{path}: column {settings.split} holds only {min(given)}; at least two folds are needed.")
    return LabelledClips(
        labels,
        "one_label" if separator is None else "several_labels",
        [Path(root) / settings.audio / name for name in filenames],
        _targets(texts, labels, path),
        parts,
        [row[settings.recording] if settings.recording else row[settings.filename] for row in rows],
    )


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
    return read_tsv(path, columns, key, "\t" if path.suffix == ".tsv" else ",").to_dict("records")


def _lines(path: Path) -> list[list[str]]:
    """Rows of a table without header."""
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.reader(file) if row]
