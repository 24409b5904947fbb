"""Vocal imitations and their recordings, in the layouts of QBV, VimSketch and QVIM.

Tables: pairs have imitation, recording (paths) and label; searches have queries and items, see `Search`.
"""

import csv
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd

from common.data.audio import list_audio
from common.data.files import paths_in, read_tsv
from common.errors import UserError
from retrieval.imitation.settings import ImitationData


@dataclass(frozen=True)
class Search:
    """Queries and the items among which each looks.

    queries: paths of imitations.
    items: paths of recordings.
    target: row of the imitated item, per query.
    label: class of each item; items of one class all count for NDCG.
    group: of each query, only items of the same group are candidates (one group: all are).
    item_group: group of each item.
    """

    queries: list[Path]
    items: list[Path]
    target: list[int]
    label: list[str]
    group: list[str]
    item_group: list[str]


def read_training(data: ImitationData, held_out: bool = True) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training pairs, and other imitations of the same sounds to choose the best epoch by; read once in a process.

    The published lists of QBV hold every imitation twice, and an epoch trains on every row. VimSketch has no list of
    held-out imitations: with `held_out` it is the last one of each sound, otherwise none, as in QVIM's baseline.

    Raises:
        UserError: if tables or files are missing.
    """
    return _read_training(Path.cwd(), data, held_out)


@lru_cache(maxsize=4)
def _read_training(_current: Path, data: ImitationData, held_out: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """See `read_training`; the root may be relative to the current folder."""
    if data.layout == "vimsketch":
        pairs = _read_vimsketch(data.root)
        last = ~pairs.duplicated("recording", keep="last") & pairs.duplicated("recording", keep="first") & held_out
        return pairs[~last].reset_index(drop=True), pairs[last].reset_index(drop=True)
    return _read_pairs(data, "train"), _read_pairs(data, "val").drop_duplicates().reset_index(drop=True)


def read_search(data: ImitationData) -> Search:
    """The test of the layout's protocol."""
    if data.layout == "qbv_coarse":
        return coarse_search(_read_pairs(data, "test"))
    if data.test_root is None:
        wanted = "VocalImitationSet" if data.layout == "qbv_fine" else "the QVIM development set"
        raise UserError(f"data.test_root is not set; name the folder of {wanted}.")
    return _read_fine(data.test_root) if data.layout == "qbv_fine" else read_qvim(data.test_root)


def coarse_search(pairs: pd.DataFrame) -> Search:
    """Each imitation ranks the references of all test sounds."""
    target, items = pd.factorize(pairs["recording"])
    labels = dict(zip(pairs["recording"], pairs["label"])).values()
    groups = ["all"] * len(pairs), ["all"] * len(items)
    return Search(list(pairs["imitation"]), list(items), target.tolist(), list(labels), *groups)


def read_qvim(root: Path) -> Search:
    """QVIM development set: `DEV Dataset.csv` with one line above its header, `Items/<Class>/`, `Queries/<Class>/`."""
    path = root / "DEV Dataset.csv"
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    table = pd.read_csv(path, skiprows=1, dtype=str, keep_default_na=False)
    missing = {"Label", "Class", "Items", "Query 1"} - set(table.columns)
    if missing:
        raise UserError(f"{path} has no column {', '.join(sorted(missing))} below its first line")
    items, labels, queries, target = [], [], [], []
    for row in table.to_dict("records"):
        if not row["Items"]:
            continue
        items.append(root / "Items" / row["Class"] / _wav(row["Items"]))
        labels.append(row["Class"])
        for column in ("Query 1", "Query 2", "Query 3"):
            if row.get(column):
                queries.append(root / "Queries" / row["Class"] / _wav(row[column]))
                target.append(len(items) - 1)
    return _checked(Search(queries, items, target, labels, ["all"] * len(queries), ["all"] * len(items)), root)


def _read_fine(root: Path) -> Search:
    """VocalImitationSet: an imitation ranks its concept's reference and the other recordings of the concept."""
    references = {path.name[:3]: path for path in sorted((root / "original_recordings" / "reference").glob("*.wav"))}
    others = sorted((root / "original_recordings" / "non_reference").glob("*/*.wav"))
    if not references or not others:
        raise UserError(f"{root} lacks original_recordings/reference/*.wav or non_reference/*/*.wav")
    items, labels = [], []
    for concept, path in references.items():
        candidates = [path, *(other for other in others if other.parent.name[:3] == concept)]
        items += candidates
        labels += [concept] * len(candidates)
    first = {concept: labels.index(concept) for concept in references}
    voices = list_audio(root / "vocal_imitations")
    queries = [path for path in sorted(voices) if path.suffix == ".wav" and path.name[:3] in references]
    concepts = [path.name[:3] for path in queries]
    return _checked(Search(queries, items, [first[c] for c in concepts], labels, concepts, labels), root)


def _read_vimsketch(root: Path) -> pd.DataFrame:
    """Imitation and reference have the same id: their name without the part before the first underscore."""
    references = {_id(name): root / "references" / name for name in _lines(root / "reference_file_names.csv")}
    rows = []
    for name in _lines(root / "vocal_imitation_file_names.csv"):
        if _id(name) not in references:
            raise UserError(f"{root}: the imitation {name} belongs to no reference (id {_id(name)})")
        rows.append((root / "vocal_imitations" / name, references[_id(name)], _id(name)))
    pairs = pd.DataFrame(rows, columns=["imitation", "recording", "label"])
    _demand_files({*pairs["imitation"], *pairs["recording"]}, root)
    return pairs


def _read_pairs(data: ImitationData, part: str) -> pd.DataFrame:
    """Pairs of the list <part>.csv; meta.csv, beside the list or above the folds, names each imitation's recording."""
    if not data.root.is_dir():
        raise UserError(f"There is no folder {data.root}; give the data set's folder with --data.root.")
    folder = data.root / "splits" if data.layout == "qbv_coarse" else data.root
    path = folder / f"fold{data.fold}" / f"{part}.csv" if data.layout == "qbv_coarse" else folder / f"{part}.csv"
    meta = read_tsv(folder / "meta.csv", ["filename", "positive_pair"])
    recordings = dict(zip(meta["filename"], meta["positive_pair"]))
    table = read_tsv(path, ["filename", "scene_label"])
    absent = [name for name in table["filename"] if name not in recordings]
    if absent:
        raise UserError(f"{path} lists {len(absent)} imitations that meta.csv lacks, the first is {absent[0]}")
    pairs = pd.DataFrame(
        {
            "imitation": paths_in(data.root / "vocal_imitations", (Path(n).name for n in table["filename"])),
            "recording": paths_in(
                data.root / "sound_recordings", (Path(recordings[n]).name for n in table["filename"])
            ),
            "label": table["scene_label"],
        }
    )
    _demand_files({*pairs["imitation"], *pairs["recording"]}, data.root)
    return pairs


def _checked(search: Search, root: Path) -> Search:
    if not search.queries:
        raise UserError(f"{root} holds no imitations")
    _demand_files({*search.queries, *search.items}, root)
    return search


def _demand_files(paths: Collection[Path], root: Path) -> None:
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise UserError(f"{root}: {len(absent)} sounds are missing, the first is {min(absent)}")


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    with path.open(encoding="utf-8", newline="") as file:
        return [row[0] for row in csv.reader(file) if row]


def _id(name: str) -> str:
    return name.partition("_")[2]


def _wav(name: str) -> str:
    return name if name.lower().endswith(".wav") else f"{name}.wav"
